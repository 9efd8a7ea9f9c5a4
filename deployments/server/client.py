"""A client of the server's own HTTP API: one question, one streamed reply, measured.

Promises: `ask` returns a `Reply` whatever happens after the server was reached, and a reply without `error` is whole;
a server that is not there is a `ServiceError` that says how to start one; a cancelled `ask` closes its stream, which
stops the work on the server. Times are seconds.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from actors.errors import LookaheadError, RequestError, ServiceError
from actors.messages import Message
from deployments.generation import Channel

DEFAULT_TIMEOUT_S = 1800.0
"""For a whole answer: a small machine writes a few tokens a second."""
_CONNECT_TIMEOUT_S = 10.0
_SHORT_TIMEOUT_S = 30.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Question:
    """One request. `speculation` holds the keys of the request extension that are set; None leaves a field out."""

    messages: tuple[Message, ...]
    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    speculation: Mapping[str, str | int] = field(default_factory=dict)
    cache_salt: str | None = None

    def body(self) -> dict[str, Any]:
        """The body of ``POST /v1/chat/completions``, streamed."""
        fields = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "cache_salt": self.cache_salt,
        }
        return {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in self.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            **{name: value for name, value in fields.items() if value is not None},
            **({"speculation": dict(self.speculation)} if self.speculation else {}),
        }


@dataclass(frozen=True, slots=True)
class Fragment:
    """Text as it arrived. `origin` and `step` say whose step it belongs to, where the server says so."""

    text: str
    channel: Channel
    origin: str | None = None
    step: int | None = None


@dataclass(slots=True)
class Reply:
    """All that came back. `error` is a sentence, or None if the reply is whole."""

    request_id: str = ""
    text: str = ""
    reasoning: str = ""
    steps: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By step index: its origin and text."""
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    speculation: dict[str, Any] | None = None
    latency_s: float = 0.0
    ttft_s: float | None = None
    """Until the first text, reasoning included; None if there was none."""
    first_step_s: float | None = None
    """Until the first step was there as a whole: its last text where the server says whose step a text is, else the
    first blank line. An answer of one step has it at its end."""
    longest_silence_s: float | None = None
    """Between two texts that follow each other; None if there were fewer than two."""
    error: str | None = None

    @property
    def output_tokens(self) -> int:
        """Tokens of the output as the server counted them; 0 if it did not say."""
        return int((self.usage or {}).get("completion_tokens") or 0)

    @property
    def tokens_per_s(self) -> float:
        """Output tokens over the whole time of the request, waiting included."""
        return self.output_tokens / self.latency_s if self.latency_s else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For a JSON result."""
        steps = [{"step": index, **step} for index, step in sorted(self.steps.items())]
        names = ("request_id", "text", "reasoning", "finish_reason", "latency_s", "ttft_s", "output_tokens")
        rest = ("tokens_per_s", "speculation", "usage", "error")
        return {**{name: getattr(self, name) for name in names + rest}, "steps": steps}


def server_missing(url: str) -> ServiceError:
    """The error for a server that does not listen."""
    return ServiceError(
        f"No server answers at {url}. Start one with 'lookahead serve --profile local', or name another with --url."
    )


def _no_address(url: str, why: str) -> RequestError:
    """Of what has an '@' nothing is repeated: who cannot read an address cannot tell where its password ends."""
    if "@" in url:
        message = "What was given is not an address like http://USER:PASSWORD@127.0.0.1:8000."
    else:
        message = f"{url!r} is not an address{why}."
    return RequestError(message, "url")


@asynccontextmanager
async def connect(url: str, api_key: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client for the server at `url`, which may end in ``/v1``, as `serve` prints it. Proxies of the environment are
    not used for this machine's own address. A user and password in `url` are sent, and stand in no error."""
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise _no_address(url, f": {error}") from error
    if base.scheme not in ("http", "https") or not base.host or (base.port or 80) > 65535:
        raise _no_address(url, " like http://127.0.0.1:8000")
    user = (base.username, base.password) if base.userinfo else None
    headers = {b"authorization": _bearer(api_key)} if api_key else {}
    timeout = httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S)
    limits = httpx.Limits(max_connections=None)
    trust_env = base.host not in _LOOPBACK
    base, path = base.copy_with(userinfo=b""), base.path.rstrip("/")
    if path.endswith("/v1"):
        base = base.copy_with(path=path.removesuffix("/v1") or "/")
    async with httpx.AsyncClient(
        base_url=base, auth=user, headers=headers, timeout=timeout, limits=limits, trust_env=trust_env
    ) as http:
        yield http


def _bearer(api_key: str) -> bytes:
    """The header of a key; RequestError for what a terminal handed over that is no text."""
    try:
        return f"Bearer {api_key}".encode()
    except UnicodeEncodeError as error:
        raise RequestError("The API key is not text in UTF-8.", "api_key") from error


async def get_json(http: httpx.AsyncClient, path: str) -> Any:
    """What the server answers to ``GET path``; RequestError or ServiceError in words if it does not."""
    try:
        response = await http.get(path, timeout=_SHORT_TIMEOUT_S)
    except httpx.ConnectError as error:
        raise server_missing(str(http.base_url)) from error
    except httpx.HTTPError as error:
        raise ServiceError(f"{http.base_url} did not answer: {_name(error)}.") from error
    if response.is_error:
        raise _refusal(response)
    try:
        return response.json()
    except ValueError as error:
        raise ServiceError(f"{response.url} did not answer in JSON; is it a lookahead server?") from error


