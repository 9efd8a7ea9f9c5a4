"""What clients' headers make Ray Serve's proxy do: nothing, and never fail."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from ray.serve._private.constants import (
    SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER,
    SERVE_HTTP_REQUEST_ID_HEADER,
    SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER,
)
from ray.serve._private.http_util import _apply_middlewares, convert_object_to_asgi_messages
from ray.serve._private.utils import call_function_from_import_path
from starlette.responses import JSONResponse, PlainTextResponse

from deployments.gateway.envelope import Envelope
from deployments.gateway.request_ids import HEADER, UNUSABLE
from deployments.server.launch import ON_EVERY_NODE


def in_the_proxy(application: Any) -> Any:
    """`application` where Ray's proxy is: behind what we put around it, and Ray's own middleware, which sends request
    ids back."""
    made = call_function_from_import_path(ON_EVERY_NODE["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"])
    return _apply_middlewares(application, made)


async def test_clients_give_no_orders_to_rays_proxy() -> None:
    passed: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope)

    wrapped: Any = application
    for middleware in call_function_from_import_path(ON_EVERY_NODE["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]):
        wrapped = middleware.cls(wrapped, *middleware.args, **middleware.kwargs)
    orders = (SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER, SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER)
    headers = [(name.encode(), b"1") for name in (*orders, "x-request-id")]
    await wrapped({"type": "http", "path": "/", "headers": headers}, None, None)
    await wrapped({"type": "lifespan"}, None, None)
    assert passed == [{"type": "http", "path": "/", "headers": [(b"x-request-id", b"1")]}, {"type": "lifespan"}]


async def answer_to(request_id: bytes, gateway: Any) -> httpx.Response:
    """Of `gateway`, behind the proxy, which reads the ids of requests as it reads them in `proxy.py`."""
    assert SERVE_HTTP_REQUEST_ID_HEADER == HEADER

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        for key, value in scope["headers"]:
            assert key.decode() != HEADER or value.decode()
        await gateway(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(in_the_proxy(proxy))) as client:
        return await client.get("http://made-up/health", headers=[(b"X-Request-ID", request_id)])


@pytest.mark.parametrize("given", [b"\xff", b"", b"a\tb", b"x" * 129, b"z" * 40_000, "\u00e9".encode(), b"a\x00"])
async def test_a_request_id_that_cannot_be_used_is_a_400_of_the_gateway_s_and_not_sent_back(given: bytes) -> None:
    async def nobody(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the gateway works on it")

    answer = await answer_to(given, Envelope(nobody, echo=False))
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (HEADER, "invalid_value")
    assert answer.headers.get_list(HEADER) == [UNUSABLE]


@pytest.mark.parametrize("given", [b"x" * 128, b"mine 1/2"])
async def test_a_request_id_that_can_be_used_comes_back(given: bytes) -> None:
    answer = await answer_to(given, Envelope(PlainTextResponse("fine"), echo=False))
    assert (answer.status_code, answer.headers.get_list(HEADER)) == (200, [given.decode()])


async def get(path: str, application: Any) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(in_the_proxy(application))) as client:
        return await client.get(f"http://made-up{path}")


async def serve_without_an_application(scope: Any, receive: Any, send: Any) -> None:
    """As `HTTPProxy.not_found_response`."""
    for message in convert_object_to_asgi_messages(f"Path '{scope['path']}' not found.", status_code=404):
        await send(message)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/ready", "/health"])
async def test_who_asks_while_the_server_starts_or_ends_is_told_to_come_again(path: str) -> None:
    answer = await get(path, serve_without_an_application)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["code"] == "not_served"


async def test_another_path_is_unknown_to_serve_as_it_was() -> None:
    answer = await get("/other", serve_without_an_application)
    assert (answer.status_code, answer.text) == (404, "Path '/other' not found.")


async def test_what_a_gateway_does_not_find_is_its_own_404() -> None:
    answer = await get("/v1/models/other", JSONResponse({"error": {"code": "model_not_found"}}, 404))
    assert (answer.status_code, answer.json()) == (404, {"error": {"code": "model_not_found"}})
