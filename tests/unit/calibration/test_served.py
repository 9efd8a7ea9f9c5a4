"""What a server adds to the times of its engines alone is found again where it is known."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from actors.errors import RequestError, ServiceError
from deployments.bench.runner import WARM_UP, WARM_UP_TOKENS
from deployments.calibration import served
from deployments.calibration.served import ALONE, MAX_TOKENS, as_measured, match, measure_served, num_asked
from deployments.config import Config, validate_config
from deployments.simulation.cost_file import CostFile
from deployments.simulation.validation import Replayer
from deployments.telemetry.timeline import read_trace
from tests.unit.simulation.test_validation import PLAN, config, costs, seed_trace

STREAM_S = 0.02
TURNS, WINDOWS, GUIDED = (
    "lookahead_sync:balanced:none",
    "lookahead:balanced:none:controller=off",
    "lookahead:exact:controller=off",
)


def disturbed(
    target: float,
    draft: float,
    stream_s: float = STREAM_S,
    guided: tuple[float, float] | None = None,
    draft_stream_s: float = 0.0,
    draft_s: float = 0.04,
) -> CostFile:
    known = costs(draft_s)
    more = [{"disturbance_guided": one} for one in guided or (None, None)]
    return known.model_copy(
        update={
            "target": known.target.model_copy(update={"disturbance": target, "stream_s": stream_s, **more[0]}),
            "draft": known.draft.model_copy(update={"disturbance": draft, "stream_s": draft_stream_s, **more[1]}),
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


def test_guided_answers_take_as_long_with_what_was_found_by_them_alone() -> None:
    """A slow draft: before many passes no hint comes. They are disturbed as much as when the figure was found."""
    known = disturbed(0.2, 0.5, draft_s=0.09)
    lines = [answered(ALONE, known), answered("lookahead:exact", known)]
    found = match(config(), costs(draft_s=0.09), [lines] * 2)
    again = Replayer(config(), found, PLAN).answer(lines[1], read_trace(lines[1]["trace"]))
    assert again.took_s == pytest.approx(lines[1]["latency_s"], rel=0.02)
    assert found.target.disturbance == found.target.disturbance_guided


def test_a_model_that_reasons_is_matched_as_it_was_measured() -> None:
    """Its server speculates on all text, and so does the replay: in reasoning that is never closed, too."""
    known = disturbed(0.1, 0.3, guided=(0.3, 0.6), draft_stream_s=0.01)
    lines = [answered(mode, known) for mode in (ALONE, TURNS, WINDOWS, GUIDED)]
    assert match(reasoning(), costs(), [lines] * 2) == match(config(), costs(), [lines] * 2)


def reasoning() -> Config:
    """As `config`, of models that reason, whose answers are not speculated."""
    plain = config().model_dump(mode="json")
    marks = {"reasoning": {"open": "<think>", "close": "</think>"}}
    return validate_config(plain | marks | {"speculation": plain["speculation"] | {"scope": "think"}}, "test")


def test_windows_and_guided_answers_are_told_apart() -> None:
    known = disturbed(0.1, 0.3, guided=(0.3, 0.6))
    lines = [answered(mode, known) for mode in (ALONE, "lookahead:balanced:none", "lookahead:exact")]
    found = match(config(), costs(), [lines] * 2)
    assert found.target.disturbance == pytest.approx(0.1, abs=0.08), "six steps are few"
    assert found.draft.disturbance == pytest.approx(0.3, abs=0.12)
    assert found.target.disturbance_guided == pytest.approx(0.3, abs=0.06)
    assert found.draft.disturbance_guided == pytest.approx(0.6, abs=0.1)


def test_what_the_server_adds_to_a_pass_of_the_draft_is_found_where_the_target_rests() -> None:
    """So it is not taken for what the engines do to each other."""
    known = disturbed(0.1, 0.3, guided=(0.3, 0.6), draft_stream_s=0.01)
    lines = [answered(mode, known) for mode in (ALONE, TURNS, WINDOWS, GUIDED)]
    found = match(config(), disturbed(0.7, 0.7, 0.7, (0.7, 0.7), 0.7), [lines] * 2)
    assert found.target.stream_s == pytest.approx(STREAM_S, rel=0.05)
    assert found.draft.stream_s == pytest.approx(0.01, rel=0.1)
    assert found.draft.disturbance == pytest.approx(0.3, abs=0.12), "six steps are few"
    assert found.draft.disturbance_guided == pytest.approx(0.6, abs=0.1)
    assert found.target.disturbance_guided == pytest.approx(0.3, abs=0.06)


class Server:
    """Answers in a stream, and has traces of what it answered, as long as `known` costs make them."""

    def __init__(self, known: CostFile) -> None:
        self.asked: list[dict[str, Any]] = []
        self.traces = {mode: answered(mode, known)["trace"] for mode in (ALONE, TURNS, WINDOWS, GUIDED)}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            mode = served._modes(config())[int(request.url.path.rpartition("-")[2]) % 4]
            return httpx.Response(200, json=self.traces[mode])
        self.asked.append(json.loads(request.content))
        usage, choice = {"prompt_tokens": 40}, {"delta": {"content": "42"}, "finish_reason": "stop"}
        events = [{"choices": [choice]}, {"choices": [], "usage": usage}]
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        return httpx.Response(200, text=text, headers={"x-request-id": f"r-{len(self.asked) - 1}"})

    @asynccontextmanager
    async def connect(self, url: str, api_key: str | None) -> AsyncIterator[httpx.AsyncClient]:
        """As `deployments.server.client.connect`."""
        assert api_key is None
        async with httpx.AsyncClient(transport=httpx.MockTransport(self), base_url=url) as http:
            yield http


def test_the_server_is_asked_as_a_benchmark_asks_and_its_traces_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamed, each mode with a salt of its own, after a short question that is not measured."""
    server, told = Server(disturbed(0.1, 0.3)), list[int]()
    monkeypatch.setattr(served, "connect", server.connect)
    found = measure_served("http://made-up", config(), costs(), lambda: told.append(1))
    assert found.draft.disturbance == pytest.approx(0.3, abs=0.12)
    assert len(told) == num_asked(config()) == 16
    assert all(one["stream"] for one in server.asked)
    first, measured = server.asked[:4], server.asked[4:]
    assert len(measured) == 16
    assert all(WARM_UP in one["messages"][0]["content"] for one in first)
    assert {one["max_tokens"] for one in first} == {WARM_UP_TOKENS}
    assert {one["max_tokens"] for one in measured} == {MAX_TOKENS}
    assert [one["speculation"] for one in first] == [
        {"mode": "target", "token_speculation": "none"},
        {"mode": "lookahead_sync", "fidelity": "balanced", "token_speculation": "none"},
        {"mode": "lookahead", "fidelity": "balanced", "token_speculation": "none", "controller": False},
        {"mode": "lookahead", "fidelity": "exact", "controller": False},
    ]
    salts = [one["cache_salt"] for one in first]
    assert len(set(salts)) == 4
    assert [(one["speculation"], one["cache_salt"]) for one in measured] == [
        (one["speculation"], one["cache_salt"]) for one in first * 4
    ]
    other = Server(disturbed(0.1, 0.3))
    monkeypatch.setattr(served, "connect", other.connect)
    measure_served("http://made-up", config(), costs())
    assert not {one["cache_salt"] for one in other.asked} & set(salts), "another start finds nothing of this one"


