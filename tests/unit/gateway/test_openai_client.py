"""The official OpenAI client, over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from actors.errors import CapacityError, RoleUnavailable
from deployments.gateway.api import create_app
from deployments.generation import GenerationRequest
from tests.unit.gateway.script import (
    MODEL,
    Act,
    ScriptedBackend,
    config,
    finished,
    listening,
    opened,
    said,
    until,
)
from tests.unit.gateway.test_answers import REPORT

QUESTION: Any = [{"role": "user", "content": "What is six times seven?"}]
THOUGHT, ANSWER = "Six times seven.\n\n", "It is 42 \u2028 \U0001f600."


@pytest.fixture
async def sdk(backend: ScriptedBackend) -> AsyncIterator[openai.AsyncOpenAI]:
    app = create_app(config(api_keys=["key"], max_body_bytes=100_000), lambda: backend)
    async with (
        listening(app) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0) as sdk,
    ):
        yield sdk


async def test_a_whole_answer(backend: ScriptedBackend, sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        n=2,
        stop=["END"],
        seed=4,
        temperature=0,
        max_completion_tokens=64,
        extra_body={"speculation": {"mode": "lookahead", "max_lookahead": 2, "fidelity": "fast"}},
    )
    assert [choice.message.content for choice in answer.choices] == [ANSWER, ANSWER]
    assert answer.choices[1].message.reasoning == THOUGHT  # type: ignore[attr-defined]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 7 + 24
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.accepted_prediction_tokens == 12
    assert answer.speculation == REPORT  # type: ignore[attr-defined]
    assert [request.speculation.max_lookahead for request in backend.requests] == [2, 2]
    assert {request.stop for request in backend.requests} == {("END",)}


async def test_an_answer_can_be_sent_back(backend: ScriptedBackend, sdk: openai.AsyncOpenAI) -> None:
    first = await sdk.chat.completions.create(model=MODEL, messages=QUESTION)
    messages = [*QUESTION, first.choices[0].message, {"role": "user", "content": "Sure?"}]
    await sdk.chat.completions.create(model=MODEL, messages=messages)
    assert [m.content for m in backend.requests[1].prompt.messages] == [QUESTION[0]["content"], ANSWER, "Sure?"]


async def test_a_stream(sdk: openai.AsyncOpenAI) -> None:
    content, reasoning, origins = "", "", []
    stream = await sdk.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning", "")
            origins += [chunk.lookahead["origin"]] if hasattr(chunk, "lookahead") else []
    assert (reasoning, content) == (THOUGHT, ANSWER)
    assert origins == ["accepted", "recovered", "target", "target"]
    assert chunk.usage is not None
    assert chunk.usage.prompt_tokens == 7
    assert chunk.to_dict()["speculation"] == REPORT


async def test_the_streaming_helper(sdk: openai.AsyncOpenAI) -> None:
    async with sdk.chat.completions.stream(model=MODEL, messages=QUESTION) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == ANSWER


async def test_the_streaming_helper_keeps_choices_apart_whichever_speaks_first(
    sdk: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    """It puts the choice that comes third into its third place."""
    pauses = {0: 0.1, 1: 0.2, 2: 0.0}
    numbers: dict[str, int] = {}

    def script(request: GenerationRequest) -> list[Act]:
        number = numbers.setdefault(request.request_id, len(numbers))
        return [opened(request), pauses[number], said(f"I am {number}", 0), 0.3, said(" still.", 0), finished()]

    backend.script = script
    async with sdk.chat.completions.stream(model=MODEL, messages=QUESTION, n=3) as stream:
        final = await stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == [f"I am {number} still." for number in range(3)]
    assert {choice.message.role for choice in final.choices} == {"assistant"}


async def test_completions(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.completions.create(model=MODEL, prompt=["a", "b"], max_tokens=5)
    assert [choice.text for choice in answer.choices] == [THOUGHT + ANSWER] * 2
    stream = await sdk.completions.create(model=MODEL, prompt="a", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == THOUGHT + ANSWER


async def test_a_resumable_stream_with_pauses(backend: ScriptedBackend) -> None:
    """The client fails at a blank line that ends no event, once an event had an id."""
    backend.script = lambda request: [opened(request), said("It is ", 0), 0.2, said("42.", 0), 0.2, finished()]
    app = create_app(config(resume_s=1.0), lambda: backend, keep_alive_s=0.05)
    async with listening(app) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(
            model=MODEL, messages=QUESTION, stream=True, extra_headers={"x-resumable": "true"}
        )
        chunks = [chunk async for chunk in raw.parse()]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "It is 42."
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_what_was_not_answered_in_time_is_not_asked_again(backend: ScriptedBackend) -> None:
    """By itself the client repeats a 408 twice."""
    backend.script = lambda request: [60.0]
    app = create_app(config(), lambda: backend)
    async with listening(app) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=2) as sdk:
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError) as late:
                await sdk.chat.completions.create(
                    model=MODEL, messages=QUESTION, stream=stream, extra_body={"timeout": 0.1}
                )
            assert (late.value.status_code, late.value.code) == (408, "deadline_exceeded")
    assert len(backend.requests) == 2


async def test_models(sdk: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in await sdk.models.list()] == [MODEL]


async def test_errors_are_the_clients_own(backend: ScriptedBackend, sdk: openai.AsyncOpenAI) -> None:
    async def ask(**more: Any) -> None:
        await sdk.chat.completions.create(**{"model": MODEL, "messages": QUESTION, **more})

    with pytest.raises(openai.BadRequestError) as bad:
        await ask(extra_body={"speculation": {"depth": 4}})
    assert (bad.value.param, bad.value.code) == ("speculation.depth", "unknown_parameter")
    with pytest.raises(openai.NotFoundError) as unknown:
        await ask(model="gpt-4o")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.APIStatusError) as large:
        await ask(messages=[{"role": "user", "content": "x" * 200_000}])
    assert large.value.status_code == 413
    with pytest.raises(openai.AuthenticationError):
        await sdk.with_options(api_key="wrong").models.list()
    backend.script = lambda request: [CapacityError("Too many requests.", None, 7.0)]
    with pytest.raises(openai.RateLimitError) as full:
        await ask()
    assert full.value.response.headers["retry-after"] == "7"


async def test_a_failure_inside_a_stream_reaches_the_client(backend: ScriptedBackend, sdk: openai.AsyncOpenAI) -> None:
    backend.script = lambda request: [opened(request), said("Half", 0), RoleUnavailable("The target died.")]
    texts: list[str] = []

    async def read() -> None:
        async for chunk in await sdk.chat.completions.create(model=MODEL, messages=QUESTION, stream=True):
            texts.append(chunk.choices[0].delta.content or "")

    with pytest.raises(openai.APIError, match="The target died") as failure:
        await read()
    assert "".join(texts) == "Half"
    assert failure.value.code == "role_unavailable"


async def test_leaving_a_stream_ends_the_work(backend: ScriptedBackend, sdk: openai.AsyncOpenAI) -> None:
    backend.script = lambda request: [opened(request), said("x", 0), 60.0, finished()]
    stream = await sdk.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()
    await until(lambda: not backend.running, within_s=3.0)
    assert list(backend.ends.values()) == ["closed"]
