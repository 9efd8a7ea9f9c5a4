"""Of several choices of one prompt the first is opened first: a prompt that is refused is sent on once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import httpx
import pytest

from actors.errors import ContextTooLong
from deployments.gateway import schemas, translate
from deployments.gateway.generations import Generations
from deployments.gateway.stay import Stay
from deployments.generation import Finished, GenerationRequest
from tests.unit.gateway.script import Act, ScriptedBackend, completion, config, events_of, finished, opened, said, until
from tests.unit.gateway.test_rejoining import RESUMABLE, house

TEXT = "/v1/completions"


def asked(backend: ScriptedBackend) -> list[str]:
    return [request.request_id.rpartition("-")[2] for request in backend.requests]


@pytest.mark.parametrize("headers", [{}, RESUMABLE])
async def test_a_prompt_that_is_refused_is_sent_on_once(
    backend: ScriptedBackend, client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    backend.script = lambda request: [ContextTooLong.of_prompt(9000, 8192)]
    body = completion(prompt=list(range(9000)), n=16, stream=bool(headers))
    answer = await client.post(TEXT, json=body, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "prompt")
    assert asked(backend) == ["0"]


async def test_of_several_prompts_the_first_choice_of_each_is_asked_for_at_once(
    backend: ScriptedBackend, client: httpx.AsyncClient
) -> None:
    """The second prompt is refused, while the first is not open yet."""

    def script(request: GenerationRequest) -> Sequence[Act]:
        return [30.0] if request.prompt.text == "a" else [ContextTooLong.of_prompt(9000, 8192)]

    backend.script = script
    answer = await client.post(TEXT, json=completion(prompt=["a", "b"], n=3))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt[1]")
    assert asked(backend) == ["0", "3"]


async def test_the_others_are_asked_for_when_the_first_is_open(backend: ScriptedBackend) -> None:
    may_open = asyncio.Event()

    class Waiting(ScriptedBackend):
        async def generate(self, request: GenerationRequest, stay: Stay | None = None):  # type: ignore[no-untyped-def,override]
            await may_open.wait()
            async for output in super().generate(request, stay):
                yield output

    held = Waiting()
    ask = translate.ask_completion(completion(n=4, prompt=["a", "b"], seed=1), config(), "r")
    async with Generations(held, ask.requests, 60.0, n=ask.n) as generations:
        await asyncio.sleep(0.02)
        assert asked(held) == []
        may_open.set()
        await generations.open()
        assert sorted(asked(held)) == [str(number) for number in range(8)]
        assert asked(held)[:2] == ["0", "4"]
        ends = []
        while not generations.is_done:
            received = await generations.receive()
            ends += [received[0]] if received is not None and isinstance(received[1], Finished) else []
    assert sorted(ends) == list(range(8))
    assert [request.sampling.seed for request in ask.requests] == [1, 2, 3, 4] * 2


async def test_a_stream_of_several_choices_is_whole(backend: ScriptedBackend, client: httpx.AsyncClient) -> None:
    backend.script = lambda request: [opened(request), said(request.request_id[-1], 0), finished()]
    body = completion(prompt=["a", "b"], n=2, stream=True, stream_options={"include_usage": True})
    events = events_of((await client.post(TEXT, json=body)).text)
    texts = ["", "", "", ""]
    for choice in (choice for event in events for choice in event["choices"]):
        texts[choice["index"]] += choice["text"]
    assert texts == ["0", "1", "2", "3"]
    assert events[-1]["usage"]["prompt_tokens"] == 14
    assert events[-1]["usage"]["completion_tokens"] == 48


def held_for_two() -> tuple[Stay, ExitStack, list[str]]:
    """A stay of two choices, what ends with it, and what that has given back."""
    given_back: list[str] = []
    leaving = ExitStack()
    leaving.callback(given_back.append, "place")
    return Stay(lambda *_: None, leaving, 2), leaving, given_back


def test_what_is_held_for_a_stream_is_held_until_each_choice_has_begun() -> None:
    """The first one may be written before the second begins."""
    stay, leaving, given_back = held_for_two()
    with stay.writing():
        pass
    assert given_back == []
    with stay.writing():
        leaving.close()
        assert given_back == []
    assert given_back == ["place"]


def test_what_is_held_is_given_back_where_a_choice_never_begins() -> None:
    stay, leaving, given_back = held_for_two()
    with stay.writing():
        pass
    leaving.close()
    assert given_back == ["place"]


async def test_a_resumable_stream_of_several_choices_gives_its_place_back() -> None:
    async with house(api_keys=[{"key": "k", "limits": {"concurrency": 1}}]) as at:
        at.roles.target_engine._options = replace(at.roles.target_engine._options, token_s=0.0)
        body = {"model": "m", "prompt": "How many?", "n": 3, "max_tokens": 4, "stream": True}
        for _ in range(2):
            headers = {**RESUMABLE, "Authorization": "Bearer k"}
            answer = await at.client.post(f"{at.urls[0]}{TEXT}", json=body, headers=headers)
            assert answer.status_code == 200
            assert answer.text.endswith("data: [DONE]\n\n")
        await until(lambda: at.num_running() == 0)


@pytest.mark.parametrize("prompt", [[1], "a"])
async def test_nothing_is_made_of_more_prompts_than_there_may_be(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, prompt: object
) -> None:
    monkeypatch.delattr(translate, "Prompt")
    error = (await client.post(TEXT, json=completion(prompt=[prompt] * 99_000, n=2))).json()["error"]
    assert error["message"] == "99000 prompts with 2 choices each are more than the 128 choices a request may have."
    assert (error["code"], error["param"]) == ("invalid_value", "prompt")


@pytest.mark.parametrize("ids", [[True], [-1], [2**31], [1.0], ["1"], [None], [[1]], [2**70]], ids=repr)
def test_what_are_no_token_ids(ids: list[object]) -> None:
    assert not schemas._are_ids([1, *ids, 2])
    assert schemas._are_ids([0, 2**31 - 1])
