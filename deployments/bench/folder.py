"""The folder of a run: whether it holds the same run already, and what each start of it ran on.

Promises: a folder never mixes two plans, nor two models in one mode; what a start ran on stays beside what it measured,
whatever later starts find, or if they have nothing to ask; only one start at a time runs in a folder; what was noted
there is whole, whenever a start is stopped and whatever the disk refuses.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from actors.errors import RequestError
from deployments.bench.plan import Plan, count_groups
from deployments.bench.record import REQUESTS_FILE, Measurement

_PLAN_FILE = "plan.json"


@dataclass(frozen=True, slots=True)
class Starts:
    """All starts of the run that `folder` holds, this one last: each with ``started_at``, ``command``, ``machine``,
    and, once it asked something, ``models`` by mode and what its ``server`` said of itself."""

    folder: Path
    plan: Mapping[str, Any]
    runs: list[dict[str, Any]]

    def answered_by(self, models: Mapping[str, str], server: Mapping[str, Any]) -> None:
        """Note who answers this start, or some of its modes. Raises RequestError if another model has answered one of
        them before."""
        for run in self.runs[:-1]:
            for mode, model in models.items():
                before = run.get("models", {}).get(mode, model)
                if before != model:
                    raise RequestError(
                        f"{self.folder} holds answers of the model {before} in mode {mode}, and now {model} would "
                        "answer. Use another --out, or the same model to go on.",
                        "model",
                    )
        own = self.runs[-1]
        others = own.get("server", {}).get("others", {}) | server.get("others", {})
        own["server"] = own.get("server", {}) | dict(server) | ({"others": others} if others else {})
        own["models"] = own.get("models", {}) | dict(models)
        self.write()

    def ran_on(self, lines: Iterable[Measurement]) -> dict[str, Any]:
        """What `lines` were measured on: machine, server and models of the last start that measured, and the machines
        of others before where they differ. Of a run without a line it is what this start has."""
        times = [line.started_at for line in lines]
        edges = pairwise([*(run["started_at"] for run in self.runs), float("inf")])
        measured = [
            run for run, (begin, end) in zip(self.runs, edges, strict=True) if any(begin <= at < end for at in times)
        ] or self.runs[-1:]
        machine = measured[-1].get("machine", {})
        models: dict[str, str] = {}
        for run in measured:
            models |= run.get("models", {})
        others = [run["machine"] for run in measured if run.get("machine", machine) != machine]
        return {
            "models": models,
            "server": measured[-1].get("server"),
            **machine,
            **({"earlier_machines": others} if others else {}),
        }

    def write(self) -> None:
        """Raises RequestError if the folder cannot be written to; what was there before stays then."""
        text = json.dumps({"plan": self.plan, "runs": self.runs}, indent=2) + "\n"
        path = self.folder / _PLAN_FILE
        new = path.with_name(f"{_PLAN_FILE}.new")
        try:
            new.write_text(text, encoding="utf-8")
            new.replace(path)
        except OSError as error:
            raise _unusable(self.folder, error) from error


@contextmanager
def claim_folder(folder: Path, plan: Plan, start: Mapping[str, Any]) -> Iterator[Starts]:
    """Note in `folder` that `plan` runs there, by `start`; all starts so far. The folder belongs to this start alone
    until the context ends, or its process.

    Raises RequestError if another start runs there, or if the folder holds measured requests of a run with other
    settings, and names them.
    """
    wanted = json.loads(json.dumps(asdict(plan) | {"num_blocks": _num_blocks(plan)}))
    with _alone(folder):
        starts = Starts(folder, wanted, [*_earlier(folder, wanted), dict(start)])
        starts.write()
        yield starts


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While this lasts no other start claims `folder`. Who only reads there asks for nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / REQUESTS_FILE, os.O_WRONLY | os.O_CREAT, 0o666)  # not handed down to what we start
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            words = f"Another bench runs in {folder}: wait for its end, or use another --out."
            raise RequestError(words, "out") from error
        except OSError as error:
            raise _unusable(folder, error) from error
        yield
    finally:
        os.close(file)


def _unusable(folder: Path, error: OSError) -> RequestError:
    return RequestError(f"The folder {folder} cannot be used: {error.strerror}.", "out")


def read_plan(run: Path) -> dict[str, Any]:
    """The settings of the run in the folder `run`, or in that of the file `run`. OSError, ValueError or KeyError where
    they cannot be read."""
    path = (run if run.is_dir() else run.parent) / _PLAN_FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))["plan"])


def _earlier(folder: Path, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """The starts that the folder holds, none where nothing was measured by them."""
    path = folder / _PLAN_FILE
    try:
        if not path.exists() or not _has_requests(folder):
            return []
        held = json.loads(path.read_text(encoding="utf-8"))
        _check_same(folder, held["plan"], wanted)
        return list(held["runs"])
    except OSError as error:
        raise _unusable(folder, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path} is broken ({error}); use another --out.", "out") from error


def _num_blocks(plan: Plan) -> dict[str, int] | None:
    """Of each mode under each load whose blocks are of several prompts. Folders of versions that cut them otherwise,
    and did not note it, are not gone on with."""
    return {str(load): count_groups(plan, load) for load in plan.loads if load.concurrency != 1} or None


def _has_requests(folder: Path) -> bool:
    path = folder / REQUESTS_FILE
    return path.exists() and path.stat().st_size > 0


def _check_same(folder: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    names = [name for name in wanted if held.get(name) != wanted[name]]
    if names:
        listed = "; ".join(
            f"{name} was {_short(held.get(name, 'not noted'))}, now {_short(wanted[name])}" for name in names
        )
        raise RequestError(
            f"{folder} holds a run with other settings ({listed}). Use another --out, or the same settings to go on.",
            "out",
        )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{name}: {one}" for name, one in value.items()]
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
