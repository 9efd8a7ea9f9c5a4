"""What a server adds to the times of its engines alone is found again where it is known."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from actors.errors import ServiceError
from deployments.calibration import served
from deployments.calibration.served import ALONE, match, measure_served, num_asked
from deployments.simulation.cost_file import CostFile
from deployments.simulation.validation import Replayer
from deployments.telemetry.timeline import read_trace
from tests.unit.simulation.test_validation import PLAN, config, costs, seed_trace

STREAM_S = 0.02


def disturbed(target: float, draft: float, stream_s: float = STREAM_S) -> CostFile:
    known = costs()
    return known.model_copy(
        update={
            "target": known.target.model_copy(update={"disturbance": target, "stream_s": stream_s}),
            "draft": known.draft.model_copy(update={"disturbance": draft}),
        }
    )


def answered(mode: str, target: float, draft: float) -> dict[str, Any]:
    """A line of a server in which passes take so much longer."""
    line = {"mode": mode, "question": "How many?", "usage": {"prompt_tokens": 40}}
    done = Replayer(config(), disturbed(target, draft), PLAN).answer(line, read_trace(seed_trace(mode)))
    return line | {"latency_s": done.took_s, "trace": done.trace}


@pytest.mark.parametrize("mode", ["lookahead:exact", "lookahead:balanced"])
@pytest.mark.parametrize(("target", "draft"), [(0.0, 0.0), (0.2, 0.5)])
def test_a_known_disturbance_is_found(mode: str, target: float, draft: float) -> None:
    asked = [[answered(ALONE, target, draft), answered(mode, target, draft)]] * 2
    found = match(config(), disturbed(0.7, 0.7, 0.0), asked)
    assert found.target.stream_s == pytest.approx(STREAM_S, rel=0.05)
    assert found.target.disturbance == pytest.approx(target, abs=0.04)
    assert found.draft.disturbance == pytest.approx(draft, abs=0.06)
    assert found.target.passes == costs().target.passes


def test_the_server_is_asked_and_its_traces_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            name = asked[-1]["speculation"]
            mode = ALONE if name["mode"] == "target" else "lookahead:exact"
            return httpx.Response(200, json=answered(mode, 0.1, 0.3)["trace"])
        asked.append(json.loads(request.content))
        return httpx.Response(200, json={"id": f"r{len(asked)}", "usage": {"prompt_tokens": 40}})

    real, told = httpx.Client, []
    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(served.httpx, "Client", lambda **more: real(transport=transport, **more))
    found = measure_served("http://made-up", config(), costs(), "key", lambda: told.append(1))
    assert found.draft.disturbance == pytest.approx(0.3, abs=0.06)
    assert len(told) == len(asked) == num_asked()
    assert asked[1]["speculation"] == {"mode": "lookahead", "fidelity": "exact", "controller": False}


def test_a_server_that_refuses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real, transport = httpx.Client, httpx.MockTransport(lambda request: httpx.Response(503))
    monkeypatch.setattr(served.httpx, "Client", lambda **more: real(transport=transport, **more))
    with pytest.raises(ServiceError, match="503"):
        measure_served("http://made-up", config(), costs())
