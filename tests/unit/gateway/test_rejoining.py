"""Clients that lose their connection and come back for the rest, to another gateway, over real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from actors.errors import RoleUnavailable
from deployments.config import validate_config
from deployments.coordinator.keeper import Keeper
from deployments.gateway.api import create_app
from deployments.gateway.rejoining import Manner, fetch
from deployments.gateway.stay import Stay
from deployments.gateway.unbroken import Unbroken
from deployments.generation import Channel, GenerationRequest, Keep, Output, Standing
from deployments.lingering import Lingering
from tests.unit.coordinator import bench
from tests.unit.gateway.script import (
    ScriptedBackend,
    chat,
    client_of,
    completion,
    config,
    finished,
    listening,
    shared_app,
    until,
)

RESUMABLE = {"x-resumable": "true"}
TARGET = replace(bench.TARGET, num_steps=4, words=4, token_s=0.002)
DRAFT = replace(TARGET, role="draft", token_s=0.0002)


class TwoCoordinators:
    """Two coordinators in this process: each stream goes to the one that had less until then, if it lives."""

    def __init__(self, coordinators: Sequence[bench.Coordinator]) -> None:
        self.keepers = [Keeper(each.generate, 100, 10**6) for each in coordinators]
        self.num_asked = 0
        self.homes: dict[tuple[str, float], int] = {}
        self.dead: set[int] = set()
        self.trouble: Exception | None = None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        number = self._home(request)
        async with aclosing(self.keepers[number].generate(request)) as outputs:
            async for output in outputs:
                if number in self.dead:
                    raise RoleUnavailable("The coordinator died.")
                yield output

    def _home(self, request: GenerationRequest) -> int:
        stream = request.request_id, 0.0
        if request.keep is not None:
            stream = request.keep.stream_id, request.keep.fetched_at
        if self.homes.get(stream, -1) in {-1, *self.dead}:
            self.num_asked += 1
            self.homes[stream] = next(n % 2 for n in (self.num_asked, self.num_asked + 1) if n % 2 not in self.dead)
        return self.homes[stream]

    async def hand_over(self, *asked: Any) -> Sequence[GenerationRequest | Exception]:
        if self.trouble is not None:
            return [self.trouble]
        living = [keeper for number, keeper in enumerate(self.keepers) if number not in self.dead]
        return [request for keeper in living for request in await keeper.hand_over(*asked)]


class Gate:
    """The `Backend` of one gateway over both."""

    def __init__(self, coordinators: TwoCoordinators) -> None:
        self.lingering = Lingering(Unbroken(coordinators.generate).generate, coordinators.hand_over, 100, 10**6)

    def get(self) -> Gate:
        return self

    def generate(self, request: GenerationRequest, stay: Stay | None = None) -> AsyncIterator[Output]:
        return self.lingering.generate(request, stay)

    async def hand_over(self, stream_id: str, owner: str) -> Sequence[GenerationRequest | Exception]:
        return await self.lingering.hand_over(stream_id, owner)

    async def readiness(self) -> dict[str, bool]:
        return {}

    async def trace(self, request_id: str) -> bytes | None:
        return None

    async def metrics(self) -> str:
        return ""


@dataclass
class House:
    """Two gateways over two coordinators."""

    urls: list[str]
    backend: TwoCoordinators
    gates: list[Gate]
    roles: bench.Bench
    client: httpx.AsyncClient

    def num_running(self) -> int:
        return self.roles.target_engine.num_running() + self.roles.draft_engine.num_running()


@asynccontextmanager
async def house(clock: Callable[[], float] = time.monotonic, **gateway: Any) -> AsyncIterator[House]:
    settings = bench.config().model_dump()
    roles = bench.Bench(TARGET, DRAFT)
    backend = TwoCoordinators([await roles.coordinator() for _ in range(2)])
    of = validate_config({**settings, "gateway": {**settings["gateway"], **gateway}}, "test")
    async with AsyncExitStack() as stack:
        gates = [Gate(backend) for _ in range(2)]
        apps = [create_app(of, gates[0].get, clock=clock), create_app(of, gates[1].get, clock=clock)]
        urls = [await stack.enter_async_context(listening(app)) for app in apps]
        client = await stack.enter_async_context(httpx.AsyncClient())
        try:
            yield House(urls, backend, gates, roles, client)
        finally:
            for gate in gates:
                await gate.lingering.close()
            for keeper in backend.keepers:
                await keeper.close()
            await asyncio.sleep(0)
            assert roles.target_engine.num_running() == roles.draft_engine.num_running() == 0


@dataclass
class Heard:
    """Of one connection: ids and data of its events."""

    ids: list[str]
    data: list[Any]

    def text(self, index: int = 0) -> str:
        choices = [c for event in self.data if isinstance(event, dict) for c in event.get("choices", ())]
        return "".join(c["delta"].get("content") or "" for c in choices if c["index"] == index)


async def hear(response: httpx.Response, num_events: int | None) -> Heard:
    """So many events of `response`; None: all."""
    heard, event_id = Heard([], []), ""
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            event_id = line.removeprefix("id: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
            heard.data.append(data if data == "[DONE]" else json.loads(data))
            heard.ids.append(event_id)
            if len(heard.data) == num_events:
                break
    return heard


async def ask(at: House, num_events: int | None, headers: dict[str, str] | None = None, **more: Any) -> Heard:
    body = {**chat(stream=True, stream_options={"include_usage": True}), "model": "m", "temperature": 0, **more}
    url = f"{at.urls[0]}/v1/chat/completions"
    async with at.client.stream("POST", url, json=body, headers=RESUMABLE | (headers or {})) as response:
        assert response.status_code == 200, await response.aread()
        return await hear(response, num_events)


async def come_back(
    at: House, last_id: str | None, num_events: int | None = None, gate: int = 1, **headers: str
) -> Heard:
    stream_id = "r" if last_id is None else last_id.split("/")[0]
    sent = headers if last_id is None else {"Last-Event-ID": last_id, **headers}
    async with at.client.stream("GET", f"{at.urls[gate]}/v1/streams/{stream_id}", headers=sent) as response:
        assert response.status_code == 200, await response.aread()
        return await hear(response, num_events)


@pytest.mark.parametrize("mode", ["target", "lookahead"])
async def test_a_client_gets_exactly_the_rest_from_another_gateway(mode: str) -> None:
    speculation = {"mode": mode, "verifier": "exact"}
    async with house() as at:
        whole = await ask(at, None, speculation=speculation)
        assert whole.data[-1] == "[DONE]"
        usage = whole.data[-2]["usage"]
        assert len(whole.data) > 20 or mode == "lookahead"
        for num_events in range(1, len(whole.data) - 1, 1 if mode == "lookahead" else 11):
            first = await ask(at, num_events, speculation=speculation)
            rest = await come_back(at, first.ids[-1])
            assert first.text() + rest.text() == whole.text(), num_events
            assert rest.data[-1] == "[DONE]"
            assert {k: v for k, v in rest.data[-2]["usage"].items() if k != "completion_tokens_details"} == {
                k: v for k, v in usage.items() if k != "completion_tokens_details"
            }
            assert rest.data[0]["id"] == first.data[0]["id"]
            assert rest.data[-2]["speculation"]["degraded"] == [], "no coordinator was lost"
            finishes = [c["finish_reason"] for e in [*first.data, *rest.data[:-1]] for c in e["choices"]]
            assert [reason for reason in finishes if reason] == ["stop"], "the end is told once"


async def test_a_client_may_lose_every_connection() -> None:
    async with house() as at:
        whole = (await ask(at, None, speculation={"mode": "target"})).text()
        heard = await ask(at, 2, {"x-request-id": "r"}, speculation={"mode": "target"})
        text = heard.text()
        while heard.data[-1] != "[DONE]":
            heard = await come_back(at, heard.ids[-1], 9)
            text += heard.text()
        assert text == whole
        assert (await come_back(at, None)).text() == whole, "without an id all of it is sent again"


async def test_choices_keep_their_own_places() -> None:
    async with house() as at:
        whole = await ask(at, None, n=2, speculation={"mode": "target"})
        first = await ask(at, 21, n=2, speculation={"mode": "target"})
        rest = await come_back(at, first.ids[-1])
        for index in (0, 1):
            assert first.text(index) + rest.text(index) == whole.text(index)


async def test_fetching_a_stream_ends_no_other_one() -> None:
    """The choices of ``two`` are called ``two-0`` and ``two-1``, as other streams may be, too."""
    async with house() as at:
        whole = await ask(at, None, n=2, speculation={"mode": "target"})
        at.roles.target_engine._options = replace(TARGET, token_s=0.01)  # type: ignore[attr-defined]
        names = ({"x-request-id": "two"}, 2), ({"x-request-id": "two-0"}, 1), ({"x-request-id": "other-0"}, 1)
        reading = [asyncio.create_task(ask(at, None, name, n=n, speculation={"mode": "target"})) for name, n in names]
        await until(lambda: sum(keeper.num_kept for keeper in at.backend.keepers) == 6)
        for nothing in ("two-1", "other", "two-0-0"):
            answer = await at.client.get(f"{at.urls[1]}/v1/streams/{nothing}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "stream_not_found")
        heard = await asyncio.gather(*reading)
        assert [each.text() for each in heard] == [whole.text()] * 3
        assert heard[0].text(1) == whole.text(1)
        again = await come_back(at, "two/0.0")
        assert (again.text(0), again.text(1)) == (whole.text(0), whole.text(1))


async def test_of_an_id_that_was_used_again_the_last_stream_is_fetched() -> None:
    class Backend(ScriptedBackend):
        async def hand_over(self, stream_id: str, owner: str) -> list[GenerationRequest]:
            return [was(created, text) for created, text in ((1, "all of another text"), (2, "this one"), (1, "more"))]

    def was(created: int, text: str) -> GenerationRequest:
        manner = str(Manner("r", True, created, ("r",), 1, False))
        standing = Standing(1, ((Channel.CONTENT, text),), (), len(text), None)
        return replace(bench.request(), keep=Keep(1.0, "me", manner, "r"), resume=standing)

    manner, (found,), _ = await fetch(Backend(), "r", "me")
    assert (manner.begun, found.resume and found.resume.texts[0][1]) == (2, "this one")


@pytest.mark.parametrize(("mode", "gate"), [("target", 1), ("lookahead", 0)])
async def test_coordinator_and_client_may_be_lost_together(mode: str, gate: int) -> None:
    """The gateway that the client has left goes on with another coordinator, and any gateway hands the rest over."""
    speculation = {"mode": mode, "verifier": "exact"}
    async with house() as at:
        whole = await ask(at, None, speculation=speculation)
        at.roles.target_engine._options = replace(TARGET, token_s=0.01)  # type: ignore[attr-defined]
        for num_events in (2, 5):
            first = await ask(at, num_events, speculation=speculation)
            at.backend.dead = {at.backend.num_asked % 2}
            asked = at.backend.num_asked
            await until(lambda asked=asked: at.backend.num_asked > asked)
            await asyncio.sleep(0.05)
            rest = await come_back(at, first.ids[-1], gate=gate)
            assert first.text() + rest.text() == whole.text(), num_events
            assert rest.data[-1] == "[DONE]"
            at.backend.dead = set()


async def test_what_was_read_of_a_coordinator_that_is_dead_now_is_not_lost() -> None:
    async with house() as at:
        whole = await ask(at, None, speculation={"mode": "target"})
        first = await ask(at, 2, speculation={"mode": "target"})
        await until(lambda: at.num_running() == 0)
        await asyncio.sleep(0.01)
        at.backend.dead = {at.backend.num_asked % 2}
        rest = await come_back(at, first.ids[-1], gate=0)
        assert first.text() + rest.text() == whole.text()


def all_finished(num_choices: int) -> list[GenerationRequest]:
    """The choices of a stream, all of them finished."""
    names = tuple(f"r-{number}" for number in range(num_choices))
    manner = str(Manner("r", True, 1, names, num_choices, False))
    texts = ((Channel.REASONING, "Hm. "), (Channel.CONTENT, "42"))
    standing = Standing(7, texts, (), 12, None, finished=finished())
    of = replace(bench.request(), keep=Keep(1.0, "everybody", manner, "r"), resume=standing, timeout_s=0.001)
    return [replace(of, request_id=name) for name in names]


@pytest.mark.parametrize("marks", ["7.7e", "7e.7", "7.7"])
async def test_the_last_end_that_is_sent_reports_on_all_of_them(marks: str) -> None:
    backend = ScriptedBackend()
    backend.kept = all_finished(2)
    async with client_of(shared_app(backend)) as client:
        headers = {"Last-Event-ID": f"r/{marks}"}
        async with client.stream("GET", "/v1/streams/r", headers=headers) as response:
            heard = await hear(response, None)
    assert ["speculation" in event for event in heard.data[:-1]] == [False] * (1 - marks.count("e")) + [True]


async def test_what_was_finished_in_time_is_fetched_after_it() -> None:
    backend = ScriptedBackend()
    backend.kept = all_finished(100)
    async with client_of(shared_app(backend)) as client, client.stream("GET", "/v1/streams/r") as response:
        heard = await hear(response, None)
    assert heard.data[-1] == "[DONE]"
    assert not any("error" in event for event in heard.data)
    assert len(heard.data) == 4 * 100 + 1


async def test_what_was_written_in_time_is_fetched_after_it() -> None:
    async with house() as at:
        whole = await ask(at, None, speculation={"mode": "target"})
        at.roles.target_engine._options = replace(TARGET, token_s=0.03)  # type: ignore[attr-defined]
        cut = await ask(at, 2, timeout=1, speculation={"mode": "target"})
        await asyncio.sleep(1.1)
        rest = await come_back(at, cut.ids[-1])
        assert len(rest.text()) > 20
        assert whole.text().startswith(cut.text() + rest.text())
        error = rest.data[-2]["error"]
        assert error["type"] == "timeout_error", "its own time limit still ends it"
        assert not any(sign.isdigit() for sign in error["message"]), "what was left of it is no limit that it had"


async def test_while_no_coordinator_can_be_asked_a_gateway_hands_over_what_it_has(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house() as at:
        whole = await ask(at, None, speculation={"mode": "target"})
        first = await ask(at, 2, {"x-request-id": "r"}, speculation={"mode": "target"})
        await until(lambda: at.num_running() == 0)
        await asyncio.sleep(0.01)
        at.backend.trouble = RuntimeError("Serve knows no replica.")
        answer = await at.client.get(f"{at.urls[1]}/v1/streams/r")
        assert answer.status_code == 503, "who could not ask does not know that there is none"
        at.backend.trouble = None
        answer = await at.client.get(f"{at.urls[1]}/v1/streams/another")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "stream_not_found")
        at.backend.trouble = RuntimeError("Serve knows no replica.")
        rest = await come_back(at, first.ids[-1], gate=0)
        assert first.text() + rest.text() == whole.text()
        assert "Serve knows no replica." in caplog.text


async def test_what_nobody_comes_back_for_ends_after_its_time_and_is_gone() -> None:
    async with house(resume_s=0.05) as at:
        at.roles.target_engine._options = replace(TARGET, token_s=1.0)  # type: ignore[attr-defined]
        first = await ask(at, 2, {"x-request-id": "r"}, speculation={"mode": "target"})
        await until(lambda: sum(keeper.num_kept for keeper in at.backend.keepers) == 0)
        await until(lambda: at.num_running() == 0)
        answer = await at.client.get(f"{at.urls[1]}/v1/streams/r", headers={"Last-Event-ID": first.ids[-1]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "stream_not_found")


async def test_a_stream_that_is_not_resumable_ends_with_its_client() -> None:
    async with house() as at:
        at.roles.target_engine._options = replace(TARGET, token_s=1.0)  # type: ignore[attr-defined]
        heard = await ask(at, 2, {"x-resumable": "false"}, speculation={"mode": "target"})
        assert heard.ids == ["", ""], "its events have no ids"
        await until(lambda: at.num_running() == 0, within_s=0.5)


async def test_only_who_asked_may_come_back() -> None:
    async with house(api_keys=["mine", "other"]) as at:
        mine, other = {"Authorization": "Bearer mine"}, {"Authorization": "Bearer other"}
        first = await ask(at, 2, mine, speculation={"mode": "target"})
        url = f"{at.urls[1]}/v1/streams/{first.ids[-1].split('/')[0]}"
        last = {"Last-Event-ID": first.ids[-1]}
        assert (await at.client.get(url, headers=last)).status_code == 401
        assert (await at.client.get(url, headers=last | other)).status_code == 404
        assert (await come_back(at, first.ids[-1], **mine)).data[-1] == "[DONE]"


async def test_an_id_that_is_none_is_refused() -> None:
    async with house() as at:
        await ask(at, 2, {"x-request-id": "r"}, speculation={"mode": "target"})
        for wrong in ("r/", "r/x", "r/1.1", "other/1", "r/99999", "1", "r/-1", "r/1.1e"):
            answer = await at.client.get(f"{at.urls[1]}/v1/streams/r", headers={"Last-Event-ID": wrong})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Last-Event-ID"), wrong
        assert (await come_back(at, None)).data[-1] == "[DONE]", "what was refused has lost nothing"


async def test_the_wish_is_checked() -> None:
    async with client_of(shared_app(ScriptedBackend())) as client:
        for headers, body in (({"x-resumable": "yes"}, chat(stream=True)), (RESUMABLE, chat())):
            answer = await client.post("/v1/chat/completions", json=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-resumable")
    async with client_of(create_app(config(resume_s=0), ScriptedBackend)) as client:
        answer = await client.post("/v1/completions", json=completion(stream=True), headers=RESUMABLE)
        assert answer.status_code == 400
