"""The embedding check's zones, batches and loading, without a model. The real model is in tests/real."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from actors.errors import ConfigError
from actors.messages import Ending
from actors.verifiers import embedding
from actors.verifiers.check import Decision
from actors.verifiers.embedding import MAX_BATCH, Batches, EmbeddingCheck, SentenceEncoder


class ScriptedEncoder:
    """Answers with one set cosine."""

    def __init__(self, cosine: float | None) -> None:
        self.cosine = cosine

    async def similarity(self, one: str, other: str) -> float | None:
        return self.cosine


@pytest.mark.parametrize(
    ("cosine", "decision"),
    [
        (0.90, Decision.ACCEPT),
        (0.8999, Decision.UNSURE),
        (0.60, Decision.UNSURE),
        (0.5999, Decision.REJECT),
        (-1.0, Decision.REJECT),
        (float("nan"), Decision.UNSURE),
        (None, Decision.UNSURE),
    ],
)
async def test_zones(make_request, cosine, decision):
    check = EmbeddingCheck(ScriptedEncoder(cosine), accept=0.9, reject=0.6)
    assert (await check.check(make_request("one", "other"))).decision is decision


@pytest.mark.parametrize(
    ("draft", "target", "question", "decision"),
    [
        ("```bash\nrm -r $DIR /$NAME\n```", "```bash\nrm -r $DIR/$NAME\n```", "", Decision.UNSURE),
        ("    return x", "        return x", "", Decision.UNSURE),
        ("return x", "  return x", "```python\ndef f(x):\n    if x:", Decision.UNSURE),
        ("return x", "return x", "```python\ndef f(x):\n    if x:", Decision.ACCEPT),
        ("We call `f(x)`.", "So we call `f(x)`.", "", Decision.ACCEPT),
        ("So:\n    - 3 eggs", "Then:\n    * 3 eggs", "", Decision.ACCEPT),
    ],
)
async def test_programs_that_differ_are_left_to_the_next_check(make_request, draft, target, question, decision):
    request = make_request(draft, target, question=question)
    assert (await EmbeddingCheck(ScriptedEncoder(1.0)).check(request)).decision is decision


async def test_lines_behind_an_open_fence_are_a_program_even_if_they_look_like_items(make_request):
    request = make_request("  - user: alice", "  - user: bob", context="So:\n```yaml\nusers:\n")
    assert (await EmbeddingCheck(ScriptedEncoder(1.0)).check(request)).decision is Decision.UNSURE


async def test_other_endings_are_rejected_at_any_cosine(make_request):
    request = make_request("Done.", "Done.", target_ending=Ending.END)
    opinion = await EmbeddingCheck(ScriptedEncoder(1.0)).check(request)
    assert opinion.decision is Decision.REJECT
    assert opinion.reason == "the draft's step ends by boundary, the target's by end"


def test_wrong_thresholds_are_found_before_a_model_is_fetched(monkeypatch):
    monkeypatch.setattr(embedding, "load_encoder", lambda model: pytest.fail("fetched a model"))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        EmbeddingCheck.create(accept=1.5, reject=0.5)


def test_the_model_is_on_the_cpu_whatever_cards_are_there(monkeypatch, tmp_path):
    """A verifier without a share of a card sees all cards, and sentence-transformers would take the first."""
    asked = []
    stub = SimpleNamespace(SentenceTransformer=lambda folder, **options: asked.append(options))
    monkeypatch.setitem(sys.modules, "sentence_transformers", stub)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(set_num_threads=lambda number: None))
    SentenceEncoder(tmp_path)
    assert asked == [{"device": "cpu", "local_files_only": True}]


async def test_a_calibration_gives_the_probability(make_request):
    check = EmbeddingCheck(ScriptedEncoder(0.9), calibration=[[0.8, 0.5], [1.0, 0.9]])
    assert (await check.check(make_request("one", "other"))).probability == pytest.approx(0.7)


class HeldThread:
    """Batches on a real thread that is busy until it is let go; notes the batches it computed."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1)
        self.go = threading.Event()
        self.batches = []
        self.thread.submit(self.go.wait, 10)

    def compute(self, pairs):
        self.batches.append(pairs)
        if ("broken", "") in pairs:
            raise ValueError("broken")
        return [float(one) for one, _ in pairs]


@pytest.fixture(name="held")
def held_fixture():
    held = HeldThread()
    yield held
    held.go.set()
    held.thread.shutdown()


async def started(*awaited) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(one) for one in awaited]
    await asyncio.sleep(0)
    return tasks


async def test_pairs_that_wait_together_are_computed_together(held):
    batches = Batches(held.thread, held.compute)
    tasks = await started(*(batches.result((str(i), "")) for i in range(MAX_BATCH + 3)))
    held.go.set()
    assert await asyncio.gather(*tasks) == [float(i) for i in range(MAX_BATCH + 3)]
    assert [len(batch) for batch in held.batches] == [MAX_BATCH, 3]


async def test_a_cancelled_caller_takes_only_its_own_pair(held):
    batches = Batches(held.thread, held.compute)
    one, two, three = await started(*(batches.result((str(i), "")) for i in (1, 2, 3)))
    two.cancel()
    await asyncio.sleep(0)
    held.go.set()
    assert await asyncio.gather(one, three) == [1.0, 3.0]
    assert held.batches == [[("1", ""), ("3", "")]]


async def test_a_failure_is_for_its_batch_and_the_next_one_works(held):
    batches = Batches(held.thread, held.compute)
    held.go.set()
    with pytest.raises(ValueError, match="broken"):
        await batches.result(("broken", ""))
    assert await batches.result(("4", "")) == 4.0
