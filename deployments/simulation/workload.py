"""What a simulated run is made of, and what it measured: shared by the pipeline's run and the fast one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from actors.messages import StepRequest, TokenIds
from deployments.coordinator.guided import GuidedSession
from deployments.coordinator.pipeline import Observer
from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings
from deployments.simulation.batch import Batch
from deployments.simulation.costs import EngineCost
from deployments.simulation.scripts import Agreement
from deployments.simulation.texts import KINDS, PROMPT_IDS, Place

VOCABULARY = "simulated"
WHOLE_STEP = 10**9

Opening = Callable[[SessionSettings], tuple[Session | GuidedSession, tuple[Observer, ...]]]
"""Makes the session of a request, and who watches it."""


@dataclass(frozen=True, slots=True)
class HintGain:
    """How many tokens a pass gives once the draft's version of the step is at hand, by what that version is."""

    equal: float = 1.0
    same: float = 1.0
    different: float = 1.0

    def of(self, place: Place, hints: Sequence[TokenIds]) -> float:
        """The gain of `hints` at `place`; only what ends as a draft's step for that very place counts."""
        gains = {Agreement.EQUAL: self.equal, Agreement.SAME: self.same, Agreement.DIFFERENT: self.different}
        for hint in hints:
            if hint and hint[-1] // len(KINDS) == place.index:
                return gains[KINDS[hint[-1] % len(KINDS)]]
        return 1.0

    def of_call(self, place: Place, request: StepRequest) -> float:
        """The gain of what comes with a call."""
        return self.of(place, (*request.hints, *(near.token_ids for near in request.nearby)))


NO_GAIN = HintGain()


@dataclass(frozen=True, slots=True)
class Machine:
    """One replica of each role. `verdict_s` is the time of a verdict."""

    target: EngineCost
    draft: EngineCost
    verdict_s: float = 0.0
    hint_gain: HintGain = NO_GAIN


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run did."""

    num_steps: int
    num_tokens: int
    elapsed_s: float
    target_load: float
    """Mean sequences in the target's batch."""
    draft_load: float

    @property
    def tokens_per_s(self) -> float:
        """Committed tokens a second, of all users together."""
        return self.num_tokens / self.elapsed_s


class Progress:
    """Counts what is committed by all users, up to `limit` steps."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._steps = 0
        self._tokens = 0
        self._done_at: float | None = None

    @property
    def is_done(self) -> bool:
        """Whether the limit is reached."""
        return self._done_at is not None

    def add(self, num_tokens: int, new_step: bool, now: float) -> None:
        """So much was committed; nothing counts after the limit."""
        if self.is_done:
            return
        self._steps += new_step
        self._tokens += num_tokens
        if self._steps >= self._limit:
            self._done_at = now

    def measured(self, target: Batch[str], draft: Batch[str]) -> Measured:
        """The figures of a run that began at 0 and is done."""
        if self._done_at is None:
            raise ValueError("the run is not done")
        elapsed = self._done_at
        loads = [batch.sequence_seconds / elapsed for batch in (target, draft)]
        return Measured(self._steps, self._tokens, elapsed, loads[0], loads[1])


def request_settings(settings: SessionSettings, name: str) -> SessionSettings:
    """`settings` for one request of a simulation."""
    return replace(settings, session_id=name, target_prompt=PROMPT_IDS, draft_prompt=PROMPT_IDS, vocabulary=VOCABULARY)


def part_size(every_s: float, is_first: bool, cost: EngineCost, num_sequences: int) -> int:
    """Tokens until a target's step tells what is written, at most once in `every_s` seconds (0: never): the first one
    comes at once."""
    if every_s <= 0.0:
        return WHOLE_STEP
    return 1 if is_first else max(1, round(every_s / cost.seconds(num_sequences)))
