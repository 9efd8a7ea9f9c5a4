"""Errors as the client sees them: OpenAI's JSON, whatever went wrong.

Promises: every error has the form ``{"error": {"message", "type", "param", "code"}}``; an error that is not meant for
clients (a bug, an operator's mistake) is logged in full and shown as nothing but the request id it was logged under.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException

from actors.errors import CapacityError, DeadlineExceeded, LookaheadError, OperatorError
from deployments.gateway.wire import Json

log = logging.getLogger("lookahead.gateway")


class HttpError(LookaheadError):
    """An error that only HTTP knows, with its own `status`, `code`, `kind` (OpenAI's ``type``) and headers."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, param)
        self.args = (status, code, message, param, kind, headers)
        self.status = status
        self.code = code
        self.kind = kind
        self.headers = headers or {}


def bad_request(code: str, message: str, param: str | None = None) -> HttpError:
    """A 400 with its own code."""
    return HttpError(400, code, message, param)


def shown(error: Exception, request_id: str) -> LookaheadError:
    """`error` as it may be shown to a client; what may not be shown is logged here."""
    if isinstance(error, LookaheadError) and not isinstance(error, OperatorError):
        return error
    log.error("Request %s failed inside the server.", request_id, exc_info=error)
    message = (
        "Something failed inside the server, through no fault of the request. "
        f"The operator finds the details in the log under the request id {request_id}."
    )
    return HttpError(500, "internal_error", message, kind="server_error")


def in_words_of(error: Exception, fields: Mapping[str, str]) -> Exception:
    """`error`, where it names one of `fields` with what the client calls that."""
    if isinstance(error, LookaheadError) and error.param is not None:
        error.param = fields.get(error.param, error.param)
    return error


def from_http_exception(error: HTTPException, method: str, path: str) -> HttpError:
    """What the web framework itself refuses: unknown routes and methods above all."""
    headers = dict(error.headers or {})
    if error.status_code == 404:
        message = f"There is nothing at {method} {path}. /openapi.json lists what there is."
        return HttpError(404, "unknown_url", message, headers=headers)
    if error.status_code == 405:
        allowed = headers.get("Allow") or headers.get("allow") or "another method"
        message = f"{path} does not take {method}; it takes {allowed}."
        return HttpError(405, "method_not_allowed", message, headers=headers)
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    return HttpError(error.status_code, "http_error", str(error.detail), kind=kind, headers=headers)


def error_body(error: LookaheadError) -> dict[str, Any]:
    """OpenAI's error object."""
    # `message` and not ``str(error)``: an error that came through Ray carries a remote traceback in the latter.
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def error_response(error: LookaheadError) -> Json:
    """The response for `error`; its headers say when trying again helps, and that it does not after a time limit."""
    headers = dict(error.headers) if isinstance(error, HttpError) else {}
    if isinstance(error, CapacityError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    elif isinstance(error, DeadlineExceeded):
        headers["x-should-retry"] = "false"  # OpenAI's clients repeat a 408, which is the same work in the same time
    return Json(error_body(error), status_code=error.status, headers=headers)
