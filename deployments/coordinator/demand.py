"""What the requests of one coordinator ask of the deployment at this moment: requests, waiting tokens, calls in flight.

Promises: an observer of pipelines that never raises and never waits; a request that is over, however it ended, counts
nothing; a call counts from its command to its end or its cancellation. Pure; read by the autoscaling policy.
"""

from __future__ import annotations

from deployments.coordinator.events import (
    Cancel,
    Command,
    Commit,
    DraftEnded,
    DraftFailed,
    DraftGone,
    Event,
    Judge,
    Judged,
    StartDraft,
    StartStream,
    StartTarget,
    Streamed,
    TargetFailed,
    TargetStep,
)

STARTS: tuple[tuple[type[Command], str], ...] = (
    (StartTarget, "target"),
    (StartStream, "target"),
    (StartDraft, "draft"),
    (Judge, "verifier"),
)


class Demand:
    """The requests in flight of one coordinator."""

    def __init__(self) -> None:
        self._requests: set[RequestDemand] = set()

    def open(self, speculates: bool) -> RequestDemand:
        """A request begins; `speculates`: it uses the draft, where there is one."""
        request = RequestDemand(self, speculates)
        self._requests.add(request)
        return request

    def leave(self, request: RequestDemand) -> None:
        """It is over."""
        self._requests.discard(request)

    def stats(self) -> dict[str, float]:
        """Numbers of now: requests, those that speculate, those without a word of answer yet, the tokens of their
        prompts, and calls in flight of each role."""
        requests = self._requests
        waiting = [request for request in requests if request.is_waiting]
        calls = [role for request in requests for role in request.calls.values()]
        return {
            "requests": len(requests),
            "speculating": sum(request.speculates for request in requests),
            "waiting_requests": len(waiting),
            "waiting_tokens": sum(request.num_prompt_tokens for request in waiting),
            **{f"{role}_calls": calls.count(role) for role in ("target", "draft", "verifier")},
        }


class RequestDemand:
    """One request, as an observer of its pipeline."""

    def __init__(self, demand: Demand, speculates: bool) -> None:
        self._demand = demand
        self.speculates = speculates
        """Whether it uses the draft, or would if it were there."""
        self.is_waiting = True
        self.num_prompt_tokens = 0
        """Known when the prompt is rendered."""
        self.calls: dict[int, str] = {}

    def on_command(self, command: Command) -> None:
        """As `Observer.on_command`."""
        for kind, role in STARTS:
            if isinstance(command, kind):
                self.calls[command.call] = role  # type: ignore[union-attr]
        if isinstance(command, Cancel):
            self.calls.pop(command.call, None)
        elif isinstance(command, DraftGone):
            self.speculates = False
        elif isinstance(command, Commit):
            self.is_waiting = False

    def on_event(self, event: Event) -> None:
        """As `Observer.on_event`."""
        ends = isinstance(event, TargetStep | TargetFailed | DraftEnded | DraftFailed | Judged)
        if ends or (isinstance(event, Streamed) and event.delta.ends_stream):
            self.calls.pop(event.call, None)  # type: ignore[union-attr]

    def close(self) -> None:
        """The request is over."""
        self._demand.leave(self)
