"""One generation between gateway and coordinator: frozen values, standard library only.

Promises: every message is immutable, picklable and hashable by value; times are seconds. Nothing here knows Ray, HTTP
or a clock, nor how a coordinator comes to its answers.

In the order of a generation: the request (`GenerationRequest`), its answers (`Opened`, `Committed`, `Finished`), and
what lets another coordinator go on behind any of them (`Seam`, `Standing`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum

from actors.messages import Piece, Prompt, Sampling


@dataclass(frozen=True, slots=True)
class SpeculationOptions:
    """The request's own wishes; None means the deployment's default."""

    mode: str | None = None
    max_lookahead: int | None = None
    branches: int | None = None
    verifier: str | None = None
    fidelity: str | None = None
    token_speculation: str | None = None
    boundary: str | None = None
    controller: bool | None = None
    """False: `max_lookahead` is the depth throughout, whatever is measured."""


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How the request wants tokens drawn, with the names and meanings of `Sampling`; None means as the target says."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None

    def over(self, usual: Sampling) -> Sampling:
        """`usual`, but for what the request wants."""
        return replace(usual, **{name: value for name, value in asdict(self).items() if value is not None})


@dataclass(frozen=True, slots=True)
class Keep:
    """The wish to keep what is written for a client that loses its connection, for `seconds` after it is gone."""

    seconds: float
    owner: str
    """Who may fetch it: the name of an API key."""
    manner: str
    """What the gateway needs to answer as before, in its own words."""
    stream_id: str
    """What it is fetched by: all choices of one stream have the same."""
    fetched_at: float = 0.0
    """When its client came back for it, in seconds since 1970, and no two fetches at the same time; 0: it was asked
    for. Of several who write it on, the client reads the latest."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One completion to write. `max_tokens` None means: as long as the context allows."""

    request_id: str
    prompt: Prompt
    sampling: SamplingOptions = SamplingOptions()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    speculation: SpeculationOptions = SpeculationOptions()
    timeout_s: float | None = None
    holder: str = ""
    """What the gateway calls the holder of the request's key, for the audit log; never the key."""
    resume: Standing | None = None
    """Go on behind this; only what follows is answered, after `Opened`."""
    keep: Keep | None = None
    """None: what is written ends with its reader."""
    num_takeovers: int = 0
    """How often a gateway has given up a coordinator since the client came; that may live, and go on otherwise."""

    @property
    def is_finished(self) -> bool:
        """Whether all of it is written, and it goes on behind its end."""
        return self.resume is not None and self.resume.finished is not None


class Channel(StrEnum):
    """Which field of the answer a text belongs to."""

    REASONING = "reasoning"
    CONTENT = "content"


class Origin(StrEnum):
    """Who wrote a committed step, and why it stands."""

    ACCEPTED = "accepted"
    """The draft's step, agreed by the target."""
    RECOVERED = "recovered"
    """The target's own step in the place of a rejected draft step."""
    TARGET = "target"
    """The target's own step; there was no draft step to judge. Or a part of a step that is certain before it is known
    which of the two stands."""


@dataclass(frozen=True, slots=True)
class Opened:
    """First answer: the request is valid and runs."""

    request_id: str
    num_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class SpeculationSummary:
    """What speculation did for one request, in steps; the `speculation` object of a response."""

    mode: str
    num_steps: int = 0
    num_accepted_steps: int = 0
    num_recovered_steps: int = 0
    num_target_steps: int = 0
    num_draft_steps: int = 0
    num_cancelled_steps: int = 0
    accepted_tokens: int = 0
    rejected_tokens: int = 0
    """Draft tokens that were written and not committed: of rejected and of cancelled draft steps."""
    draft_tokens: int = 0
    """Tokens of all draft steps."""
    output_tokens: int = 0
    degraded: tuple[str, ...] = ()
    num_branch_steps: int = 0
    """Of the draft steps, those that were another version of one that was there."""
    num_merged_steps: int = 0
    """Versions that said what another one said; they are not draft steps."""

    @property
    def num_open_steps(self) -> int:
        """Draft steps that are neither accepted nor recovered nor cancelled yet."""
        return self.num_draft_steps - self.num_accepted_steps - self.num_recovered_steps - self.num_cancelled_steps

    @property
    def num_open_tokens(self) -> int:
        """Their tokens."""
        return self.draft_tokens - self.accepted_tokens - self.rejected_tokens

    @property
    def accept_rate(self) -> float:
        """Accepted over judged draft steps; 0 where none was judged."""
        judged = self.num_accepted_steps + self.num_recovered_steps
        return self.num_accepted_steps / judged if judged else 0.0

    @property
    def draft_token_share(self) -> float:
        """Share of the output's tokens that the draft wrote."""
        return self.accepted_tokens / self.output_tokens if self.output_tokens else 0.0


