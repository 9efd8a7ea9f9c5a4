"""JSON as it goes over the wire: strict on the way in, plain ASCII on the way out.

Promises: what `decode` returns is an object of finite numbers and valid text, with no key twice and no more levels and
values than the bounds here; anything else is a 400 that says what is wrong. What `encode` returns holds no byte that a
line reader could take for the end of a line, and survives text that is not valid Unicode.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from starlette.responses import JSONResponse

from actors.errors import RequestError

MAX_DEPTH = 64
"""Levels of arrays and objects in a request; no honest request comes near, and Python's stack has an end."""

MAX_KEYS = 1024
"""Keys of one object; checking hundreds of thousands would hold up everybody else's streams for seconds."""

MAX_VALUES = 100_000
"""Keys and values in all, integers aside, since prompts are token ids, too. As many messages as there may be, each of
several parts, have fewer; of a million empty objects, which fit into 4 MiB, the reading alone took a second."""

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
"""Matches wherever a string begins, also one without an end: it never goes back, so its time is that of the length."""


class NotJson(RequestError):
    """The body is not JSON that can be taken."""

    code = "invalid_json"


class Json(JSONResponse):
    """A JSON response in the form of `encode`."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return encode(content)


def encode(value: Any) -> bytes:
    """`value` as compact ASCII JSON."""
    # ASCII because some clients split lines at U+2028 and U+0085, which JSON leaves unescaped otherwise.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def decode(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`; NotJson says why it is none."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotJson(f"The body is not valid UTF-8: byte {error.start} cannot be decoded.") from error
    # Arrays are made without a word to us: a million of them take half a second, most of it in the garbage collector.
    if text.count("[") > MAX_VALUES and _STRING.sub("", text).count("[") > MAX_VALUES:
        raise _too_many()
    reading = _Reading()
    try:
        value = json.loads(
            text, parse_constant=_no_constant, parse_float=reading.number, object_pairs_hook=reading.mapping
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise NotJson(f"The body is not valid JSON: {error.msg} at {where}.") from error
    except RecursionError as error:
        raise NotJson(f"The body is nested deeper than {MAX_DEPTH} levels.") from error
    except ValueError as error:  # Python refuses to read integers of thousands of digits
        raise NotJson("The body holds a number that is too long to be read.") from error
    if not isinstance(value, dict):
        raise NotJson("The body must be a JSON object.")
    _inspect(value)
    return value


def _inspect(value: dict[str, Any]) -> None:
    level: list[dict[str, Any] | list[Any]] = [value]
    depth = num_values = 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise NotJson(f"The body is nested deeper than {MAX_DEPTH} levels.")
        deeper: list[dict[str, Any] | list[Any]] = []
        for container in level:
            for item in [*container, *container.values()] if isinstance(container, dict) else container:
                if type(item) is int:
                    continue
                num_values += 1
                if num_values > MAX_VALUES:
                    raise _too_many()
                if isinstance(item, (dict, list)):
                    deeper.append(item)
                elif isinstance(item, str) and not _is_text(item):
                    raise NotJson("The body holds half of a surrogate pair (\\ud800 to \\udfff), which is not text.")
        level = deeper


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _no_constant(name: str) -> float:
    raise NotJson(f"The body holds {name}, which JSON does not know.")


def _too_many() -> NotJson:
    return NotJson(f"The body holds more than {MAX_VALUES} keys and values, integers aside.")


class _Reading:
    """Makes what Python has to make of one body, its objects and fractions, and gives up where they are too many."""

    def __init__(self) -> None:
        self._num = 0

    def number(self, digits: str) -> float:
        """A number that is no integer."""
        self._count()
        number = float(digits)
        if not math.isfinite(number):
            raise NotJson(f"The body holds {digits[:20]}, which is too large for a number.")
        return number

    def mapping(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """An object of these keys and values."""
        self._count()
        if len(pairs) > MAX_KEYS:
            raise NotJson(f"The body holds an object of more than {MAX_KEYS} keys.")
        # A key given twice would be ignored in silence once.
        value: dict[str, Any] = {}
        for key, item in pairs:
            if key in value:
                raise NotJson(f"The body holds the key {json.dumps(key[:60])} twice in one object.")
            value[key] = item
        return value

    def _count(self) -> None:
        self._num += 1
        if self._num > MAX_VALUES:
            raise _too_many()
