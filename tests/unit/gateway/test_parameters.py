"""What may stand in a request: every parameter reaches the backend, asks for nothing, or is refused by name."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from actors.errors import RequestError
from deployments.config import Config, validate_config
from deployments.coordinator.coordinator import settle
from deployments.gateway.api import create_app
from deployments.gateway.translate import ask_chat
from deployments.generation import SamplingOptions, SpeculationOptions
from tests.unit.gateway.script import ScriptedBackend, chat, client_of, completion, config

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


async def test_every_supported_parameter_reaches_the_backend(
    backend: ScriptedBackend, client: httpx.AsyncClient
) -> None:
    wishes = {"mode": "lookahead", "max_lookahead": 6, "branches": 3, "verifier": "anything", "fidelity": "fast"}
    wishes |= {"boundary": "sentence"}
    sampling = {"temperature": 0.25, "top_p": 0.5, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.5, "seed": -3}
    body = chat(max_completion_tokens=99, stop="END", speculation=wishes, cache_salt="mine", **sampling)
    assert (await client.post(CHAT, json=body)).status_code == 200
    request = backend.requests[0]
    assert request.sampling == SamplingOptions(0.25, 0.5, 40, 0.1, 1.5, -3)
    assert request.max_tokens == 99
    assert request.stop == ("END",)
    assert request.speculation == SpeculationOptions("lookahead", 6, 3, "anything", "fast", boundary="sentence")
    assert request.timeout_s == 3600.0
    assert request.prompt.cache_salt == "mine"
    response = await client.post(TEXT, json=completion(prompt=["a", "b"], cache_salt="mine"))
    assert response.status_code == 200, response.text
    assert [request.prompt.cache_salt for request in backend.requests[1:]] == ["mine"] * 2


async def test_what_is_left_out_is_for_the_deployment_to_say(
    backend: ScriptedBackend, client: httpx.AsyncClient
) -> None:
    await client.post(CHAT, json=chat())
    await client.post(TEXT, json=completion())
    assert [request.sampling for request in backend.requests] == [SamplingOptions()] * 2
    assert [request.max_tokens for request in backend.requests] == [None, 16]
    assert [request.speculation for request in backend.requests] == [SpeculationOptions()] * 2
    assert [request.prompt.cache_salt for request in backend.requests] == [""] * 2


async def test_null_is_the_default_everywhere(backend: ScriptedBackend, client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()["components"]["schemas"]
    for path, body, name in ((CHAT, chat(), "ChatRequest"), (TEXT, completion(), "CompletionRequest")):
        nothing = dict.fromkeys(document[name]["properties"])
        response = await client.post(path, json={**nothing, **body})
        assert response.status_code == 200, response.text
    assert backend.requests[0].sampling == SamplingOptions()


@pytest.mark.parametrize(
    ("usual", "wishes"),
    [
        ("specreason", None),
        ("specreason", {"max_lookahead": 2}),
        ("lookahead", {"mode": "specreason"}),
    ],
)
def test_a_key_s_fidelity_is_nothing_that_a_request_in_mode_specreason_asked_for(
    usual: str, wishes: dict[str, Any] | None
) -> None:
    data = config().model_dump()
    data["speculation"] |= {"mode": usual, "specreason": {"verifier": "anything"}}
    scoring = validate_config(data, "the test")
    body = chat() if wishes is None else chat(speculation=wishes)
    (request,) = ask_chat(body, scoring, "one", "fast").requests
    assert settle(scoring, request).verifier == "anything"
    asked = chat(speculation={"mode": "specreason", "fidelity": "fast"})
    with pytest.raises(RequestError, match="keeps no fidelity"):
        settle(scoring, ask_chat(asked, scoring, "one", "fast").requests[0])
    (request,) = ask_chat(chat(speculation={"mode": "lookahead"}), scoring, "one", "fast").requests
    assert request.speculation.fidelity == "fast"


@pytest.mark.parametrize(("top_k", "expected"), [(0, 0), (-1, 0), (5, 5)])
async def test_top_k_of_minus_one_means_all(
    backend: ScriptedBackend, client: httpx.AsyncClient, top_k: int, expected: int
) -> None:
    await client.post(CHAT, json=chat(top_k=top_k))
    assert backend.requests[0].sampling.top_k == expected


@pytest.mark.parametrize(
    "more",
    [
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "logprobs": False, "top_logprobs": 0},
        {"tools": [], "tool_choice": "none", "functions": [], "function_call": "none", "parallel_tool_calls": True},
        {"response_format": {"type": "text"}, "modalities": ["text"], "service_tier": "auto", "store": False},
        {"service_tier": "default", "user": "u", "metadata": {"a": "b"}, "safety_identifier": "s"},
        {"prompt_cache_key": "k", "return_token_ids": False},
        {"max_tokens": 5, "max_completion_tokens": 5},
        {"stop": ["x" * 1024] * 16, "chat_template_kwargs": {"x": "y" * 16_000}},
        {"ignore_eos": False, "min_tokens": 0, "stop_token_ids": [], "bad_words": []},
        {"stream": True, "stream_options": {"continuous_usage_stats": False, "include_obfuscation": False}},
        {"messages": [{"role": "user", "content": "x", "type": "text"}]},
        {"speculation": {}},
        {"speculation": {"mode": "target", "max_lookahead": 64}},
        {"skip_special_tokens": True, "spaces_between_special_tokens": True, "use_beam_search": False},
        {"length_penalty": 1.0, "structured_outputs": None, "truncate_prompt_tokens": None, "documents": None},
        {"add_generation_prompt": True, "continue_final_message": False, "add_special_tokens": False, "echo": False},
        {"length_penalty": 1, "include_reasoning": True},
    ],
)
async def test_what_asks_for_nothing_is_taken(client: httpx.AsyncClient, more: dict[str, Any]) -> None:
    response = await client.post(CHAT, json=chat(**more))
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "more",
    [
        {"echo": False, "best_of": 1, "suffix": None},
        {"n": 2, "best_of": 2},
        {"suffix": "", "return_token_ids": False},
        {"skip_special_tokens": True, "add_special_tokens": True, "use_beam_search": False, "length_penalty": 1.0},
    ],
)
async def test_what_asks_for_nothing_is_taken_by_completions(client: httpx.AsyncClient, more: dict[str, Any]) -> None:
    response = await client.post(TEXT, json=completion(**more))
    assert response.status_code == 200, response.text


UNSUPPORTED: list[tuple[str, Any]] = [
    ("frequency_penalty", 0.5),
    ("presence_penalty", False),
    ("logit_bias", {"50256": -100}),
    ("logprobs", True),
    ("top_logprobs", 2),
    ("tools", [{"type": "function"}]),
    ("tool_choice", "auto"),
    ("functions", [{}]),
    ("response_format", {"type": "json_object"}),
    ("service_tier", "flex"),
    ("store", True),
    ("modalities", ["text", "audio"]),
    ("reasoning_effort", "high"),
    ("prediction", {"type": "content", "content": ""}),
    ("min_tokens", 5),
    ("ignore_eos", True),
    ("stop_token_ids", [1]),
    ("prompt_cache_retention", "24h"),
    ("return_token_ids", True),
    ("continue_final_message", True),
    ("add_generation_prompt", False),
    ("echo", True),
    ("include_reasoning", False),
    ("documents", [{"text": "x"}]),
    ("skip_special_tokens", False),
    ("use_beam_search", True),
    ("length_penalty", 0.5),
    ("structured_outputs", {"regex": "x"}),
    ("truncate_prompt_tokens", 100),
]


@pytest.mark.parametrize(("name", "value"), UNSUPPORTED)
async def test_what_is_not_supported_is_refused_by_name(client: httpx.AsyncClient, name: str, value: Any) -> None:
    response = await client.post(CHAT, json=chat(**{name: value}))
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["code"], error["param"]) == ("unsupported_parameter", name)
    assert name in error["message"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("echo", True), ("best_of", 3), ("suffix", "x"), ("logprobs", 0), ("add_special_tokens", False)],
)
async def test_completions_refuse_by_name_too(client: httpx.AsyncClient, name: str, value: Any) -> None:
    error = (await client.post(TEXT, json=completion(**{name: value}))).json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", name)


def parts(*content: Any) -> dict[str, Any]:
    """A message of parts."""
    return {"messages": [{"role": "user", "content": list(content)}]}


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": "hot"}, "temperature", "a number"),
    ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
    ({"temperature": True}, "temperature", "a number"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"min_p": 1.5}, "min_p", "less than or equal to 1"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": "5"}, "max_tokens", "an integer"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "max_completion_tokens"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"n": 17}, "n", "at most 16"),
    ({"seed": 2**64}, "seed", "less than"),
    ({"stop": ["a", 1]}, "stop", "array of strings"),
    ({"stop": ""}, "stop", "empty string"),
    ({"stop": ["x"] * 17}, "stop", "'stop' should have at most 16 strings."),
    ({"stop": {}}, "stop", "an array of strings; it is an object."),
    ({"stop": "x" * 1025}, "stop", "a string of more than 1024 characters"),
    ({"stop": ["x", "y" * 1025]}, "stop", "a string of more than 1024 characters."),
    ({"stream": "yes"}, "stream", "true or false"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "'stream' is true"),
    ({"stream": True, "stream_options": {"more": 1}}, "stream_options.more", "Unrecognized"),
    ({"messages": "hello"}, "messages", "an array"),
    ({"messages": []}, "messages", "not be empty"),
    ({"cache_salt": ""}, "cache_salt", "'cache_salt' should not be empty"),
    ({"cache_salt": "s" * 1025}, "cache_salt", "'cache_salt' should have at most 1024 characters"),
    ({"cache_salt": 3}, "cache_salt", "a string"),
    (
        {"messages": [{"role": "user", "content": "x"}] * 4097},
        "messages",
        "at most 4096 items.",
    ),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "'assistant'"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "a string"),
    (parts({"type": "text"}), "messages[0].content[0].text", "is required"),
    (parts({"type": "text", "text": "x"}, {"text": "x"}), "messages[0].content[1].type", "is required"),
    (parts({"type": "text", "text": 5}), "messages[0].content[0].text", "a string; it is 5."),
    (parts("x"), "messages[0].content[0]", 'an object; it is "x".'),
    (
        parts({"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}),
        "messages[0].content[0].cache_control",
        "Unrecognized request argument: 'messages[0].content[0].cache_control'.",
    ),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls", "not supported"),
    (parts({"type": "image_url", "image_url": {}}), "messages[0].content", "image_url"),
    ({"messages": [{"role": "user", "content": "x", "type": "image"}]}, "messages[0].type", 'may only be "text"'),
    ({"metadata": {"a": 1}}, "metadata.a", "a string"),
    ({"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, "chat_template_kwargs.chat_template", "not for requests"),
    ({"chat_template_kwargs": {"x": "y" * 16_384}}, "chat_template_kwargs", "at most 16384 characters of JSON"),
    ({"tempature": 1, "to_p": 1}, "tempature", "'to_p'"),
    ({"speculation": 4}, "speculation", "an object"),
    ({"speculation": {"depth": 4}}, "speculation.depth", "max_lookahead, branches, verifier, fidelity"),
    ({"speculation": {"max_lookahead": 0}}, "speculation.max_lookahead", "greater than or equal to 1"),
    ({"speculation": {"branches": 9}}, "speculation.branches", "less than or equal to 8"),
    ({"speculation": {"branches": 2, "mode": "target"}}, "speculation.branches", "mode 'lookahead'"),
    ({"speculation": {"branches": 2, "mode": "lookahead_sync"}}, "speculation.branches", "mode 'lookahead'"),
    ({"speculation": {"boundary": "word"}}, "speculation.boundary", "blank_line, line, sentence, tokens"),
    ({"speculation": {"mode": "warp"}}, "speculation.mode", "target, lookahead"),
    ({"speculation": {"mode": "specreason"}}, "speculation.mode", "no verifier 'score' to score steps"),
    ({"speculation": {"verifier": "x"}}, "speculation.verifier", "exact, anything"),
    ({"speculation": {"fidelity": "balanced"}}, "speculation.fidelity", "exact, fast"),
    ({"speculation": {"fidelity": "fast", "verifier": "exact"}}, "speculation.verifier", "'anything'"),
]


@pytest.mark.parametrize(("more", "param", "words"), WRONG, ids=[str(more)[:60] for more, _, _ in WRONG])
async def test_what_is_wrong_is_named_and_explained(
    backend: ScriptedBackend, client: httpx.AsyncClient, more: dict[str, Any], param: str, words: str
) -> None:
    response = await client.post(CHAT, json=chat(**more))
    error = response.json()["error"]
    assert response.status_code == 400, response.text
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert words in error["message"]
    assert backend.requests == []


@pytest.mark.parametrize(
    "prompt", [5, [], [[]], ["a", 1], [1, "a"], [[1], []], [True], [-1], [1.5], {}, None, [["a"]]], ids=repr
)
async def test_what_is_no_prompt(client: httpx.AsyncClient, prompt: object) -> None:
    error = (await client.post(TEXT, json=completion(prompt=prompt))).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_type", "prompt")


async def test_more_choices_than_a_request_may_have(client: httpx.AsyncClient) -> None:
    error = (await client.post(TEXT, json=completion(prompt=["x"] * 100, n=2))).json()["error"]
    assert error["param"] == "prompt"
    assert "128" in error["message"]


@pytest.mark.parametrize("missing", ["model", "messages"])
async def test_what_is_missing(client: httpx.AsyncClient, missing: str) -> None:
    body = chat()
    del body[missing]
    error = (await client.post(CHAT, json=body)).json()["error"]
    assert (error["code"], error["param"]) == ("missing_required_parameter", missing)


async def test_lookahead_needs_a_draft(backend: ScriptedBackend) -> None:
    data = config().model_dump()
    data["draft"] = None
    data["speculation"]["mode"] = "target"
    async with client_of(create_app(Config.model_validate(data), lambda: backend)) as client:
        refused = await client.post(CHAT, json=chat(speculation={"mode": "lookahead"}))
        served = await client.post(CHAT, json=chat(speculation={"mode": "target"}))
    assert refused.status_code == 400
    assert "no draft" in refused.json()["error"]["message"]
    assert served.status_code == 200
