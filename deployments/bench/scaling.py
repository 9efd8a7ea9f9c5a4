"""Throughput at 1, 2, 4 and 8 target replicas, with as many more users.

Promises: one coordinator over the product's links to target replicas of their own, which it chooses among as it does in
a cluster; scripted engines whose tokens take longer the more sequences run, so that a replica has a capacity; committed
tokens are counted over a window in which all users ask one request after another.

All of it is one process on a virtual clock, which stands still while there is work: what is measured is how sessions
are spread and how deep they look ahead, not how many cores a machine has nor what else it does. `cpu_share` says how
much of one core the process, engines included, needs to keep up with the clock.

Run: ``python -m deployments.bench.scaling``
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import typer

from actors.draft import Draft
from actors.engines.scripted import ScriptedEngine, ScriptOptions
from actors.messages import Message, Prompt
from actors.target import TargetModel
from actors.verifier import create_verifier
from deployments.config import load_profile
from deployments.coordinator.coordinator import Coordinator
from deployments.coordinator.pipeline import Roles
from deployments.coordinator.pools import DraftPool, TargetPool
from deployments.generation import Committed, GenerationRequest, SpeculationOptions
from deployments.link.frames import Address
from deployments.link.members import Members
from deployments.link.server import LinkServer
from deployments.replicas import DRAFT_METHODS, TARGET_METHODS
from deployments.simulation.virtual_loop import run_virtually

LEVELS = (1, 2, 4, 8)
USERS_A_REPLICA = 4
TARGET_TOKEN_S = 0.05
"""A step of 20 tokens takes a second alone."""
SEQUENCE_S = 0.005
DRAFT_TOKEN_S = 0.01
NUM_STEPS = 12
WARM_UP_S = 8.0
WINDOW_S = 60.0
WAIT_S = 30.0
CAPACITY = 4 * USERS_A_REPLICA
"""Calls that a replica takes at once; beyond it sessions look for another one."""


@contextlib.asynccontextmanager
async def linked(role: str, served: Sequence[object], methods: frozenset[str], capacity: int) -> AsyncIterator[Members]:
    """Replicas of a role, and the connections to them."""
    servers = [LinkServer(each, methods, f"{role}-{number}", capacity) for number, each in enumerate(served)]
    addresses: list[Address] = [await server.start("127.0.0.1") for server in servers]

    async def announce() -> Sequence[Address]:
        return addresses

    members = Members(role, announce)
    try:
        yield members
    finally:
        await members.aclose()
        await asyncio.gather(*(server.close() for server in servers))


async def throughput(
    num_targets: int, options: SpeculationOptions, window_s: float = WINDOW_S, warm_up_s: float = WARM_UP_S
) -> float:
    """Committed tokens a second with so many target replicas; `options` are those of every request."""
    config = load_profile("scripted")
    target_options = ScriptOptions(num_steps=NUM_STEPS, token_s=TARGET_TOKEN_S, sequence_s=SEQUENCE_S)
    targets = [TargetModel(ScriptedEngine(target_options, f"target-{number}")) for number in range(num_targets)]
    draft_options = ScriptOptions(role="draft", num_steps=NUM_STEPS, token_s=DRAFT_TOKEN_S, agree=0.6, paraphrase=0.2)
    drafts = [Draft(ScriptedEngine(draft_options, "draft-0"))]
    cascades = config.verifier.verifiers
    checks = {name: [check.model_dump() for check in cascade] for name, cascade in cascades.items()}
    verifier = await create_verifier(checks, {})
    num_tokens = 0
    async with (
        linked("target", targets, TARGET_METHODS, CAPACITY) as target,
        linked("draft", drafts, DRAFT_METHODS, 1024) as draft,
    ):
        coordinator = Coordinator(config, Roles(TargetPool(target, WAIT_S), DraftPool(draft, WAIT_S), verifier))

        async def use(user: int) -> None:
            nonlocal num_tokens
            number = 0
            while True:
                number += 1
                prompt = Prompt(messages=(Message("user", f"Sum {user} and {number}?"),))
                request = GenerationRequest(f"{user}-{number}", prompt, speculation=options)
                async for output in coordinator.generate(request):
                    num_tokens += output.num_tokens if isinstance(output, Committed) else 0

        users = [asyncio.create_task(use(user)) for user in range(USERS_A_REPLICA * num_targets)]
        try:
            await asyncio.sleep(warm_up_s)
            before, began = num_tokens, asyncio.get_running_loop().time()
            await asyncio.wait(
                users, timeout=window_s, return_when=asyncio.FIRST_COMPLETED
            )  # none ends but by an error
            made, took_s = num_tokens - before, asyncio.get_running_loop().time() - began
        finally:
            for each in users:
                each.cancel()
            ends = await asyncio.gather(*users, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end
    return made / took_s


def measure(
    num_targets: int, options: SpeculationOptions, alone: float | None, *, real_time: bool = False
) -> dict[str, Any]:
    """A row; `alone` is the throughput of one replica."""
    began = time.process_time()
    made = (asyncio.run if real_time else run_virtually)(throughput(num_targets, options))
    cpu_share = (time.process_time() - began) / (WARM_UP_S + WINDOW_S)
    of_linear = 1.0 if alone is None else made / (alone * num_targets)
    users = USERS_A_REPLICA * num_targets
    row = {
        "mode": options.mode,
        "depth": options.max_lookahead,
        "targets": num_targets,
        "users": users,
        "tokens_per_s": round(made, 1),
    }
    return row | {"of_linear": round(of_linear, 3), "cpu_share": round(cpu_share, 3)}


def main(
    mode: Annotated[str, typer.Option(help="The requests' mode.")] = "lookahead",
    depth: Annotated[
        int | None, typer.Option(help="Look ahead so deep throughout; else the controller chooses.")
    ] = None,
    real_time: Annotated[
        bool, typer.Option(help="On the real clock, which other work on the machine disturbs.")
    ] = False,
) -> None:
    """Measure throughput by target replicas. Example: python -m deployments.bench.scaling"""
    fixed = depth is not None
    options = SpeculationOptions(mode=mode, max_lookahead=depth, controller=False if fixed else None)
    alone: float | None = None
    for num_targets in LEVELS:
        row = measure(num_targets, options, alone, real_time=real_time)
        alone = alone or row["tokens_per_s"]
        typer.echo(json.dumps(row))


if __name__ == "__main__":
    typer.run(main)