async def served_model(http: httpx.AsyncClient) -> str:
    """The name of the model that the server offers first."""
    listing = await get_json(http, "/v1/models")
    try:
        return str(listing["data"][0]["id"])
    except (LookupError, TypeError) as error:
        raise ServiceError(f"{http.base_url} names no model; is it a lookahead server?") from error


async def ask(
    http: httpx.AsyncClient,
    question: Question,
    on_fragment: Callable[[Fragment], None] | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Reply:
    """Ask `question` and read the whole stream, calling `on_fragment` for each text as it comes.

    Raises ServiceError only where no server listens; every other failure is the reply's `error`.
    """
    reply = Reply()
    started = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_s):
            await _read(http, question, reply, on_fragment, started)
    except TimeoutError:
        reply.error = f"The answer was not complete after {timeout_s:g} s."
    except httpx.ConnectError as error:
        raise server_missing(str(http.base_url)) from error
    except httpx.HTTPError as error:
        reply.error = f"The connection to {http.base_url} broke: {_name(error)}."
    except LookaheadError as error:
        reply.error = str(error)
    reply.latency_s = time.perf_counter() - started
    return reply


async def _read(
    http: httpx.AsyncClient,
    question: Question,
    reply: Reply,
    on_fragment: Callable[[Fragment], None] | None,
    started: float,
) -> None:
    done, clock = False, _Clock()
    async with http.stream("POST", "/v1/chat/completions", json=question.body()) as response:
        # A proxy on the way may add the header a second time.
        reply.request_id = next(iter(response.headers.get_list("x-request-id")), "")
        if response.is_error:
            await response.aread()
            raise _refusal(response)
        async with aclosing(_events(response)) as events:
            async for data in events:
                if data == "[DONE]":
                    done = True
                    break
                for fragment in _take(reply, data):
                    clock.heard(reply, fragment, time.perf_counter() - started)
                    if on_fragment is not None:
                        on_fragment(fragment)
    if not done or reply.finish_reason is None:
        raise ServiceError("The stream ended before the answer was complete.")


class _Clock:
    """When texts arrived, seconds since the request was sent."""

    def __init__(self) -> None:
        self._last_s = 0.0
        self._first_step: int | None = None
        self._is_whole = False

    def heard(self, reply: Reply, fragment: Fragment, at_s: float) -> None:
        """`fragment` was added to `reply` at `at_s`."""
        if reply.ttft_s is None:
            reply.ttft_s, self._first_step = at_s, fragment.step
        else:
            reply.longest_silence_s = max(reply.longest_silence_s or 0.0, at_s - self._last_s)
        self._last_s = at_s
        if self._is_whole or (self._first_step is not None and fragment.step != self._first_step):
            self._is_whole = True
            return
        reply.first_step_s = at_s
        self._is_whole = self._first_step is None and "\n\n" in (reply.reasoning + reply.text).lstrip()


async def _events(response: httpx.Response) -> AsyncGenerator[str, None]:
    """The `data` of each server-sent event. Lines are split at line feeds alone: httpx's own splitter also cuts at
    characters that JSON strings may hold."""
    data: list[str] = []
    rest = b""
    async for block in response.aiter_bytes():
        *lines, rest = (rest + block).split(b"\n")
        for raw in lines:
            line = raw.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" ").decode("utf-8", "replace"))
            elif not line and data:
                yield "\n".join(data)
                data = []


def _take(reply: Reply, data: str) -> list[Fragment]:
    """Add one chunk to `reply`; its texts, at most one for each channel."""
    try:
        chunk = json.loads(data)
    except ValueError as error:
        raise ServiceError(f"The server sent an event that is not JSON: {data[:200]!r}.") from error
    if not isinstance(chunk, dict):
        raise ServiceError(f"The server sent an event that is not an object: {data[:200]!r}.")
    if chunk.get("error"):
        raise ServiceError(f"The server failed while it answered: {_message(chunk)}")
    reply.request_id = reply.request_id or str(chunk.get("id", ""))
    reply.usage = chunk.get("usage") or reply.usage
    reply.speculation = chunk.get("speculation") or reply.speculation
    mark = chunk.get("lookahead") or {}
    found = []
    for choice in chunk.get("choices") or []:
        reply.finish_reason = choice.get("finish_reason") or reply.finish_reason
        delta = choice.get("delta") or {}
        for text, channel in (
            (delta.get("reasoning") or delta.get("reasoning_content"), Channel.REASONING),
            (delta.get("content"), Channel.CONTENT),
        ):
            if text:
                found.append(Fragment(text, channel, mark.get("origin"), mark.get("step")))
    for fragment in found:
        _add(reply, fragment)
    return found


def _add(reply: Reply, fragment: Fragment) -> None:
    if fragment.channel is Channel.REASONING:
        reply.reasoning += fragment.text
    else:
        reply.text += fragment.text
    if fragment.step is not None:
        step = reply.steps.setdefault(fragment.step, {"origin": fragment.origin, "text": ""})
        step["origin"] = fragment.origin  # a part may be sent before it is known whose step it is
        step["text"] += fragment.text


def _refusal(response: httpx.Response) -> LookaheadError:
    """The error of a response that is not a success, by whose fault it is."""
    try:
        message = _message(response.json())
    except ValueError:
        message = response.text.strip()[:300] or response.reason_phrase
    kind = RequestError if response.status_code < 500 else ServiceError
    if response.status_code == 401:
        return kind(f"The server asks for a key: give it with --api-key or LOOKAHEAD_API_KEY. It said: {message}")
    return kind(f"The server refused the request (HTTP {response.status_code}): {message}")


def _message(body: Any) -> str:
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        return str(error.get("message") or error.get("detail") or error)
    return str(error)


def _name(error: Exception) -> str:
    return str(error) or type(error).__name__
