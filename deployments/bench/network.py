"""What the network between nodes costs: four hosts with wires between them that are delayed, then lossy.

Promises: coordinator, draft, target and verifier are in network namespaces of their own, and call each other over the
links of the product; every packet between them is delayed; each question is asked of the target alone and with
lookahead in every condition, over the same connections. Engines are scripted: a target step takes 500 ms, a draft step
100 ms, and 70 % of draft steps are accepted. Namespaces are gone afterwards.

Ray is not there: it places and starts replicas, and no step goes through it.

Run as root: ``python -m deployments.bench.network``
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import typer

from actors.draft import Draft
from actors.engines.scripted import Script, ScriptedEngine, ScriptOptions, tokenize
from actors.errors import ConfigError
from actors.messages import Message, Prompt
from actors.target import TargetModel
from actors.verifier import create_verifier
from deployments.bench.wires import Host, hosts, inside, missing
from deployments.config import Config, load_profile, validate_config
from deployments.coordinator.coordinator import Coordinator
from deployments.coordinator.pipeline import Roles
from deployments.coordinator.pools import DraftPool, TargetPool, VerifierPool
from deployments.generation import Finished, GenerationRequest, SpeculationOptions, SpeculationSummary
from deployments.link.frames import Address
from deployments.link.members import Members
from deployments.link.server import LinkServer
from deployments.replicas import DRAFT_METHODS, TARGET_METHODS

TARGET_STEP_S = 0.5
DRAFT_STEP_S = 0.1
DEPTH = 6
NUM_STEPS = 16
WAIT_S = 30.0


@dataclass(frozen=True)
class Condition:
    """How the wires are, each way."""

    delay_s: float
    loss: float = 0.0


@dataclass(frozen=True)
class Row:
    """What was measured in one condition; times are of one request."""

    delay_ms: float
    loss: float
    target_s: float
    lookahead_s: float
    speedup: float
    accept_rate: float
    num_requests: int


USUAL = (Condition(0.0), Condition(0.02), Condition(0.02, 0.01))


def settings(num_steps: int, scale: float) -> Config:
    """The scripted profile with steps of set times, `scale` times as long as usual."""
    data = load_profile("scripted").model_dump()
    script = Script(ScriptOptions(num_steps=num_steps), "user: Sum 1?")
    num_tokens = statistics.mean(len(tokenize(script.step(index))) for index in range(num_steps))
    for role, step_s in (("target", TARGET_STEP_S), ("draft", DRAFT_STEP_S)):
        data[role]["engine"]["options"] |= {"num_steps": num_steps, "token_s": scale * step_s / num_tokens}
    data["draft"]["engine"]["options"] |= {"agree": 0.5, "paraphrase": 0.2}
    return validate_config(data, "network")


@contextlib.asynccontextmanager
async def served(role: str, served: object, methods: Collection[str], host: Host) -> AsyncIterator[Members]:
    """The role listens on `host`; connections to it from wherever they are made."""
    server = LinkServer(served, methods, f"{role}-0", capacity=256)
    with inside(host):
        address = await server.start(host.address)

    async def announce() -> Sequence[Address]:
        return [address]

    members = Members(role, announce)
    try:
        yield members
    finally:
        await members.aclose()
        await server.close()


@contextlib.asynccontextmanager
async def coordinating(config: Config, places: Sequence[Host]) -> AsyncIterator[Coordinator]:
    """A coordinator here whose target, draft and verifier are on three other hosts."""
    cascades = config.verifier.verifiers
    checks = {name: [check.model_dump() for check in cascade] for name, cascade in cascades.items()}
    if config.draft is None:
        raise ConfigError("This benchmark needs a draft.", "draft")
    target = TargetModel(await ScriptedEngine.create(dict(config.target.engine.options), "target-0"))
    draft = Draft(await ScriptedEngine.create(dict(config.draft.engine.options), "draft-0"))
    verifier = await create_verifier(checks, {})
    async with (
        served("target", target, TARGET_METHODS, places[0]) as targets,
        served("draft", draft, DRAFT_METHODS, places[1]) as drafts,
        served("verifier", verifier, {"judge"}, places[2]) as verifiers,
    ):
        roles = Roles(TargetPool(targets, WAIT_S), DraftPool(drafts, WAIT_S), VerifierPool(verifiers, WAIT_S))
        yield Coordinator(config, roles)


async def ask(coordinator: Coordinator, number: int, mode: str) -> tuple[float, SpeculationSummary]:
    """One request: its time, and what speculation did."""
    loop = asyncio.get_running_loop()
    wishes = SpeculationOptions(mode=mode, max_lookahead=DEPTH, controller=False)
    prompt = Prompt(messages=(Message("user", f"Sum {number}?"),))
    began = loop.time()
    async for output in coordinator.generate(GenerationRequest(f"{mode}-{number}", prompt, speculation=wishes)):
        if isinstance(output, Finished):
            return loop.time() - began, output.summary
    raise RuntimeError("the text did not end")


async def measure(coordinator: Coordinator, condition: Condition, num_requests: int) -> Row:
    """The same questions with the target alone and with lookahead, side by side."""
    numbers = range(num_requests)
    alone = await asyncio.gather(*(ask(coordinator, number, "target") for number in numbers))
    ahead = await asyncio.gather(*(ask(coordinator, number, "lookahead") for number in numbers))
    judged = sum(each.num_accepted_steps + each.num_recovered_steps for _, each in ahead)
    return Row(
        delay_ms=condition.delay_s * 1000,
        loss=condition.loss,
        target_s=round(statistics.mean(took_s for took_s, _ in alone), 3),
        lookahead_s=round(statistics.mean(took_s for took_s, _ in ahead), 3),
        speedup=round(statistics.mean(a / b for (a, _), (b, _) in zip(alone, ahead, strict=True)), 3),
        accept_rate=round(sum(each.num_accepted_steps for _, each in ahead) / max(1, judged), 3),
        num_requests=num_requests,
    )


async def run(
    conditions: Sequence[Condition],
    num_requests: int,
    num_rounds: int = 1,
    num_steps: int = NUM_STEPS,
    scale: float = 1.0,
    is_verifier_near: bool = False,
) -> list[Row]:
    """A row for each condition, of the best times in all rounds, in which the conditions take turns.

    The caller's thread is in the coordinator's namespace meanwhile.
    """
    rows: dict[Condition, list[Row]] = {condition: [] for condition in conditions}
    with hosts(["front", "target", "draft", "verifier"]) as ((front, *places), wire), inside(front):
        if is_verifier_near:
            places[2] = front
        async with coordinating(settings(num_steps, scale), places) as coordinator:
            await ask(coordinator, 0, "lookahead")
            for condition in [*conditions] * num_rounds:
                wire.delay_s, wire.loss = condition.delay_s, condition.loss
                rows[condition].append(await measure(coordinator, condition, num_requests))
    return [best(each) for each in rows.values()]


def best(rows: Sequence[Row]) -> Row:
    """One row of the best times: what else runs on the machine makes a round slower, and its speed-up anything."""
    target_s, lookahead_s = min(row.target_s for row in rows), min(row.lookahead_s for row in rows)
    return replace(rows[0], target_s=target_s, lookahead_s=lookahead_s, speedup=round(target_s / lookahead_s, 3))


def main(
    num_requests: Annotated[int, typer.Option(help="Requests of each mode and condition, side by side.")] = 4,
    num_rounds: Annotated[int, typer.Option(help="Rounds, in which the conditions take turns.")] = 3,
    near: Annotated[bool, typer.Option(help="The verifier on the coordinator's host.")] = False,
) -> None:
    """Measure what delay and loss between nodes cost. Example: python -m deployments.bench.network"""
    if (why := missing()) is not None:
        typer.echo(f"The hosts of this benchmark cannot be made here: {why}.", err=True)
        raise typer.Exit(1)
    rows = asyncio.run(run(USUAL, num_requests, num_rounds, is_verifier_near=near))
    for row in rows:
        typer.echo(json.dumps(asdict(row) | {"of_speedup": round(row.speedup / rows[0].speedup, 3)}))


if __name__ == "__main__":
    typer.run(main)
