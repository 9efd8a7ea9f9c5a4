"""Programs that mean harm. Where a machine offers no safe place, nothing is run: then every program says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from deployments.bench import code_answers, sandbox
from deployments.bench.problems import CodeTest
from deployments.bench.sandbox import Bounds, Outcome

BOUNDS = Bounds(time_s=30.0, memory_bytes=256 << 20)
SHORT = Bounds(time_s=1.0)
LEFT_S = 20.0


@pytest.fixture(autouse=True)
def clean():
    """Nothing is left behind: no folder, no process of the one who runs the programs."""
    before = set(Path(tempfile.gettempdir()).glob("lookahead-program-*"))
    yield
    nothing_remains(before)


def nothing_remains(before: set[Path]) -> None:
    until = time.monotonic() + LEFT_S
    while (left := remains(before)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


def remains(before: set[Path]) -> list[str]:
    """Folders of programs and processes that are there now. Tests beside these have some for a moment."""
    folders = set(Path(tempfile.gettempdir()).glob("lookahead-program-*")) - before
    found = [str(folder) for folder in folders]
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if path.stat().st_uid == sandbox.NOBODY:
                found.append((path / "cmdline").read_text())
    return found


def check(outcome: Outcome, passed: bool, words: str = "") -> None:
    if sandbox.find_place() is None:
        assert (outcome.passed, outcome.note[:7]) == (None, "not run")
    else:
        assert (outcome.passed, words in outcome.note) == (passed, True), outcome


def test_a_good_program_passes_with_the_standard_library():
    check(sandbox.run("import math, heapq, json\nassert math.sqrt(4) == 2\nopen('own', 'w').write('x')", BOUNDS), True)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("assert False, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(0)", "ended early, exit code 0"),
        ("import os; os._exit(0)", "ended early, exit code 0"),
        ("x = []\nwhile True: x.append(bytearray(10 ** 7))", "MemoryError"),
        ("f = open('big', 'w')\nwhile True: f.write('x' * 10 ** 6)", "File too large"),
        ("import sys\nwhile True: sys.stderr.write('x' * 10 ** 6)", ""),
        ("import resource as r; r.setrlimit(r.RLIMIT_NPROC, (9999, 9999))", "not allowed to raise"),
        ("open('/etc/lookahead-was-here', 'w')", "Permission denied"),
    ],
)
def test_harm_ends_in_a_reason(program, words):
    check(sandbox.run(program, BOUNDS), False, words)


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\ntime.sleep(60)",
    ],
    ids=["endless loop", "fork bomb", "a child that leaves the group"],
)
def test_what_does_not_end_is_ended_with_all_it_started(program):
    check(sandbox.run(program, SHORT), False, "not done after 1 s")


LEAVES_GROUP = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n"


PUBLIC_PYTHON = shutil.which("python3", path=os.defpath)
"""One that another user may run, which the tests' own may not be."""


@pytest.mark.skipif(os.geteuid() != 0 or PUBLIC_PYTHON is None, reason="becoming another user takes root and a Python")
@pytest.mark.parametrize(("ends", "passed"), [("", True), ("time.sleep(60)", False)])
def test_without_namespaces_too_all_of_a_program_ends_with_it(monkeypatch, ends, passed):
    user = sandbox.NOBODY + 1  # programs of other tests have the usual one
    monkeypatch.setattr(sandbox, "NOBODY", user)
    monkeypatch.setattr(sys, "executable", PUBLIC_PYTHON)
    monkeypatch.setattr(sandbox, "find_place", lambda: sandbox.Place("own user", (), user))
    check(sandbox.run(LEAVES_GROUP + ends, Bounds(time_s=5.0)), passed)
    nothing_remains(set(Path(tempfile.gettempdir()).glob("lookahead-program-*")))


@pytest.mark.parametrize("user", [0, os.getuid()])
def test_never_are_all_processes_of_root_or_of_our_own_user_ended(monkeypatch, user):
    monkeypatch.setattr(subprocess, "run", None)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(ValueError, match="would be ended"):
        sandbox._end_all_of(user)


GONE = "import os\nfor name in os.listdir(): os.remove(name)\n"
PIPE_TO_PASS = (
    "os.mkfifo('passed')\nfrom threading import Thread\nThread(target=open, args=('passed',), daemon=True).start()"
)


@pytest.mark.parametrize(
    ("leaves", "passed"),
    [
        (GONE, True),
        (GONE + "os.symlink('/etc/shadow', 'errors')", True),
        (GONE + "os.symlink('/etc/shadow', 'passed')", False),
        (GONE + "os.mkfifo('errors')", True),
        (GONE + PIPE_TO_PASS, False),
        (GONE + "os.mkdir('errors')", True),
        (GONE + "os.mkdir('passed')", False),
        (GONE + "os.makedirs('shut/in')\nos.chmod('shut', 0)", True),
        (GONE + "home = os.getcwd()\nfor _ in range(1200): os.mkdir('d'); os.chdir('d')\nos.chdir(home)", True),
    ],
    ids=["nothing", "link", "link to pass", "pipe", "pipe to pass", "folder", "folder to pass", "shut", "1200 deep"],
)
def test_what_a_program_leaves_is_never_followed_and_always_removed(leaves, passed):
    check(sandbox.run(leaves, BOUNDS), passed)


