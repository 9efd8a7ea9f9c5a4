"""A start of Ray that fails, and its token, without Ray."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.node import Node

from actors.errors import ConfigError, ServiceError
from deployments.server.joining import join, make_token

TIMED_OUT = "The current node timed out during startup."


class Late(Node):
    """A node whose raylet does not come up, having written `said`."""

    def __init__(self, calls: list[str], logs: Path, said: str) -> None:
        self.all_processes = {"gcs_server": ["one"]}
        self._logs_dir = str(logs)
        self._calls = calls
        (logs / "raylet.err").write_text(said)
        raise Exception(TIMED_OUT)

    def kill_all_processes(self, **options: Any) -> None:
        assert options["wait"], "a second start beside the rest of the first has less of the machine"
        self._calls.append("kill")


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """What happens where a raylet has said each of `said` in a start that failed."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")

    def made(*said: str) -> list[str]:
        calls: list[str] = []
        left = list(said)

        def init(**_: Any) -> None:
            calls.append("init")
            if left:
                Late(calls, tmp_path, left.pop(0))

        monkeypatch.setattr(ray, "init", init)
        monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
        return calls

    return made


ABORTED = "node_manager.cc:3576: Check failed: Timed out waiting for file /tmp/ray/session/metrics_agent_port_7"


def test_a_start_that_fails_is_ended_and_tried_once_more(
    starts: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    calls = starts(ABORTED)
    join("local")
    assert calls == ["init", "kill", "shutdown", "init"]
    assert capsys.readouterr().err == "Ray was not up in time on this machine, which is busy: trying once more.\n"


@pytest.mark.parametrize(
    ("said", "advice", "no_advice"),
    [(ABORTED, "try again when less runs here", "RAY_raylet_start"), ("", "RAY_raylet_start_wait_time_s", "twice")],
)
def test_the_advice_is_one_that_helps(starts: Callable[..., list[str]], said: str, advice: str, no_advice: str) -> None:
    calls = starts(said, said)
    with pytest.raises(ServiceError) as told:
        join("local")
    assert calls.count("init") == 2
    assert advice in str(told.value)
    assert no_advice not in str(told.value)


def test_what_started_nothing_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def init(**_: Any) -> None:
        calls.append("init")
        raise PermissionError(13, "Permission denied", "/tmp/ray")

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ServiceError, match="Permission denied"):
        join("local")
    assert calls == ["init"]


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray" / "auth_token"


def test_a_token_is_made_once_and_for_its_owner_alone(token: Path) -> None:
    make_token()
    made = token.read_text()
    assert len(bytes.fromhex(made)) == 32
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    make_token()
    assert token.read_text() == made


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "0" * 64)])
def test_none_is_made_where_none_is_asked_for(
    token: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    make_token()
    assert not token.parent.exists()


def test_a_home_that_cannot_be_written_to_is_ray_s_to_tell(token: Path) -> None:
    token.parent.write_text("a file")
    make_token()


@pytest.mark.parametrize(
    ("folder", "error", "words"),
    [
        (None, PermissionError(13, "Permission denied", "/tmp/ray"), "needs to write to /tmp/ray, and"),
        ("/elsewhere", OSError("No such file"), "needs to write to /elsewhere (RAY_TMPDIR), and"),
        ("/" + 110 * "x", OSError("AF_UNIX path length cannot exceed 107 bytes"), "name a shorter folder."),
    ],
)
def test_the_folder_that_ray_needs_is_the_one_that_is_named(
    monkeypatch: pytest.MonkeyPatch, folder: str | None, error: Exception, words: str
) -> None:
    def init(**_: Any) -> None:
        raise error

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    if folder is not None:
        monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ServiceError, match=re.escape(words)):
        join("local")


def test_a_current_folder_that_is_gone_is_told_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, starts: Callable[..., list[str]]
) -> None:
    calls = starts()
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="current folder cannot be used"):
        join("local")
    assert not calls
