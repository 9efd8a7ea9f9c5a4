"""The bodies of responses, as types: they check what `answers` builds and describe it in ``/openapi.json``."""

from __future__ import annotations

from typing import (
    Literal,
    NotRequired,  # pydantic cannot read typing's own before Python 3.12
)

from typing_extensions import TypedDict


class ErrorObject(TypedDict):
    """What went wrong, in words, and for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """Body of every error."""

    error: ErrorObject


class CompletionTokensDetails(TypedDict):
    """Accepted: written by the draft and kept. Rejected: written by the draft and thrown away."""

    reasoning_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(TypedDict):
    """Tokens; a prompt counts once, however many choices it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: CompletionTokensDetails


class SpeculationReport(TypedDict):
    """What speculation did, in steps. `degraded` holds the reasons why it did less than was asked."""

    mode: str
    num_steps: int
    num_accepted_steps: int
    num_recovered_steps: int
    num_target_steps: int
    num_draft_steps: int
    num_cancelled_steps: int
    num_branch_steps: int
    num_merged_steps: int
    accept_rate: float
    draft_token_share: float
    degraded: list[str]


class StepMark(TypedDict):
    """Who wrote the text of a chunk, and which step it belongs to."""

    origin: str
    step: int


class AnswerMessage(TypedDict):
    """The assistant's message. The reasoning is there if there was any."""

    role: Literal["assistant"]
    content: str
    refusal: None
    reasoning: NotRequired[str]
    reasoning_content: NotRequired[str]


class Delta(TypedDict, total=False):
    """What a chunk adds to the message."""

    role: Literal["assistant"]
    content: str
    reasoning: str
    reasoning_content: str


class ChatChoice(TypedDict):
    """One answer. `stop_reason` is the stop string that ended it; `speculation` is there if there are several."""

    index: int
    message: AnswerMessage
    logprobs: None
    finish_reason: str
    stop_reason: str | None
    speculation: NotRequired[SpeculationReport]


class ChatChunkChoice(TypedDict):
    """A piece of one answer."""

    index: int
    delta: Delta
    logprobs: None
    finish_reason: str | None
    stop_reason: NotRequired[str | None]
    speculation: NotRequired[SpeculationReport]


class TextChoice(TypedDict):
    """One continuation of a prompt, or a piece of it."""

    index: int
    text: str
    logprobs: None
    finish_reason: str | None
    stop_reason: NotRequired[str | None]
    speculation: NotRequired[SpeculationReport]


class _Head(TypedDict):
    id: str
    created: int
    model: str


class ChatCompletion(_Head):
    """Answer to ``POST /v1/chat/completions``. `speculation` is that of choice 0."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    speculation: SpeculationReport


class ChatCompletionChunk(_Head):
    """An event of a streamed chat completion. `speculation` comes with the last ones."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]
    lookahead: NotRequired[StepMark]
    speculation: NotRequired[SpeculationReport]


class Completion(_Head):
    """Answer to ``POST /v1/completions``, and (in pieces) the events of its stream."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: NotRequired[Usage | None]
    lookahead: NotRequired[StepMark]
    speculation: NotRequired[SpeculationReport]


class Model(TypedDict):
    """A model that is served; `root` and `parent` as vLLM's server has them, whose load client asks for the former."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: None


class ModelList(TypedDict):
    """Every model that is served."""

    object: Literal["list"]
    data: list[Model]


class Readiness(TypedDict):
    """Whether each role is able to serve; `error` says in OpenAI's form why not."""

    status: Literal["ready", "not ready"]
    roles: dict[str, bool]
    warnings: NotRequired[list[str]]
    error: NotRequired[ErrorObject]


class Health(TypedDict):
    """The gateway is alive."""

    status: Literal["ok"]


class Version(TypedDict):
    """The version of this server."""

    version: str
