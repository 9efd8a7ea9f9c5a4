"""What the controller learns from one request, and what it says to that request's session.

Promises: an observer of a pipeline that never raises and never waits; asking for the decision costs nothing, since a
session does so at every event. The clock is handed in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from actors.messages import Ending, Step
from deployments.coordinator.control.batch_cost import TargetCost
from deployments.coordinator.control.choice import Candidate
from deployments.coordinator.control.estimates import Estimates, Streaming, request_alpha
from deployments.coordinator.events import (
    Cancel,
    Command,
    Commit,
    Continued,
    Decision,
    DraftAvailable,
    DraftEnded,
    DraftFailed,
    DraftGone,
    DraftStep,
    Event,
    Fail,
    Finish,
    Judge,
    Judged,
    Outcome,
    Placed,
    Retired,
    ReviveDraft,
    StartDraft,
    StartStream,
    StartTarget,
    Streamed,
    TargetFailed,
    TargetProgress,
    TargetStep,
)

STREAM_FADES = 0.3
"""While a request streams, what is known of its acceptance grows old: like this much of a judged step for each."""

LEAST_EVIDENCE = 24.0
"""So many steps of evidence about the pool's acceptance stay, however long nothing is speculated."""

MOST_MISSED = 2
"""After so many verdicts in a row that the verifier failed to give, the target streams for a while."""
FIRST_REST, MOST_REST = 8, 32
"""So many steps; twice as many after each further verdict that fails, until one is given."""


@dataclass(slots=True)
class _Facts:
    """What is known of a position in the window."""

    draft_tokens: int | None = None
    target_tokens: int = 0
    verdict_s: float = 0.0
    draft_was_late: bool = False
    """The target's step was done while the draft's was being written."""
    has_no_verdict: bool = False
    """The verifier failed, was late or was not asked: nothing is known of the draft's step."""


class Decider(Protocol):
    """Who decides for all requests."""

    def decide(self, pacer: Pacer) -> None:
        """A step of `pacer` was committed: set its decision anew."""
        ...

    def streamed(self, pacer: Pacer, step: Streaming) -> None:
        """The target streamed a step of `pacer`, as decided last."""
        ...

    def learnt(self, pacer: Pacer) -> None:
        """The words of a step of `pacer`, which is not done, say what was not known of the target."""
        ...

    def leave(self, pacer: Pacer) -> None:
        """`pacer`'s request is over."""
        ...


@dataclass(frozen=True, slots=True)
class Manner:
    """How a request speculates: at most so deep. `max_depth` 0: not at all, or in a depth that is not chosen here, so
    that it is known only as load."""

    max_depth: int
    steps: str = ""
    """By which verifier its steps are accepted, where they end and how they are drawn: requests that are alike in this
    have an acceptance rate in common."""
    is_guided: bool = False
    """The target streams and the draft's words are its hints: there is no depth to choose, only whether to draft."""
    has_ways: bool = False
    """It could have been either, guided or in a window."""
    is_sampled: bool = False
    """Its tokens are drawn at random, not the likeliest ones taken."""
    token_speculation: str = "hints"
    """What the target guesses inside a step, as in `StepRequest`: its times are those of requests that are alike in
    this. Where the engine takes no notice of it, ``hints`` for all."""

    @property
    def looks_up(self) -> bool:
        """Whether the target looks for its next words in the text where it has no hints: its streams are faster."""
        return self.token_speculation != "none"


