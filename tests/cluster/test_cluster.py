"""The whole road over real Ray processes, with scripted engines: the promises, once each."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
import ray
from ray import serve

from actors.engines.scripted import ScriptOptions, detokenize, prompt_ids, tokenize
from actors.messages import Message, Prompt, StepRule
from tests.cluster.conftest import Served
from tests.unit.coordinator.world import write

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

MODEL = "lookahead-scripted"
FROZEN_S = 4.0
"""Shorter than Serve takes to find a replica unhealthy, longer than what is left of the text."""


def truth(question: str, served: Served) -> str:
    """What the target alone says to `question`."""
    options = ScriptOptions(**served.config.target.engine.options)
    prompt = prompt_ids(Prompt(messages=(Message("user", question),)))
    return detokenize(tuple(i for d in write(options, prompt, 10_000, StepRule(), None) for i in d.token_ids))


def ask(served: Served, question: str, request_id: str | None = None, **options: Any) -> Any:
    headers = {"x-request-id": request_id} if request_id else {}
    return served.openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        extra_body={"speculation": {"controller": False} | options.pop("speculation", {})},
        extra_headers=headers | options.pop("headers", {}),
        **options,
    )


def text_of(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


@pytest.mark.parametrize("mode", ["target", "lookahead"])
def test_the_text_is_the_targets_streamed_and_whole(served: Served, mode: str) -> None:
    question = f"How many in {mode}?"
    options = {"speculation": {"mode": mode, "fidelity": "exact"}}
    whole = ask(served, question, **options)
    assert whole.choices[0].message.content == truth(question, served)
    assert whole.choices[0].finish_reason == "stop"
    assert text_of(ask(served, question, stream=True, **options)) == truth(question, served)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


def test_reject_all_is_the_target_and_accept_all_is_the_draft(served: Served) -> None:
    question = "Whose words are these?"
    rejecting = ask(served, question, speculation={"verifier": "never"})
    assert rejecting.choices[0].message.content == truth(question, served)
    accepting = ask(served, question, speculation={"verifier": "always"})
    summary = accepting.model_extra["speculation"]
    assert summary["num_recovered_steps"] == 0
    assert summary["num_accepted_steps"] > 0
    details = accepting.usage.completion_tokens_details
    assert details.accepted_prediction_tokens > 0


def test_decisions_are_in_the_trace_with_their_reasons(served: Served) -> None:
    """What they are depends on time; `tests/unit/coordinator/test_controlled.py` has that on a virtual clock."""
    ask(served, "Who decides?", request_id="controlled", speculation={"controller": True, "max_lookahead": 2})
    decisions: Any = served.trace("controlled")["decisions"]
    assert decisions
    assert all(decision["depth"] <= 2 and decision["reason"] for decision in decisions)
    ask(served, "Who decides?", request_id="fixed", speculation={"controller": False})
    assert served.trace("fixed")["decisions"] == []


def test_lookahead_is_faster_and_the_trace_shows_why(served: Served) -> None:
    question = "Is it faster?"
    start = time.perf_counter()
    ask(served, question, speculation={"mode": "target"})
    alone = time.perf_counter() - start
    start = time.perf_counter()
    answer = ask(served, question, "trace-me", speculation={"mode": "lookahead"})
    assert time.perf_counter() - start < alone
    trace = served.trace("trace-me")
    spans: Any = trace["spans"]
    targets = [s for s in spans if s["kind"] == "target"]
    assert any(a["start_s"] < b["start_s"] < a["end_s"] for a in targets for b in targets), "no two targets overlap"
    assert {s["replica"] for s in targets if s["replica"]} != set()
    assert trace["summary"]["num_steps"] == answer.model_extra["speculation"]["num_steps"]  # type: ignore[index]


def test_one_request_stays_on_one_replica_of_each_role(served: Served) -> None:
    seen: set[str] = set()
    for number in range(8):
        ask(served, f"Where am I? {number}", f"stay-{number}")
        spans: Any = served.trace(f"stay-{number}")["spans"]
        replicas = {s["replica"] for s in spans if s["kind"] == "target" and s["replica"]}
        assert len(replicas) == 1
        seen |= replicas
    assert len(seen) == 2, "both replicas get work"


def replicas(role: str = "") -> list[Any]:
    """The living replica actors of `role`, or of all roles."""
    names = [entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True)]
    return [ray.get_actor(n, namespace="serve") for n in names if n.startswith(f"SERVE_REPLICA::lookahead#{role}")]


def test_roles_are_separate_processes(served: Served) -> None:
    details = serve.status().applications["lookahead"].deployments
    assert set(details) == {"gateway", "coordinator", "target", "draft", "verifier"}
    pids = [ray.get(replica.__ray_call__.remote(lambda _: os.getpid())) for replica in replicas()]
    assert len(pids) == 7
    assert len(set(pids)) == 7


def test_many_at_once_all_get_their_own_words(served: Served) -> None:
    def one(number: int) -> bool:
        question = f"Who am I? {number}"
        stream = ask(served, question, stream=True, speculation={"fidelity": "exact"})
        return text_of(stream) == truth(question, served)

    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(one, range(24)))


async def wait_for_idle(served: Served) -> None:
    """Until no engine generates and no request is in flight; fails after 10 s."""
    handles = [serve.get_deployment_handle(name, "lookahead") for name in ("target", "draft")]
    deadline = time.monotonic() + 10
    while True:
        running = [sum(await handle.broadcast("num_running").results_async()) for handle in handles]
        if sum(running) == 0 and served.metric("lookahead_requests_in_flight") == 0:
            return
        assert time.monotonic() < deadline, f"still generating: {running}"
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("mode", ["target", "lookahead"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_ends_the_work(served: Served, mode: str, stream: bool) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Leave {mode} {stream}"}],
        "stream": stream,
        "speculation": {"mode": mode},
    }

    async def read() -> None:
        async with asyncio.timeout(0.6), httpx.AsyncClient() as client:
            await client.post(f"{served.url}/v1/chat/completions", json=body)

    with pytest.raises(TimeoutError):
        await read()
    await wait_for_idle(served)


def kill_one(role: str) -> None:
    """SIGKILL to a replica of `role`."""
    ray.kill(replicas(role)[0], no_restart=True)


def wait_until_healthy(served: Served) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if httpx.get(f"{served.url}/ready", timeout=30).status_code == 200:
            return
        time.sleep(0.2)
    raise AssertionError("not ready again within 60 s")


@pytest.mark.parametrize("role", ["draft", "verifier", "target"])
@pytest.mark.parametrize("mode", ["target", "lookahead"])
def test_a_killed_replica_costs_a_pause_and_no_word(served: Served, role: str, mode: str) -> None:
    wait_until_healthy(served)
    question = f"What if the {role} dies in {mode}?"
    stream = ask(served, question, stream=True, speculation={"mode": mode, "fidelity": "exact"})
    text, killed = "", False
    for chunk in stream:
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        if text and not killed:
            kill_one(role)
            killed = True
    assert killed
    assert text == truth(question, served)
    wait_until_healthy(served)


def pid_of(replica: Any) -> int:
    pid: int = ray.get(replica.__ray_call__.remote(lambda _: os.getpid()))
    return pid


def test_a_killed_coordinator_costs_a_pause_and_no_word(served: Served) -> None:
    """Eight streams over two coordinators, one of which is killed when all of them have begun to speak."""
    wait_until_healthy(served)
    speaking = threading.Barrier(9)
    victim = pid_of(replicas("coordinator")[0])

    def one(number: int) -> tuple[str, str, list[str], int]:
        question, mode = f"What if my coordinator dies? {number}", ["target", "lookahead"][number % 2]
        speculation, text, degraded, num_tokens = {"mode": mode, "fidelity": "exact"}, "", [], 0
        options = {"stream_options": {"include_usage": True}, "speculation": speculation}
        for chunk in ask(served, question, stream=True, **options):
            said = (chunk.choices[0].delta.content or "") if chunk.choices else ""
            if said and not text:
                speaking.wait(60)
            text += said
            if chunk.usage is not None:
                degraded, num_tokens = chunk.model_extra["speculation"]["degraded"], chunk.usage.completion_tokens
        return question, text, degraded, num_tokens

    with ThreadPoolExecutor(8) as pool:
        streams = [pool.submit(one, number) for number in range(8)]
        speaking.wait(60)
        os.kill(victim, signal.SIGKILL)
        ends = [stream.result() for stream in streams]
    for question, text, _, _ in ends:
        assert text == truth(question, served)
    assert any("coordinator_resumed" in degraded for _, _, degraded, _ in ends), "nobody was on the one that died"
    for question, _, degraded, num_tokens in ends:
        usage = ask(served, question, speculation={"mode": "target"}).usage
        assert num_tokens == usage.completion_tokens, degraded
    wait_until_healthy(served)


def leave(
    served: Served, question: str, request_id: str, mode: str, meanwhile: Callable[[], None] = lambda: None
) -> tuple[str, str]:
    """Ask for a resumable stream and go after 40 characters: what came, and the id of its last event. `meanwhile` is
    called before the client goes."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "stream": True,
        "speculation": {"mode": mode, "fidelity": "exact"},
    }
    headers = {"x-resumable": "true", "x-request-id": request_id}
    text, last_id = "", ""
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body, headers=headers) as first:
        for line in first.iter_lines():
            if line.startswith("id: "):
                last_id = line.removeprefix("id: ")
            elif line.startswith("data: "):
                text += json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content") or ""
                if len(text) > 40:
                    meanwhile()
                    break
    return text, last_id


