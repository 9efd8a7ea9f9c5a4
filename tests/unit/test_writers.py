"""Draft and target over a small engine of our own: what they ask of it, and what they make of its tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace

import pytest

from actors.boundaries import DeltaCutter, StepSplitter
from actors.draft import Draft
from actors.errors import ContextTooLong, OtherVocabulary, RequestError, RoleUnavailable, ServiceError
from actors.messages import (
    Delta,
    Ending,
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
)
from actors.target import TargetModel

END = 3
"""This engine's end-of-text token. Its other tokens are characters, its ids their code points."""


def ids(text: str) -> TokenIds:
    return tuple(map(ord, text))


@dataclass
class LetterEngine:
    """Writes `script`, one character a token, and then ends the text; remembers what it was asked."""

    script: str = "One.\n\nTwo.\n\nThree."
    failure: Exception | None = None
    break_off: bool = False
    calls: list[dict[str, object]] = field(default_factory=list)
    encoded: list[str] = field(default_factory=list)
    running: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)
    shut_down: bool = False
    further_hints: list[tuple[str, tuple[TokenIds, ...]]] = field(default_factory=list)

    def describe(self) -> RoleInfo:
        return RoleInfo("letters", "unicode", 40, "replica-1")

    async def encode_prompt(self, prompt: Prompt) -> TokenIds:
        return ids(prompt.text or "")

    def encode_text(self, text: str) -> TokenIds:
        self.encoded.append(text)
        return ids(text)

    async def decode(self, token_ids: TokenIds) -> str:
        return "".join(map(chr, token_ids))

    async def generate(
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
        asked = {"max_tokens": max_tokens, "max_steps": max_steps, "priority": priority, "hints": hints}
        asked |= {"nearby": nearby, "token_speculation": token_speculation, "cache_salt": cache_salt}
        self.calls.append({"call_id": call_id, "token_ids": token_ids, "rule": rule, "sampling": sampling, **asked})
        splitter = StepSplitter(rule, capped=max_steps is not None)
        cutter = DeltaCutter(splitter, lambda token: "" if token == END else chr(token), max_steps)
        written = (*ids(self.script), END)[:max_tokens]
        self.running += 1
        self.started.set()
        try:
            for number, token in enumerate(written, start=1):
                await asyncio.sleep(0)
                if self.failure:
                    raise self.failure
                final = Ending.END if token == END else Ending.CAP if number == max_tokens else None
                for delta in cutter.feed([token], final):
                    counts = (5, 3) if cutter.finished else (0, 0)
                    yield replace(
                        delta, replica="replica-1", num_cached_tokens=7, num_proposed=counts[0], num_accepted=counts[1]
                    )
                if cutter.finished or self.break_off:
                    return
        finally:
            self.running -= 1

    async def add_hints(self, call_id: str, hints: tuple[TokenIds, ...]) -> None:
        self.further_hints.append((call_id, hints))

    async def speculation_stats(self) -> SpeculationStats | None:
        return SpeculationStats(num_drafts=2, num_draft_tokens=8, num_accepted_tokens=6)

    async def next_token_probabilities(
        self, call_id: str, token_ids: TokenIds, wanted: TokenIds, cache_salt: str = ""
    ) -> tuple[float, ...]:
        self.calls.append({"call_id": call_id, "token_ids": token_ids, "wanted": wanted, "cache_salt": cache_salt})
        return tuple({ord("y"): 0.7, ord("n"): 0.2}.get(token, 0.0) for token in wanted)

    async def token_logprobs(
        self, call_id: str, token_ids: TokenIds, start: int, cache_salt: str = ""
    ) -> tuple[float, ...]:
        self.calls.append({"call_id": call_id, "token_ids": token_ids, "cache_salt": cache_salt})
        return (-1.0,) * (len(token_ids) - start)

    async def check_health(self) -> None:
        if self.failure:
            raise self.failure

    def num_running(self) -> int:
        return self.running

    async def shutdown(self) -> None:
        self.shut_down = True


def request(prefix: Prefix | None = None, **changes: object) -> StepRequest:
    base = StepRequest("call-1", "session-1", prefix or Prefix(ids("Q")), StepRule(max_tokens=20), max_tokens=100)
    return replace(base, **changes)  # type: ignore[arg-type]


async def steps_of(engine: LetterEngine, depth: int, **changes: object) -> list[Step]:
    return [step async for step in Draft(engine).look_ahead(request(None, **changes), depth)]


async def test_looking_ahead_is_one_generation_however_many_steps_it_yields() -> None:
    engine = LetterEngine()
    steps = await steps_of(engine, 2)
    assert [step.text for step in steps] == ["One.\n\n", "Two.\n\n"]
    assert [step.ending for step in steps] == [Ending.BOUNDARY] * 2
    assert len(engine.calls) == 1
    assert engine.calls[0]["max_steps"] == 2
    assert engine.running == 0


async def test_a_step_carries_all_that_a_prefix_needs() -> None:
    (step,) = await steps_of(LetterEngine(), 1)
    assert step.piece == Piece("One.\n\n", ids("One.\n\n"), "unicode")
    assert (step.replica, step.num_cached_tokens) == ("replica-1", 7)
    assert step.elapsed_s > 0


async def test_hints_and_the_kind_of_speculation_reach_the_engine() -> None:
    engine = LetterEngine()
    target = TargetModel(engine)
    nearby = (Nearby((5, 6, 7), 2),)
    await target.step(request(hints=((1, 2),), nearby=nearby, token_speculation="ngram"))
    assert engine.calls[0]["hints"] == ((1, 2),)
    assert engine.calls[0]["nearby"] == nearby
    assert engine.calls[0]["token_speculation"] == "ngram"
    await target.add_hints("call-1", "session-1", ((3, 4),))
    assert engine.further_hints == [("call-1", ((3, 4),))]


async def test_a_step_says_how_many_generations_shared_the_engine() -> None:
    engine = LetterEngine()
    target = TargetModel(engine)
    stream = target.stream(request())
    await anext(stream)
    together = await asyncio.gather(target.step(request(call_id="a")), target.step(request(call_id="b")))
    assert sorted(step.num_running for step in together) == [2, 3]
    await stream.aclose()
    assert (await target.step(request())).num_running == 1


async def test_a_stream_says_at_each_step_how_many_generations_share_the_engine() -> None:
    target = TargetModel(LetterEngine())
    other = target.stream(request(call_id="a"))
    await anext(other)
    deltas = [delta async for delta in target.stream(request(call_id="b"))]
    assert {delta.num_running for delta in deltas if delta.ending is not None} == {2}
    assert {delta.num_running for delta in deltas if delta.ending is None} == {0}
    await other.aclose()


async def test_what_was_proposed_is_told_of_steps_that_were_asked_for_alone() -> None:
    step = await TargetModel(LetterEngine()).step(request())
    assert (step.num_proposed, step.num_accepted) == (5, 3)
    assert [step.num_proposed for step in await steps_of(LetterEngine(), 2)] == [0, 0], "it is of both together"


async def test_statistics_of_speculation_are_the_engines() -> None:
    stats = await TargetModel(LetterEngine()).speculation_stats()
    assert stats is not None
    assert stats.acceptance_rate == 0.75
    assert SpeculationStats().acceptance_rate == 0.0


async def test_looking_ahead_ends_with_the_text() -> None:
    steps = await steps_of(LetterEngine(), 9)
    assert [step.text for step in steps] == ["One.\n\n", "Two.\n\n", "Three."]
    assert steps[-1].ending is Ending.END
    assert steps[-1].token_ids == (*ids("Three."), END)


async def test_nothing_is_drafted_after_the_reasoning_closed() -> None:
    rule = StepRule(max_tokens=20, close="</t>")
    steps = await steps_of(LetterEngine("So.</t>\n\nFour."), 9, rule=rule)
    assert [(step.text, step.ending) for step in steps] == [("So.</t>", Ending.CLOSE)]


async def test_looking_ahead_stops_at_max_tokens_in_all() -> None:
    steps = await steps_of(LetterEngine(), 9, max_tokens=8)
    assert [(step.text, step.ending) for step in steps] == [("One.\n\n", Ending.BOUNDARY), ("Tw", Ending.CAP)]


async def test_a_reader_that_leaves_ends_the_generation() -> None:
    engine = LetterEngine()
    steps = Draft(engine).look_ahead(request(), 3)
    await anext(steps)
    assert engine.running == 1
    await steps.aclose()
    assert engine.running == 0


async def test_a_cancelled_target_step_ends_the_generation() -> None:
    engine = LetterEngine("x" * 50)
    target = TargetModel(engine)
    task = asyncio.create_task(target.step(request(rule=StepRule(max_tokens=50))))
    await engine.started.wait()
    assert target.num_running() == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert target.num_running() == 0


async def test_the_target_writes_one_step_and_passes_the_request_on() -> None:
    engine = LetterEngine()
    sampling = Sampling(temperature=0.5, seed=3)
    step = await TargetModel(engine).step(request(sampling=sampling, priority=-4, hints=((1, 2),)))
    assert step.text == "One.\n\n"
    assert engine.calls == [
        {
            "call_id": "call-1",
            "token_ids": ids("Q"),
            "rule": StepRule(max_tokens=20),
            "sampling": sampling,
            "max_tokens": 20,
            "max_steps": 1,
            "priority": -4,
            "hints": ((1, 2),),
            "nearby": (),
            "token_speculation": "hints",
            "cache_salt": "",
        }
    ]


async def test_a_target_step_is_never_longer_than_the_tokens_left() -> None:
    step = await TargetModel(LetterEngine()).step(request(max_tokens=3))
    assert (step.text, step.ending) == ("One", Ending.CAP)


async def test_a_stream_marks_steps_without_cutting_them() -> None:
    engine = LetterEngine("One.\n\nTwo is longer.")
    deltas = [delta async for delta in TargetModel(engine).stream(request(rule=StepRule(max_tokens=8)))]
    assert "".join(delta.text for delta in deltas) == "One.\n\nTwo is longer."
    assert [delta.ending for delta in deltas if delta.ending] == [Ending.BOUNDARY, Ending.END]
    assert engine.calls[0]["max_steps"] is None
    assert engine.calls[0]["max_tokens"] == 100


async def test_own_ids_are_passed_on_and_foreign_text_is_encoded_once() -> None:
    engine = LetterEngine()
    target = TargetModel(engine)
    own = Piece("text is not looked at", (65, 66), "unicode")
    foreign = Piece("ab", (1, 2, 3), "another")
    prefix = Prefix(ids("Q"), (own, foreign))
    await target.step(request(prefix))
    await target.step(request(prefix))
    assert [call["token_ids"] for call in engine.calls] == [(*ids("Q"), 65, 66, *ids("ab"))] * 2
    assert engine.encoded == ["ab"]


async def test_a_prompt_in_the_tokens_of_another_model_is_refused() -> None:
    engine = LetterEngine()
    target, draft = TargetModel(engine), Draft(engine)
    foreign = request(vocabulary="another")
    calls = (target.stream(foreign), target.progress(foreign, 1.0), draft.look_ahead(foreign, 1))
    for items in calls:
        with pytest.raises(OtherVocabulary, match="encoded anew"):
            await anext(items)
    with pytest.raises(OtherVocabulary):
        await target.step(foreign)
    assert engine.calls == []
    assert (await target.step(request(vocabulary="unicode"))).text == "One.\n\n"


async def test_nothing_is_said_of_a_step_behind_a_prompt_in_the_tokens_of_another_model() -> None:
    engine = LetterEngine()
    asked = (Prefix(ids("Q")), Piece("c", ids("c"), "unicode"), "session-1")
    with pytest.raises(OtherVocabulary, match="encoded anew"):
        await TargetModel(engine).token_logprobs(*asked, "another")
    assert engine.calls == []
    assert await TargetModel(engine).token_logprobs(*asked, "unicode") == (-1.0,)


async def test_token_ids_of_another_model_are_neither_encoded_nor_decoded() -> None:
    target = TargetModel(LetterEngine())
    assert await target.decode(ids("Why?"), "unicode") == "Why?"
    with pytest.raises(OtherVocabulary, match="encoded anew"):
        await target.decode(ids("Why?"), "another")
    prompt = Prompt(token_ids=ids("Why?"))
    await target.encode(prompt.of("unicode"))
    with pytest.raises(OtherVocabulary, match="encoded anew"):
        await target.encode(prompt.of("another"))
    assert await target.encode(Prompt(text="Why?").of("another")) == ids("Why?"), "a text is everybody's"


async def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    target = TargetModel(LetterEngine())
    assert await target.encode(Prompt(text="x" * 39)) == ids("x" * 39)
    with pytest.raises(ContextTooLong, match="40 tokens"):
        await target.encode(Prompt(text="x" * 40))


async def test_a_label_counts_with_and_without_a_space_before_it() -> None:
    class SpacedEngine(LetterEngine):
        def encode_text(self, text: str) -> TokenIds:
            return {"yes": (1,), " yes": (2,), "no": (3,), " no": (4,), " ": (5,)}[text]

        async def next_token_probabilities(
            self, call_id: str, token_ids: TokenIds, wanted: TokenIds, cache_salt: str = ""
        ) -> tuple[float, ...]:
            return tuple({1: 0.25, 2: 0.5, 3: 0.125, 4: 0.0625}[token] for token in wanted)

    target = TargetModel(SpacedEngine())
    assert await target.label_probabilities(Prompt(text="Same?"), ("yes", "no"), "s") == (0.75, 0.1875)


async def test_a_space_that_is_a_token_of_its_own_says_nothing_of_a_label() -> None:
    engine = LetterEngine()
    found = await Draft(engine).label_probabilities(Prompt(text="Same?"), ("yes", "no"), "s")
    assert found == (0.7, 0.2)
    assert engine.calls[0]["wanted"] == (ord("n"), ord("y"))


@pytest.mark.parametrize("label", ["", "  "])
async def test_an_empty_label_is_refused(label: str) -> None:
    with pytest.raises(RequestError, match="no token of its own"):
        await TargetModel(LetterEngine()).label_probabilities(Prompt(text="Same?"), (label,), "s")


async def test_an_engine_that_breaks_off_is_an_error_and_not_a_short_step() -> None:
    with pytest.raises(ServiceError, match="middle of a step"):
        await TargetModel(LetterEngine(break_off=True)).step(request())


async def test_an_engine_without_a_word_is_an_error() -> None:
    with pytest.raises(ServiceError, match="without a step"):
        await TargetModel(LetterEngine()).step(request(max_tokens=0))


async def test_failures_of_the_engine_reach_the_caller() -> None:
    engine = LetterEngine(failure=RoleUnavailable("The engine died."))
    target = TargetModel(engine)
    with pytest.raises(RoleUnavailable):
        await target.step(request())
    with pytest.raises(RoleUnavailable):
        await target.check_health()
    assert target.num_running() == 0


async def test_describe_and_shutdown_are_the_engines() -> None:
    engine = LetterEngine()
    draft = Draft(engine)
    assert await draft.describe() == engine.describe()
    await draft.shutdown()
    assert engine.shut_down


async def test_the_salt_of_a_prompt_goes_with_all_that_an_engine_reads_of_it():
    engine = LetterEngine("A.\n\nB.")
    prefix = Prefix(ids("Q"), cache_salt="mine").extended(Piece("a", ids("a"), "unicode"))
    prefix = prefix.extended(Piece("b", ids("b"), "another"))
    target = TargetModel(engine)
    await target.step(request(prefix))
    await target.token_logprobs(prefix, Piece("c", ids("c"), "unicode"), "session-1")
    await target.label_probabilities(Prompt(text="y or n?", cache_salt="mine"), ("y", "n"), "session-1")
    await target.step(request())
    assert [call["cache_salt"] for call in engine.calls] == ["mine", "mine", "mine", ""]