class Pacer:
    """One request. `decide` is asked by its session how deep to look ahead from now on."""

    def __init__(
        self, name: str, manner: Manner, estimates: Estimates, decider: Decider, clock: Callable[[], float]
    ) -> None:
        self.name = name
        self.decision = Decision(0, "nothing is known yet", 1.0)
        self.num_steps = 0
        """Steps that were committed."""
        self.changed_at = 0
        """How many they were when the depth last changed."""
        self.is_guess = True
        """Whether it was chosen before it was known what more sequences cost."""
        self.missed = 0.0
        """Steps that it would have written more, by prediction, had the depth been the wanted one."""
        self.probe_until: int | None = None
        """Until how many of them the depth is tried out, whatever it is predicted to give."""
        self.manner = manner
        self.is_typical = True
        """Whether no other request ran beside it, its draft answered, and nothing was tried out with it."""
        self.num_tokens = 0
        """That were committed."""
        self._began_at: float | None = None
        self._num_first = 0
        """When its first words came, and how many tokens they were."""
        self._estimates = estimates
        self._decider = decider
        self._clock = clock
        self._alpha = request_alpha()
        self.can_draft = True
        """Whether the draft answers."""
        self._only_streams = False
        """From now on its session streams, whatever is decided."""
        self._num_missed = 0
        """Verdicts in a row that the verifier failed to give."""
        self._rests_until = 0
        """Until how many steps the target streams for that."""
        self._num_ignored = 0
        self._target_position: dict[int, int] = {}
        """Of the target's calls under way; -1 for a stream."""
        self._ahead: dict[int, int] = {}
        """Tokens that a target's call wrote of earlier positions."""
        self._drafting: dict[int, range] = {}
        """The positions that look-aheads under way write."""
        self._judging: dict[int, tuple[int, float]] = {}
        self._facts: defaultdict[int, _Facts] = defaultdict(_Facts)

    @property
    def candidate(self) -> Candidate:
        """This request as the choice of depths sees it; one that is guided has none."""
        if self.manner.is_guided:
            return Candidate(self.alpha, 0)
        verdict_tokens_s = self._estimates.verdict_tokens_s(self.manner.steps)
        return Candidate(self.alpha, self.max_depth, self.decision.depth, verdict_tokens_s)

    @property
    def depth_ahead(self) -> int:
        """How many steps the target is to write ahead; none while it is only watched what would be accepted."""
        return 0 if self.decision.watches else self.decision.depth

    @property
    def written(self) -> tuple[int, float]:
        """The tokens behind its first words, and the seconds that they took: how long its prompt was does not count."""
        seconds = 0.0 if self._began_at is None else self._clock() - self._began_at
        return self.num_tokens - self._num_first, seconds

    @property
    def target_cost(self) -> TargetCost:
        """The target's times in requests like this one."""
        return self._estimates.target_cost_of(self.manner.token_speculation)

    @property
    def alpha(self) -> float:
        """The acceptance rate of its steps, the pool's while it is young."""
        return self._alpha.over(self._estimates.alpha(self.manner.steps).value)

    @property
    def takes_hints(self) -> bool:
        """Whether the draft guides it: the draft answers, and it was decided so or is not decided here."""
        is_wanted = self.decision.depth > 0 or self.manner.max_depth == 0
        return self.manner.is_guided and self.can_draft and not self._only_streams and is_wanted

    @property
    def max_depth(self) -> int:
        """How deep it may look ahead now."""
        return self.manner.max_depth if self.can_draft and not self._only_streams and not self.rests else 0

    @property
    def rests(self) -> bool:
        """Whether the target streams for a while because the verifier fails."""
        return self.num_steps < self._rests_until

    def decide(self) -> Decision:
        """The depth from now on."""
        return self.decision

    def close(self) -> None:
        """The request is over, however it ended. A second call changes nothing."""
        for call in [*self._target_position, *self._drafting]:
            self._end(call)
        self._decider.leave(self)

    # --- observer ----------------------------------------------------------------------------------------------------

    def on_command(self, command: Command) -> None:
        """As `Observer.on_command`."""
        now = self._clock()
        if isinstance(command, StartTarget):
            self._num_ignored = 0
            self._begin_target(command.call, command.position, now)
        elif isinstance(command, StartStream):
            self._begin_target(command.call, -1, now)
        elif isinstance(command, StartDraft):
            self._drafting[command.call] = range(command.position, command.position + command.depth)
            self._estimates.begin((self.name, command.call), now, is_target=False)
        elif isinstance(command, Continued):
            self._facts[self._target_position[command.call]].target_tokens = len(command.step.token_ids)
            self._target_position[command.call] = command.position
            self._ahead[command.call] = len(command.ahead.token_ids)
        elif isinstance(command, Judge):
            self._judging[command.call] = (command.position, now)
        elif isinstance(command, Placed):
            self._facts[command.position].draft_tokens = len(command.step.token_ids)
        elif isinstance(command, Cancel):
            self._end(command.call)
        elif isinstance(command, ReviveDraft | DraftGone):
            self._lose_draft()
            self._only_streams |= isinstance(command, DraftGone)
        elif isinstance(command, Retired):
            self._retired(command)
        elif isinstance(command, Commit):
            self.num_tokens += command.output.num_tokens
        elif isinstance(command, Finish | Fail):
            self.close()

    def on_event(self, event: Event) -> None:
        """As `Observer.on_event`."""
        self._note_first(event)
        if isinstance(event, DraftStep) and not self.manner.is_guided:
            self._estimates.step((self.name, event.call), event.step, self._clock())
        elif isinstance(event, TargetStep):
            self._target_step(event.call, event.step)
        elif isinstance(event, TargetProgress):
            if self._estimates.progress((self.name, event.call), event.delta, self._clock()):
                self._decider.learnt(self)
        elif isinstance(event, Streamed):
            self._streamed(event)
        elif isinstance(event, Judged):
            if event.call in self._judging:
                position, began = self._judging.pop(event.call)
                self._judged(event, self._facts[position], self._clock() - began)
        elif isinstance(event, DraftFailed):
            if event.call in self._drafting:  # else it was cancelled: the session does not hear of it
                self._lose_draft()
            self._end(event.call)
        elif isinstance(event, DraftAvailable):
            self.can_draft = True
        elif isinstance(event, DraftEnded | TargetFailed):
            self._end(event.call)

    # --- what is learnt ----------------------------------------------------------------------------------------------

    def _lose_draft(self) -> None:
        self.can_draft = self.is_typical = False

    def _note_first(self, event: Event) -> None:
        """When the target's first words came, if `event` brings them."""
        if self._began_at is not None or not isinstance(event, TargetProgress | TargetStep | Streamed):
            return
        words = event.step if isinstance(event, TargetStep) else event.delta
        if words.token_ids:
            self._began_at, self._num_first = self._clock(), len(words.token_ids)

    def _begin_target(self, call: int, position: int, now: float) -> None:
        self._target_position[call] = position
        wish = self.manner.token_speculation
        self._estimates.begin((self.name, call), now, is_target=True, token_speculation=wish)

    def _end(self, call: int) -> None:
        self._estimates.end((self.name, call), self._clock())
        self._target_position.pop(call, None)
        self._ahead.pop(call, None)
        self._judging.pop(call, None)
        self._drafting.pop(call, None)

    def _target_step(self, call: int, step: Step) -> None:
        position = self._target_position.get(call)
        if position is None:
            return
        self._estimates.step((self.name, call), step, self._clock())
        facts = self._facts[position]
        facts.target_tokens = len(step.token_ids) - self._ahead.get(call, 0)
        is_being_drafted = any(position in positions for positions in self._drafting.values())
        facts.draft_was_late = facts.draft_tokens is None and is_being_drafted
        self._end(call)

    def _judged(self, event: Judged, facts: _Facts, waited_s: float) -> None:
        facts.verdict_s = waited_s
        facts.has_no_verdict = event.degraded is not None or event.verdict.has_failed
        if not facts.has_no_verdict:
            self._num_missed = 0
        elif not self.rests:  # else it was asked before
            self._num_missed += 1
            if self._num_missed >= MOST_MISSED:
                num_steps = min(FIRST_REST * 2 ** (self._num_missed - MOST_MISSED), MOST_REST)
                self._rests_until, self.is_typical = self.num_steps + num_steps, False

    def _streamed(self, event: Streamed) -> None:
        delta = event.delta
        step = self._estimates.streamed((self.name, event.call), delta, self._clock(), self.manner.steps)
        if step is None:
            return
        if self.decision.depth > 0 and not self.manner.is_guided:
            self._num_ignored += 1  # the session streams, whatever is decided: the answer has begun, say
        if step.is_timed:
            self._decider.streamed(self, step)
        self._only_streams |= self._num_ignored >= 2 or delta.ending is Ending.CLOSE
        self._alpha.fade(STREAM_FADES)
        self._estimates.alpha(self.manner.steps).fade(STREAM_FADES, LEAST_EVIDENCE)
        self._committed()

    def _retired(self, command: Retired) -> None:
        facts = self._facts.pop(command.position, _Facts())
        if self.manner.is_guided:
            return
        accepted = command.outcome is Outcome.ACCEPTED
        is_decided = accepted or command.outcome is Outcome.RECOVERED
        if self.manner.max_depth and is_decided and not facts.has_no_verdict:
            tokens = (facts.draft_tokens or 0) if accepted else facts.target_tokens
            self._estimates.decided(accepted, tokens, self.manner.steps, self._alpha)
            self._estimates.judged(facts.verdict_s, self.manner.steps)
        elif command.outcome is Outcome.TARGET and facts.draft_was_late:
            self._estimates.decided(False, facts.target_tokens, self.manner.steps, self._alpha)
        if command.step is not None:
            if self.probe_until is not None and self.decision.depth == 0:
                self.probe_until += 1  # it was written ahead, before the target alone was tried
            self._committed()

    def _committed(self) -> None:
        self.num_steps += 1
        self._decider.decide(self)
