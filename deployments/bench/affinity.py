"""How much of what calls could reuse of each other their engines find: several real target replicas, many users.

Promises: the production coordinator over the product's links to roles on vLLM engines, each in processes of its own
with a cache of its own; what was found is the engines' own count (vLLM's cached tokens of each call), what could have
been is counted beside it (`deployments.bench.reuse`). Requests look ahead at a set depth, so that each is many calls.

Run: ``python -m deployments.bench.affinity`` (about 15 GiB and 10 minutes on two cores)
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, Any

import typer

from actors.draft import Draft
from actors.engines import create_engine
from actors.messages import Delta, Message, Prompt, StepRequest
from actors.target import TargetModel
from actors.writer import ModelWriter
from deployments.bench.problems import synthetic
from deployments.bench.reuse import Reuse
from deployments.bench.scaling import linked
from deployments.config import Config, load_profile, validate_config
from deployments.coordinator.coordinator import Coordinator
from deployments.coordinator.pipeline import Roles
from deployments.coordinator.pools import DraftPool, TargetPool
from deployments.generation import Finished, GenerationRequest, SamplingOptions, SpeculationOptions
from deployments.replicas import DRAFT_METHODS, TARGET_METHODS

BLOCK_SIZE = 32
"""The smallest that vLLM takes on CPUs."""
MAX_NUM_SEQS = 16
OPTIONS = {
    "dtype": "float32",
    "max_model_len": 1024,
    "max_num_seqs": MAX_NUM_SEQS,
    "enforce_eager": True,
    "block_size": BLOCK_SIZE,
    "enable_prefix_caching": True,
    "scheduling_policy": "priority",
}
CACHE_GIB = "1"
STEP_TOKENS = 24
WAIT_S = 120.0


class Watched(ModelWriter):
    """A writer whose calls `reuse` sees."""

    reuse: Reuse

    async def _deltas(
        self, request: StepRequest, max_tokens: int, max_steps: int | None
    ) -> AsyncGenerator[Delta, None]:
        call = self.reuse.begin(self._prefix_ids(request.prefix))
        async with aclosing(super()._deltas(request, max_tokens, max_steps)) as deltas:
            async for delta in deltas:
                call.wrote(delta.token_ids, delta.num_cached_tokens, delta.replica)
                yield delta


class WatchedTarget(Watched, TargetModel):
    """A target replica."""


class WatchedDraft(Watched, Draft):
    """A draft replica."""


def settings() -> Config:
    """How the coordinator speculates: steps that are short for what the small model writes, so that there are many."""
    data = load_profile("scripted").model_dump()
    data["speculation"]["step"] = {"boundary": "line", "max_tokens": STEP_TOKENS}
    data["speculation"]["fidelity"] = "exact"
    return validate_config(data, "affinity")


async def replicas(
    model: str, num: int, served: type[Watched], reuse: Reuse, first_core: int, ending: AsyncExitStack
) -> list[Watched]:
    """So many replicas of `model`, whose engines end with `ending`; they take the machine's cores in turn."""
    found: list[Watched] = []
    for number in range(num):
        core = str((first_core + number) % (os.cpu_count() or 1))
        name = f"{served.__name__.removeprefix('Watched').lower()}-{number}"
        writer = served(await create_engine("vllm", model, OPTIONS, core, name))
        ending.push_async_callback(writer.shutdown)
        writer.reuse = reuse
        found.append(writer)
    return found


async def use(coordinator: Coordinator, user: int, num_requests: int, tokens: int, depth: int) -> list[Finished]:
    """A user's requests, one after the other; how they ended. Every other user samples: target and draft then hardly
    ever write the same, and what was drafted behind is thrown away."""
    problems = synthetic(num_requests, seed=user)
    ends: list[Finished] = []
    for number, problem in enumerate(problems):
        prompt = Prompt(messages=(Message("user", f"{problem.question} Think step by step, a line for each step."),))
        options = SpeculationOptions(mode="lookahead", max_lookahead=depth, controller=False)
        request = GenerationRequest(
            f"user-{user}-{number}",
            prompt,
            SamplingOptions(temperature=float(user % 2)),
            max_tokens=tokens,
            speculation=options,
        )
        async for output in coordinator.generate(request):
            if isinstance(output, Finished):
                ends.append(output)
    return ends


async def measure(
    model: str, draft_model: str, num_targets: int, num_users: int, num_requests: int, tokens: int, depth: int
) -> dict[str, Any]:
    """The figures of a run."""
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = CACHE_GIB
    target_reuse, draft_reuse = Reuse(BLOCK_SIZE), Reuse(BLOCK_SIZE)
    async with AsyncExitStack() as ending:
        targets = await replicas(model, num_targets, WatchedTarget, target_reuse, 0, ending)
        drafts = await replicas(draft_model, 1, WatchedDraft, draft_reuse, 1, ending)
        capacity = MAX_NUM_SEQS
        target = await ending.enter_async_context(linked("target", targets, TARGET_METHODS, capacity))
        draft = await ending.enter_async_context(linked("draft", drafts, DRAFT_METHODS, capacity))
        coordinator = Coordinator(settings(), Roles(TargetPool(target, WAIT_S), DraftPool(draft, WAIT_S)))
        began = time.monotonic()
        users = (use(coordinator, user, num_requests, tokens, depth) for user in range(num_users))
        ends = [end for user in await asyncio.gather(*users) for end in user]
        took_s = time.monotonic() - began
    steps = sum(end.summary.num_steps for end in ends)
    return {
        "target_replicas": num_targets,
        "users": num_users,
        "requests": len(ends),
        "took_s": round(took_s, 1),
        "steps_a_request": round(steps / len(ends), 1),
        "accepted_steps": sum(end.summary.num_accepted_steps for end in ends),
        "recovered_steps": sum(end.summary.num_recovered_steps for end in ends),
        "degraded": dict(Counter(reason for end in ends for reason in end.summary.degraded)),
        "calls_by_replica": dict(sorted(Counter(call.replica for call in target_reuse.calls if call.replica).items())),
        "target": target_reuse.figures(),
        "draft": draft_reuse.figures(),
    }


def main(
    model: Annotated[str, typer.Option(help="The targets' model.")] = "package:smollm2-135m-instruct",
    draft_model: Annotated[str, typer.Option(help="The draft's.")] = "package:smollm2-135m-instruct",
    targets: Annotated[int, typer.Option(help="Target replicas.")] = 4,
    users: Annotated[int, typer.Option(help="Users, who ask one request after another.")] = 32,
    requests: Annotated[int, typer.Option(help="Requests of each user.")] = 2,
    tokens: Annotated[int, typer.Option(help="The most tokens of an answer.")] = 200,
    depth: Annotated[int, typer.Option(help="Steps to look ahead.")] = 3,
) -> None:
    """Measure what calls find of what they could reuse. Example: python -m deployments.bench.affinity --targets 2"""
    typer.echo(json.dumps(asyncio.run(measure(model, draft_model, targets, users, requests, tokens, depth)), indent=2))


if __name__ == "__main__":
    typer.run(main)
