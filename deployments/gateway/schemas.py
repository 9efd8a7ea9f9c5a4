"""The bodies of requests: OpenAI's parameters, and ours.

Promises: a body that passes holds nothing that would be ignored in silence. Parameters that this server does not have
are listed all the same, so that the values which switch them off are taken (`Off`) and the others refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    TypeAdapter,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

MAX_STOP = 16
MAX_STOP_CHARS = 1024
"""Stop strings go with every call to draft and target."""
MAX_MESSAGES = 4096
MAX_SEED = 2**63 - 1
MAX_TOKENS = 2**31 - 1
MAX_SALT_CHARS = 1024


@dataclass(frozen=True)
class Off:
    """Marks a parameter of OpenAI's or vLLM's that is not supported: null and the values that mean "off" are taken."""

    values: tuple[Any, ...] = ()

    def check(self, value: object) -> None:
        """Raise unless `value` switches the parameter off."""
        # The type counts too: in Python False equals 0, in JSON it does not.
        if value is None or any(type(value) is type(off) and value == off for off in self.values):
            return
        allowed = ", ".join(json.dumps(off) for off in self.values if not isinstance(off, float))
        only = f"it may only be {allowed} or absent" if allowed else "leave it out"
        raise PydanticCustomError("unsupported_parameter", "{only}", {"only": only})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [None, *self.values], "description": "Not supported: taken only where it asks for nothing."}


Never = Annotated[None, Off()]
Zero = Annotated[None, Off((0, 0.0))]
No = Annotated[None, Off((False,))]
Yes = Annotated[None, Off((True,))]
One = Annotated[None, Off((1, 1.0))]
Nothing = Annotated[None, Off(([],))]


class Body(BaseModel):
    """Base of all: unknown keys are errors and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPart(Body):
    """A part of a message's content; the model sees a line break between two of them. Other types of parts (images,
    audio, files) are refused."""

    type: Literal["text"]
    text: str


PARTS = TypeAdapter(Annotated[list[TextPart], FailFast()])


def _text(value: object) -> str:
    """A message's text: a string, or text parts with a line break between them, as vllm serve joins them."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise PydanticCustomError("string_type", "Input should be a string or an array of text parts")
    for number, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            only = "part {number} is of the type {kind}, and this server reads text only"
            raise PydanticCustomError("unsupported_parameter", only, {"number": number, "kind": kind[:40]})
    return "\n".join(part.text for part in PARTS.validate_python(value))


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(string, str) for string in strings):
        raise PydanticCustomError("stop_type", "Input should be a string or an array of strings")
    if len(strings) > MAX_STOP:
        raise PydanticCustomError("too_many_stops", f"Input should have at most {MAX_STOP} strings")
    if "" in strings:
        raise PydanticCustomError("empty_stop", "Input should not hold an empty string")
    if any(len(string) > MAX_STOP_CHARS for string in strings):
        message = f"Input should not hold a string of more than {MAX_STOP_CHARS} characters"
        raise PydanticCustomError("long_stop", message)
    return tuple(strings)


def _prompts(value: object) -> tuple[str | tuple[int, ...], ...]:
    """Every prompt in `value`: a string, token ids, or a list of either."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return tuple(value)
        if _are_ids(value):
            return (tuple(value),)
        if all(isinstance(item, list) and item for item in value) and _are_ids(chain.from_iterable(value)):
            return tuple(map(tuple, value))
    form = "Input should be a string, an array of strings, an array of token ids or an array of such arrays, not empty"
    raise PydanticCustomError("prompt_type", form)


def _are_ids(items: Iterable[Any]) -> bool:
    """Whether all `items` are token ids. Of half a million, which fit into 4 MiB, each is looked at without a step of
    Python's own: nobody else's stream goes on meanwhile."""
    found = list(items)
    return set(map(type, found)) == {int} and min(found) >= 0 and max(found) <= MAX_TOKENS


Text = Annotated[str, PlainValidator(_text, json_schema_input_type=str | list[TextPart])]
Stop = Annotated[tuple[str, ...], PlainValidator(_stop, json_schema_input_type=str | list[str] | None)]
Prompts = Annotated[
    tuple[str | tuple[int, ...], ...],
    PlainValidator(_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
]
PositiveTokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]


# Clients send an earlier answer back as they got it. Its reasoning is dropped, as chat templates drop it.
EarlierReasoning = Annotated[
    str | None, Field(description="Reasoning of an earlier answer; the model does not see it.")
]


