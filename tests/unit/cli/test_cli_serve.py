"""``lookahead serve``: what is refused before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

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
