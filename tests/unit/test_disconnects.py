"""A client that goes while Serve hands its request on to a gateway, without Ray's processes."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from ray.exceptions import RayTaskError, TaskCancelledError

from deployments.gateway.api import create_app
from deployments.server.disconnects import Disconnects
from tests.unit.gateway.script import ScriptedBackend, config

ELSEWHERE = RayTaskError("receive", "trace", TaskCancelledError(), "proxy", 7, "10.0.0.1").as_instanceof_cause()


@pytest.mark.parametrize("error", [TaskCancelledError(), ELSEWHERE])
async def test_who_leaves_while_sending_is_no_error_of_the_server(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    messages = [{"type": "http.request", "body": b'{"model": ', "more_body": True}]
    sent: list[Any] = []

    async def receive() -> Any:
        if not messages:
            raise error
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"host", b"here")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"", "query_string": b""}
    scope |= {"headers": headers, "http_version": "1.1", "scheme": "http", "client": None, "server": None}
    app = create_app(config(), lambda: ScriptedBackend())
    app.add_middleware(Disconnects)
    with caplog.at_level(logging.WARNING):
        await app(scope, receive, send)
    assert not messages
    assert sent == []
    assert caplog.records == []