class ChatMessage(Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    """``developer`` is read as ``system``, which is the word that chat templates know."""
    content: Text
    reasoning: EarlierReasoning = None
    reasoning_content: EarlierReasoning = None
    type: Annotated[None, Off(("text",))] = None  # lm-eval before 0.4.13 says so of each message
    name: Never = None
    tool_calls: Nothing = None
    tool_call_id: Never = None
    function_call: Never = None
    refusal: Never = None
    audio: Never = None
    annotations: Nothing = None


class StreamOptions(Body):
    """What a stream holds besides the text."""

    include_usage: bool | None = None
    continuous_usage_stats: No = None
    include_obfuscation: No = None


class Speculation(Body):
    """How to speculate for this request; what is left out is the deployment's default.

    The names that exist are the deployment's own, so they are checked against its configuration, not here.
    """

    mode: Annotated[str | None, Field(examples=["lookahead"])] = None
    max_lookahead: Annotated[int, Field(ge=1, le=64)] | None = None
    branches: Annotated[int, Field(ge=1, le=8)] | None = None
    verifier: str | None = None
    fidelity: Annotated[str | None, Field(examples=["balanced"])] = None
    token_speculation: Annotated[str | None, Field(examples=["hints"])] = None
    boundary: Annotated[str | None, Field(examples=["sentence"], description="Where a step ends.")] = None
    controller: Annotated[
        bool | None,
        Field(
            description="False: `max_lookahead` steps ahead throughout, whatever is measured. True is for mode "
            "lookahead without branches, where the deployment has a controller."
        ),
    ] = None


class Generation(Body):
    """What chat completions and completions have in common."""

    model: Annotated[str, Field(description="One of the names that /v1/models lists.")]
    max_tokens: PositiveTokens | None = None
    temperature: (
        Annotated[float, Field(ge=0, le=2, description="0 is greedy. By default the model's, else 1.")] | None
    ) = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKENS, description="0 and -1 mean all tokens.")] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stop: Stop = ()
    seed: Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Annotated[
        int | None,
        Field(ge=-MAX_TOKENS, le=MAX_TOKENS, description="Who waits goes by it: lower first. 0 by default."),
    ] = None
    timeout: Annotated[
        float | None, Field(gt=0, le=MAX_TOKENS, description="Seconds that the answer may take, waiting included.")
    ] = None
    cache_salt: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=MAX_SALT_CHARS,
            description="The engines' prefix caches share what they hold of it with requests of the same salt only.",
        ),
    ] = None
    speculation: Speculation | None = None

    # Labels that change nothing in the answer.
    user: str | None = None

    # Not supported; null and the values that ask for nothing are taken.
    frequency_penalty: Zero = None
    presence_penalty: Zero = None
    logit_bias: Annotated[None, Off(({},))] = None
    min_tokens: Zero = None
    ignore_eos: No = None
    include_stop_str_in_output: No = None
    stop_token_ids: Nothing = None
    bad_words: Nothing = None
    skip_special_tokens: Yes = None
    spaces_between_special_tokens: Yes = None
    use_beam_search: No = None
    return_token_ids: No = None
    length_penalty: One = None
    structured_outputs: Never = None
    truncate_prompt_tokens: Never = None
    prompt_logprobs: Never = None


class ChatRequest(Generation):
    """Body of ``POST /v1/chat/completions``."""

    # FailFast: one body can hold half a million errors, and collecting them would hold up everybody else's streams.
    messages: Annotated[list[ChatMessage], FailFast(), Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: PositiveTokens | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    parallel_tool_calls: Annotated[bool | None, Field(description="Without tools it means nothing.")] = None

    add_generation_prompt: Yes = None
    continue_final_message: No = None
    add_special_tokens: No = None
    echo: No = None
    include_reasoning: Yes = None
    documents: Never = None
    logprobs: No = None
    top_logprobs: Zero = None
    tools: Nothing = None
    tool_choice: Annotated[None, Off(("none",))] = None
    functions: Nothing = None
    function_call: Annotated[None, Off(("none",))] = None
    response_format: Annotated[None, Off(({"type": "text"},))] = None
    modalities: Annotated[None, Off((["text"],))] = None
    service_tier: Annotated[None, Off(("auto", "default"))] = None
    store: No = None
    audio: Never = None
    prediction: Never = None
    reasoning_effort: Never = None
    verbosity: Never = None
    web_search_options: Never = None
    prompt_cache_retention: Never = None
    prompt_cache_options: Never = None
    moderation: Never = None


class CompletionRequest(Generation):
    """Body of ``POST /v1/completions``. Without `max_tokens`, 16 tokens are written, as OpenAI does."""

    prompt: Prompts
    logprobs: Never = None
    echo: No = None
    best_of: Annotated[int | None, Field(description="May only be 1 or the value of `n`.")] = None
    suffix: Annotated[None, Off(("",))] = None
    add_special_tokens: Yes = None
