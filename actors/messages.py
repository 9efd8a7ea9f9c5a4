"""What crosses a process boundary: frozen values, standard library only.

Promises: every message is immutable, picklable and hashable by value; token ids are plain ``int`` tuples in the
vocabulary named beside them; times are seconds. Nothing here knows Ray, vLLM, HTTP or a clock.

Groups, by receiver: words shared by all (`Piece`, `Prefix`, `Step`), calls to a role (`StepRequest`, `JudgeRequest`),
a request to the coordinator (`GenerationRequest`), its answers (`Opened`, `Committed`, `Finished`) and what lets
another coordinator go on behind any of them (`Seam`, `Standing`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

TokenIds = tuple[int, ...]


class Ending(StrEnum):
    """Why a step ended."""

    BOUNDARY = "boundary"
    """The step rule's own boundary, a blank line by default; the boundary belongs to the step (of a sentence's, white
    space that begins the next word does not)."""
    CAP = "cap"
    """The cap on tokens was reached; the next step goes on in mid-sentence."""
    CLOSE = "close"
    """The text that closes the reasoning (``</think>``) was written; it belongs to the step."""
    END = "end"
    """The model ended the text. Nothing may be written after it."""

    @property
    def is_last(self) -> bool:
        """Whether no step may be drafted after one that ended like this."""
        return self in (Ending.CLOSE, Ending.END)


# --- words shared by all roles ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message; `content` is plain text."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the user asked, before any model's chat template: exactly one of the three is set."""

    messages: tuple[Message, ...] = ()
    text: str | None = None
    token_ids: TokenIds | None = None
    template_options: str = "{}"
    """Keyword arguments for the chat template, as a JSON object."""
    literal: bool = False
    """Whether what looks like a special token inside a message is text: for prompts of our own that quote others."""
    answer_prefix: str = ""
    """With messages: what the answer begins with, such as the mark that closes a reasoning which the template opens."""

    @property
    def question(self) -> str:
        """The words a judge may read as the question: the last user message, or the text."""
        for message in reversed(self.messages):
            if message.role == "user":
                return message.content
        return self.text or ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; vLLM's names and meanings. `temperature` 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class StepRule:
    """Where a step ends. `boundary` names a rule of `actors.boundaries`; `close` is the text that ends reasoning."""

    boundary: str = "blank_line"
    max_tokens: int = 256
    close: str | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that was generated, with the token ids that were sampled for it and the vocabulary they belong to.

    The ids are the truth for whoever shares the vocabulary; anybody else encodes `text`.
    """

    text: str
    token_ids: TokenIds
    vocabulary: str

    def joined(self, other: Piece) -> Piece:
        """This piece followed by `other`, which must be of the same vocabulary."""
        return Piece(self.text + other.text, self.token_ids + other.token_ids, self.vocabulary)

    def without(self, beginning: Piece) -> Piece:
        """What follows `beginning`, which this piece begins with."""
        text, token_ids = self.text[len(beginning.text) :], self.token_ids[len(beginning.token_ids) :]
        return Piece(text, token_ids, self.vocabulary)


MERGED_TOKENS = 1024
"""A piece of a prefix that has so many tokens is not added to."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """All that stands before a step: a role's own rendering of the prompt, then what was generated."""

    prompt_ids: TokenIds
    pieces: tuple[Piece, ...] = ()

    def extended(self, piece: Piece) -> Prefix:
        """This prefix followed by `piece`. Neighbours of one vocabulary are merged, so that there are few pieces, up to
        `MERGED_TOKENS`, so that a long text is not copied with every step."""
        last = self.pieces[-1] if self.pieces else None
        if last is not None and last.vocabulary == piece.vocabulary and len(last.token_ids) < MERGED_TOKENS:
            return Prefix(self.prompt_ids, (*self.pieces[:-1], self.pieces[-1].joined(piece)))
        return Prefix(self.prompt_ids, (*self.pieces, piece))


@dataclass(frozen=True, slots=True)
class Delta:
    """A few tokens of a running generation. `ending` is set on the last delta of each step, and a delta never
    reaches over the end of a step. `text` may lag behind `token_ids` by an unfinished character."""

    text: str
    token_ids: TokenIds
    ending: Ending | None = None
    replica: str = ""
    num_cached_tokens: int = 0
    num_proposed: int = 0
    """On the last delta of a generation: tokens that the engine proposed to itself in all of it; 0 where unknown."""
    num_accepted: int = 0
    """Those of them that the model agreed with."""
    num_passes: float = 0.0
    """Passes of the model that the tokens took, as far as is known; 0: one for each token."""


