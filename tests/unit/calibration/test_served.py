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


def disturbed(
    target: float, draft: float, stream_s: float = STREAM_S, guided: tuple[float, float] | None = None
) -> CostFile:
    known = costs()
    more = [{"disturbance_guided": one} for one in guided or (None, None)]
    return known.model_copy(
        update={
            "target": known.target.model_copy(update={"disturbance": target, "stream_s": stream_s, **more[0]}),
            "draft": known.draft.model_copy(update={"disturbance": draft, **more[1]}),
        }
    )


def answered(mode: str, known: CostFile) -> dict[str, Any]:
    """A line of a server whose passes take so long."""
    seed = seed_trace(":".join(mode.split(":")[:2]))
    line = {"mode": mode, "question": "How many?", "usage": {"prompt_tokens": 40}}
    done = Replayer(config(), known, PLAN).answer(line, read_trace(seed))
    return line | {"latency_s": done.took_s, "trace": done.trace}


@pytest.mark.parametrize("mode", ["lookahead:exact", "lookahead:balanced"])
@pytest.mark.parametrize(("target", "draft"), [(0.0, 0.0), (0.2, 0.5)])
def test_a_known_disturbance_is_found(mode: str, target: float, draft: float) -> None:
    """One way was seen: it is taken for the other as well."""
    known = disturbed(target, draft)
    found = match(config(), disturbed(0.7, 0.7, 0.0, (0.7, 0.7)), [[answered(ALONE, known), answered(mode, known)]] * 2)
    assert found.target.stream_s == pytest.approx(STREAM_S, rel=0.05)
    assert found.target.disturbance == pytest.approx(target, abs=0.04)
    assert found.draft.disturbance == pytest.approx(draft, abs=0.06)
    assert found.target.passes == costs().target.passes


def test_windows_and_guided_answers_are_told_apart() -> None:
    known = disturbed(0.1, 0.3, guided=(0.3, 0.6))
    lines = [answered(mode, known) for mode in (ALONE, "lookahead:balanced:none", "lookahead:exact")]
    found = match(config(), costs(), [lines] * 2)
    assert found.target.disturbance == pytest.approx(0.1, abs=0.08), "six steps are few"
    assert found.draft.disturbance == pytest.approx(0.3, abs=0.12)
    assert found.target.disturbance_guided == pytest.approx(0.3, abs=0.06)
    assert found.draft.disturbance_guided == pytest.approx(0.6, abs=0.1)


def test_the_server_is_asked_and_its_traces_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            wishes = asked[-1]["speculation"]
            is_window = "token_speculation" in wishes and wishes["mode"] != "target"
            windows = "lookahead:balanced:none:controller=off"
            mode = windows if is_window else ALONE if wishes["mode"] == "target" else "lookahead:exact"
            return httpx.Response(200, json=answered(mode, disturbed(0.1, 0.3))["trace"])
        asked.append(json.loads(request.content))
        usage, choice = {"prompt_tokens": 40}, {"finish_reason": "stop"}
        return httpx.Response(200, json={"id": f"r{len(asked)}", "usage": usage, "choices": [choice]})

    real, told = httpx.Client, []
    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(served.httpx, "Client", lambda **more: real(transport=transport, **more))
    found = measure_served("http://made-up", config(), costs(), "key", lambda: told.append(1))
    assert found.draft.disturbance == pytest.approx(0.3, abs=0.12)
    assert len(told) == len(asked) == num_asked(config())
    windows = {"mode": "lookahead", "fidelity": "balanced", "token_speculation": "none", "controller": False}
    assert asked[1]["speculation"] == windows
    assert asked[2]["speculation"] == {"mode": "lookahead", "fidelity": "exact", "controller": False}


def test_a_server_that_refuses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real, transport = httpx.Client, httpx.MockTransport(lambda request: httpx.Response(503))
    monkeypatch.setattr(served.httpx, "Client", lambda **more: real(transport=transport, **more))
    with pytest.raises(ServiceError, match="503"):
        measure_served("http://made-up", config(), costs())
