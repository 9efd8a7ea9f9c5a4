"""What crosses a process boundary: frozen values, standard library only.

Promises: every message is immutable, picklable and hashable by value; token ids are plain ``int`` tuples in the
vocabulary named beside them; times are seconds. Nothing here knows Ray, vLLM, HTTP or a clock.

Two groups: words shared by all roles (`Piece`, `Prefix`, `Step`), and calls to a role (`StepRequest`, `JudgeRequest`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

TokenIds = tuple[int, ...]


class Ending(StrEnum):
    """Why a step ended."""

    BOUNDARY = "boundary"
    """The step rule's own boundary, a blank line by default, or a stop string of the request; the token that completes
    it is the step's last."""
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
    cache_salt: str = ""
    """What engines keep of it in their prefix caches is found by prompts of the same salt only; no text changes."""
    vocabulary: str = ""
    """With `token_ids`: the one that they are of, which a model of another one refuses. Empty: not known."""

    def of(self, vocabulary: str) -> Prompt:
        """This prompt, where its token ids, if it has any, are of `vocabulary`."""
        return self if self.token_ids is None else replace(self, vocabulary=vocabulary)

    @property
    def question(self) -> str:
        """The words a judge may read as the question: the last user message, or the text. What token ids say only a
        model of their vocabulary knows (`Target.decode`)."""
        for message in reversed(self.messages):
            if message.role == "user":
                return message.content
        return self.text or ""


SEED_STEP = 2_654_435_761
"""Knuth's multiplicative constant: spreads the seeds of consecutive places over the 63 bits that engines take."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; vLLM's names and meanings. `temperature` 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def after(self, num_tokens: int) -> Sampling:
        """The same, `num_tokens` further on in the text: an engine begins a seed's random numbers anew in each call."""
        if self.seed is None:
            return self
        return replace(self, seed=(self.seed + SEED_STEP * num_tokens) % 2**63)


NEUTRAL = Sampling(temperature=1.0)
"""The distribution that the model gives: what is taken where neither request nor model says otherwise."""


@dataclass(frozen=True, slots=True)
class StepRule:
    """Where a step ends. `boundary` names a rule of `actors.boundaries`; `close` is the text that ends reasoning; a
    step ends with each of `stop` as well, so that no tokens are counted that nobody gets."""

    boundary: str = "blank_line"
    max_tokens: int = 256
    close: str | None = None
    stop: tuple[str, ...] = ()


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
    cache_salt: str = ""
    """As in `Prompt`."""

    @property
    def num_tokens(self) -> int:
        """Of the prompt and of what was generated, each as its model counts them."""
        return len(self.prompt_ids) + sum(len(piece.token_ids) for piece in self.pieces)

    def extended(self, piece: Piece) -> Prefix:
        """This prefix followed by `piece`. Neighbours of one vocabulary are merged, so that there are few pieces, up to
        `MERGED_TOKENS`, so that a long text is not copied with every step."""
        last = self.pieces[-1] if self.pieces else None
        if last is not None and last.vocabulary == piece.vocabulary and len(last.token_ids) < MERGED_TOKENS:
            return replace(self, pieces=(*self.pieces[:-1], last.joined(piece)))
        return replace(self, pieces=(*self.pieces, piece))


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
    num_running: int = 0
    """On the last delta of a step in a target's stream: as `Step.num_running`."""

    @property
    def ends_stream(self) -> bool:
        """Whether a stream ends with this delta. Steps are marked in a stream and never cut, so `CAP` is its end."""
        return self.ending in (Ending.END, Ending.CAP)


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
    max_num_seqs: int | None = None
    """So many sequences are worked on at once, others wait; None: as many as come."""
    sampling: Sampling = NEUTRAL
    """How tokens are drawn where a request does not say; it has no seed."""
    takes_min_p: bool = True
    """Whether the engine draws with `Sampling.min_p`; where it does not, it refuses such a request."""


# --- calls to a role -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Nearby:
    """Tokens that were written near the place where a call begins, but not from there on."""

    token_ids: TokenIds
    num_before: int
    """The first of them stood so many tokens before the call's place; negative: behind it."""


@dataclass(frozen=True, slots=True)
class StepRequest:
    """Write the step, the steps or the text that follow `prefix`.

    `call_id` is unique for ever and names the call in the engine; `session_id` is the same for all calls of one user
    request and keeps them on one replica. Lower `priority` goes first. `hints` are token sequences, likeliest first, in
    the vocabulary of the model that is asked, each from the call's first token on: the engine may try them as drafts of
    its own tokens, and those `nearby`, newest first, from where the last words stand in them. They never change the
    text.
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
    vocabulary: str = ""
    """That of the prefix's prompt; a model of another one refuses the call. Empty: not known."""
    nearby: tuple[Nearby, ...] = ()


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

    @property
    def cache_salt(self) -> str:
        """That of the text which is judged, for whoever shows it to a model."""
        return self.prefix.cache_salt if self.prefix is not None else ""


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
    """Checks behind the one that decided, and one that could not read the step: with a quick one before a judge most
    verdicts say little of how long the judge takes."""
    rules: str = ""
    """The digest of the checks that judged, as the audit log names it; empty where nobody says."""