def come_back(served: Served, last_id: str) -> list[str]:
    """The rest, piece by piece."""
    url = f"{served.url}/v1/streams/{last_id.split('/')[0]}"
    answer = httpx.get(url, headers={"Last-Event-ID": last_id}, timeout=60)
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1:] == ["[DONE]"], answer.text
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines[:-1]]
    return [delta["content"] for delta in deltas if delta.get("content")]


@pytest.mark.parametrize("mode", ["target", "lookahead"])
def test_a_client_comes_back_for_the_rest(served: Served, mode: str) -> None:
    question = f"Where was I, in {mode}?"
    text, last_id = leave(served, question, f"lost-{mode}", mode)
    time.sleep(0.5)  # written on meanwhile
    rest = come_back(served, last_id)
    assert text + "".join(rest) == truth(question, served)
    assert len(rest[0]) > 20, "what was written meanwhile comes at once"


def test_clients_and_a_coordinator_may_be_lost_together(served: Served) -> None:
    wait_until_healthy(served)
    victim = pid_of(replicas("coordinator")[0])
    questions = [f"Where were we? {number}" for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        left = list(pool.map(lambda q: leave(served, q, f"both-{q[-1]}", "target"), questions))
        os.kill(victim, signal.SIGKILL)
        time.sleep(1.0)
        rests = list(pool.map(lambda one: come_back(served, one[1]), left))
    for question, (text, _), rest in zip(questions, left, rests, strict=True):
        assert text + "".join(rest) == truth(question, served)
    wait_until_healthy(served)


def test_a_killed_gateway_loses_no_stream_that_can_be_fetched(served: Served) -> None:
    """There is one gateway: the stream waits at its coordinator until Serve has started another."""
    wait_until_healthy(served)
    victim = pid_of(replicas("gateway")[0])
    question = "What if my gateway dies?"
    text, last_id = leave(served, question, "lost-gateway", "lookahead", lambda: os.kill(victim, signal.SIGKILL))
    wait_until_healthy(served)
    assert text + "".join(come_back(served, last_id)) == truth(question, served)


def test_a_frozen_gateway_costs_a_pause_and_no_word(served: Served) -> None:
    wait_until_healthy(served)
    victim = pid_of(replicas("gateway")[0])
    question = "What if my gateway is frozen?"
    stream = ask(served, question, stream=True, speculation={"mode": "target"})
    text = next(said for chunk in stream if (said := chunk.choices[0].delta.content))
    os.kill(victim, signal.SIGSTOP)
    threading.Timer(FROZEN_S, os.kill, (victim, signal.SIGCONT)).start()
    assert text + text_of(stream) == truth(question, served)


def test_steps_end_where_the_request_wants_them_to(served: Served) -> None:
    question = "Where does it end?"
    for mode in ("target", "lookahead"):
        answer = ask(served, question, speculation={"mode": mode, "boundary": "sentence", "fidelity": "exact"})
        assert answer.choices[0].message.content == truth(question, served)
        ends = truth(question, served).count(".")
        assert answer.model_extra["speculation"]["num_steps"] >= ends
        assert mode == "lookahead" or answer.model_extra["speculation"]["num_steps"] == ends


def test_versions_of_a_step_change_no_word_and_are_counted(served: Served) -> None:
    question = "Which of them is it?"
    answer = ask(served, question, "branches", speculation={"branches": 3, "fidelity": "exact"})
    assert answer.choices[0].message.content == truth(question, served)
    summary = answer.model_extra["speculation"]
    trace: Any = served.trace("branches")
    assert trace["summary"]["num_branch_steps"] == summary["num_branch_steps"]
    drafts = [s for s in trace["spans"] if s["kind"] == "draft" and "beside" in s["detail"]]
    assert len(drafts) == summary["num_branch_steps"]
    with pytest.raises(openai.BadRequestError, match="mode 'lookahead'"):
        ask(served, question, speculation={"mode": "lookahead_sync", "branches": 2})


def test_no_header_of_a_client_cuts_a_stream(served: Served) -> None:
    question = "How long may it take?"
    hasty = {"x-request-timeout-seconds": "0.2"}
    stream = ask(served, question, stream=True, speculation={"mode": "target"}, headers=hasty)
    assert text_of(stream) == truth(question, served)


def test_errors_are_openais(served: Served) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        served.openai.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "x"}])
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="wings"):
        ask(served, "x", speculation={"wings": 2})
    with pytest.raises(openai.BadRequestError, match="context"):
        ask(served, "x", max_tokens=10**6)
    assert httpx.get(f"{served.url}/nowhere").json()["error"]["type"] == "invalid_request_error"