def test_a_link_for_its_errors_shows_nothing_of_ours(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a key of ours")
    secret.chmod(0o600)
    check(sandbox.run(f"{GONE}os.symlink({str(secret)!r}, 'errors')\nos._exit(1)", BOUNDS), False, "exit code 1")


def test_the_reason_stands_whatever_became_of_the_folder():
    check(sandbox.run(GONE + "os.mkdir('errors')\nassert False, 'no'", BOUNDS), False, "AssertionError: no")


def test_processes_are_few():
    counts = (
        "import os, time\nnum = 0\ntry:\n    while True:\n        if os.fork() == 0: time.sleep(60)\n        num += 1\n"
        "except OSError:\n    assert num < 40, num\n    raise SystemExit('enough')"
    )
    check(sandbox.run(counts, BOUNDS), False, "enough")


def test_processes_of_ours_cannot_be_reached():
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    try:
        kill = f"import os\nfor pid in ({victim.pid}, {os.getpid()}):\n    os.kill(pid, 9)"
        check(sandbox.run(kill, BOUNDS), False)
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait(10)


def test_secrets_of_the_environment_stay_here(monkeypatch):
    monkeypatch.setenv("LOOKAHEAD_API_KEY", "s3cret-in-this-process")
    reads = (
        "import glob, os\nfound = [str(dict(os.environ))]\nfor path in glob.glob('/proc/[0-9]*/environ'):\n    try:\n"
        "        found.append(open(path).read())\n    except OSError:\n        pass\n"
        "assert 's3cret' not in ''.join(found)"
    )
    check(sandbox.run(reads, BOUNDS), True)


def test_the_network_is_cut_off_where_the_report_says_so():
    place = sandbox.find_place()
    if place is None or "not cut off" in place.name:
        assert "not" in sandbox.describe()
    else:
        tries = "import socket; socket.create_connection(('127.0.0.1', 9), 2)"
        check(sandbox.run(tries, BOUNDS), False, "unreachable")


@pytest.mark.parametrize("folder", ["/dev/shm", "/var/tmp", "/tmp"])
def test_what_a_program_leaves_in_the_machine_s_open_folders_ends_with_it(folder):
    place, left = sandbox.find_place(), Path(folder) / f"lookahead-was-here-{os.getpid()}"
    if place is None or not place.has_mounts:
        pytest.skip("no mounts of its own here")
    tries = f"import os\nopen({str(left)!r}, 'w').write('x')\nassert os.listdir({folder!r})"
    check(sandbox.run(tries, BOUNDS), True)
    assert not left.exists()


def test_the_machine_s_open_folders_are_small_and_show_nothing_of_others(tmp_path):
    place = sandbox.find_place()
    if place is None or not place.has_mounts:
        pytest.skip("no mounts of its own here")
    (tmp_path / "ours").write_text("x")
    tries = f"import os\nassert not os.path.exists({str(tmp_path / 'ours')!r})"
    check(sandbox.run(tries, BOUNDS), True)
    fills = "for number in range(99): open(f'/dev/shm/{number}', 'w').write('x' * 10 ** 6)"
    check(sandbox.run(fills, BOUNDS), False, "No space left")


TEST = CodeTest(
    prompt='import math\n\n\ndef area(r: float) -> float:\n    """Of a circle, rounded down."""\n',
    test="def check(f):\n    assert f(1) == 3\n    assert f(2) == 12",
    entry_point="area",
)
RIGHT = "    return math.floor(math.pi * r * r)\n"
CUT = f"```python\ndef area(r):\n{RIGHT}```\nBetter:\n```python\ndef area(r):\n    return"


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        (f"First the formula.\n\n```python\ndef area(r):\n{RIGHT}```\nDone.", True),
        (f"```\n{RIGHT}```", True),
        (RIGHT, True),
        (f"```python3\ndef area(r):\n{RIGHT}```", True),
        (f"1. So:\n   ```python\n   def area(r):\n   {RIGHT}   ```\n2. Done.", True),
        (f"- The body:\n  ```\n  {RIGHT}  ```", True),
        (f"Here: ```Python\ndef area(r):\n{RIGHT}```", True),
        (f'```python title="x.py"\ndef area(r):\n{RIGHT}```', True),
        (f"~~~python\ndef area(r):\n{RIGHT}~~~", True),
        (f"As ```round``` does:\n```python\ndef area(r):\n{RIGHT}```".replace("\n", "\r\n"), True),
        (f"Beside ```round```\n```python\ndef area(r):\n{RIGHT}```", True),
        (f"```python\ndef area(r):\n{RIGHT}```\nCall it as ```area(3)```\n", True),
        (f"```python\ndef area(r):\n{RIGHT}```\nUse it so:\n```python\nprint(area(3))\n```", True),
        ("```python\ndef area(r):\n    return 3 * r * r\n```\nNo:\n```python\ndef area(r):\n    return 3\n```", False),
        ("```python\ncheck = lambda f: None\ndef area(r):\n    return 3\n```", False),
    ],
)
def test_the_last_program_of_an_answer_is_tried(text, passed):
    check(code_answers.judge(text, TEST, BOUNDS), passed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I do not know how.",
        f"```python\ndef area(r):\n{RIGHT}",
        "~~~\n1",
        CUT,
        CUT.removesuffix("\ndef area(r):\n    return"),
        CUT.replace("Better:\n", "Better: "),
    ],
)
def test_an_answer_without_a_whole_program_is_wrong_and_not_run(text):
    assert code_answers.judge(text, TEST) == Outcome(False, "the answer holds no whole program")


def test_where_no_place_is_safe_nothing_is_run(monkeypatch):
    monkeypatch.setattr(sandbox, "find_place", lambda: None)
    outcome = sandbox.run("open('/tmp/lookahead-ran', 'w')")
    assert (outcome.passed, "allow user namespaces" in outcome.note) == (None, True)
    assert sandbox.describe() == outcome.note
    assert not Path("/tmp/lookahead-ran").exists()
