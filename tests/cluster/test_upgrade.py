"""A deployment that changes while people read: nothing is cut, and what can change in place does."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from openai import OpenAI
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import LoggingConfig, ServeDeploySchema

from deployments.app import compose
from deployments.config import Config, validate_config
from tests.cluster.conftest import Served, scripted
from tests.cluster.test_cluster import ask, text_of, truth

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

EXACT = {"mode": "lookahead", "fidelity": "exact"}
NUM_ASKED = 6
"""Requests at once, so that each coordinator gets some."""


def deploy(config: Config, user_config: dict[str, Any] | None = None, waits: bool = True) -> None:
    """As `serve deploy` does; with `waits` until it is there and nothing of before is."""
    coordinator = {"name": "coordinator", **({} if user_config is None else {"user_config": user_config})}
    application = {
        "name": "lookahead",
        "route_prefix": "/",
        "import_path": "deployments.app:build",
        "args": {"settings": config.model_dump(mode="json")},
        "deployments": [coordinator],
        "logging_config": {"enable_access_log": False, "log_level": "ERROR"},
    }
    client = _get_global_client()
    assert client is not None
    client.deploy_apps(ServeDeploySchema.model_validate({"applications": [application]}), _blocking=waits)


def replicas(role: str, application: str = "lookahead") -> set[str]:
    """The replicas of `role` that there are, those that still finish their calls too."""
    names = {entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True)}
    return {name for name in names if name.startswith(f"SERVE_REPLICA::{application}#{role}#")}


@contextmanager
def readers(served: Served, num: int) -> Iterator[list[tuple[str, str]]]:
    """So many clients that read one stream after another; what they asked and what they read."""
    read: list[tuple[str, str]] = []
    done = threading.Event()

    def go_on(client: int) -> None:
        number = 0
        while not done.is_set():
            question = f"How many are there of {client}, {number}?"
            read.append((question, text_of(ask(served, question, stream=True, speculation=EXACT))))
            number += 1

    with ThreadPoolExecutor(num) as pool:
        reading = [pool.submit(go_on, client) for client in range(num)]
        try:
            yield read
        finally:
            done.set()
        for one in reading:
            one.result()  # raises what a client saw


def logged(level: str, words: str) -> list[str]:
    """The lines with these words that our processes have written to their standard error."""
    session = ray.get_runtime_context()
    files = Path(session.get_temp_dir(), session.get_session_name(), "logs").glob("worker-*.err")
    lines = [line for file in files for line in file.read_text(errors="replace").splitlines()]
    return [line for line in lines if re.match(rf"\d{{4}}-\S+ \S+ {level} [\w.]+: {words}", line)]


def until(holds: Callable[[], bool], within_s: float) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end and not holds():
        time.sleep(0.2)
    return holds()


def in_force(served: Served) -> tuple[set[int], bool]:
    """Of requests that name neither depth nor fidelity: how many steps the target wrote at most beside the first one,
    and whether all the texts are its own."""

    def one(number: int) -> tuple[int, bool]:
        name, question = f"in-force-{number}-{time.monotonic_ns()}", f"Whose words are these, {number}?"
        text = ask(served, question, name).choices[0].message.content
        spans: Any = served.trace(name)["spans"]
        calls = [span for span in spans if span["kind"] == "target"]
        at_once = max(sum(a["start_s"] <= b["start_s"] < a["end_s"] for a in calls) for b in calls)
        return at_once - 1, text == truth(question, served)

    with ThreadPoolExecutor(NUM_ASKED) as pool:
        found = list(pool.map(one, range(NUM_ASKED)))
    return {depth for depth, _ in found}, all(own for _, own in found)


def test_another_target_comes_while_streams_run_and_settings_change_in_place(served: Served) -> None:
    usual = ({served.config.speculation.max_lookahead}, False)
    changed = served.config.model_dump()
    changed["target"]["engine"]["options"]["token_s"] = 0.015
    config = validate_config(changed, "changed")
    before = {role: replicas(role) for role in ("target", "coordinator", "gateway")}
    with readers(served, 3) as read:
        time.sleep(1.0)
        deploy(config)
        assert until(lambda: all(not replicas(role) & old for role, old in before.items()), 60.0)
        time.sleep(1.0)
    assert len(read) > 6
    for question, text in read:
        assert text == truth(question, served), question

    kept = replicas("coordinator") | replicas("target")
    assert in_force(served) == usual
    deploy(config, {"speculation": {"max_lookahead": 1, "fidelity": "exact"}})
    assert until(lambda: in_force(served) == ({1}, True), 15.0)
    deploy(config, {"speculation": {"max_lookahead": 0}})  # cannot be
    assert until(lambda: served.metric("lookahead_settings_refused") == 1, 15.0)
    assert until(lambda: bool(logged("ERROR", "The changed settings are refused")), 5.0)
    assert in_force(served) == ({1}, True)
    deploy(config)  # the way back
    assert until(lambda: in_force(served) == usual, 15.0)
    assert served.metric("lookahead_settings_refused") == 0
    assert replicas("coordinator") | replicas("target") == kept


def test_a_stream_that_is_being_written_is_fetched_while_all_replicas_are_replaced(served: Served) -> None:
    """Also its gateway and its coordinator are others by then, and those of before are none that Serve asks."""
    settings = served.config.model_dump()
    settings["gateway"]["resume_s"] = 15.0  # so long replicas of before stay for it
    settings["target"]["engine"]["options"]["token_s"] = 0.5  # its text takes longer than all of this
    deploy(validate_config(settings, "slow"))
    before = {role: replicas(role) for role in ("coordinator", "gateway")}
    question, url = "What is left of it?", f"{served.url}/v1/chat/completions"
    body = {"model": "lookahead-scripted", "stream": True, "temperature": 0, "speculation": {"mode": "target"}}
    body["messages"] = [{"role": "user", "content": question}]
    headers = {"x-resumable": "true", "x-request-id": "upgraded"}
    rest: list[httpx.Response] = []

    def is_fetched() -> bool:
        rest.append(httpx.get(f"{served.url}/v1/streams/upgraded", headers={"Last-Event-ID": last_id}, timeout=60.0))
        return rest[-1].status_code == 200

    with httpx.stream("POST", url, json=body, headers=headers, timeout=60.0) as response:
        lines = response.iter_lines()  # the connection lasts no longer than this
        begun, last_id = heard(itertools.islice(lines, 12))
        settings["target"]["engine"]["options"]["token_s"] = 0.015
        deploy(validate_config(settings, "fast"), waits=False)
        assert until(lambda: all(len(replicas(role) - old) == len(old) for role, old in before.items()), 60.0)
        assert until(is_fetched, 30.0), [answer.text for answer in rest]
    assert begun + heard(rest[-1].text.splitlines())[0] == truth(question, served)
    assert rest[-1].text.endswith("data: [DONE]\n\n")
    assert until(lambda: not any(replicas(role) & old for role, old in before.items()), 90.0)


def heard(lines: Iterable[str]) -> tuple[str, str]:
    """The text of the events in `lines`, and the id of the last one."""
    text = event_id = last_id = ""
    for line in lines:
        if line.startswith("id: "):
            event_id = line.removeprefix("id: ")
        elif line.startswith("data: {"):
            last_id = event_id
            choices = json.loads(line.removeprefix("data: "))["choices"]
            text += "".join(choice["delta"].get("content") or "" for choice in choices)
    return text, last_id


def test_a_stream_is_written_to_its_end_when_its_application_is_deleted(served: Served) -> None:
    """With one replica of each role, and no call to the target between two steps."""
    settings = scripted().model_dump()
    for role in ("target", "coordinator"):
        settings[role]["placement"]["num_replicas"] = 1
    settings["speculation"]["replica_timeout_s"] = 2.0  # so long a step waits for the draft, which does not stay
    config = validate_config(settings, "alone")
    quiet = LoggingConfig(enable_access_log=False, log_level="ERROR")
    serve.run(compose(config), name="alone", route_prefix="/alone", logging_config=quiet)
    url, question = f"{served.url}/alone", "Who goes last?"
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        alone = Served(url, config, client)
        wishes = {"mode": "lookahead_sync", "token_speculation": "none", "fidelity": "exact"}
        stream = ask(alone, question, stream=True, speculation=wishes)
        text = next(said for chunk in stream if chunk.choices and (said := chunk.choices[0].delta.content))
        serve.delete("alone", _blocking=False)
        assert text + text_of(stream) == truth(question, alone)
    roles = ("gateway", "coordinator", "target", "draft", "verifier")
    assert until(lambda: not any(replicas(role, "alone") for role in roles), 15.0)
