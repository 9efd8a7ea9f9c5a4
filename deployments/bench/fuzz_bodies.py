"""Bodies of requests that nobody would send on purpose, as hypothesis strategies.

Promises: most are near a valid body, so that they get past the first check; the rest is any JSON, JSON that is damaged,
forms that break parsers, and any bytes. Needs hypothesis, which the `dev` extra brings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from deployments.gateway.schemas import ChatRequest, CompletionRequest

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

TEXT = st.text(st.characters(codec=None), max_size=8)
SPECIAL = st.sampled_from(
    ["<|im_end|>", "</think>", "<|endoftext|>", "\x00", "\x1b[2J", "\u2028", "\r\n\r\n", "a" * 5000]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | SPECIAL
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
LIKELY: st.SearchStrategy[Any] = st.sampled_from(
    [0, 1, -1, 2, 0.5, 10**30, "", "x", True, False, None, [], {}, [1], ["a"], [[1]], [{"type": "text", "text": "t"}]]
)
WISHES = st.dictionaries(
    st.sampled_from(["mode", "max_lookahead", "branches", "verifier", "fidelity", "depth", "boundary", "controller"]),
    st.sampled_from(["target", "lookahead", "specreason", "exact", "fast", "line", 1, 4, 65, None]) | VALUES,
)
MESSAGES = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls"]), LIKELY | st.just("user") | VALUES),
    max_size=3,
)
HOSTILE = st.sampled_from(
    [
        b'{"a": ' + b"[" * 100_000,
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        b'{"temperature": NaN}',
        b'{"temperature": -Infinity}',
        b'{"temperature": 1e999}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b'{"model": "\\ud83d"}',
        b'{"model": "\xff\xfe"}',
        b'{"model": "a", "model": "b"}',
        b"\xef\xbb\xbf{}",
        b"{" + b",".join(b'"%d": 1' % number for number in range(1025)) + b"}",
        b'{"messages": [' + b"{}," * 5000 + b"{}]}",
        b'{"prompt": [' + b"1," * 20_000 + b"-1]}",
        b"",
        b" " * 70_000,
        b"x" * 300_000,
    ]
)
CONTENT_TYPES = st.sampled_from(
    ["application/json"] * 12
    + ["application/json; charset=utf-8", "application/json; charset=utf-16", "text/plain", "multipart/form-data", ""]
)


@dataclass(frozen=True, slots=True)
class Post:
    """One request: where it goes, what its body calls itself, and the body."""

    path: str
    content_type: str
    body: bytes


def bodies(model: type[ChatRequest | CompletionRequest], smallest: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies near a valid one: a few parameters changed, now and then one taken away or made up."""
    names = st.sampled_from(sorted(model.model_fields)) | TEXT
    changes = st.dictionaries(names, LIKELY | VALUES, max_size=4)
    special: st.SearchStrategy[dict[str, Any]] = st.just({}) | st.fixed_dictionaries(
        {}, optional={"speculation": WISHES, "messages": MESSAGES}
    )
    kinds: st.SearchStrategy[dict[str, Any]] = st.sampled_from([{}, {"stream": True}])
    dropped: st.SearchStrategy[set[str]] = st.sets(st.sampled_from(sorted(smallest)), max_size=1) | st.just(set())
    return st.builds(
        lambda kind, changed, more, less: {
            k: v for k, v in {**smallest, **kind, **changed, **more}.items() if k not in less
        },
        kinds,
        st.just({}) | changes,
        special,
        dropped,
    )


def near_valid(model: str) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """Paths with bodies near a valid one, for a server of `model`."""
    chat = {"model": model, "messages": [{"role": "user", "content": "What is six times seven?"}]}
    completion = {"model": model, "prompt": "Six times seven is"}
    return st.tuples(st.just(CHAT), bodies(ChatRequest, chat)) | st.tuples(
        st.just(COMPLETIONS), bodies(CompletionRequest, completion)
    )


def posts(model: str) -> st.SearchStrategy[Post]:
    """Requests of every kind to a server of `model`, half of them near valid ones."""
    near = st.builds(
        lambda made, kind: Post(made[0], kind, json.dumps(made[1]).encode()), near_valid(model), CONTENT_TYPES
    )
    damaged = st.builds(_damage, near, st.integers(0, 200), st.integers(0, 4), st.binary(max_size=4))
    raw = HOSTILE | VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=64)
    other = st.builds(Post, st.sampled_from([CHAT, COMPLETIONS]), CONTENT_TYPES, raw)
    return near | near | damaged | other


def _damage(post: Post, at: int, taken: int, put: bytes) -> Post:
    at %= len(post.body) + 1
    return Post(post.path, post.content_type, post.body[:at] + put + post.body[at + taken :])