def test_a_server_that_keeps_no_words_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(disturbed(0.1, 0.3))
    server.traces[ALONE]["commits"][0]["text"] = None
    monkeypatch.setattr(served, "connect", server.connect)
    with pytest.raises(RequestError, match="traces without texts"):
        measure_served("http://made-up", config(), costs())


def test_the_server_that_is_started_keeps_words_whatever_the_profile_says() -> None:
    silent = validate_config(config().model_dump(mode="json") | {"telemetry": {"trace_texts": False}}, "test")
    assert as_measured(silent) == config()


def test_the_server_that_is_started_speculates_on_all_text() -> None:
    assert as_measured(reasoning()) == config()


def test_the_server_that_is_started_is_open_to_this_machine_alone() -> None:
    """A key may be known by its hash only, and nobody could ask with it."""
    gateway = {
        "host": "0.0.0.0",
        "api_keys": [{"sha256": "0" * 64, "limits": {"concurrency": 1}}],
        "api_keys_file": "/no/such/keys.yaml",
        "api_keys_env": "NO_SUCH_KEYS",
        "key_limits": {"requests_per_minute": 1},
    }
    closed = validate_config(config().model_dump(mode="json") | {"gateway": gateway}, "test")
    assert as_measured(closed) == config()


def test_a_server_that_refuses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def connect(url: str, api_key: str | None) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.MockTransport(lambda request: httpx.Response(503))
        async with httpx.AsyncClient(transport=transport, base_url=url) as http:
            yield http

    monkeypatch.setattr(served, "connect", connect)
    with pytest.raises(ServiceError, match="503"):
        measure_served("http://made-up", config(), costs())
