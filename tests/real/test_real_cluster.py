"""The whole road with nothing fake on it: vLLM engines in Serve replicas, a real draft, target, judge and embedding.

Small models and float32, so that greedy decoding is reproducible and the suite stays short.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import httpx
import pytest
from openai import OpenAI

from deployments.chaos.replicas import replicas_now
from deployments.config import load_profile, validate_config
from deployments.server.launch import running

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

QUESTION = "List three reasons to take a walk, one short paragraph each, with a blank line between them."


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    data = load_profile("local").model_dump()
    for role in ("target", "draft"):
        data[role]["model"] = "package:smollm2-135m-instruct"
        data[role]["engine"]["options"] |= {"dtype": "float32", "max_model_len": 1024}
        data[role]["placement"]["env"] = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    data["gateway"]["port"] = 0
    data["speculation"]["verdict_timeout_s"] = data["speculation"]["silence"]["verdict_min_s"] = 30.0
    data["speculation"]["step"]["max_tokens"] = 16  # many steps in a short answer, most of them cut in mid-sentence
    with running(validate_config(data, "test")) as base:
        yield base
    assert engine_processes() == [], "engines outlive the cluster"


def engine_processes() -> list[str]:
    """Engine processes whose ancestors have gone or are this test's: tests that run beside it have engines of their
    own. One that has ended and waits for its parent, a replica on its way out, to take note of it (a zombie) is none.
    """
    deadline = time.monotonic() + 15
    while True:
        listing = subprocess.run(["ps", "-eo", "pid,ppid,stat,args"], capture_output=True, text=True, check=True).stdout
        processes = {int(pid): (int(ppid), words) for pid, ppid, words in map(split_line, listing.splitlines()[1:])}
        found = [
            words
            for pid, (_, words) in processes.items()
            if "VLLM::" in words and not words.startswith("Z") and not is_of_others(pid, processes)
        ]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def split_line(line: str) -> tuple[str, str, str]:
    pid, ppid, words = line.split(None, 2)
    return pid, ppid, words


def is_of_others(pid: int, processes: dict[int, tuple[int, str]]) -> bool:
    """Whether a run of pytest that is not this one is among the ancestors of `pid`."""
    while pid in processes and pid not in (os.getpid(), os.getppid()):
        pid, words = processes[pid]
        if "[pytest-xdist" in words or "-m pytest" in words:
            return True
    return False


def ask(url: str, request_id: str, max_tokens: int = 120, temperature: float = 0.0, **speculation: Any) -> Any:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        return client.chat.completions.create(
            model="lookahead-local",
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=max_tokens,
            temperature=temperature,
            extra_body={"speculation": {"controller": False} | speculation},
            extra_headers={"x-request-id": request_id},
        )


def trace(url: str, request_id: str) -> Any:
    return httpx.get(f"{url}/v1/traces/{request_id}").json()


def test_exact_over_hints_says_what_the_target_says(url: str) -> None:
    alone = ask(url, "alone", mode="target", token_speculation="none")
    guided = ask(url, "guided", mode="lookahead", fidelity="exact")
    assert guided.choices[0].message.content == alone.choices[0].message.content
    assert guided.usage.completion_tokens == alone.usage.completion_tokens
    summary = guided.model_extra["speculation"]
    assert summary["degraded"] == []
    assert summary["num_recovered_steps"] == 0, "draft and target are one model: no chunk is wrong, at most late"
    (stream,) = [s for s in trace(url, "guided")["spans"] if s["kind"] == "answer"]
    assert stream["num_tokens"] == guided.usage.completion_tokens, "the target was never interrupted"


@pytest.mark.parametrize("mode", ["lookahead", "lookahead_sync"])
def test_lookahead_with_exact_says_what_the_target_says(url: str, mode: str) -> None:
    """Draft and target are equally fast here, so only rounds make sure that draft steps are there in time."""
    alone = ask(url, "alone", mode="target", token_speculation="none")
    ahead = ask(url, mode, mode=mode, fidelity="exact", token_speculation="ngram")
    assert ahead.choices[0].message.content == alone.choices[0].message.content
    assert ahead.usage.completion_tokens == alone.usage.completion_tokens
    summary = ahead.model_extra["speculation"]
    assert summary["degraded"] == []
    assert summary["num_recovered_steps"] == 0, "draft and target are one model: no step is wrong, at most late"
    spans = [s for s in trace(url, mode)["spans"] if s["kind"] == "target"]
    assert any(span["num_cached_tokens"] > 0 for span in spans), "consecutive steps find the prefix cache"
    if mode == "lookahead_sync":
        assert summary["num_accepted_steps"] > 0, "draft and target are one model: steps must agree"
        both = combinations(spans, 2)
        assert any(a["start_s"] < b["end_s"] and b["start_s"] < a["end_s"] for a, b in both), "target steps overlap"


@pytest.mark.parametrize("verifier", ["balanced", "judge"])
def test_real_verifiers_answer(url: str, verifier: str) -> None:
    """Sampled, so that the two models differ and somebody has to judge; in rounds, so that they come in time.

    An answer may end within its first step (one of five does): nothing is judged there, and it is asked once more.
    """
    sampled = {"max_tokens": 100, "temperature": 0.8}
    for request_id in (f"verify-{verifier}-{attempt}" for attempt in range(6)):
        answer = ask(url, request_id, **sampled, mode="lookahead_sync", verifier=verifier)
        assert answer.choices[0].message.content
        assert answer.model_extra["speculation"]["degraded"] == []
        verdicts = [s for s in trace(url, request_id)["spans"] if s["kind"] == "verdict" and s["detail"]]
        if verdicts:
            break
    assert verdicts
    assert all("reason" in s["detail"] for s in verdicts)


def test_an_engine_that_dies_in_its_living_replica_costs_a_pause_and_no_word(url: str) -> None:
    """Serve's health check would take half a minute to notice; until then each call would fail at once."""
    alone = ask(url, "whole", mode="target", token_speculation="none")
    text, victim = "", 0
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        stream = client.chat.completions.create(
            model="lookahead-local",
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=120,
            temperature=0.0,
            stream=True,
            extra_body={"speculation": {"mode": "target", "token_speculation": "none"}},
        )
        for chunk in stream:
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            if text and not victim:
                victim = engine_core("target")
                os.kill(victim, signal.SIGKILL)
    assert victim
    assert text == alone.choices[0].message.content
    assert engine_core("target") != victim
    assert httpx.get(f"{url}/ready").status_code == 200


def engine_core(role: str) -> int:
    """The process of vLLM's engine core in the replica of `role`."""
    [replica] = [each for each in replicas_now() if each.role == role]
    listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    processes = [line.split(None, 2) for line in listing.splitlines()[1:]]
    [core] = [int(pid) for pid, ppid, words in processes if int(ppid) == replica.pid and "EngineCore" in words]
    return core
