"""``lookahead keys``: what it prints can be put into a configuration, and lets the key in."""

from __future__ import annotations

import io

import pytest
import yaml

from deployments.gateway.keys import find, keys_of, parse_keys
from deployments.gateway_config import KeyLimits


def test_new_and_hash_agree(lookahead, monkeypatch: pytest.MonkeyPatch) -> None:
    made = lookahead("keys", "new", "--name", "alice", "--json").json
    monkeypatch.setattr("sys.stdin", io.StringIO(made["key"] + "\n"))
    hashed = lookahead("keys", "hash", "--name", "alice")
    assert made["key"] not in hashed.out
    assert yaml.safe_load(hashed.out) == [{"name": "alice", "sha256": made["sha256"]}]
    (key,) = keys_of(parse_keys(hashed.out, "stdout"), KeyLimits(), "stdout")
    assert key.name == "alice"
    assert find(made["key"].encode(), [key]) is key


def test_new_shows_the_entry(lookahead) -> None:
    out = lookahead("keys", "new").out
    key = out.split("shown this once: ")[1].split()[0]
    (known,) = keys_of(parse_keys(out.split("\n\n", 1)[1], "stdout"), KeyLimits(), "stdout")
    assert find(key.encode(), [known]) is known


def test_no_key_is_an_error(lookahead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    end = lookahead("keys", "hash")
    assert end.code == 1
    assert "no key on stdin" in end.err
