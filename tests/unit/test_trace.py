"""The step trace: what an engine proposed to itself in a stream."""

from __future__ import annotations

import pytest

from actors.messages import Delta, Ending, Prefix, StepRequest, StepRule
from deployments.coordinator.events import Finish, StartStream, Streamed
from deployments.generation import Finished, SpeculationSummary
from deployments.telemetry.trace import TraceRecorder


@pytest.mark.parametrize(("last", "detail"), [((9, 6), {"num_proposed": 9, "num_accepted": 6}), ((0, 0), {})])
def test_a_stream_ends_with_what_was_proposed_in_it(last: tuple[int, int], detail: dict[str, int]) -> None:
    trace = TraceRecorder("r", "target", 0.0, lambda: 0.0, texts=True)
    trace.on_command(StartStream(1, StepRequest("c", "s", Prefix((1,)), StepRule(), 9)))
    trace.on_event(Streamed(1, Delta("One.", (1, 2))))
    trace.on_event(Streamed(1, Delta(" Two.", (3,), Ending.END, num_proposed=last[0], num_accepted=last[1])))
    trace.close()
    (span,) = trace.as_dict()["spans"]
    assert (span["num_tokens"], span["detail"]) == (3, detail)


@pytest.mark.parametrize(("is_whole", "outcome"), [(True, "target"), (False, "cancelled")])
def test_a_stream_that_the_client_left_is_cancelled(is_whole: bool, outcome: str) -> None:
    """Who leaves raises no error: the generator is closed."""
    trace = TraceRecorder("r", "target", 0.0, lambda: 0.0, texts=True)
    trace.on_command(StartStream(1, StepRequest("c", "s", Prefix((1,)), StepRule(), 9)))
    trace.on_event(Streamed(1, Delta("One.", (1, 2))))
    if is_whole:
        trace.on_command(Finish(Finished("stop", 1, 2, 0, SpeculationSummary("target"))))
    trace.close()
    told = trace.as_dict()
    assert [span["outcome"] for span in told["spans"]] == [outcome]
    assert (told["summary"] is not None, told.get("error")) == (is_whole, None)
