"""Embedding: cosine similarity of the two steps' sentence embeddings.

Promises: the model is loaded when the check is made, once a process, and runs on the CPU whatever cards are there, on
one thread of its own, so that neither the event loop nor the engines' cores wait for it; requests that come while it
works are encoded together in its next batch. Neither a step that is longer than the model reads is judged, by its
beginning, nor two programs that differ, by what they are about: unsure. Alone this check is unsafe (cosine 1.00 between
"= 794" and "= 694", .9 between "is" and "is not"): put `same_numbers` and `same_polarity` before.
"""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from actors.errors import WeightsError
from actors.messages import JudgeRequest
from actors.verifiers.check import Calibration, Decision, Opinion, Points, Zones, both_steps
from actors.verifiers.exact import begins_in_code, holds_code, normalise

MAX_BATCH = 32
"""Pairs in one batch: more would let the first of them wait longer than a batch saves."""

Pair = tuple[str, str]


class Similarity(Protocol):
    """What the check needs of an encoder."""

    async def similarity(self, one: str, other: str) -> float | None:
        """Cosine from -1 to 1, or None if a text is too long to be read whole."""
        ...


class EmbeddingCheck:
    """Accepts a cosine of `accept` or more, rejects one below `reject`, else unsure."""

    name = "embedding"
    reads_context = True  # what makes a line a program's may stand before it

    def __init__(
        self, encoder: Similarity, accept: float = 0.85, reject: float = 0.85, calibration: Points = ()
    ) -> None:
        self._encoder = encoder
        self._zones = Zones(accept, reject, Calibration.of(calibration))

    @classmethod
    def create(
        cls,
        model: str = "package:all-minilm-l6-v2",
        accept: float = 0.85,
        reject: float = 0.85,
        calibration: Points = (),
    ) -> EmbeddingCheck:
        """A check with `model` loaded, which takes seconds. WeightsError if it cannot be had or loaded."""
        Zones(accept, reject, Calibration.of(calibration))  # a wrong setting is found before the model is fetched
        return cls(load_encoder(model), accept, reject, calibration)

    async def check(self, request: JudgeRequest) -> Opinion:
        steps = both_steps(request)
        if isinstance(steps, Opinion):
            return steps
        draft, target = steps
        is_code = begins_in_code(request)
        has_code = holds_code(draft.text, is_code) or holds_code(target.text, is_code)
        if has_code and normalise(draft.text, is_code) != normalise(target.text, is_code):
            return Opinion(Decision.UNSURE, "an embedding cannot tell programs apart")
        cosine = await self._encoder.similarity(draft.text, target.text)
        if cosine is None:
            return Opinion(Decision.UNSURE, "a step is too long for the embedding model")
        # That of equal directions may come out a little above 1 in 32 bits, which no threshold may be.
        return self._zones.opinion(min(cosine, 1.0), "the cosine")


class SentenceEncoder:
    """A sentence-transformers model in this process."""

    def __init__(self, folder: Path) -> None:
        # Both imports take seconds, and only a verifier with this check needs them.
        import torch
        from sentence_transformers import SentenceTransformer

        def load() -> Any:
            try:
                return SentenceTransformer(str(folder), device="cpu", local_files_only=True)
            except Exception as error:
                raise WeightsError(f"The embedding model in {folder} cannot be loaded: {error}.") from error

        # One thread that owns the model; more would take cores from the engines, and calls here are short.
        self._thread = ThreadPoolExecutor(1, "embedding", initializer=torch.set_num_threads, initargs=(1,))
        self._model = self._thread.submit(load).result()
        self._batches = Batches(self._thread, self._similarities)

    async def similarity(self, one: str, other: str) -> float | None:
        """Cosine of the two texts' embeddings; None if the model would cut one of them."""
        return await self._batches.result((one.strip(), other.strip()))

    def _similarities(self, pairs: list[Pair]) -> list[float | None]:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        encoded = self._model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        lengths = dict(zip(texts, map(len, encoded), strict=True))
        readable = [text for text in texts if lengths[text] <= self._model.max_seq_length]
        vectors = self._model.encode(readable, normalize_embeddings=True, show_progress_bar=False) if readable else ()
        found = dict(zip(readable, vectors, strict=True))
        return [float(found[a] @ found[b]) if a in found and b in found else None for a, b in pairs]


class Batches:
    """Hands pairs to `compute` on `thread`, those that wait together: at most `MAX_BATCH`, in the order they came.

    A caller that is cancelled takes its own pair away and no other; a computation that fails, fails for its batch.
    Works for callers on any event loop.
    """

    def __init__(self, thread: ThreadPoolExecutor, compute: Any) -> None:
        self._thread = thread
        self._compute = compute
        self._waiting: SimpleQueue[tuple[Pair, Future[float | None]]] = SimpleQueue()

    async def result(self, pair: Pair) -> float | None:
        """What `compute` gives for `pair`."""
        future: Future[float | None] = Future()
        self._waiting.put((pair, future))
        # One turn a pair: the first turn takes all that wait, the others find nothing left to do.
        self._thread.submit(self._turn)
        return await asyncio.wrap_future(future)

    def _turn(self) -> None:
        batch: list[tuple[Pair, Future[float | None]]] = []
        while len(batch) < MAX_BATCH:
            try:
                pair, future = self._waiting.get_nowait()
            except Empty:
                break
            if future.set_running_or_notify_cancel():
                batch.append((pair, future))
        if not batch:
            return
        try:
            results = self._compute([pair for pair, _ in batch])
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)


@functools.cache
def load_encoder(model: str) -> SentenceEncoder:
    """The encoder for `model` (as `actors.models.resolve` names models), loaded once a process for all verifiers."""
    from actors.models import resolve

    return SentenceEncoder(resolve(model))