@dataclass(frozen=True, slots=True)
class OutputState:
    """Where the text on its way to the client stands, behind the last piece: what channels, marks and stop strings need
    to know of all text before."""

    channel: Channel = Channel.CONTENT
    held: str = ""
    """Text that was committed and not sent, since something that is watched for may begin in it."""
    at_start: bool = True
    """Whether the channel has no text yet, so that blank lines are left out."""
    awaits_open: bool = False
    """Whether the mark that opens the reasoning was not there yet."""
    stopped: str | None = None
    """The stop string that ended the text."""
    num_tokens: int = 0
    num_reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Seam:
    """What another coordinator must know, beside all that was told before, to go on right behind a `Committed`."""

    piece: Piece
    """What became certain with it, token for token; nothing where the text was certain before."""
    output: OutputState
    is_part: bool = False
    """Whether `piece` is a part of a step that is not decided yet."""
    restates: bool = False
    """Whether `piece` is a whole step, in place of the parts of it that were told: in another vocabulary than these."""
    due: tuple[tuple[Channel, str], ...] = ()
    """Texts of `piece` that follow in answers of their own."""
    is_in_step: bool = False
    """Whether the step goes on that `piece` is the end of."""
    is_closed: bool = False
    """Whether the reasoning is closed."""
    finish_reason: str | None = None
    """As in `Finished`, where nothing is written any more."""
    counts: SpeculationSummary | None = None
    """What speculation did so far; None: as told last."""


@dataclass(frozen=True, slots=True)
class Committed:
    """Text that is certain and follows all text sent before. `num_tokens` were committed with it; `text` may be empty
    (held back because a stop string may be beginning) while tokens are counted."""

    text: str
    channel: Channel
    origin: Origin
    num_tokens: int
    step: int
    """Index of the step that this text belongs to, from 0."""
    seam: Seam | None = field(default=None, compare=False)
    """None: nobody can go on behind this."""
    num_takeovers: int = field(default=0, compare=False)
    """As in the request that it answers."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Last answer. `finish_reason` is OpenAI's: ``stop`` or ``length``."""

    finish_reason: str
    num_prompt_tokens: int
    num_output_tokens: int
    num_reasoning_tokens: int
    summary: SpeculationSummary
    stop_reason: str | None = field(default=None)
    """The stop string that ended the text, if one did."""
    num_takeovers: int = field(default=0, compare=False)
    """As in the request that it answers."""


Output = Opened | Committed | Finished


@dataclass(frozen=True, slots=True)
class Standing:
    """All that is known of a generation by whoever received its outputs: enough to go on with it anywhere."""

    num_prompt_tokens: int
    texts: tuple[tuple[Channel, str], ...]
    """What the client was sent, in order; neighbours of one channel are one."""
    pieces: tuple[Piece, ...]
    """What was generated, in order; neighbours of one vocabulary are one."""
    num_tokens: int
    output: OutputState | None
    """None: nothing was committed yet."""
    due: tuple[tuple[Channel, str], ...] = ()
    is_in_step: bool = False
    is_closed: bool = False
    finish_reason: str | None = None
    counts: SpeculationSummary | None = None
    finished: Finished | None = None
    """The last answer, where it was received."""
    elapsed_s: float = field(default=0.0, compare=False)
    """Since the request was asked for. No point in time: clocks of processes differ."""

    @property
    def num_chars(self) -> int:
        """Characters that the client was sent."""
        return sum(len(text) for _, text in self.texts)
