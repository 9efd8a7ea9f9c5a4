"""A trace as JSON, written so that nobody waits for it.

Promises: what comes out is what `json.dumps` would give, in plain ASCII; no part takes longer than some milliseconds,
and between two of them other work goes on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from itertools import islice
from typing import Any

PART = 200
"""Spans, commits or decisions that are written at a time. A thread would not do instead: the library holds the
interpreter's lock from the first byte to the last."""


async def json_parts(trace: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
    """The JSON object `trace`. Lists in it, and iterators that stand for lists, are read and written `PART` by
    `PART`."""
    text = "{"
    for number, (key, value) in enumerate(trace.items()):
        text += ("," if number else "") + _json(key) + ":"
        if not isinstance(value, list | Iterator):
            text += _json(value)
            continue
        text += "["
        items, between = iter(value), ""
        while part := list(islice(items, PART)):
            yield (text + between + _json(part)[1:-1]).encode("ascii")
            text, between = "", ","
            await asyncio.sleep(0)
        text += "]"
    yield (text + "}").encode("ascii")


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
