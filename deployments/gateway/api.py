"""The HTTP application: every endpoint of the server.

Promises: every error has OpenAI's form; the endpoints for probes and scrapers (``/health``, ``/ready``, ``/version``,
``/metrics``) need no key; nothing is kept between requests but what each key has used; pages of other origins may
call it only where the configuration names them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib import metadata
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse

from actors.errors import LookaheadError, RoleUnavailable
from deployments.config import Config
from deployments.gateway.answers import Answer, ChatAnswer, TextAnswer
from deployments.gateway.auth import Door, Turnstile, fidelity_of, holder_of, leaving_of, visit_of
from deployments.gateway.backend import Backend
from deployments.gateway.bodies import read_object
from deployments.gateway.bookmarks import Bookmarks, Mark, read_id
from deployments.gateway.document import ERRORS, Described, gives, takes
from deployments.gateway.envelope import Envelope, request_id_of
from deployments.gateway.errors import HttpError, error_body, error_response, from_http_exception, shown
from deployments.gateway.front_queue import FrontQueue
from deployments.gateway.generations import Generations
from deployments.gateway.keyring import KeyRing
from deployments.gateway.metering import Meter
from deployments.gateway.rejoining import Manner, Rest, check_marks, ends_had, fetch, put_back, wants_resuming
from deployments.gateway.replies import SLOW_CLIENT_S, Reply, StreamReply
from deployments.gateway.request_ids import MAX_ID_LENGTH, is_usable
from deployments.gateway.shapes import (
    ChatCompletion,
    Completion,
    Health,
    Model,
    ModelList,
    Readiness,
    Version,
)
from deployments.gateway.sse import KEEP_ALIVE_S
from deployments.gateway.stay import Count, Held, Stay
from deployments.gateway.translate import Ask, ask_chat, ask_completion
from deployments.gateway.waiting_room import Place
from deployments.gateway.wire import Json
from deployments.generation import GenerationRequest, Keep, Output

READINESS_S = 10.0
"""A role that does not say within this time whether it is ready, is not."""
EXPOSED = [
    "x-request-id",
    "retry-after",
    "x-should-retry",
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
]
"""Headers of an answer that a page may read, where pages may ask at all."""
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
STALE_KEYS = "The file of API keys cannot be read as it is now; the keys that were read last count. The log says why."
STALE_METRIC = """\
# HELP lookahead_api_keys_stale Whether this gateway goes on with keys that it read before their file broke.
# TYPE lookahead_api_keys_stale gauge
lookahead_api_keys_stale {}
"""


def create_app(
    config: Config,
    get_backend: Callable[[], Backend],
    *,
    keep_alive_s: float = KEEP_ALIVE_S,
    echo_request_id: bool = True,
    clock: Callable[[], float] = time.monotonic,
    queue: FrontQueue | None = None,
) -> FastAPI:
    """The application for `config`. `get_backend` is called once a request, never before the first one.

    Behind Ray Serve's proxy `echo_request_id` must be off: the proxy sends ``x-request-id`` itself. `clock` is what
    limits and the file of keys go by; `queue` is where requests wait, one of its own if None. Raises ConfigError where
    the keys cannot be read.
    """
    keys = KeyRing(config.gateway, frozenset(config.speculation.fidelities), os.environ)
    door = Door(keys, config.gateway.key_limits, clock)
    routes = Routes(config, get_backend, keep_alive_s, keys, clock, queue or FrontQueue(config, clock))
    app = Described(
        title="lookahead-serve",
        summary="OpenAI's API over step-level speculative reasoning.",
        version=version(),
        docs_url=None,  # the pages load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,
        responses=ERRORS,
    )
    app.include_router(routes.open())
    app.include_router(routes.v1(), dependencies=[Depends(door)])
    app.add_middleware(Envelope, echo=echo_request_id)
    if config.gateway.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.gateway.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    app.add_exception_handler(LookaheadError, _answer_known)
    app.add_exception_handler(HTTPException, _answer_http)
    return app


def version() -> str:
    """The installed version, or ``unknown`` in a checkout that was never installed."""
    try:
        return metadata.version("lookahead-serve")
    except metadata.PackageNotFoundError:
        return "unknown"


class Routes:
    """The endpoints of one application."""

    def __init__(
        self,
        config: Config,
        get_backend: Callable[[], Backend],
        keep_alive_s: float,
        keys: KeyRing,
        clock: Callable[[], float],
        queue: FrontQueue,
    ) -> None:
        self._config = config
        self._get_backend = get_backend
        self._keep_alive_s = keep_alive_s
        self._keys = keys
        self._clock = clock
        self._queue = queue
        self._turnstile = Turnstile(clock)
        self._created = int(time.time())

    def open(self) -> APIRouter:
        """Endpoints for probes and scrapers."""
        router = APIRouter()
        _get(router, "/health", self.health, gives(Health))
        _get(router, "/ready", self.ready, {**gives(Readiness), 503: {"model": Readiness}})
        router.get("/metrics", response_model=None, response_class=PlainTextResponse)(self.metrics)
        _get(router, "/version", self.version, gives(Version))
        return router

    def v1(self) -> APIRouter:
        """OpenAI's endpoints, and ours beside them."""
        router = APIRouter(prefix="/v1")
        counted = [Depends(self._turnstile)]
        router.post(
            "/chat/completions",
            dependencies=counted,
            response_model=None,
            openapi_extra=takes("ChatRequest"),
            responses=gives(ChatCompletion, "ChatCompletionChunk"),
        )(self.chat_completions)
        router.post(
            "/completions",
            dependencies=counted,
            response_model=None,
            openapi_extra=takes("CompletionRequest"),
            responses=gives(Completion, "Completion"),
        )(self.completions)
        events: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
        asking = [Depends(self._turnstile.ask)]
        router.get("/streams/{request_id:path}", dependencies=asking, response_model=None, responses=events)(
            self.stream
        )
        _get(router, "/models", self.models, gives(ModelList))
        _get(router, "/models/{model:path}", self.model, gives(Model))
        router.get("/traces/{request_id:path}", dependencies=asking, response_model=None)(self.trace)
        return router

    async def chat_completions(self, request: Request) -> Response:
        """Answer a conversation."""
        request_id = request_id_of(request)
        ask = ask_chat(await self._body(request), self._config, request_id, fidelity_of(request))
        return self._reply(request, ask, request_id, is_chat=True)

    async def stream(self, request: Request, request_id: str) -> Response:
        """The rest of a resumable stream, behind the event that ``Last-Event-ID`` names; without it, all of it."""
        backend, last_id = self._get_backend(), request.headers.get("last-event-id")
        marks = () if last_id is None else read_id(last_id, request_id)
        self._queue.arrive(request)
        fetching = asyncio.create_task(fetch(backend, request_id, holder_of(request), marks))
        refusal: LookaheadError | asyncio.CancelledError | None = None
        try:
            await asyncio.shield(fetching)
        except asyncio.CancelledError as gone:  # the client is; whoever wrote for it may have ended already
            refusal = gone
        manner, requests, why_not = await fetching
        marks = marks or (Mark(),) * len(manner.request_ids)
        left_s = min(each.timeout_s or self._config.gateway.request_timeout_s for each in requests)
        timeout_s = max(left_s, SLOW_CLIENT_S)  # what was written in time may be taken after it
        try:
            self._turnstile.go_on(request)
            if why_not is not None:
                raise why_not
            check_marks(requests, marks)
        except LookaheadError as error:
            refusal = refusal or error
        unfinished = tuple(replace(each, timeout_s=timeout_s) for each in requests if not each.is_finished)
        ask = Ask(unfinished, manner.n, True, manner.include_usage)
        place = self._queue.go_on(request, ask) if unfinished else None
        stay = Stay(self._count(request, frozenset(), place), leaving_of(request), len(unfinished))
        held = Held(backend, stay)
        if refusal is not None:
            await put_back(held, requests)
            raise refusal
        rest = Rest(held, requests, marks)
        generations = Generations(rest, requests, timeout_s)
        answer = self._answer(manner)
        for index, end in ends_had(requests, marks):
            answer.record(index, end)  # it is not sent again, and the last one that is sent reports on all
        return StreamReply(
            generations,
            answer,
            request_id,
            timeout_s,
            manner.include_usage,
            self._keep_alive_s,
            Bookmarks(request_id, marks),
        )

    def _answer(self, manner: Manner) -> Answer:
        """The answer that `manner` tells of, to be put together."""
        head = manner.request_id, self._config.served_model_name, int(manner.begun), len(manner.request_ids), manner.n
        return ChatAnswer(*head, self._config.gateway.reasoning_content) if manner.is_chat else TextAnswer(*head)

    async def completions(self, request: Request) -> Response:
        """Continue a text."""
        request_id = request_id_of(request)
        ask = ask_completion(await self._body(request), self._config, request_id, fidelity_of(request))
        return self._reply(request, ask, request_id, is_chat=False)

    async def _body(self, request: Request) -> dict[str, Any]:
        gateway, arrival = self._config.gateway, self._queue.arrive(request)
        return await read_object(request, gateway.max_body_bytes, gateway.request_timeout_s, arrival)

    def _reply(self, request: Request, ask: Ask, request_id: str, *, is_chat: bool) -> Response:
        ids = tuple(each.request_id for each in ask.requests)
        manner = Manner(request_id, is_chat, time.time(), ids, ask.n, ask.include_usage)
        answer, requests, bookmarks = self._answer(manner), ask.requests, None
        if wants_resuming(request, ask.stream, self._config.gateway.resume_s):
            keep = Keep(self._config.gateway.resume_s, holder_of(request), str(manner), request_id)
            requests = tuple(replace(each, keep=keep) for each in requests)
            bookmarks = Bookmarks(request_id, (Mark(),) * len(requests))
        timeout_s = ask.timeout_s or self._config.gateway.request_timeout_s
        place = self._queue.enter(request, ask)
        payers = frozenset(each.request_id for each in ask.requests[:: ask.n])
        requests = tuple(replace(each, holder=holder_of(request)) for each in requests)
        backend, count = self._get_backend(), self._count(request, payers, place)
        if bookmarks is None:
            generations = Generations(backend, requests, timeout_s, count, place.turn, ask.fields, ask.n)
        else:
            held = Held(backend, Stay(count, leaving_of(request), len(requests)))
            generations = Generations(held, requests, timeout_s, turn=place.turn, fields=ask.fields, n=ask.n)
        if not ask.stream:
            return Reply(generations, answer, request_id, timeout_s)
        keep_alive_s = self._keep_alive_s
        return StreamReply(generations, answer, request_id, timeout_s, ask.include_usage, keep_alive_s, bookmarks)

    def _count(self, request: Request, payers: frozenset[str], place: Place | None) -> Count:
        meter = Meter(visit_of(request), payers, self._clock)

        def count(each: GenerationRequest, output: Output) -> None:
            meter.count(each, output)
            if place is not None:
                place.count(each, output)

        return count

    async def models(self) -> Json:
        """List the models."""
        return Json({"object": "list", "data": [self._model()]})

    async def model(self, model: str) -> Json:
        """Describe one model."""
        if model != self._config.served_model_name:
            message = f"There is no model {model[:60]!r} here; there is {self._config.served_model_name!r}."
            raise HttpError(404, "model_not_found", message, "model")
        return Json(self._model())

    def _model(self) -> Model:
        name = self._config.served_model_name
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "lookahead",
            "root": name,
            "parent": None,
        }

    async def trace(self, request_id: str) -> Response:
        """The step trace of a recent request, by its x-request-id or by the id of its completion."""
        plain = request_id.removeprefix(ChatAnswer.id_prefix).removeprefix(TextAnswer.id_prefix)
        names = dict.fromkeys((request_id, plain, f"{plain}-0"))  # the last one: of several choices the first
        message = f"There is no trace of a request {request_id[:128]!r}. Only the last few hundred are kept"
        missing: LookaheadError = HttpError(
            404, "trace_not_found", f"{message}, and fewer where they are long.", "request_id"
        )
        if not is_usable(request_id, 2 * MAX_ID_LENGTH):  # a completion's or a choice's is longer than the client's own
            raise missing
        for name in names:
            try:
                if (found := await self._get_backend().trace(name)) is not None:
                    return Response(found, media_type="application/json")
            except RoleUnavailable as error:
                missing = error  # unless it is there under another name
        raise missing

    async def health(self) -> Json:
        """Whether this process answers."""
        return Json({"status": "ok"})

    async def ready(self) -> Json:
        """Whether every role is able to serve."""
        try:
            async with asyncio.timeout(READINESS_S):
                roles = await self._get_backend().readiness()
        except TimeoutError:
            return _not_ready({}, f"The cluster did not say within {READINESS_S:g} seconds whether it is ready.")
        except LookaheadError as error:
            return _not_ready({}, error.message)
        missing = [role for role, able in roles.items() if not able]
        if missing or not roles:
            return _not_ready(roles, f"Not able to serve yet: {', '.join(missing) or 'no role has reported'}.")
        warned = {"warnings": [STALE_KEYS]} if await self._has_stale_keys() else {}
        return Json({"status": "ready", "roles": roles, **warned})

    async def _has_stale_keys(self) -> bool:
        await self._keys.look(self._clock())
        return self._keys.trouble is not None

    async def metrics(self) -> Response:
        """Metrics in Prometheus' text format."""
        gathered = await self._get_backend().metrics()
        own = STALE_METRIC.format(int(await self._has_stale_keys()))
        own += self._queue.metrics()
        return Response(gathered + own, headers={"Content-Type": PROMETHEUS})

    async def version(self) -> Json:
        """The version of this server."""
        return Json({"version": version()})


def _not_ready(roles: dict[str, bool], message: str) -> Json:
    body = {"status": "not ready", "roles": roles, **error_body(RoleUnavailable(message))}
    return Json(body, status_code=503)


async def _answer_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return error_response(from_http_exception(error, request.method, request.url.path))


async def _answer_known(request: Request, error: Exception) -> Response:
    return error_response(shown(error, request_id_of(request)))


def _get(
    router: APIRouter,
    path: str,
    endpoint: Callable[..., Awaitable[Response]],
    responses: dict[int | str, dict[str, Any]] | None = None,
) -> None:
    router.get(path, response_model=None, responses=responses)(endpoint)
