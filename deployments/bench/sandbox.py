"""Runs a Python program that a model wrote, where it can do no harm.

Promises: the program sees no environment, no file of ours that is not public and none of our processes; it has bounds
on time, memory, processes, open files and the size of what it writes; when it ends, or its time does, everything that
it started is ended. Whatever it leaves in its folder, no file of ours is opened through it, and no run fails by it.
Where the machine offers no such place, nothing is run, and `Outcome.note` says what is missing.

How: as root, in namespaces of its own (mounts, processes, network, shared memory) as a user that owns nothing, or, in a
container that may not make namespaces, as that user alone, one program at a time: with it all processes of the user
end, in whatever group they are; as another user, in a user namespace with its own processes and no network.
Files of the user who runs the benchmark are not hidden in this last case: do that in a container. With mounts of its
own, what it writes into /tmp, /var/tmp or /dev/shm is bounded, is not seen outside and ends with it. Without namespaces
it reaches the network, and every port of this machine: whoever runs programs ends his servers first.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

NOBODY = 64_017
"""A user and group id that nothing on a usual machine belongs to: limits on processes count for each user."""
_PROBE_TIMEOUT_S = 10.0
_GRACE_S = 5.0

# Written after the program came to its end: an exit code alone is what `sys.exit(0)` in the answer would give as well.
_BOOT = """
import resource, sys
token = sys.stdin.readline().strip()
memory, cpu_s, processes, size = map(int, sys.argv[1:])
bounds = {"AS": memory, "CPU": cpu_s, "NPROC": processes, "FSIZE": size, "NOFILE": 64, "CORE": 0}
for name, most in bounds.items():
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most))
sys.argv = ["program.py"]
exec(compile(open("program.py", encoding="utf-8").read(), "program.py", "exec"), {"__name__": "__main__"})
open("passed", "w").write(token)
"""

# A process that made itself a group of its own is reached by its user only. As root the signal would end everything.
_END_ALL = """
import os, signal, sys
user = int(sys.argv[1])
if user == 0 or os.getresuid() != (user, user, user):
    sys.exit("not the user whose processes are to be ended")
try:
    os.kill(-1, signal.SIGKILL)
except ProcessLookupError:
    pass
"""
_NUM_TRIES = 20
"""So often is the process that ends a user's others started anew, since they may end it first."""

# All of this in a mount namespace alone. Python may lie in a folder that only root can enter: it is shown beside the
# program's own. The folders that anybody may write to are small empty ones in memory. The program's own lies in one of
# them: it is shown there again, by a descriptor, since its path now leads into the empty one.
_WITH_MOUNTS = """
set -e
umask 022
top=$1 home=$2
shift 2
mount --bind "$home" "$top/python"
exec 3< "$top"
for folder in /tmp /var/tmp /dev/shm; do
    if [ -d "$folder" ]; then mount -t tmpfs -o size=16m,nr_inodes=1k,mode=1777,nosuid,nodev tmpfs "$folder"; fi
done
mkdir -p "$top"
mount --no-canonicalize --rbind /proc/self/fd/3 "$top"
exec 3<&-
cd "$top/work"
exec "$@"
"""
_WITHOUT_RIGHTS = ("--inh-caps", "-all", "--bounding-set", "-all", "--no-new-privs")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one program may use: seconds by the clock, bytes of memory and of each file, processes and threads."""

    time_s: float = 10.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20
    num_processes: int = 32


@dataclass(frozen=True, slots=True)
class Outcome:
    """`passed` is None where nothing was run; `note` says why a program did not pass."""

    passed: bool | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where programs run: `name` for the report, the command before Python's own, the user to become. With mounts of
    its own, `becoming` is the command that gives rights up once they are made."""

    name: str
    prefix: tuple[str, ...] = ()
    user: int | None = None
    has_mounts: bool = False
    becoming: tuple[str, ...] = ()

    def command(self, folder: Path, arguments: list[str]) -> list[str]:
        """The command line for ``python ARGUMENTS``; `folder` is the program's own, with room for Python beside it."""
        python = Path(os.path.realpath(sys.executable))
        if not self.has_mounts:
            return [*self.prefix, str(python), *arguments]
        top, home = folder.parent, python.parents[1]
        shown = top / "python" / python.relative_to(home)
        mounting = ("sh", "-c", _WITH_MOUNTS, "sh", str(top), str(home))
        return [*self.prefix, *mounting, *self.becoming, str(shown), *arguments]


_ALONE = ("--pid", "--fork", "--kill-child", "--net", "--ipc")
_AS_OTHERS = ("unshare", "--user", "--map-root-user", *_ALONE)
_AS_NOBODY = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", *_WITHOUT_RIGHTS)
_PLACES_OF_ROOT = (
    Place(
        "own user, processes, mounts and network",
        ("unshare", "--mount", *_ALONE, "--mount-proc"),
        has_mounts=True,
        becoming=_AS_NOBODY,
    ),
    Place("own user; the network is not cut off", (), NOBODY),
)
_PLACES_OF_USERS = (
    Place(
        "own processes, mounts and network",
        (*_AS_OTHERS, "--mount-proc"),
        has_mounts=True,
        becoming=("setpriv", *_WITHOUT_RIGHTS),
    ),
    Place("own processes and network", (*_AS_OTHERS, "--mount-proc")),
    Place("own processes and network, /proc shared", _AS_OTHERS),
)


