"""What a role promises, and what an engine promises to a role.

Roles speak in steps, engines in tokens. A role may be a class in this process (`actors.draft`, `actors.target`,
`actors.verifier`), or a pool of replicas behind Ray Serve (`deployments.coordinator.pools`): the pipeline cannot tell.

Promises of every role: closing or cancelling a call ends the work in the engine; a call that fails raises an error of
`actors.errors`; a prompt in the tokens of another vocabulary is refused (`OtherVocabulary`); nothing is kept between
calls but caches.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from actors.messages import (
    Delta,
    EngineLoad,
    JudgeRequest,
    Nearby,
    Piece,
    Prefix,
    Prompt,
    RoleInfo,
    Sampling,
    SpeculationStats,
    Step,
    StepRequest,
    StepRule,
    TokenIds,
    Verdict,
)


class Writer(Protocol):
    """What draft and target have in common: a tokenizer."""

    async def describe(self) -> RoleInfo:
        """The model that is held here."""
        ...

    async def encode(self, prompt: Prompt) -> TokenIds:
        """`prompt` by this model's own chat template and tokenizer.

        Raises RequestError if the template refuses it, ContextTooLong if it leaves no room for one token, and
        OtherVocabulary for token ids of another `Prompt.vocabulary`.
        """
        ...

    async def render(self, *prompts: Prompt) -> tuple[RoleInfo, tuple[TokenIds, ...]]:
        """`describe`, and each of `prompts` as from `encode`, by one replica: while replicas are replaced, two
        calls may be answered by two models."""
        ...

    async def add_hints(self, call_id: str, session_id: str, hints: tuple[TokenIds, ...]) -> None:
        """Further hints for the running call `call_id`, in this model's vocabulary; they are tried before older ones.

        No hints at all mean that those it has count no more.

        A call that has ended, or that this replica does not know, is no error: hints change the speed only.
        """
        ...

    async def speculation_stats(self) -> SpeculationStats | None:
        """What token-level speculation did in this engine so far; None where it does not speculate."""
        ...

    def home(self, session_id: str) -> str:
        """The replica that the last call of `session_id` went to, if the next one goes there too, as far as is known;
        else empty. Others have nothing of the text in their caches."""
        ...

    def shun(self, session_id: str, call_id: str) -> None:
        """`call_id`, a call of `session_id`, fell silent and was ended: if the session is still on the replica that the
        call ran on, it leaves it, where there is another."""
        ...


class Drafter(Writer, Protocol):
    """Writes steps ahead, cheaply."""

    def look_ahead(self, request: StepRequest, depth: int) -> AsyncGenerator[Step, None]:
        """One stream of at most `depth` consecutive steps after `request.prefix`, each yielded as it ends.

        Ends early after a step whose ending `is_last`, or when `request.max_tokens` tokens were written in all.
        """
        ...

    def look_ahead_in_parts(
        self, request: StepRequest, depth: int, part_tokens: int
    ) -> AsyncGenerator[Piece | Step, None]:
        """As `look_ahead`, and before each step what is written of it, in parts of at least `part_tokens` tokens. The
        step comes whole; its last tokens are in no part."""
        ...


class Target(Writer, Protocol):
    """Writes what counts."""

    async def decode(self, token_ids: TokenIds, vocabulary: str) -> str:
        """The text of `token_ids`, special tokens included; OtherVocabulary unless this model's is `vocabulary`."""
        ...

    async def step(self, request: StepRequest) -> Step:
        """The step that follows `request.prefix`, of at most ``min(max_tokens, rule.max_tokens)`` tokens."""
        ...

    def progress(self, request: StepRequest, every_s: float) -> AsyncGenerator[Delta | Step, None]:
        """As `step`, and before it what is written so far, as deltas without an ending: the first tokens at once, then
        at most one delta in `every_s` seconds. The step comes last, whole."""
        ...

    def stream(self, request: StepRequest) -> AsyncGenerator[Delta, None]:
        """The text that follows `request.prefix`, token by token, to its end or to `max_tokens`.

        The deltas' `ending` marks the steps inside; the stream's last delta has ``END``, or ``CAP`` at `max_tokens`
        or at the end of the model's context.
        """
        ...

    async def label_probabilities(self, prompt: Prompt, labels: Sequence[str], session_id: str) -> tuple[float, ...]:
        """Probability of each label as the next token after `prompt`, in one prefill and one token.

        A label counts by its first token. The probabilities are the model's own; they need not add up to one.
        """
        ...


