"""A server that speaks, and the command line as a person runs it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
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
def lookahead(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Outcome]]:
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

    before = signal.getsignal(signal.SIGINT)
    yield run
    signal.signal(signal.SIGINT, before)  # a command that was stopped leaves it ignored


@pytest.fixture
def data(tmp_path):
    """Three questions; the server answers 42, or what follows ANSWER in the question."""
    path = tmp_path / "data.jsonl"
    questions = ("What is 6 * 7?", "ANSWER7 please", "ANSWER9 please")
    lines = [
        {"question": question, "answer": f"so\n#### {answer}"}
        for question, answer in zip(questions, (42, 7, 10), strict=True)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def bench(server, lookahead, data, tmp_path, monkeypatch):
    monkeypatch.setattr("deployments.bench.runner.SETTLE_S", 0.01)

    def run(*arguments, out="run", source=data):
        return lookahead(
            "bench", "--url", server.url, "--data", str(source), "--out", str(tmp_path / out), "--max-tokens", "50",
            *arguments,
        )  # fmt: skip

    return run


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """What a run measured."""
    return [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]


def reviews_of(folder: Path) -> list[dict[str, Any]]:
    """What a run found out afterwards."""
    return [json.loads(line) for line in (folder / "reviews.jsonl").read_text().splitlines()]
