"""However many requests there are and however long, a coordinator's traces have so much in them and no more."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.messages import Ending, Prefix, Step, StepRequest, StepRule
from deployments.bench.record import REQUESTS_FILE, read_requests
from deployments.coordinator.coordinator import Coordinator
from deployments.coordinator.events import (
    Basis,
    Commit,
    Decision,
    DraftEnded,
    DraftStep,
    Finish,
    Outcome,
    Placed,
    Retired,
    StartDraft,
)
from deployments.generation import Channel, Committed, Finished, Origin, SpeculationSummary
from deployments.telemetry import kept_traces
from deployments.telemetry.kept_traces import KeptTraces
from deployments.telemetry.timeline import describe_shares, read_trace
from deployments.telemetry.trace import TraceRecorder
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import Bench, request

NAMES = "abcdefgh"
ROOM = 60


@pytest.fixture(autouse=True)
def _little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_traces, "MAX_ENTRIES", ROOM)


def begin(kept: KeptTraces, name: str, most: int = 99) -> TraceRecorder:
    trace = TraceRecorder(name, "lookahead", 0.0, lambda: 0.0, texts=True)
    kept.keep(trace, most)
    trace.on_command(StartDraft(1, 0, StepRequest("c", "s", Prefix((1,)), StepRule(), 9), 8))
    return trace


def write(trace: TraceRecorder, steps: range) -> None:
    """Chunks of the draft's that came true: a span and a commit each."""
    for at in steps:
        step = Step(f"{at} ", (at, at), "v", Ending.CAP)
        trace.on_event(DraftStep(1, step))
        trace.on_command(Placed(at, 1, step))
        trace.on_command(Retired(at, Outcome.ACCEPTED, at, Basis(step)))
        trace.on_command(Commit(Committed(f"{at} ", Channel.REASONING, Origin.ACCEPTED, 2, at)))


def end(trace: TraceRecorder) -> None:
    trace.on_event(DraftEnded(1))
    trace.on_command(Finish(Finished("stop", 1, 2, 0, SpeculationSummary("lookahead"))))


def size(trace: dict[str, Any] | None) -> int:
    return 0 if trace is None else len(trace["spans"]) + len(trace["commits"]) + len(trace["decisions"])


def held(kept: KeptTraces) -> dict[str, int]:
    """The size of each trace that is kept."""
    traces = {name: trace for name in NAMES if (trace := kept.get(name)) is not None}
    return {name: size(trace.as_dict()) for name, trace in traces.items()}


def test_the_oldest_go_first_and_all_together_have_no_more_than_there_is_room_for() -> None:
    kept = KeptTraces()
    for name in NAMES:
        trace = begin(kept, name)
        write(trace, range(9))
        end(trace)
        assert sum(held(kept).values()) <= ROOM
    assert held(kept) == {"f": 18, "g": 18, "h": 18}


def test_it_is_full_as_well_of_requests_that_go_on() -> None:
    kept = KeptTraces()
    traces = [begin(kept, name) for name in "abc"]
    for at in range(40):
        for trace in traces:
            write(trace, range(at, at + 1))
            assert sum(held(kept).values()) <= ROOM
    assert list(held(kept)) == ["c"]
    for trace in traces:
        end(trace)
    assert not traces[0].spans, "nothing is held of what nobody may ask for"


def test_one_that_is_longer_than_there_is_room_for_keeps_its_beginning_and_says_so() -> None:
    kept = KeptTraces()
    trace = begin(kept, "a")
    write(trace, range(100))
    trace.on_command(Decision(3, "later"))
    end(trace)
    told = trace.as_dict()
    assert size(told) <= ROOM
    assert len(told["spans"]) + len(told["commits"]) >= ROOM - 1
    assert [commit["text"] for commit in told["commits"]] == [f"{at} " for at in range(len(told["commits"]))]
    assert (told["cut"], told["finished"], told["summary"]["mode"]) == (True, True, "lookahead")
    assert "was cut" in describe_shares(read_trace(told))
    write(begin(kept, "b"), range(3))
    assert list(held(kept)) == ["b"]
    assert "cut" not in (kept.get("b") or trace).as_dict()


def test_a_look_ahead_that_ended_takes_its_unwritten_span_from_the_count() -> None:
    kept = KeptTraces()
    trace = begin(kept, "a")
    for at in range(1, 10 * ROOM):
        trace.on_event(DraftEnded(at))
        trace.on_command(StartDraft(at + 1, 0, StepRequest("c", "s", Prefix((1,)), StepRule(), 9), 8))
    assert "cut" not in trace.as_dict()
    assert held(kept) == {"a": 1}


def test_no_more_traces_are_kept_than_asked_for_and_one_of_each_id() -> None:
    kept = KeptTraces()
    for name in "abca":
        write(begin(kept, name, most=2), range(4))
    assert held(kept) == {"c": 9, "a": 9}
    begin(kept, "d", most=0)
    assert held(kept) == {}


@pytest.mark.parametrize("at_once", [False, True])
def test_a_coordinator_s_traces_have_no_more_in_them(at_once: bool) -> None:
    async def ask(coordinator: Coordinator, name: str) -> None:
        asked = replace(request(mode="lookahead"), request_id=name)
        assert [output async for output in coordinator.generate(asked)]

    async def work() -> dict[str, int]:
        coordinator = await Bench().coordinator()
        asking = [ask(coordinator, name) for name in NAMES]
        if at_once:
            await asyncio.gather(*asking)
        else:
            for one in asking:
                await one
        return {name: size(coordinator.trace(name)) for name in NAMES}

    sizes = run_virtually(work())
    assert 10 < sizes["h"] <= sum(sizes.values()) <= ROOM
    assert sizes["a"] == 0


def test_a_benchmark_s_line_with_a_cut_trace_has_none(tmp_path: Path) -> None:
    lines = [
        '{"mode": "m", "index": 0, "trace": {"spans": []}}',
        '{"mode": "m", "index": 1, "trace": {"spans": [], "cut": true}}',
    ]
    (tmp_path / REQUESTS_FILE).write_text("\n".join(lines), encoding="utf-8")
    assert [line["trace"] for line in read_requests(tmp_path)] == [{"spans": []}, None]
