"""Weights on their way to this machine: a bar on the terminal, not there while there is nothing to wait for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from actors.models import Phase
from actors.models import Progress as Report

PHASE_WORDS: dict[Phase, str] = {
    "wait": "waiting for another process that fetches it",
    "download": "downloading",
    "join": "joining",
    "convert": "converting to bf16",
}


@contextmanager
def progress_bar(model: str) -> Iterator[Report]:
    """One bar on stderr for one model; it shows nothing until there is something to report."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True, emoji=False), transient=True) as progress:
        task: TaskID | None = None

        def report(phase: Phase, done: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = progress.add_task(model, total=None, amount="")
            if phase == "convert":
                amount = f"step {done} of {total}"
            else:
                amount = f"{size(done)} of {size(total)}" if total else ""
            words = f"{model}: {PHASE_WORDS[phase]}"
            progress.update(task, description=words, completed=done, total=total or None, amount=amount)

        yield report


def size(num_bytes: int) -> str:
    """So many bytes in words."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
