"""From a JSON object to the generations it asks for.

Promises: what comes out is valid for this deployment, or an error names the field, what stands there and what was
expected. Choices are numbered as OpenAI does: the `n` choices of the first prompt, then those of the second.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from actors.errors import LookaheadError, UnknownModel
from actors.messages import Message, Prompt
from deployments.config import Config, modes_of, scores_alone
from deployments.gateway.errors import bad_request
from deployments.gateway.schemas import Body, ChatRequest, CompletionRequest, Generation, Speculation
from deployments.generation import GenerationRequest, SamplingOptions, SpeculationOptions
from deployments.sections import Fidelity
from deployments.speculation_config import Boundary, Mode, TokenSpeculation

MAX_CHOICES = 128
"""Generations that one request may ask for: prompts times `n`."""
DEFAULT_COMPLETION_TOKENS = 16
MAX_TEMPLATE_CHARS = 16_384
"""Of `chat_template_kwargs` as ASCII JSON, which goes to draft and target."""
RESERVED_TEMPLATE_KEYS = frozenset(
    [
        "chat_template",
        "conversation",
        "messages",
        "tokenize",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "padding",
        "truncation",
        "max_length",
        "tokenizer_kwargs",
    ]
)
"""Arguments of the template function that are the server's own; `chat_template` would let a client run templates."""

B = TypeVar("B", bound=Body)


@dataclass(frozen=True)
class Ask:
    """What one HTTP request asks for: `requests[i]` is choice i; each prompt has `n` of them, one after another."""

    requests: tuple[GenerationRequest, ...]
    n: int
    stream: bool
    include_usage: bool
    priority: int | None = None
    """Lower first, where requests wait."""
    fields: tuple[Mapping[str, str], ...] = field(default=(), hash=False)
    """What the body calls the fields of `requests[i]`, where it has other names for them."""

    @property
    def timeout_s(self) -> float | None:
        """How long the answer may take."""
        return self.requests[0].timeout_s


def ask_chat(data: dict[str, Any], config: Config, request_id: str, fidelity: Fidelity | None = None) -> Ask:
    """The generations of a chat completion; `fidelity` is what they get where the request does not say."""
    body = parse(ChatRequest, data)
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        message = "'max_tokens' and 'max_completion_tokens' differ; give one of them."
        raise bad_request("invalid_value", message, "max_tokens")
    options = body.chat_template_kwargs or {}
    for key in options:
        if key in RESERVED_TEMPLATE_KEYS:
            message = f"'chat_template_kwargs.{key}' is not for requests to set."
            raise bad_request("unsupported_parameter", message, f"chat_template_kwargs.{key}")
    # Chat templates know "system"; "developer" is OpenAI's newer word for it.
    messages = tuple(Message("system" if m.role == "developer" else m.role, m.content) for m in body.messages)
    template_options, salt = json.dumps(options, sort_keys=True), body.cache_salt or ""
    if len(template_options) > MAX_TEMPLATE_CHARS:
        message = f"'chat_template_kwargs' should be at most {MAX_TEMPLATE_CHARS} characters of JSON."
        raise bad_request("invalid_value", message, "chat_template_kwargs")
    prompt = Prompt(messages=messages, template_options=template_options, cache_salt=salt)
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    fields = {"prompt": "messages"}
    if body.max_completion_tokens is not None:
        fields["max_tokens"] = "max_completion_tokens"
    ask = _ask(body, 1, (prompt,), max_tokens, config, request_id, fidelity)
    return replace(ask, fields=(fields,) * len(ask.requests))


