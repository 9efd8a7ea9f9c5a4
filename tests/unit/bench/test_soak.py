"""A soak says what grows, process by process; tasks are counted over all event loops."""

from __future__ import annotations

import asyncio
import random

from deployments.bench.soak import Sample, count_tasks, describe


def samples(kib: float = 0.0, files: float = 0.0, tasks: float = 0.0, blocks: float = 0.0) -> list[Sample]:
    """Forty samples over 4000 requests, that grow by so much for each thousand, with a warm-up."""
    chance = random.Random(2)
    found = []
    for i in range(1, 41):
        thousands = i / 10
        warm_up = min(thousands, 1.0) * 50_000
        rss = 100_000 + warm_up + chance.gauss(0, 200) + kib * thousands
        num_files, num_tasks = 40 + files * thousands + chance.randint(0, 2), 12 + tasks * thousands
        num_blocks = int(500_000 + blocks * thousands)
        tasks_now = int(num_tasks) + chance.randint(0, 2)
        found.append(Sample(int(1000 * thousands), rss, int(num_files), tasks_now, num_blocks))
    return found


def test_a_warm_up_is_no_growth() -> None:
    found = describe(samples())
    assert found["grows"] == []
    assert found["num_files"][0] >= 40
    assert len(found["per_1000"]["rss_kib"]) == 3
    assert list(found["rss_mib_at"])[-1] == 4000
    assert len(found["rss_mib_at"]) == 10


def test_what_grows_is_named() -> None:
    assert describe(samples(kib=3000.0))["grows"] == ["rss_kib"]
    assert describe(samples(blocks=3000.0))["grows"] == ["num_blocks"]
    assert describe(samples(files=10.0))["grows"] == ["num_files"]
    assert describe(samples(tasks=10.0, files=10.0))["grows"] == ["num_files", "num_tasks"]


async def test_tasks_that_run_are_counted() -> None:
    before = count_tasks()
    tasks = [asyncio.create_task(asyncio.sleep(60)) for _ in range(5)]
    await asyncio.sleep(0)
    assert count_tasks() == before + 5
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert count_tasks() == before