@dataclass(frozen=True, slots=True)
class Step:
    """One reasoning step as a model wrote it."""

    text: str
    token_ids: TokenIds
    vocabulary: str
    ending: Ending
    elapsed_s: float = 0.0
    """Seconds from the start of this step to its end, by the role's own clock."""
    replica: str = ""
    num_cached_tokens: int = 0
    """Tokens of the prefix that were found in the engine's prefix cache."""
    num_running: int = 0
    """Generations in the engine when the step ended, this one included; 0 where unknown."""
    num_proposed: int = 0
    """Tokens that the engine proposed to itself within the step, where the engine ended with it; 0 where unknown."""
    num_accepted: int = 0
    """Those of them that the model agreed with."""

    @property
    def piece(self) -> Piece:
        """The step as a piece of a prefix."""
        return Piece(self.text, self.token_ids, self.vocabulary)

    def equals(self, other: Step) -> bool:
        """Whether both are the same, token for token where the vocabulary is one, else letter for letter."""
        if self.text != other.text or not self.ends_like(other):
            return False
        return self.vocabulary != other.vocabulary or self.token_ids == other.token_ids

    def ends_like(self, other: Step) -> bool:
        """Whether both or neither end the text, and both or neither close the reasoning."""
        return all((self.ending is e) == (other.ending is e) for e in (Ending.CLOSE, Ending.END))


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How full an engine is."""

    num_running: int
    num_waiting: int = 0
    """Generations that it has taken and not begun."""
    cache_use: float = 0.0
    """Share of its key-value cache in use, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class SpeculationStats:
    """What an engine's token-level speculation did since it started, whatever its method.

    A draft is one proposal of one or more tokens for one sequence and one forward pass.
    """

    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    accepted_per_position: tuple[int, ...] = ()
    """Drafts whose token at each position was accepted; it never rises with the position."""
    num_hint_tokens: int = 0
    """Of the draft tokens, those that continued a hint. Hints and n-grams are told apart only by our own proposer."""
    num_hint_accepted_tokens: int = 0
    num_ngram_tokens: int = 0
    num_ngram_accepted_tokens: int = 0

    @property
    def acceptance_rate(self) -> float:
        """Accepted over proposed tokens (TAR); 0 where nothing was proposed."""
        return self.num_accepted_tokens / self.num_draft_tokens if self.num_draft_tokens else 0.0


@dataclass(frozen=True, slots=True)
class RoleInfo:
    """What a replica says of the model it holds."""

    model: str
    vocabulary: str
    """Fingerprint of the mapping from tokens to ids: equal fingerprints mean that ids may be passed on."""
    max_model_len: int
    replica: str = ""
    takes_hints: bool = False
    """Whether the engine tries hints as drafts of its own tokens."""


# --- calls to a role -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepRequest:
    """Write the step, the steps or the text that follow `prefix`.

    `call_id` is unique for ever and names the call in the engine; `session_id` is the same for all calls of one user
    request and keeps them on one replica. Lower `priority` goes first. `hints` are token sequences, likeliest first, in
    the vocabulary of the model that is asked: the engine may try them as drafts of its own tokens. They never change
    the text.
    """

    call_id: str
    session_id: str
    prefix: Prefix
    rule: StepRule
    max_tokens: int
    sampling: Sampling = Sampling()
    priority: int = 0
    hints: tuple[TokenIds, ...] = ()
    token_speculation: str = "hints"
    """What the engine may propose to itself: ``hints`` (hints, else n-gram look-up), ``ngram`` or ``none``. An engine
    with another proposer than ours takes no notice."""


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """Do `draft` and `target`, both written after the same words, mean the same? `verifier` names a configured one.

    `target` None asks for the draft step alone (SpecReason): only checks that need no second version can then be sure.
    """

    session_id: str
    verifier: str
    question: str
    context: str
    """The last words before the step."""
    draft: Step
    target: Step | None
    prefix: Prefix | None = None
    """All that stands before the step, in the target's rendering; checks of likelihood need it."""
    vocabulary: str = ""
    """That of the prefix's prompt: the target's."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a `JudgeRequest`."""

    accepted: bool
    verifier: str
    reason: str
    score: float | None = None
    """The similarity, mark or probability that the last scoring check gave, on that check's own scale."""
    latency_s: float = 0.0
    probability: float | None = None
    """That both mean the same (without `target`: that the draft step may stand); None where nothing is calibrated."""
    is_cached: bool = False
    """Whether an equal request had been judged before; `latency_s` is this call's own."""
    has_failed: bool = False
    """Whether a check broke: then the rejection says nothing of the steps."""
    num_unasked: int = 0
    """Checks behind the one that decided: with a quick one before a judge most verdicts say little of how long the
    judge takes."""


# --- a request to the coordinator and its answers --------------------------------------------------------------------


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

    @property
    def num_chars(self) -> int:
        """Characters that the client was sent."""
        return sum(len(text) for _, text in self.texts)


@dataclass(frozen=True, slots=True)
class Keep:
    """The wish to keep what is written for a client that loses its connection, for `seconds` after it is gone."""

    seconds: float
    owner: str
    """Who may fetch it: the name of an API key."""
    manner: str
    """What the gateway needs to answer as before, in its own words."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One completion to write. `max_tokens` None means: as long as the context allows."""

    request_id: str
    prompt: Prompt
    sampling: Sampling = Sampling()
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
