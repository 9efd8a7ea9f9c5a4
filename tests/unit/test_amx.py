"""Leave to use Intel's tiles."""

from __future__ import annotations

import pytest
import torch

from actors.engines.amx import ask_for_tiles


@pytest.mark.parametrize(
    ("has_tiles", "is_granted", "asked", "warned"),
    [(False, True, 0, 0), (True, True, 1, 0), (True, False, 1, 1)],
    ids=["no tiles", "leave is given", "no leave is given"],
)
def test_leave_is_asked_for_where_there_are_tiles(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    has_tiles: bool,
    is_granted: bool,
    asked: int,
    warned: int,
) -> None:
    calls = []
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_tiles)
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: calls.append(1) or is_granted)
    assert ask_for_tiles() is (has_tiles and is_granted)
    assert (len(calls), len(caplog.records)) == (asked, warned)
