"""What the engines keep of a request in their prefix caches is under the request's own salt, whoever reads it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from actors.draft import Draft
from actors.engines.scripted import ScriptedEngine
from actors.messages import Delta, JudgeRequest, Verdict
from actors.target import TargetModel
from deployments.coordinator.pipeline import Roles
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import DRAFT, PROMPT, TARGET, Bench, request


class Salted(ScriptedEngine):
    """`salts` are those of all that it was asked."""

    salts: set[str]

    def generate(self, *given: Any, cache_salt: str = "", **named: Any) -> AsyncGenerator[Delta, None]:
        self.salts.add(cache_salt)
        return super().generate(*given, cache_salt=cache_salt, **named)


class Judging:
    """Accepts every other step."""

    def __init__(self) -> None:
        self.salts: list[str] = []

    async def judge(self, asked: JudgeRequest) -> Verdict:
        self.salts.append(asked.cache_salt)
        return Verdict(len(self.salts) % 2 == 0, "balanced", "even")


@pytest.mark.parametrize("salt", ["", "mine"])
@pytest.mark.parametrize(
    "wishes", [{"mode": "target"}, {"fidelity": "exact"}, {"fidelity": "balanced", "controller": False}]
)
def test_every_call_of_a_request_has_its_salt(salt: str, wishes: dict[str, object]) -> None:
    async def ask() -> None:
        target, draft, verifier = Salted(TARGET, "m"), Salted(replace(DRAFT, agree=0.5), "m"), Judging()
        target.salts, draft.salts = set(), set()
        bench = Bench()
        bench.roles = Roles(TargetModel(target), Draft(draft), verifier)
        coordinator = await bench.coordinator()
        async for _ in coordinator.generate(request(prompt=replace(PROMPT, cache_salt=salt), **wishes)):
            pass
        assert target.salts == {salt}
        assert draft.salts == ({salt} if wishes.get("mode") != "target" else set())
        assert set(verifier.salts) <= {salt}
        assert bool(verifier.salts) == ("balanced" in wishes.values())

    run_virtually(ask())
