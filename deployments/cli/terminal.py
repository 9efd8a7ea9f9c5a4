"""What every command shares at the terminal: options, where words and files go, one machine-readable result.

Promises: with ``--json`` nothing but one JSON document reaches stdout, and words for people go to stderr; text from a
model or a server cannot move the cursor or switch the terminal's modes; output that nothing takes is an error.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from actors.errors import RequestError

DEFAULT_URL = "http://127.0.0.1:8000"

STEP_STYLES: Mapping[str, str] = {"accepted": "green", "recovered": "yellow", "target": "bright_blue"}
"""One colour for each origin of a committed step, the same in `chat`, `trace` and `demo`."""

NOT_TAKEN = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""How the system says that what was written went nowhere."""

Url = Annotated[str, typer.Option("--url", envvar="LOOKAHEAD_URL", help="Address of the server.")]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", envvar="LOOKAHEAD_API_KEY", help="Key, if the server asks for one.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON result on stdout; words go to stderr.")]
Fidelity = Annotated[str | None, typer.Option(help="How alike two steps must be: exact, strict, balanced or fast.")]
Verifier = Annotated[str | None, typer.Option(help="A verifier by its configured name, in the place of a fidelity.")]
Temperature = Annotated[float, typer.Option(min=0.0, max=2.0, help="0 always takes the likeliest token.")]


class _Words(Console):
    """Leaves out control characters of whatever it is given as a string."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def words_console(json_output: bool) -> Console:
    """Where words for people go: stdout, or stderr if stdout belongs to the JSON result."""
    return _Words(stderr=json_output, highlight=False, emoji=False)


def print_json(result: Mapping[str, Any]) -> None:
    """Write `result` to stdout as one JSON document."""
    text = json.dumps(result, ensure_ascii=False, indent=2)
    # JSON itself escapes those below the space only.
    print_result(re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text))


def print_result(text: str) -> None:
    """Write `text` to stdout, whole; RequestError where stdout is closed."""
    if sys.stdout is None:  # what Python makes of `>&-`, where `print` says nothing
        raise RequestError("There is no stdout, so what this command made went nowhere: run it without `>&-`.")
    print(text, flush=True)


@contextlib.contextmanager
def all_written() -> Iterator[None]:
    """What the body printed is written when it ends; RequestError if a disk is full, and exit code 1 without a word if
    the reader has gone."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if error.errno not in NOT_TAKEN:
            raise
        with contextlib.suppress(OSError):  # what is still in the buffer, Python would try to write again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:
            raise SystemExit(1) from error
        raise RequestError(f"{error.filename or 'The output'} could not be written: {error.strerror}.") from error


def progress_on(console: Console, *columns: ProgressColumn, remaining: bool = False) -> Progress:
    """A bar with words before it, and behind it `columns`, the time that it took and, if wished, what it will take."""
    times = (TimeElapsedColumn(), TimeRemainingColumn()) if remaining else (TimeElapsedColumn(),)
    return Progress(TextColumn("{task.description}"), BarColumn(), *columns, *times, console=console)


def write_text(path: Path, text: str) -> None:
    """Write a file; RequestError in words if that cannot be done."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}.") from error


def write_page(console: Console, path: Path, html: str) -> None:
    """Write a page and say where it is; RequestError in words if that cannot be done."""
    write_text(path, html)
    console.print(f"Page: {path}", markup=False, soft_wrap=True)


def printable(text: str) -> str:
    """`text` without control characters, line breaks and tabs excepted."""
    return "".join(letter for letter in text if letter in "\n\t" or (letter >= " " and not "\x7f" <= letter <= "\x9f"))


def describe_steps(speculation: Mapping[str, Any] | None) -> str:
    """The `speculation` object of a response in words; empty if there is none."""
    if not speculation:
        return ""
    parts = [f"{speculation.get(f'num_{origin}_steps', 0)} {origin}" for origin in STEP_STYLES]
    text = f"{speculation.get('num_steps', 0)} steps: {', '.join(parts)}"
    if speculation.get("num_accepted_steps", 0) or speculation.get("num_recovered_steps", 0):
        text += f" · accept rate {100 * float(speculation.get('accept_rate', 0.0)):.0f} %"
    return text
