"""Whole answers: texts, finish reasons, usage, speculation, several choices."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import pytest

from actors.messages import Message, Prompt
from deployments.gateway.api import create_app
from deployments.generation import GenerationRequest
from tests.unit.gateway.script import (
    MODEL,
    Act,
    ScriptedBackend,
    chat,
    client_of,
    completion,
    config,
    finished,
    opened,
    said,
)

REPORT = {
    "mode": "lookahead",
    "num_steps": 4,
    "num_accepted_steps": 2,
    "num_recovered_steps": 1,
    "num_target_steps": 1,
    "num_draft_steps": 5,
    "num_cancelled_steps": 2,
    "num_branch_steps": 1,
    "num_merged_steps": 0,
    "accept_rate": 2 / 3,
    "draft_token_share": 0.5,
    "degraded": ["draft_unavailable"],
}
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 12,
    "total_tokens": 19,
    "completion_tokens_details": {
        "reasoning_tokens": 9,
        "accepted_prediction_tokens": 6,
        "rejected_prediction_tokens": 5,
    },
}


async def test_a_chat_answer_has_every_field(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json=chat(), headers={"x-request-id": "mine-1"})
    assert response.status_code == 200
    assert response.headers["x-request-id"] == "mine-1"
    body = response.json()
    assert isinstance(body.pop("created"), int)
    assert body == {
        "id": "chatcmpl-mine-1",
        "object": "chat.completion",
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "It is 42 \u2028 \U0001f600.",
                    "refusal": None,
                    "reasoning": "Six times seven.\n\n",
                    "reasoning_content": "Six times seven.\n\n",
                },
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": USAGE,
        "speculation": REPORT,
    }


async def test_reasoning_content_can_be_switched_off(backend: ScriptedBackend) -> None:
    async with client_of(create_app(config(reasoning_content=False), lambda: backend)) as client:
        body = (await client.post("/v1/chat/completions", json=chat())).json()
        streamed = (await client.post("/v1/chat/completions", json=chat(stream=True))).text
    assert body["choices"][0]["message"]["reasoning"] == "Six times seven.\n\n"
    assert "reasoning_content" not in body["choices"][0]["message"]
    assert '"reasoning":' in streamed
    assert "reasoning_content" not in streamed


async def test_an_answer_without_reasoning_has_no_reasoning_field(
    backend: ScriptedBackend, client: httpx.AsyncClient
) -> None:
    backend.script = lambda request: [opened(request), said("42", 0), finished("length")]
    choice = (await client.post("/v1/chat/completions", json=chat())).json()["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "42", "refusal": None}
    assert choice["finish_reason"] == "length"


async def test_the_stop_string_goes_in_and_comes_back(backend: ScriptedBackend, client: httpx.AsyncClient) -> None:
    backend.script = lambda request: [opened(request), said("a", 0), finished("stop", request.stop[1])]
    choice = (await client.post("/v1/chat/completions", json=chat(stop=["\n\n", "END"]))).json()["choices"][0]
    assert backend.requests[0].stop == ("\n\n", "END")
    assert choice["stop_reason"] == "END"


async def test_choices_have_their_own_ids_seeds_texts_and_reports(
    backend: ScriptedBackend, client: httpx.AsyncClient
) -> None:
    def script(request: GenerationRequest) -> Sequence[Act]:
        return [opened(request), said(f"seed {request.sampling.seed}", 0), finished()]

    backend.script = script
    response = await client.post("/v1/chat/completions", json=chat(n=3, seed=10), headers={"x-request-id": "r"})
    body = response.json()
    assert [(r.request_id, r.sampling.seed) for r in backend.requests] == [("r-0", 10), ("r-1", 11), ("r-2", 12)]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in body["choices"]] == ["seed 10", "seed 11", "seed 12"]
    assert [choice["speculation"] for choice in body["choices"]] == [REPORT] * 3
    assert body["speculation"] == REPORT
    assert body["usage"]["prompt_tokens"] == 7
    assert body["usage"]["completion_tokens"] == 36
    assert body["usage"]["total_tokens"] == 43
    assert body["usage"]["completion_tokens_details"]["rejected_prediction_tokens"] == 15


async def test_choices_without_a_seed_get_none(backend: ScriptedBackend, client: httpx.AsyncClient) -> None:
    await client.post("/v1/chat/completions", json=chat(n=2))
    assert [request.sampling.seed for request in backend.requests] == [None, None]


async def test_a_completion_is_one_text_in_the_order_it_was_written(client: httpx.AsyncClient) -> None:
    body = (await client.post("/v1/completions", json=completion(), headers={"x-request-id": "c"})).json()
    assert body["id"] == "cmpl-c"
    assert body["object"] == "text_completion"
    assert body["choices"] == [
        {
            "index": 0,
            "text": "Six times seven.\n\nIt is 42 \u2028 \U0001f600.",
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ]
    assert body["usage"] == USAGE
    assert body["speculation"] == REPORT


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("one", [Prompt(text="one")]),
        (["one", "two"], [Prompt(text="one"), Prompt(text="two")]),
        ([1, 2], [Prompt(token_ids=(1, 2))]),
        ([[1, 2], [3]], [Prompt(token_ids=(1, 2)), Prompt(token_ids=(3,))]),
    ],
)
async def test_every_form_of_prompt(
    backend: ScriptedBackend, client: httpx.AsyncClient, given: object, prompts: list[Prompt]
) -> None:
    response = await client.post("/v1/completions", json=completion(prompt=given))
    assert response.status_code == 200
    assert [request.prompt for request in backend.requests] == prompts
    assert response.json()["usage"]["prompt_tokens"] == 7 * len(prompts)


async def test_choices_of_several_prompts_are_numbered_prompt_by_prompt(
    backend: ScriptedBackend, client: httpx.AsyncClient
) -> None:
    backend.script = lambda request: [opened(request), said(request.prompt.text or "", 0), finished()]
    body = (await client.post("/v1/completions", json=completion(prompt=["a", "b"], n=2, seed=5))).json()
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]
    asked = sorted(backend.requests, key=lambda request: request.request_id)
    assert [request.sampling.seed for request in asked] == [5, 6, 5, 6]
    assert body["usage"]["prompt_tokens"] == 14
    assert body["usage"]["completion_tokens"] == 48


async def test_a_conversation_reaches_the_backend_as_text(backend: ScriptedBackend, client: httpx.AsyncClient) -> None:
    earlier = {"role": "assistant", "content": "Hm.", "reasoning": "...", "refusal": None, "tool_calls": None}
    parts = [{"type": "text", "text": "Six"}, {"type": "text", "text": "times?"}]
    messages = [{"role": "developer", "content": "Be brief."}, earlier, {"role": "user", "content": parts}]
    options = {"enable_thinking": False}
    await client.post("/v1/chat/completions", json=chat(messages=messages, chat_template_kwargs=options))
    prompt = backend.requests[0].prompt
    assert prompt.messages == (
        Message("system", "Be brief."),
        Message("assistant", "Hm."),
        Message("user", "Six\ntimes?"),
    )
    assert prompt.template_options == '{"enable_thinking": false}'
