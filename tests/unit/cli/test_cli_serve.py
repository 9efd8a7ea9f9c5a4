"""``lookahead serve``: what is refused before anything starts, and what it says."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ray.serve._private.client import ServeControllerClient

from deployments.cli import serve


@pytest.mark.parametrize("port", ["70000", "65536", "-1"])
def test_a_port_that_there_is_not_is_refused_by_name(
    lookahead: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, port: str
) -> None:
    def started(*_: Any, **__: Any) -> Any:
        raise AssertionError("it would listen on another one")

    monkeypatch.setattr(serve, "running", started)
    end = lookahead("serve", "--profile", "scripted", f"--port={port}")
    assert end.code == 2
    assert "Invalid value for '--port'" in end.err


def test_a_profile_without_a_name_is_not_the_usual_one(lookahead: Callable[..., Any]) -> None:
    for command in (["serve"], ["demo"], ["simulate", "--validate", ".", "--costs", "."]):
        end = lookahead(*command, "--profile", "")
        assert (end.code, "There is no profile ''" in " ".join(end.err.split())) == (1, True), (command, end.err)


@pytest.mark.parametrize("address", ["local", "auto"])
def test_where_to_look_and_how_long_the_end_may_take_are_said(
    lookahead: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    @contextmanager
    def started(*_: Any, **__: Any) -> Iterator[str]:
        yield "http://127.0.0.1:8000"

    def stopped(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "running", started)
    monkeypatch.setattr(serve.time, "sleep", stopped)
    end = lookahead("serve", "--profile", "scripted", "--address", address)
    assert (end.code, end.out) == (0, "Serving lookahead-scripted at http://127.0.0.1:8000/v1 - stop with Ctrl-C\n")
    _, logs, stopping = end.err.splitlines()
    assert logs.startswith("Logs: /tmp/ray/session_latest/logs/worker-*.out and worker-*.err")
    assert logs.endswith("on the node of each role") == (address == "auto")
    limit_s = inspect.signature(ServeControllerClient.shutdown).parameters["timeout_s"].default
    assert (f"answers under way have {limit_s:.0f} s more, then they are cut" in stopping) == (address == "local")