class Verifier(Protocol):
    """Says whether two steps mean the same."""

    async def judge(self, request: JudgeRequest) -> Verdict:
        """A verdict; whatever is unsure is rejected."""
        ...


class Scorer(Protocol):
    """The part of a writer that a verifier's checks need."""

    async def label_probabilities(self, prompt: Prompt, labels: Sequence[str], session_id: str) -> tuple[float, ...]:
        """As `Target.label_probabilities`."""
        ...

    async def token_logprobs(
        self, prefix: Prefix, piece: Piece, session_id: str, vocabulary: str = ""
    ) -> tuple[float, ...]:
        """Natural log-probability of each token of `piece`, given `prefix` and what precedes the token; prefill only.

        A piece of another vocabulary is encoded from its text, so the number of tokens may be another; a prefix whose
        prompt is in another `vocabulary` is refused (`OtherVocabulary`). Empty: not known.
        """
        ...


class Engine(Protocol):
    """A model in this process: tokens in, tokens out."""

    def describe(self) -> RoleInfo:
        """The model that is held here."""
        ...

    async def encode_prompt(self, prompt: Prompt) -> TokenIds:
        """`prompt` by the model's own chat template and tokenizer. However long it is, the event loop goes on.

        RequestError if the template refuses it; ContextTooLong if it is refused for its length before all is done.
        """
        ...

    def encode_text(self, text: str) -> TokenIds:
        """`text` as a continuation: no special tokens are added, none is parsed."""
        ...

    async def decode(self, token_ids: TokenIds) -> str:
        """The text of `token_ids`, special tokens included. However many there are, the event loop goes on."""
        ...

    def generate(
        self,
        call_id: str,
        token_ids: TokenIds,
        *,
        max_tokens: int,
        rule: StepRule,
        max_steps: int | None,
        sampling: Sampling,
        priority: int = 0,
        hints: tuple[TokenIds, ...] = (),
        nearby: tuple[Nearby, ...] = (),
        token_speculation: str = "hints",
        cache_salt: str = "",
    ) -> AsyncGenerator[Delta, None]:
        """Continue `token_ids` until `max_steps` steps (None: no bound), `max_tokens` tokens, or the end of the text.

        Each step's last delta says in `ending` why the step ended; a step is cut at ``rule.max_tokens`` (``CAP``),
        except where `max_steps` is None: then steps are marked but never cut. Closing the iterator aborts the work.
        `hints`, `nearby` and `token_speculation` are as in `StepRequest`, `cache_salt` as in `Prompt`.
        """
        ...

    async def add_hints(self, call_id: str, hints: tuple[TokenIds, ...]) -> None:
        """Further hints for the running generation `call_id`, or none, and those that it has count no more; no error if
        it has ended or is unknown. Each begins with the generation's first token, or with its last ones. It need not
        wait until they count."""
        ...

    async def speculation_stats(self) -> SpeculationStats | None:
        """What token-level speculation did since the start; None where the engine does not speculate."""
        ...

    async def next_token_probabilities(
        self, call_id: str, token_ids: TokenIds, wanted: TokenIds, cache_salt: str = ""
    ) -> tuple[float, ...]:
        """Probability of each wanted token right after `token_ids`; prefill only, temperature 1."""
        ...

    async def token_logprobs(
        self, call_id: str, token_ids: TokenIds, start: int, cache_salt: str = ""
    ) -> tuple[float, ...]:
        """Log-probabilities (natural) of ``token_ids[start:]`` given what precedes each; prefill only."""
        ...

    async def check_health(self) -> None:
        """Raise RoleUnavailable if the engine cannot work any more."""
        ...

    def num_running(self) -> int:
        """Generations now in the engine; 0 means that nothing leaked."""
        ...

    def load(self) -> EngineLoad:
        """How full it is, at its last step."""
        ...

    async def shutdown(self) -> None:
        """End the engine and every process it started. Safe to call twice."""
        ...
