"""What is fixed for one request before its session starts."""

from __future__ import annotations

from dataclasses import dataclass

from actors.errors import ContextTooLong, RequestError
from actors.messages import RoleInfo, Sampling, StepRule, TokenIds
from deployments.coordinator.output import Marks
from deployments.generation import GenerationRequest, Standing


@dataclass(frozen=True, slots=True)
class SpecReasonOptions:
    """What SpecReason leaves to the target."""

    num_target_steps: int = 0
    """So many first steps are the target's: they set the plan."""
    max_draft_tokens: int | None = None
    """After so many tokens of output the target goes on alone; None: never."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Everything that is fixed for one request. `vocabulary` and the prompts are the target's and the draft's own
    words for it; `draft_prompt` None means that the draft could not be reached yet, or refuses it. `session_id` is ours
    and unique, whatever id the client chose: it names the calls in the engines."""

    session_id: str
    target_prompt: TokenIds
    draft_prompt: TokenIds | None
    vocabulary: str
    max_tokens: int
    rule: StepRule = StepRule()
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    marks: Marks = Marks()
    mode: str = "lookahead"
    speculate_content: bool = True
    """Whether text outside a reasoning section may be speculated."""
    max_lookahead: int = 4
    max_target_steps: int | None = None
    """The target writes at most so many steps of the window at once; None: all of them."""
    branches: int = 1
    """Versions of a step that the draft writes side by side, in mode ``lookahead``."""
    max_nodes: int = 16
    """With branches: at most so many prefixes that the target writes a step behind, at once."""
    branch_temperature: float = 0.8
    """At which further versions are sampled where the request is greedy."""
    verifier: str | None = None
    """None: only equal steps are accepted, nobody is asked. Mode ``specreason`` needs one, to score draft steps."""
    spans: bool = True
    """Whether a rejected draft step is asked about once more together with the ones behind it."""
    specreason: SpecReasonOptions = SpecReasonOptions()
    question: str = ""
    cache_salt: str = ""
    """As in `Prompt`, of both prompts and of what judges are shown."""
    context_chars: int = 4000
    max_attempts: int = 8
    progress_s: float = 0.0
    """How often the target tells what it has written of the head's step, in seconds; of deeper ones more seldom. 0:
    never, text leaves in whole steps."""
    max_progress_s: float = 2.5
    """However deep: a call that tells more seldom would count as silent."""
    restart_in_step: bool = True
    """With no verifier: whether the draft starts anew where the target leaves its words, or where that step ends."""
    token_speculation: str = "hints"
    """How the engines guess tokens inside a step: ``hints`` (and look-up where none fits), ``ngram`` or ``none``."""
    takes_hints: bool = False
    """Whether the target's engine takes hints."""
    draft_part_tokens: int = 0
    """With ``hints``: the draft hands what it writes to the target's running step in parts of so many tokens; 0: in
    whole steps."""
    draft_vocabulary: str = ""
    """That of `draft_prompt`; empty: not known."""
    draft_refuses: bool = False
    """Whether the draft cannot take the prompt, as one that is longer than its context: it is not asked again."""
    resume: Standing | None = None
    """What another coordinator had sent when it ended, to go on behind."""
    num_takeovers: int = 0
    """As in `GenerationRequest`: above 0 that one was lost."""
    num_nearby_hints: int = 4
    """So many sequences from paths that were left go with a call, beside the draft's step for its own position."""

    @property
    def may_hint(self) -> bool:
        """Whether the draft's words may be hints to a stream of the target's: its text is of a kind that is speculated,
        and no reasoning is closed."""
        is_closed = self.resume is not None and self.resume.is_closed
        return (self.speculate_content or self.marks.is_open_at_start) and not is_closed

    @property
    def cuts_steps(self) -> bool:
        """Whether a step is cut where the target leaves the draft's words. Steps of a set length would be out of step
        with the draft's ever after."""
        return self.verifier is None and self.restart_in_step and self.rule.boundary != "tokens"


def sampling_of(request: GenerationRequest, info: RoleInfo) -> Sampling:
    """How tokens are drawn; RequestError for what the target's engine would refuse when it is asked."""
    sampling = request.sampling.over(info.sampling)
    if sampling.temperature > 0 and sampling.min_p > 0 and not info.takes_min_p:
        raise RequestError(
            f"The engine of {info.model} cannot draw tokens with min_p as this server runs it; leave min_p out, or set "
            "it or temperature to 0.",
            "min_p",
        )
    return sampling


def max_tokens_of(request: GenerationRequest, num_prompt_tokens: int, info: RoleInfo) -> int:
    """How many tokens may be written; ContextTooLong where the target has no room for as many as the request asks."""
    room = info.max_model_len - num_prompt_tokens
    if room < 1:
        raise ContextTooLong.of_prompt(num_prompt_tokens, info.max_model_len)
    if request.max_tokens is not None and request.max_tokens > room:
        found = f"The prompt has {num_prompt_tokens} tokens, and up to {request.max_tokens} more are to be written."
        advice = f"Shorten the prompt, or ask for at most {room}."
        raise ContextTooLong.of_model(info.max_model_len, f"{found} {advice}", "max_tokens")
    return room if request.max_tokens is None else request.max_tokens
