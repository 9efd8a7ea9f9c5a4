"""Equal requests are judged once: what is remembered, what is shared while it runs, and who may cancel what."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from actors.errors import RoleUnavailable
from actors.messages import MERGED_TOKENS, Ending, Piece, Prefix
from actors.verifier import StepVerifier, request_key
from actors.verifiers.check import Decision, Opinion


class CountingCheck:
    """Has one opinion; counts its calls."""

    reads_context = False

    def __init__(self, name: str, decision: Decision, score: float | None = None) -> None:
        self.name = name
        self.opinion = Opinion(decision, f"{name} says {decision}", score)
        self.num_calls = 0

    async def check(self, request):
        self.num_calls += 1
        return self.opinion


class SlowCheck:
    """Accepts when it is let go; counts what it began, and what was cancelled or came to its end."""

    name = "slow"

    def __init__(self, reads_context: bool = False) -> None:
        self.reads_context = reads_context
        self.go = asyncio.Event()
        self.num_begun = self.num_ended = self.num_cancelled = 0
        self.error: Exception | None = None

    async def check(self, request):
        self.num_begun += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        self.num_ended += 1
        if self.error is not None:
            raise self.error
        return Opinion(Decision.ACCEPT, "slow and sure", 0.9, 0.97)


async def begun(check: SlowCheck, *awaited, num: int = 1) -> list[asyncio.Task]:
    """Tasks for `awaited`, once `check` was begun `num` times in all and nobody has anything left to do but wait."""
    tasks = [asyncio.create_task(one) for one in awaited]
    for _ in range(20):
        await asyncio.sleep(0)
    assert check.num_begun == num
    return tasks


async def test_an_equal_pair_is_judged_once_and_the_verdict_says_so(make_request):
    check = CountingCheck("one", Decision.ACCEPT, 0.9)
    verifier = StepVerifier({"v": [check]})
    first = await verifier.judge(make_request("a", "b", verifier="v"))
    again = await verifier.judge(replace(make_request("a", "b", verifier="v", question="Other?"), session_id="other"))
    assert check.num_calls == 1
    assert (first.is_cached, again.is_cached) == (False, True)
    assert again.reason == f"{first.reason} (judged before)"
    assert (again.accepted, again.verifier, again.score) == (first.accepted, first.verifier, first.score)
    assert 0 < again.latency_s < 1


@pytest.mark.parametrize("reads_context", [False, True])
async def test_what_a_cascade_reads_decides_which_requests_are_equal(make_request, reads_context):
    check = SlowCheck(reads_context)
    check.go.set()
    verifier = StepVerifier({"v": [CountingCheck("first", Decision.UNSURE), check], "w": [check]})
    request = make_request("a", "b", verifier="v")
    same = [request, replace(request, session_id="other"), replace(request, draft=replace(request.draft, elapsed_s=9))]
    other_context = [
        replace(request, question="Other?"),
        replace(request, context="Other."),
        replace(request, prefix=Prefix((5,))),
        replace(request, prefix=Prefix((5,), cache_salt="mine")),
        replace(request, prefix=Prefix((5,), (Piece("a", (6, 7), "v"),))),
        replace(request, prefix=Prefix((5,), (Piece("a", (6,), "v"), Piece("", (7,), "v")))),
        replace(request, prefix=Prefix((5,), (Piece("a", (6, 8), "v"),))),
        replace(request, prefix=Prefix((5,), (Piece("b", (6, 7), "v"),))),
        replace(request, prefix=Prefix((5,), (Piece("a", (6, 7), "w"),))),
        replace(request, vocabulary="other"),
        replace(request, draft=replace(request.draft, token_ids=(9,))),
    ]
    other_steps = [
        replace(request, verifier="w"),
        replace(request, target=None),
        replace(request, draft=replace(request.draft, text="a ")),
        replace(request, draft=request.target, target=request.draft),
        replace(request, target=replace(request.target, ending=Ending.END)),
    ]
    for one in same + other_context + other_steps:
        await verifier.judge(one)
    assert check.num_begun == 1 + len(other_steps) + (len(other_context) if reads_context else 0)


def test_a_long_text_is_known_again_in_less_time_than_it_takes_to_write_it_down(make_request):
    """It is looked up for every verdict, on the loop that all verdicts of the replica go through."""
    pieces = [Piece("word " * MERGED_TOKENS, tuple(range(n, n + MERGED_TOKENS)), "v") for n in range(100_000, 100_030)]
    request = replace(make_request("a", "b"), prefix=Prefix(tuple(range(2000)), tuple(pieces)))

    def best_s(work):
        times = []
        for _ in range(7):
            begun = time.perf_counter()
            work()
            times.append(time.perf_counter() - begun)
        return min(times)

    assert best_s(lambda: request_key(request, with_context=True)) < 0.7 * best_s(lambda: repr(request).encode())


async def test_only_so_many_verdicts_are_remembered(make_request):
    check = CountingCheck("one", Decision.ACCEPT)
    verifier = StepVerifier({"v": [check]}, num_remembered=2)
    a, b, c = (make_request(text, "t", verifier="v") for text in "abc")
    for request in (a, b, a, c, a, b):  # c drives out b, which was asked for longer ago than a
        await verifier.judge(request)
    assert check.num_calls == 4


async def test_a_failure_is_not_remembered(make_request):
    check = SlowCheck()
    check.go.set()
    check.error = RoleUnavailable("away")
    verifier = StepVerifier({"v": [check]})
    request = make_request("a", "b", verifier="v")
    assert not (await verifier.judge(request)).accepted
    check.error = None
    verdict = await verifier.judge(request)
    assert verdict.accepted
    assert not verdict.is_cached
    assert verdict.probability == 0.97


async def test_equal_requests_at_once_share_one_judgement(make_request):
    check = SlowCheck()
    verifier = StepVerifier({"v": [check]})
    request = make_request("a", "b", verifier="v")
    tasks = await begun(check, *(verifier.judge(request) for _ in range(3)))
    check.go.set()
    verdicts = await asyncio.gather(*tasks)
    assert (check.num_begun, check.num_ended) == (1, 1)
    assert [verdict.accepted for verdict in verdicts] == [True] * 3
    assert [verdict.is_cached for verdict in verdicts] == [False, True, True]


@pytest.mark.parametrize("leaves", [0, 1])
async def test_a_cancelled_caller_takes_the_verdict_from_no_other(make_request, leaves):
    check = SlowCheck()
    verifier = StepVerifier({"v": [check]})
    request = make_request("a", "b", verifier="v")
    tasks = await begun(check, verifier.judge(request), verifier.judge(request))
    tasks.pop(leaves).cancel()
    await asyncio.sleep(0)
    check.go.set()
    assert (await tasks[0]).accepted
    assert (check.num_begun, check.num_ended, check.num_cancelled) == (1, 1, 0)


async def test_the_last_caller_that_leaves_ends_the_work(make_request):
    check = SlowCheck()
    verifier = StepVerifier({"v": [check]})
    request = make_request("a", "b", verifier="v")
    tasks = await begun(check, verifier.judge(request), verifier.judge(request))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.cancelled() for task in tasks)
    assert (check.num_begun, check.num_ended, check.num_cancelled) == (1, 0, 1)
    [anew] = await begun(check, verifier.judge(request), num=2)
    check.go.set()
    assert (await anew).accepted
