"""Models that are replaced by ones of another tokenizer while requests run: none reads tokens that are not its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from actors.draft import Draft
from actors.engines.scripted import FIRST_TEXT, ScriptedEngine, ScriptOptions, tokenize
from actors.errors import OtherVocabulary, RoleUnavailable
from actors.messages import Delta, Message, Prompt, RoleInfo, StepRequest, TokenIds
from actors.target import TargetModel
from deployments.coordinator.breaker import Breaker, Circuit, Fuse
from deployments.gateway.unbroken import Unbroken
from deployments.generation import Committed, Finished, Opened, Output
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import DRAFT, PROMPT, TARGET, Bench, config, request, truth
from tests.unit.coordinator.test_reasoning import thinking

LONG = replace(TARGET, num_steps=30)
LONG_DRAFT = replace(DRAFT, num_steps=30)
REPLACED_AT_S = 3.05


class Renumbered(ScriptedEngine):
    """The same texts in tokens of other numbers: one model's tokens are another text to the other."""

    def __init__(self, options: ScriptOptions) -> None:
        super().__init__(replace(options, vocabulary="renumbered"))

    async def encode_prompt(self, prompt: Prompt) -> TokenIds:
        token_ids = await super().encode_prompt(prompt)
        return token_ids if prompt.token_ids is not None else _renumbered(token_ids)

    def encode_text(self, text: str) -> TokenIds:
        return _renumbered(super().encode_text(text))

    async def generate(self, call_id: str, token_ids: TokenIds, **how: Any) -> AsyncGenerator[Delta, None]:
        how["hints"] = tuple(_renumbered(hint) for hint in how["hints"])
        async with aclosing(super().generate(call_id, _renumbered(token_ids), **how)) as deltas:
            async for delta in deltas:
                yield replace(delta, token_ids=_renumbered(delta.token_ids))


def _renumbered(token_ids: TokenIds) -> TokenIds:
    return tuple(token ^ 1 if token >= FIRST_TEXT else token for token in token_ids)


class Replaced:
    """What a pool is to a coordinator while replicas are replaced: from a time on the new one takes all calls."""

    def __init__(self, old: TargetModel | Draft, new: TargetModel | Draft) -> None:
        self._old = old
        self._new = new

    def __getattr__(self, name: str) -> object:
        is_new = asyncio.get_running_loop().time() >= REPLACED_AT_S
        return getattr(self._new if is_new else self._old, name)


class Either:
    """Before one of them is gone: each call goes to any of them."""

    def __init__(self, chance: Random, *models: TargetModel) -> None:
        self._chance = chance
        self._models = models

    def __getattr__(self, name: str) -> object:
        return getattr(self._chance.choice(self._models), name)


class Leaving(TargetModel):
    """A target whose streams break off when it is replaced; its steps come to their end."""

    async def stream(self, request: StepRequest) -> AsyncGenerator[Delta, None]:
        async with aclosing(super().stream(request)) as deltas:
            async for delta in deltas:
                if asyncio.get_running_loop().time() >= REPLACED_AT_S:
                    raise RoleUnavailable("the replica has left")
                yield delta


async def read(bench: Bench, **wishes: object) -> list[Output]:
    """What a gateway gets."""
    unbroken = Unbroken((await bench.coordinator()).generate)
    async with aclosing(unbroken.generate(request(**wishes))) as outputs:
        return [output async for output in outputs]


def text(outputs: list[Output]) -> str:
    return "".join(o.text for o in outputs if isinstance(o, Committed))


@pytest.mark.parametrize(
    ("wishes", "hint_gain"),
    [
        ({"mode": "target"}, 1.0),
        ({"mode": "lookahead", "verifier": "exact"}, 1.0),
        ({"mode": "lookahead", "verifier": "numbers"}, 1.0),
        ({"mode": "lookahead", "verifier": "exact"}, 2.0),
        ({"mode": "specreason", "verifier": "never"}, 1.0),
    ],
)
@pytest.mark.parametrize("progress_s", [0.0, 0.2])
def test_a_target_of_another_tokenizer_goes_on_with_the_text(
    wishes: dict[str, object], hint_gain: float, progress_s: float
) -> None:
    async def scene() -> tuple[list[Output], int, int]:
        script = replace(LONG, hint_gain=hint_gain)
        bench = Bench(script, replace(LONG_DRAFT, agree=0.5), config(progress_s=progress_s))
        old, new = bench.target_engine, Renumbered(script)
        bench.roles = replace(bench.roles, target=Replaced(Leaving(old), TargetModel(new)))  # type: ignore[arg-type]
        return await read(bench, **wishes), old.num_tokens, new.num_tokens

    outputs, num_old, num_new = run_virtually(scene())
    assert text(outputs) == truth(LONG)
    assert [type(o) for o in outputs].count(Opened) == 1
    last = outputs[-1]
    assert isinstance(last, Finished)
    assert "coordinator_resumed" in last.summary.degraded
    assert min(num_old, num_new) > 10