def ask_completion(data: dict[str, Any], config: Config, request_id: str, fidelity: Fidelity | None = None) -> Ask:
    """The generations of a completion; `fidelity` is what they get where the request does not say."""
    body = parse(CompletionRequest, data)
    if body.best_of not in (None, 1, body.n or 1):
        message = "'best_of' is not supported by this server: it may only be 1 or the value of 'n'."
        raise bad_request("unsupported_parameter", message, "best_of")
    salt = body.cache_salt or ""
    prompts = (
        Prompt(text=p, cache_salt=salt) if isinstance(p, str) else Prompt(token_ids=p, cache_salt=salt)
        for p in body.prompt
    )
    num = len(body.prompt)
    ask = _ask(body, num, prompts, body.max_tokens or DEFAULT_COMPLETION_TOKENS, config, request_id, fidelity)
    names = ["prompt"] if num == 1 else [f"prompt[{number}]" for number in range(num)]
    at_fault = ("prompt", "max_tokens") if body.max_tokens is None else ("prompt",)
    return replace(ask, fields=tuple(dict.fromkeys(at_fault, name) for name in names for _ in range(ask.n)))


def _ask(
    body: Generation,
    num_prompts: int,
    prompts: Iterable[Prompt],
    max_tokens: int | None,
    config: Config,
    request_id: str,
    fidelity: Fidelity | None,
) -> Ask:
    """As `ask_completion`, of `num_prompts` prompts, which are made only where there may be so many."""
    if body.model != config.served_model_name:
        message = f"There is no model {_show(body.model)} here; there is {config.served_model_name!r}."
        raise UnknownModel(message, "model")
    if body.stream_options is not None and not body.stream:
        raise bad_request("invalid_value", "'stream_options' is allowed only where 'stream' is true.", "stream_options")
    n = body.n or 1
    if n > config.gateway.max_n:
        message = f"'n' should be at most {config.gateway.max_n} on this server, not {_show(n)}."
        raise bad_request("invalid_value", message, "n")
    if n * num_prompts > MAX_CHOICES:
        message = (
            f"{num_prompts} prompts with {n} choices each are more than the {MAX_CHOICES} choices a request may have."
        )
        raise bad_request("invalid_value", message, "prompt")
    asked = tuple(prompts)
    model = GenerationRequest(
        request_id=request_id,
        prompt=asked[0],
        sampling=_sampling(body),
        max_tokens=max_tokens,
        stop=body.stop,
        speculation=_speculation(body.speculation, config, fidelity),
        timeout_s=min(body.timeout or math.inf, config.gateway.request_timeout_s),
    )
    include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    return Ask(_choices(model, asked, n), n, bool(body.stream), include_usage, body.priority)


