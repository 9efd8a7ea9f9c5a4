"""A server that speaks, and the command line as a person runs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from deployments.cli.main import main
from tests.unit.cli.speaking_server import SpeakingServer


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def server() -> Iterator[SpeakingServer]:
    speaking = SpeakingServer()
    speaking.start()
    yield speaking
    speaking.stop()
    assert speaking.open_streams == 0


@pytest.fixture
def lookahead(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs ``lookahead ARGUMENTS`` in this process, as the installed command does."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("LOOKAHEAD_URL", raising=False)
    monkeypatch.delenv("LOOKAHEAD_API_KEY", raising=False)

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["lookahead", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        written = capsys.readouterr()
        return Outcome(int(end.value.code or 0), written.out, written.err)

    return run
