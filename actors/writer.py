"""What draft and target have in common: an engine, its tokenizer, and prefixes as ids.

Promises: ids that were generated in this model's own vocabulary are passed on as they are and never tokenised again;
anything else is encoded from its text; a prompt in other tokens than this model's is refused; every failure is an error
of `actors.errors`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import lru_cache
from uuid import uuid4

from actors.errors import ContextTooLong, OtherVocabulary, RequestError, ServiceError
from actors.messages import (
    Delta,
    EngineLoad,
    Piece,
    Prefix,
    Prompt,
    RoleInfo,
    SpeculationStats,
    Step,
    StepRequest,
    TokenIds,
)
from actors.roles import Engine

NUM_CACHED_TEXTS = 256
"""A prefix comes again with every call of a request: so many foreign texts are kept encoded."""


class ModelWriter:
    """Base of the two writing roles."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._info = engine.describe()
        self._num_generations = 0
        """Of steps and streams. The engine's own count may already lack the one whose last token has just come."""
        self._encode_text = lru_cache(NUM_CACHED_TEXTS)(engine.encode_text)

    async def describe(self) -> RoleInfo:
        """The model that is held here."""
        return self._info

    async def encode(self, prompt: Prompt) -> TokenIds:
        """`prompt` by this model's own chat template and tokenizer.

        Raises RequestError if the template refuses it, ContextTooLong if it leaves no room for one token, and
        OtherVocabulary for token ids of another `Prompt.vocabulary`.
        """
        self._require_own(prompt.vocabulary)
        token_ids = await self._engine.encode_prompt(prompt)
        if len(token_ids) >= self._info.max_model_len:
            raise ContextTooLong.of_prompt(len(token_ids), self._info.max_model_len)
        return token_ids

    async def render(self, *prompts: Prompt) -> tuple[RoleInfo, tuple[TokenIds, ...]]:
        """As `Writer.render`."""
        return await self.describe(), tuple([await self.encode(prompt) for prompt in prompts])

    async def label_probabilities(self, prompt: Prompt, labels: Sequence[str], session_id: str) -> tuple[float, ...]:
        """Probability of each label as the next token after `prompt`, in one prefill and one token.

        A label counts by its first token, with and without a space before it: models differ in which they write.
        """
        token_ids = await self.encode(prompt)
        first_tokens = [self._first_tokens(label) for label in labels]
        wanted = tuple(sorted({token for tokens in first_tokens for token in tokens}))
        call_id = f"{session_id}-labels-{uuid4().hex}"
        found = await self._engine.next_token_probabilities(call_id, token_ids, wanted, prompt.cache_salt)
        probability = dict(zip(wanted, found, strict=True))
        return tuple(sum(probability[token] for token in tokens) for tokens in first_tokens)

    async def token_logprobs(
        self, prefix: Prefix, piece: Piece, session_id: str, vocabulary: str = ""
    ) -> tuple[float, ...]:
        """As `Scorer.token_logprobs`."""
        self._require_own(vocabulary)
        before = self._prefix_ids(prefix)
        call_id = f"{session_id}-logprobs-{uuid4().hex}"
        token_ids = (*before, *self._piece_ids(piece))
        return await self._engine.token_logprobs(call_id, token_ids, len(before), prefix.cache_salt)

    async def add_hints(self, call_id: str, session_id: str, hints: tuple[TokenIds, ...]) -> None:
        """As `Writer.add_hints`."""
        await self._engine.add_hints(call_id, hints)

    async def speculation_stats(self) -> SpeculationStats | None:
        """What token-level speculation did in this engine so far; None where it does not speculate."""
        return await self._engine.speculation_stats()

    def home(self, session_id: str) -> str:
        """As `Writer.home`: here is one replica only."""
        return ""

    def shun(self, session_id: str, call_id: str) -> None:
        """As `Writer.shun`: here is one replica only."""

    async def check_health(self) -> None:
        """Raise RoleUnavailable if the engine cannot work any more."""
        await self._engine.check_health()

    def num_running(self) -> int:
        """Generations now in the engine."""
        return self._engine.num_running()

    def load(self) -> EngineLoad:
        """How full the engine is."""
        return self._engine.load()

    async def shutdown(self) -> None:
        """End the engine. Safe to call twice."""
        await self._engine.shutdown()

    def _first_tokens(self, label: str) -> set[int]:
        spaced, space = self._encode_text(f" {label}"), self._encode_text(" ")
        first = {ids[0] for ids in (self._encode_text(label), spaced) if ids}
        # Where the space is a token of its own it says nothing of the label.
        first -= set(space)
        if not label.strip() or not first:
            raise RequestError(f"The label {label!r} has no token of its own to be recognised by.", "labels")
        return first

    def _require_own(self, vocabulary: str) -> None:
        """OtherVocabulary for a prompt of another `vocabulary` than this model's; empty: not known."""
        if vocabulary not in ("", self._info.vocabulary):
            raise OtherVocabulary(
                f"{self._info.model} cannot read the prompt, which is in the tokens of another model: models were "
                "replaced while the request ran. Its prompt has to be encoded anew; ask again."
            )

    def _prefix_ids(self, prefix: Prefix) -> TokenIds:
        ids = list(prefix.prompt_ids)
        for piece in prefix.pieces:
            ids += self._piece_ids(piece)
        return tuple(ids)

    def _piece_ids(self, piece: Piece) -> TokenIds:
        return piece.token_ids if piece.vocabulary == self._info.vocabulary else self._encode_text(piece.text)

    async def _deltas(
        self, request: StepRequest, max_tokens: int, max_steps: int | None
    ) -> AsyncGenerator[Delta, None]:
        self._require_own(request.vocabulary)
        deltas = self._engine.generate(
            request.call_id,
            self._prefix_ids(request.prefix),
            max_tokens=max_tokens,
            rule=request.rule,
            max_steps=max_steps,
            sampling=request.sampling,
            priority=request.priority,
            hints=request.hints,
            nearby=request.nearby,
            token_speculation=request.token_speculation,
            cache_salt=request.prefix.cache_salt,
        )
        self._num_generations += 1
        try:
            async with aclosing(deltas):
                async for delta in deltas:
                    yield delta
        finally:
            self._num_generations -= 1

    async def _steps(self, request: StepRequest, max_tokens: int, max_steps: int) -> AsyncGenerator[Step, None]:
        """At most `max_steps` consecutive steps of one generation, each as it ends, until one is the last."""
        async with aclosing(self._deltas_and_steps(request, max_tokens, max_steps)) as items:
            async for item in items:
                if isinstance(item, Step):
                    yield item

    async def _deltas_and_steps(
        self, request: StepRequest, max_tokens: int, max_steps: int
    ) -> AsyncGenerator[Delta | Step, None]:
        """As `_steps`, and the deltas inside each step before it, but the last one, which comes with the step only."""
        started = time.monotonic()
        text, ids = "", list[int]()
        async with aclosing(self._deltas(request, max_tokens, max_steps)) as deltas:
            async for delta in deltas:
                text += delta.text
                ids.extend(delta.token_ids)
                if delta.ending is None:
                    yield delta
                    continue
                ended = time.monotonic()
                yield Step(
                    text=text,
                    token_ids=tuple(ids),
                    vocabulary=self._info.vocabulary,
                    ending=delta.ending,
                    elapsed_s=ended - started,
                    replica=delta.replica,
                    num_cached_tokens=delta.num_cached_tokens,
                    num_running=self._num_generations,
                    num_proposed=delta.num_proposed if max_steps == 1 else 0,  # else it is of all steps together
                    num_accepted=delta.num_accepted if max_steps == 1 else 0,
                )
                if delta.ending.is_last:
                    return
                started, text, ids = ended, "", []
        if ids:
            raise ServiceError(f"{self._info.model} broke off in the middle of a step; try again.")