def _choices(model: GenerationRequest, prompts: tuple[Prompt, ...], n: int) -> tuple[GenerationRequest, ...]:
    if n * len(prompts) == 1:
        return (model,)
    requests = []
    for index in range(n * len(prompts)):
        seed = None if model.sampling.seed is None else model.sampling.seed + index % n
        requests.append(
            replace(
                model,
                request_id=f"{model.request_id}-{index}",
                prompt=prompts[index // n],
                sampling=replace(model.sampling, seed=seed),
            )
        )
    return tuple(requests)


def _sampling(body: Generation) -> SamplingOptions:
    return SamplingOptions(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=None if body.top_k is None else max(0, body.top_k),
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        seed=body.seed,
    )


def _speculation(wishes: Speculation | None, config: Config, fidelity: Fidelity | None) -> SpeculationOptions:
    mode = (wishes.mode if wishes is not None else None) or config.speculation.mode
    # It keeps no fidelity then, and the key's is nothing that the request asked for.
    if mode in get_args(Mode) and scores_alone(mode):
        fidelity = None
    if wishes is None:
        return SpeculationOptions(fidelity=fidelity)
    _check_mode(wishes.mode, config)
    if mode != "lookahead" and wishes.branches not in (None, 1):
        message = f"'speculation.branches' may only be above 1 in mode 'lookahead'; this request's mode is {mode!r}."
        raise bad_request("unsupported_parameter", message, "speculation.branches")
    fidelities: dict[str, str] = {str(level): verifier for level, verifier in config.speculation.fidelities.items()}
    _check_name("verifier", wishes.verifier, list(config.verifier.verifiers))
    _check_name("fidelity", wishes.fidelity, list(fidelities))
    _check_name("token_speculation", wishes.token_speculation, list(get_args(TokenSpeculation)))
    _check_name("boundary", wishes.boundary, list(get_args(Boundary)))
    if wishes.verifier and wishes.fidelity and fidelities[wishes.fidelity] != wishes.verifier:
        message = (
            f"'speculation.fidelity' {wishes.fidelity!r} stands for the verifier {fidelities[wishes.fidelity]!r}, "
            f"but 'speculation.verifier' is {wishes.verifier!r}; give one of them."
        )
        raise bad_request("invalid_value", message, "speculation.verifier")
    named = wishes.fidelity or wishes.verifier
    return SpeculationOptions(**wishes.model_dump() | ({} if named else {"fidelity": fidelity}))


def _check_mode(mode: str | None, config: Config) -> None:
    offered = modes_of(config)
    if mode in get_args(Mode) and mode not in offered:
        scorer = config.speculation.specreason.verifier
        lacks = "draft model" if config.draft is None else f"verifier {scorer!r} to score steps"
        why = f"this deployment has no {lacks}"
        message = f"'speculation.mode' cannot be {mode!r}: {why}. There are: {', '.join(offered)}."
        raise bad_request("unsupported_parameter", message, "speculation.mode")
    _check_name("mode", mode, offered)


def _check_name(key: str, name: str | None, offered: list[str]) -> None:
    if name is not None and name not in offered:
        message = f"'speculation.{key}' cannot be {_show(name)}. There are: {', '.join(offered)}."
        raise bad_request("invalid_value", message, f"speculation.{key}")


# --- what pydantic finds, in words -----------------------------------------------------------------------------------

EXPECTED = {
    "model_type": "be an object",
    "dict_type": "be an object",
    "list_type": "be an array",
    "int_type": "be an integer",
    "int_from_float": "be an integer",
    "float_type": "be a number",
    "bool_type": "be true or false",
    "string_type": "be a string",
    "too_short": "not be empty",
    "string_too_short": "not be empty",
}


def parse(model: type[B], data: dict[str, Any]) -> B:
    """`data` as a `model`; the first problem is raised as an error for the client."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # Unknown keys first: a typo is the likeliest reason for whatever else is wrong.
        unknown = [problem["loc"] for problem in problems if problem["type"] == "extra_forbidden"]
        raise (_name_unknown(unknown) if unknown else _explain(problems[0])) from error


def _name_unknown(locations: list[tuple[int | str, ...]]) -> LookaheadError:
    paths = [_path(location) for location in locations]
    message = f"Unrecognized request argument: {', '.join(repr(path) for path in paths[:10])}."
    if locations[0][0] == "speculation":
        message += f" There are: {', '.join(Speculation.model_fields)}."
    return bad_request("unknown_parameter", message, paths[0])


def _explain(problem: Any) -> LookaheadError:
    kind, param = problem["type"], _path(problem["loc"])
    if kind == "missing":
        return bad_request("missing_required_parameter", f"'{param}' is required.", param)
    if kind == "unsupported_parameter":
        return bad_request(kind, f"'{param}' is not supported by this server: {problem['msg']}.", param)
    if kind in ("too_long", "string_too_long"):
        what = "items" if kind == "too_long" else "characters"
        should = f"have at most {problem['ctx']['max_length']} {what}"
    else:
        should = EXPECTED.get(kind) or problem["msg"].removeprefix("Input should ")
    code = "invalid_type" if kind.endswith("_type") else "invalid_value"
    # Of an array or object only the type is shown, which says nothing where it is right.
    is_shown = kind.endswith("_type") or not isinstance(problem["input"], (dict, list))
    tail = f"; it is {_show(problem['input'])}" if is_shown else ""
    return bad_request(code, f"'{param}' should {should}{tail}.", param)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part[:60]}"
    return path.removeprefix(".")


def _show(value: object) -> str:
    """A client's value, short enough for a message."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array" if value else "an empty array"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
