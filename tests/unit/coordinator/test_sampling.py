"""How tokens are drawn: by the request, else as the target says; by target and draft alike."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from actors.draft import Draft
from actors.engines.scripted import ScriptedEngine, ScriptOptions
from actors.errors import RequestError
from actors.messages import NEUTRAL, Delta, RoleInfo, Sampling
from actors.target import TargetModel
from deployments.coordinator.pipeline import Roles
from deployments.generation import Finished, SamplingOptions
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import DRAFT, TARGET, Bench, request


class Model(ScriptedEngine):
    """A model whose folder says how tokens are drawn; `asked` is how they were."""

    def __init__(self, options: ScriptOptions, usual: Sampling) -> None:
        super().__init__(options, "m")
        self.usual = usual
        self.asked: set[Sampling] = set()

    def describe(self) -> RoleInfo:
        return replace(super().describe(), sampling=self.usual)

    def generate(self, *given: Any, sampling: Sampling, **named: Any) -> AsyncGenerator[Delta, None]:
        self.asked.add(sampling)
        return super().generate(*given, sampling=sampling, **named)


R1 = Sampling(0.6, 0.95)


@pytest.mark.parametrize(
    ("usual", "wishes", "drawn"),
    [
        (NEUTRAL, SamplingOptions(), Sampling(1.0)),
        (R1, SamplingOptions(), R1),
        (R1, SamplingOptions(top_p=1.0, top_k=5), Sampling(0.6, 1.0, 5)),
        (R1, SamplingOptions(temperature=0.0), Sampling(0.0, 0.95)),
        (Sampling(1.0, 1.0, 20, 0.1, 1.05), SamplingOptions(0.3, 0.5, 0, 0.0, 1.0), Sampling(0.3, 0.5)),
    ],
)
@pytest.mark.parametrize("mode", ["target", "lookahead"])
def test_what_a_request_leaves_out_is_as_the_target_says(
    mode: str, usual: Sampling, wishes: SamplingOptions, drawn: Sampling
) -> None:
    async def ask() -> None:
        target, draft = Model(TARGET, usual), Model(DRAFT, Sampling(0.1, 0.1, 1))
        bench = Bench()
        bench.roles = Roles(TargetModel(target), Draft(draft))
        coordinator = await bench.coordinator()
        async for _ in coordinator.generate(request(mode=mode, sampling=wishes)):
            pass
        assert target.asked == {drawn}
        assert draft.asked == ({drawn} if mode == "lookahead" else set())

    run_virtually(ask())


class WithoutMinP(Model):
    """An engine that refuses requests with `min_p`, as vLLM's does where it speculates on tokens."""

    def describe(self) -> RoleInfo:
        return replace(super().describe(), takes_min_p=False)


@pytest.mark.parametrize("temperature", [0.7, None, 0.0])
@pytest.mark.parametrize("min_p", [0.1, 0.0, None])
def test_what_the_engine_would_refuse_is_refused_before_it_is_opened(
    temperature: float | None, min_p: float | None
) -> None:
    """Else the client of a stream would have a 200 already. A greedy request draws nothing, so it may say anything."""

    async def ask() -> None:
        target = WithoutMinP(TARGET, NEUTRAL)
        bench = Bench()
        bench.roles = Roles(TargetModel(target), Draft(Model(DRAFT, NEUTRAL)))
        coordinator = await bench.coordinator()
        outputs = coordinator.generate(request(sampling=SamplingOptions(temperature, min_p=min_p)))
        if min_p and temperature != 0.0:
            with pytest.raises(RequestError, match="cannot draw tokens with min_p") as refused:
                await anext(outputs)
            assert refused.value.param == "min_p"
            assert target.asked == set()
        else:
            assert [type(output) async for output in outputs][-1] is Finished

    run_virtually(ask())


@pytest.mark.parametrize("takes_hints", [False, True])
@pytest.mark.parametrize("verifier", ["exact", "always"])
def test_the_draft_has_seeds_of_its_own_where_its_words_are_hints(takes_hints: bool, verifier: str) -> None:
    async def ask() -> None:
        target = Model(replace(TARGET, hint_gain=2.0 if takes_hints else 1.0), NEUTRAL)
        draft, bench = Model(DRAFT, NEUTRAL), Bench()
        bench.roles = Roles(TargetModel(target), Draft(draft))
        coordinator = await bench.coordinator()
        wishes = SamplingOptions(temperature=1.0, seed=7)
        async for _ in coordinator.generate(request(mode="lookahead", verifier=verifier, sampling=wishes)):
            pass
        seeds = [{sampling.seed for sampling in model.asked} for model in (target, draft)]
        assert 7 in seeds[0]
        assert (seeds[0] & seeds[1] == set()) is takes_hints

    run_virtually(ask())
