"""A trace as JSON in parts: the same as in one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deployments.telemetry.trace_json import PART, json_parts


async def written(trace: dict[str, Any]) -> list[bytes]:
    return [part async for part in json_parts(trace)]


@pytest.mark.parametrize("length", [0, 1, PART, PART + 1, 5 * PART])
async def test_lists_are_written_in_parts(length: int) -> None:
    trace: dict[str, Any] = {
        "request_id": 'a"\u2028',
        "spans": [{"text": "\u00e9 \ud800", "at": [number, 0.5]} for number in range(length)],
        "none": None,
        "commits": [number for number in range(length)],
        "summary": {"a": [1]},
    }
    parts = await written(trace)
    assert b"".join(parts) == json.dumps(trace, separators=(",", ":")).encode()
    assert max(map(len, parts)) < 60 * PART
    as_iterators = trace | {name: iter(trace[name]) for name in ("spans", "commits")}
    assert await written(as_iterators) == parts


async def test_the_smallest_ones() -> None:
    assert await written({}) == [b"{}"]
    assert await written({"spans": []}) == [b'{"spans":[]}']
    with pytest.raises(ValueError, match="not JSON compliant"):
        await written({"spans": [float("nan")]})
