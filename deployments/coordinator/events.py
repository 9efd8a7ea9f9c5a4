"""What the session hears and what it says: events in, commands out. Standard library and messages only.

A `call` is the session's own number of one call to a role; an event of a call that was cancelled or has ended is
ignored, so that the driver need not care about the order in which cancellations and results cross.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from actors.messages import Delta, JudgeRequest, Piece, Step, StepRequest, TokenIds, Verdict
from deployments.generation import Committed, Finished


class Outcome(StrEnum):
    """What became of a position, for traces and counts."""

    ACCEPTED = "accepted"
    RECOVERED = "recovered"
    TARGET = "target"
    CANCELLED = "cancelled"
    MERGED = "merged"
    """A branch that said the same as another one."""


# --- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DraftStep:
    """The look-ahead stream `call` yielded a step."""

    call: int
    step: Step


@dataclass(frozen=True, slots=True)
class DraftProgress:
    """The look-ahead stream `call` has written `part` of its next step; the step's last tokens come with it only."""

    call: int
    part: Piece


@dataclass(frozen=True, slots=True)
class DraftEnded:
    """The look-ahead stream `call` is over; it wrote all it was asked for, or the text ended."""

    call: int


@dataclass(frozen=True, slots=True)
class DraftFailed:
    """The look-ahead stream `call` broke. `permanent`: the draft cannot serve this request at all."""

    call: int
    reason: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class DraftAvailable:
    """The draft answers again: `prompt` is its own rendering of the prompt, in `vocabulary` (empty: not known)."""

    prompt: TokenIds
    vocabulary: str = ""


@dataclass(frozen=True, slots=True)
class DraftRefused:
    """The draft answers again, and cannot serve this request at all."""


@dataclass(frozen=True, slots=True)
class TargetProgress:
    """The target has written `delta` of the step of `call`; the step's last tokens come with the step only."""

    call: int
    delta: Delta


@dataclass(frozen=True, slots=True)
class TargetStep:
    """The target's step of `call` is done."""

    call: int
    step: Step


@dataclass(frozen=True, slots=True)
class TargetFailed:
    """A call to the target broke, unary or stream. `error` is for the client if no other attempt helps."""

    call: int
    error: Exception
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict of `call`. Whatever goes wrong with a verifier arrives as a rejection whose `degraded` says why."""

    call: int
    verdict: Verdict
    degraded: str | None = None


@dataclass(frozen=True, slots=True)
class Streamed:
    """A delta of the target's stream `call`."""

    call: int
    delta: Delta


Event = (
    DraftStep
    | DraftProgress
    | DraftEnded
    | DraftFailed
    | DraftAvailable
    | DraftRefused
    | TargetProgress
    | TargetStep
    | TargetFailed
    | Judged
    | Streamed
)

# --- commands --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartDraft:
    """Look ahead at most `depth` steps; the first is for `position`. `part_tokens` above 0: tell what is written of
    each step meanwhile, in parts of at least so many tokens."""

    call: int
    position: int
    request: StepRequest
    depth: int
    part_tokens: int = 0


@dataclass(frozen=True, slots=True)
class StartTarget:
    """Write the target's own step for `position`. `attempt` counts from 0: wait longer before later ones. `progress_s`
    above 0: tell what is written meanwhile, at most once in so many seconds."""

    call: int
    position: int
    request: StepRequest
    attempt: int = 0
    progress_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AddHints:
    """Hand `hints` to the target's call that the engine knows as `call_id`; none: those that it has count no more. Fire
    and forget: it may be over."""

    call_id: str
    session_id: str
    hints: tuple[TokenIds, ...]


@dataclass(frozen=True, slots=True)
class StartStream:
    """Stream the target's text to its end."""

    call: int
    request: StepRequest
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Judge:
    """Ask the verifier about `position`."""

    call: int
    position: int
    request: JudgeRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    """End `call`, down into the engine."""

    call: int
    reason: str


@dataclass(frozen=True, slots=True)
class ReviveDraft:
    """Send `DraftAvailable` or `DraftRefused` once the draft is worth another try."""


@dataclass(frozen=True, slots=True)
class DraftGone:
    """For observers: the draft cannot serve this request at all and is not asked again; the target streams the rest."""


@dataclass(frozen=True, slots=True)
class Decision:
    """For the trace: how deep to look ahead from now on (0: the target streams alone), and why, in words."""

    depth: int
    reason: str
    predicted_speed_up: float = 1.0
    """Over the target's stream."""
    watches: bool = False
    """The draft's steps are compared with the target's, but the target writes none ahead: it costs the target next to
    nothing, gains nothing, and shows what would be accepted."""


@dataclass(frozen=True, slots=True)
class Placed:
    """For the trace: the step that just arrived from the draft belongs to `position`, which is another version of the
    one `beside` it, if that is given. What the call writes next is for `following` (None: the next number)."""

    position: int
    call: int
    step: Step
    beside: int | None = None
    following: int | None = None


@dataclass(frozen=True, slots=True)
class Promoted:
    """For the trace: another version of the step at `position` took its place, and what the target wrote for it."""

    position: int
    by: int


@dataclass(frozen=True, slots=True)
class Continued:
    """For the trace: what the target's `call` has written is a `step` of its own, and `position` gets the rest. `ahead`
    is what the call has written in all."""

    call: int
    position: int
    step: Step
    ahead: Piece


@dataclass(frozen=True, slots=True)
class Basis:
    """What was known of a position when it came to its end. `num_spanned`: its verdict was about so many draft steps
    behind its own as well."""

    draft: Step | None
    target: Step | None = None
    verdict: Verdict | None = None
    num_spanned: int = 0


@dataclass(frozen=True, slots=True)
class Retired:
    """For the trace: `position` has come to its end, as step number `step` of the output if it was committed."""

    position: int
    outcome: Outcome
    step: int | None
    basis: Basis | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Commit:
    """Send this to the client."""

    output: Committed


@dataclass(frozen=True, slots=True)
class Finish:
    """All is sent; nothing runs any more."""

    output: Finished


@dataclass(frozen=True, slots=True)
class Fail:
    """No attempt helped: tell the client."""

    error: Exception


Command = (
    StartDraft
    | StartTarget
    | AddHints
    | StartStream
    | Judge
    | Cancel
    | ReviveDraft
    | DraftGone
    | Decision
    | Placed
    | Promoted
    | Continued
    | Retired
    | Commit
    | Finish
    | Fail
)