def test_a_target_of_another_tokenizer_reads_no_token_ids_of_the_former_one() -> None:
    """The client has sent its prompt as the former one's ids: nothing else says what they mean."""

    async def scene() -> tuple[list[Output], int]:
        bench, new, said = Bench(LONG, LONG_DRAFT), Renumbered(LONG), list[Output]()
        target = Replaced(Leaving(bench.target_engine), TargetModel(new))
        bench.roles = replace(bench.roles, target=target)  # type: ignore[arg-type]
        unbroken = Unbroken((await bench.coordinator()).generate)
        asked = request(mode="target", prompt=Prompt(token_ids=tokenize(PROMPT.question)))

        async def read_all() -> None:
            async for output in unbroken.generate(asked):
                said.append(output)

        with pytest.raises(OtherVocabulary, match="encoded anew"):
            await read_all()
        return said, new.num_tokens

    said, num_new = run_virtually(scene())
    assert text(said)
    assert truth(LONG).startswith(text(said))
    assert num_new == 0


@pytest.mark.parametrize("seed", range(6))
def test_a_request_that_begins_between_two_targets_is_written_by_one_that_reads_its_prompt(seed: int) -> None:
    async def scene() -> list[Output]:
        bench = Bench()
        target = Either(Random(seed), TargetModel(bench.target_engine), TargetModel(Renumbered(TARGET)))
        bench.roles = replace(bench.roles, target=target)  # type: ignore[arg-type]
        return await read(bench, mode="target")

    assert text(run_virtually(scene())) == truth()


@pytest.mark.parametrize("seed", range(6))
def test_marks_are_of_the_target_that_the_prompt_is_of(seed: int) -> None:
    """A message has the mark, so the prompt is encoded a second time, perhaps elsewhere."""

    async def scene() -> list[Output]:
        thinks = replace(TARGET, think=True)
        bench = Bench(thinks, settings=thinking())
        target = Either(Random(seed), TargetModel(bench.target_engine), TargetModel(Renumbered(thinks)))
        bench.roles = replace(bench.roles, target=target)  # type: ignore[arg-type]
        return await read(bench, mode="target", prompt=Prompt(messages=(Message("user", "So it was\n</think>"),)))

    said = [o for o in run_virtually(scene()) if isinstance(o, Committed) and o.text]
    assert "The answer is" not in "".join(o.text for o in said if o.channel == "reasoning")
    assert "".join(o.text for o in said if o.channel == "content").startswith("The answer is ")


@pytest.mark.parametrize(("hint_gain", "degraded"), [(1.0, ()), (2.0, ("draft_vocabulary",))])
def test_a_draft_of_another_tokenizer_renders_the_prompt_anew(hint_gain: float, degraded: tuple[str, ...]) -> None:
    async def scene() -> tuple[list[Output], Circuit, int]:
        script = replace(LONG, hint_gain=hint_gain)
        bench = Bench(script, LONG_DRAFT)
        new = Renumbered(LONG_DRAFT)
        bench.roles = replace(
            bench.roles,
            drafter=Replaced(Draft(bench.draft_engine), Draft(new)),  # type: ignore[arg-type]
        )
        coordinator = await bench.coordinator()
        coordinator._vigilance.draft_breaker = breaker = Breaker(Fuse(1, 1000.0))
        asked = request(mode="lookahead", verifier="exact")
        outputs = [output async for output in coordinator.generate(asked)]
        return outputs, breaker.state, new.num_tokens

    outputs, circuit, num_tokens = run_virtually(scene())
    assert text(outputs) == truth(LONG)
    last = outputs[-1]
    assert isinstance(last, Finished)
    assert last.summary.degraded == ("draft_unavailable", *degraded)
    assert last.summary.num_recovered_steps == 0, "a draft that reads the prompt right is right"
    assert num_tokens > 0
    assert circuit is Circuit.CLOSED, "it did not fail"


async def test_a_prompt_and_its_vocabulary_are_one_replicas() -> None:
    target = TargetModel(Renumbered(TARGET))
    info, rendered = await target.render(Prompt(text="a b"), Prompt(text="c"))
    assert (info, rendered) == (
        await target.describe(),
        (await target.encode(Prompt(text="a b")), await target.encode(Prompt(text="c"))),
    )
    assert isinstance(info, RoleInfo)