@functools.cache
def find_place() -> Place | None:
    """The safest place that works on this machine, tried out once; None if there is none."""
    for place in _PLACES_OF_ROOT if os.geteuid() == 0 else _PLACES_OF_USERS:
        try:
            if _run(place, "import math, json", Bounds(time_s=_PROBE_TIMEOUT_S)).passed:
                return place
        except OSError:  # the command or the change of user is not there for us: the next place is tried
            continue
    return None


def describe() -> str:
    """Where programs run, in words for the report."""
    place = find_place()
    return place.name if place else _MISSING


_MISSING = (
    "not run: this machine lets no process be shut off (neither namespaces nor, as root, another user); "
    "run the benchmark in a container as root, or allow user namespaces"
)


def run(program: str, bounds: Bounds | None = None) -> Outcome:
    """Whether `program` runs to its end without an error, within `bounds`."""
    place = find_place()
    return Outcome(None, _MISSING) if place is None else _run(place, program, bounds or Bounds())


def _run(place: Place, program: str, bounds: Bounds) -> Outcome:
    top = Path(tempfile.mkdtemp(prefix="lookahead-program-"))
    work, python = top / "work", top / "python"
    try:
        work.mkdir()
        python.mkdir()
        (work / "program.py").write_text(program, encoding="utf-8", errors="replace")
        if os.geteuid() == 0:
            top.chmod(0o711)
            for path in (work, work / "program.py"):
                os.chown(path, NOBODY, NOBODY)
        return _run_in(work, place, bounds)
    finally:
        _remove(work)
        with contextlib.suppress(OSError):
            python.rmdir()  # never a deletion of what lies in it: Python itself may be shown there
            top.rmdir()


def _run_in(folder: Path, place: Place, bounds: Bounds) -> Outcome:
    token = secrets.token_hex(16)
    limits = (bounds.memory_bytes, int(bounds.time_s) + 1, bounds.num_processes, bounds.file_bytes)
    command = place.command(folder, ["-I", "-c", _BOOT, *map(str, limits)])
    environment = {"PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"}
    with (
        _alone(place.user),
        tempfile.TemporaryFile() as errors,
    ):  # it has no name: the program cannot put another one in its place
        process = subprocess.Popen(  # nosec B603 # running what is not trusted is what this file is for, inside bounds
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors,
            start_new_session=True, user=place.user, group=place.user, extra_groups=None if place.user is None else [],
        )  # fmt: skip
        in_time = True
        try:
            process.communicate(token.encode() + b"\n", timeout=bounds.time_s)
        except subprocess.TimeoutExpired:
            in_time = False
        finally:
            _end(process, has_namespace=bool(place.prefix))
            if place.user is not None:
                _end_all_of(place.user)
        if not in_time:
            return Outcome(False, f"not done after {bounds.time_s:g} s")
        if process.returncode == 0 and _says(folder / "passed", token):
            return Outcome(True)
        return Outcome(False, _last_line(errors) or f"ended early, exit code {process.returncode}")


def _end(process: subprocess.Popen[bytes], has_namespace: bool) -> None:
    """With its first process a process namespace ends as a whole, and `unshare` waits for that: it must not die before,
    or nobody here would know when all is over."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError, subprocess.TimeoutExpired):
        if has_namespace:
            first = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
            for pid in first:
                os.kill(int(pid), signal.SIGKILL)
            process.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(_GRACE_S)


@contextlib.contextmanager
def _alone(user: int | None) -> Iterator[None]:
    """While this lasts no other benchmark here runs a program as `user`, whose processes end with ours."""
    with open(__file__, "rb") as own:
        if user is not None:
            fcntl.flock(own, fcntl.LOCK_EX)
        yield


def _end_all_of(user: int) -> None:
    """End every process of `user`. ValueError for root and for the user that we are ourselves."""
    if user == 0 or user in os.getresuid():
        raise ValueError(f"All processes of user {user} would be ended, which are not a program's: give another user.")
    command = [os.path.realpath(sys.executable), "-I", "-S", "-c", _END_ALL, str(user)]
    for _ in range(_NUM_TRIES):
        ended = subprocess.run(  # nosec B603 # our own command
            command, cwd="/", env={}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            check=False, user=user, group=user, extra_groups=[],
        )  # fmt: skip
        if ended.returncode == 0:
            return
    raise OSError(f"What a program left running as user {user} could not be ended: end that user's processes by hand.")


def _says(path: Path, token: str) -> bool:
    """Whether `path` is a plain file that holds `token`: the program may have put a link, a pipe or nothing there."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(file).st_mode) and os.read(file, len(token) + 1) == token.encode()
    finally:
        os.close(file)


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(max(0, os.fstat(errors.fileno()).st_size - 2000))
    lines = errors.read(2000).decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def _remove(folder: Path) -> None:
    """Python's own removal goes no deeper than its stack, and not into a folder that its owner has shut."""
    for command in (["rm", "-rf"], ["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
        if os.path.lexists(folder):
            with contextlib.suppress(OSError):
                subprocess.run(  # nosec B603 # our own command; the folder's name is ours too
                    [*command, "--", str(folder)], stderr=subprocess.DEVNULL, check=False
                )
