"""Embedding: cosine similarity of the two steps' sentence embeddings.

Promises: the model is loaded when the check is made, once a process, and runs on one thread of its own, so that neither
the event loop nor the engines' cores wait for it. A step that is longer than the model reads is never judged by its
beginning: unsure. Alone this check is unsafe (cosine 1.00 between "= 794" and "= 694"): put `same_numbers` before it.
"""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from actors.errors import WeightsError
from actors.messages import JudgeRequest
from actors.verifiers.check import Decision, Opinion, Zones, both_steps


class Similarity(Protocol):
    """What the check needs of an encoder."""

    async def similarity(self, one: str, other: str) -> float | None:
        """Cosine from -1 to 1, or None if a text is too long to be read whole."""
        ...


class EmbeddingCheck:
    """Accepts a cosine of `accept` or more, rejects one below `reject`, else unsure."""

    name = "embedding"

    def __init__(self, encoder: Similarity, accept: float = 0.85, reject: float = 0.85) -> None:
        self._encoder = encoder
        self._zones = Zones(accept, reject)

    @classmethod
    def create(
        cls, model: str = "package:all-minilm-l6-v2", accept: float = 0.85, reject: float = 0.85
    ) -> EmbeddingCheck:
        """A check with `model` loaded, which takes seconds. WeightsError if it cannot be had or loaded."""
        Zones(accept, reject)  # a wrong setting is found before the model is fetched
        return cls(load_encoder(model), accept, reject)

    async def check(self, request: JudgeRequest) -> Opinion:
        steps = both_steps(request)
        if isinstance(steps, Opinion):
            return steps
        draft, target = steps
        cosine = await self._encoder.similarity(draft.text, target.text)
        if cosine is None:
            return Opinion(Decision.UNSURE, "a step is too long for the embedding model")
        return self._zones.opinion(cosine, "the cosine")


class SentenceEncoder:
    """A sentence-transformers model in this process."""

    def __init__(self, folder: Path) -> None:
        # Both imports take seconds, and only a verifier with this check needs them.
        import torch
        from sentence_transformers import SentenceTransformer

        def load() -> Any:
            try:
                return SentenceTransformer(str(folder), local_files_only=True)
            except Exception as error:
                raise WeightsError(f"The embedding model in {folder} cannot be loaded: {error}.") from error

        # One thread that owns the model; more would take cores from the engines, and calls here are short.
        self._thread = ThreadPoolExecutor(1, "embedding", initializer=torch.set_num_threads, initargs=(1,))
        self._model = self._thread.submit(load).result()

    async def similarity(self, one: str, other: str) -> float | None:
        """Cosine of the two texts' embeddings, encoded in one batch; None if the model would cut one of them."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._similarity, one.strip(), other.strip())

    def _similarity(self, one: str, other: str) -> float | None:
        encoded = self._model.tokenizer([one, other], truncation=False, verbose=False)["input_ids"]
        if max(len(ids) for ids in encoded) > self._model.max_seq_length:
            return None
        first, second = self._model.encode([one, other], normalize_embeddings=True, show_progress_bar=False)
        return float(first @ second)


@functools.cache
def load_encoder(model: str) -> SentenceEncoder:
    """The encoder for `model` (as `actors.models.resolve` names models), loaded once a process for all verifiers."""
    from actors.models import resolve

    return SentenceEncoder(resolve(model))