def test_metrics_count_what_happened(served: Served) -> None:
    before = served.metric("lookahead_num_draft_steps_total")
    answer = ask(served, "Count me.", speculation={"mode": "lookahead"})
    after = served.metric("lookahead_num_draft_steps_total")
    assert after - before == answer.model_extra["speculation"]["num_draft_steps"] > 0
    text = httpx.get(f"{served.url}/metrics").text
    for name in (
        "lookahead_num_accepted_steps_total",
        "lookahead_num_recovered_steps_total",
        "lookahead_num_accepted_steps_per_pos_total",
        "lookahead_step_seconds_bucket",
        "lookahead_verdict_seconds_bucket",
        "lookahead_lookahead_depth",
        "lookahead_requests_in_flight",
        "lookahead_time_to_first_step_seconds_bucket",
        "lookahead_request_seconds_bucket",
        "lookahead_cancelled_steps_total",
        "lookahead_wasted_tokens_total",
    ):
        assert f"\n{name}" in text, name
    for role in ("target", "draft"):
        assert re.search(rf'^lookahead_token_num_draft_tokens_total{{replica="\w+",role="{role}"}}', text, re.M), role


def test_completions_and_n(served: Served) -> None:
    answer = served.openai.completions.create(model=MODEL, prompt="Once upon", max_tokens=5, n=2, temperature=0)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 10
    for mode in ("target", "lookahead"):
        wishes = {"speculation": {"mode": mode, "verifier": "never"}}
        texts = {
            served.openai.completions.create(model=MODEL, prompt=prompt, max_tokens=40, extra_body=wishes)
            .choices[0]
            .text
            for prompt in ("Go on", list(tokenize("Go on")))
        }
        assert len(texts) == 1, "token ids stand for their text"
