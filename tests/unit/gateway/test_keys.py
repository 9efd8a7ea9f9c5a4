"""API keys: hashed, from three sources, exchanged without a restart, and never repeated in an answer or a log."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from actors.errors import ConfigError
from deployments.config import validate_config
from deployments.gateway import keyring, keys
from deployments.gateway.api import create_app
from deployments.gateway.keyring import LOOK_S, KeyRing
from deployments.gateway.keys import PREFIX, find, keys_of, new_key, parse_keys
from deployments.gateway_config import ApiKeyConfig, GatewayConfig, KeyLimits
from deployments.live_settings import laid_over
from tests.unit.gateway.script import ScriptedBackend, chat, client_of, config
from tests.unit.num_calls import num_calls

CHAT = "/v1/chat/completions"
SECRET = "lk-very-secret"


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def ring(environment: dict[str, str] | None = None, **gateway: Any) -> KeyRing:
    return KeyRing(GatewayConfig(**gateway), frozenset({"exact"}), environment or {})


async def status(client: httpx.AsyncClient, key: str) -> int:
    return (await client.get("/v1/models", headers={"authorization": f"Bearer {key}"})).status_code


def test_new_keys_differ_and_can_be_recognised() -> None:
    made = {new_key() for _ in range(50)}
    assert len(made) == 50
    assert all(key.startswith(PREFIX) and len(key) > 40 and key.isascii() for key in made)


def test_a_key_is_found_by_its_hash_and_compared_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    known = keys_of(["one", f"sha256:{sha256('two')}", ApiKeyConfig(sha256=sha256("three"))], KeyLimits(), "here")
    compared = []
    equal = hmac.compare_digest

    def comparing(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return equal(one, other)

    monkeypatch.setattr(keys.hmac, "compare_digest", comparing)
    for number, key in enumerate((b"one", b"two", b"three")):
        assert find(key, known) is known[number]
        assert compared == [each.digest for each in known]
        compared.clear()
    assert find(b"four", known) is None
    assert find(known[0].digest, known) is None


@pytest.mark.parametrize(
    "entries",
    [
        [SECRET, SECRET],
        [SECRET, f"sha256:{sha256(SECRET)}"],
        ["sha256:abc" + SECRET],
        [
            ApiKeyConfig(key=SECRET, name="a"),
            ApiKeyConfig(key="other", name="a", limits=KeyLimits(concurrency=1)),
        ],
    ],
)
def test_keys_that_cannot_stand_together(entries: list[str | ApiKeyConfig]) -> None:
    with pytest.raises(ConfigError) as error:
        keys_of(entries, KeyLimits(), "here")
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{SECRET}",
        f"key: {SECRET}",
        f"- {{key: {SECRET}",
        f"- {{keys: {SECRET}}}",
        f"- {{key: {SECRET}, sha256: {'0' * 64}}}",
        f"- {{sha256: {SECRET}}}",
        f"- {{name: {SECRET}}}",
        f"- [{SECRET}]",
        "- 12",
        f"- {{key: {SECRET}, name: 2025-02-30}}",
    ],
)
def test_a_broken_file_is_an_error_that_does_not_repeat_it(text: str) -> None:
    with pytest.raises(ConfigError, match="the file") as error:
        parse_keys(text, "the file")
    assert SECRET not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_the_configuration_does_not_show_keys() -> None:
    made = config(api_keys=[SECRET, {"key": SECRET + "2", "name": "a"}])
    assert SECRET not in repr(made)
    assert SECRET not in str(made.gateway.api_keys[1])
    with pytest.raises(ConfigError) as error:
        validate_config({"gateway": {"api_keys": [{"key": SECRET, "fidelity": "none"}]}}, "the test")
    assert SECRET not in str(error.value)
    assert SECRET not in str(error.value.__cause__)


@pytest.mark.parametrize(
    "changes",
    [
        {"gateway": {"api_keys": [""]}},
        {"gateway": {"request_timeout_s": float("inf")}},
        {"served_model_name": ""},
        {"target": {"placement": {"num_cpus": float("nan")}}},
    ],
)
def test_values_that_are_none_are_refused(changes: dict[str, Any]) -> None:
    settings = laid_over(config().model_dump(), changes)
    validate_config(config().model_dump(), "it")
    with pytest.raises(ConfigError):
        validate_config(settings, "it")


def test_a_source_that_cannot_be_read_keeps_the_gateway_from_starting(tmp_path: Path) -> None:
    for gateway in ({"api_keys_file": str(tmp_path / "none")}, {"api_keys_env": "KEYS"}):
        with pytest.raises(ConfigError, match=r"the file of API keys|gateway.api_keys_env names KEYS|cannot be read"):
            ring(**gateway)
    with pytest.raises(ConfigError, match="KEYS"):
        ring({"KEYS": " , "}, api_keys_env="KEYS")


@pytest.mark.parametrize("role", ["target", "draft", "verifier", "coordinator", "gateway"])
def test_keys_are_not_taken_from_where_ray_would_log_them(role: str) -> None:
    settings = config().model_dump()
    env = {"placement": {"env": {"KEYS": SECRET, "OTHER": "1"}}}
    settings = laid_over(settings, {"draft": {"model": "scripted", "engine": {"kind": "scripted"}}, role: env})
    validate_config(settings, "it")
    validate_config(laid_over(settings, {"gateway": {"api_keys_env": "ELSEWHERE"}}), "it")
    says = rf"^it cannot be used: {role}\.placement\.env holds KEYS.*Ray writes.*Ray starts.*api_keys_file"
    with pytest.raises(ConfigError, match=says) as error:
        validate_config(laid_over(settings, {"gateway": {"api_keys_env": "KEYS"}}), "it")
    assert SECRET not in str(error.value)


async def test_a_file_without_keys_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("[]")
    empty = ring(api_keys_file=str(path))
    assert not empty.is_open
    assert await empty.find(b"", 0.0) is None
    assert ring().is_open


async def test_all_sources_count_together(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"- sha256: {sha256('three')}\n  name: alice\n  fidelity: exact\n  limits: {{concurrency: 2}}\n")
    environment = {"KEYS": f"one, sha256:{sha256('two')}"}
    known = ring(environment, api_keys=["zero"], api_keys_env="KEYS", api_keys_file=str(path))
    for key in (b"zero", b"one", b"two"):
        assert await known.find(key, 0.0)
    alice = await known.find(b"three", 0.0)
    assert alice is not None
    assert (alice.name, alice.fidelity, alice.limits.concurrency) == ("alice", "exact", 2)
    path.write_text("- {key: four, fidelity: fast}")
    await known.look(100.0)
    assert "fidelity 'fast'" in (known.trouble or "")
    assert await known.find(b"three", 101.0) is alice


async def test_keys_are_exchanged_without_a_restart(
    tmp_path: Path, backend: ScriptedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    path = tmp_path / "keys.yaml"
    path.write_text(f"- sha256: {sha256('old')}\n")
    app = create_app(config(api_keys_file=str(path)), lambda: backend, clock=lambda: now)

    async def stale() -> bool:
        metrics = (await client.get("/metrics")).text
        ready = (await client.get("/ready")).json()
        assert ready["status"] == "ready"
        assert ("warnings" in ready) == ("lookahead_api_keys_stale 1" in metrics)
        return "warnings" in ready

    async with client_of(app) as client:
        assert (await status(client, "old"), await status(client, "new")) == (200, 401)
        path.write_text(f"- sha256: {sha256('old')}\n- sha256: {sha256('new')}\n")
        now += LOOK_S
        assert (await status(client, "old"), await status(client, "new")) == (200, 200)
        path.write_text(f"- sha256: {sha256('new')}\n# the old one is gone\n")
        now += LOOK_S
        assert (await status(client, "old"), await status(client, "new")) == (401, 200)
        assert not await stale()
        with caplog.at_level(logging.ERROR, logger="lookahead.gateway"):
            path.write_text(f"- {{key: {SECRET}, nonsense: 1}}\n")
            for _ in range(3):
                now += LOOK_S
                assert (await status(client, SECRET), await status(client, "new")) == (401, 200)
            assert await stale()
        assert len(caplog.records) == 1
        assert "The keys that were read last count" in caplog.text
        path.unlink()
        now += LOOK_S
        assert await status(client, "new") == 200
        assert await stale()
        path.write_text("- newest\n")
        now += LOOK_S
        assert (await status(client, "new"), await status(client, "newest")) == (401, 200)
        assert not await stale()
    assert SECRET not in caplog.text


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(24, "Too many open files")])
async def test_a_file_that_could_not_be_read_once_is_read_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("- old\n")
    known = ring(api_keys_file=str(path))
    read_text, errors = Path.read_text, [error]

    def failing_once(self: Path, encoding: str | None = None) -> str:
        if errors:
            raise errors.pop()
        return read_text(self, encoding)

    path.write_text("- the-new-one\n")
    monkeypatch.setattr(Path, "read_text", failing_once)
    assert await known.find(b"old", LOOK_S) is not None
    assert type(error).__name__ in (known.trouble or "")
    assert await known.find(b"the-new-one", 2 * LOOK_S) is not None
    assert await known.find(b"old", 2 * LOOK_S) is None
    assert known.trouble is None


async def test_streams_go_on_while_a_changed_file_is_read_and_who_comes_meanwhile_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("- old\n")
    known = ring(api_keys_file=str(path))
    path.write_text("- the-new-one\n")
    may_go_on, reads = threading.Event(), []

    def slow(text: str, source: str) -> list[str | ApiKeyConfig]:
        reads.append(text)
        assert may_go_on.wait(10), "the loop stands still"
        return parse_keys(text, source)

    monkeypatch.setattr(keyring, "parse_keys", slow)
    first = asyncio.create_task(known.find(b"the-new-one", LOOK_S))
    later = [asyncio.create_task(known.find(key, LOOK_S + 0.1)) for key in (b"the-new-one", b"old")]
    await asyncio.sleep(0)
    first.cancel()  # its client is gone, and the file is read for the others
    may_go_on.set()
    new, old = await asyncio.gather(*later)
    assert (new is not None, old) == (True, None)
    assert reads == ["- the-new-one\n"]


def test_many_keys_are_read_in_little_time() -> None:
    """PyYAML's parser in Python takes a second for a thousand of them."""
    text = "".join(f"- sha256: {sha256(str(n))}\n  name: user-{n}\n  limits: {{concurrency: 2}}\n" for n in range(50))
    assert len(parse_keys(text, "the file")) == 50
    assert num_calls(lambda: parse_keys(text, "the file")) < 0.3 * num_calls(lambda: yaml.safe_load(text))


@pytest.mark.parametrize("stream", [False, True])
async def test_no_log_has_a_prompt_a_key_or_a_text(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Also when everything fails: what the server says of a request is its id."""
    prompt = "PROMPT-THAT-NOBODY-MAY-READ"
    backend = ScriptedBackend(lambda request: [RuntimeError("a part of the server broke")])
    app = create_app(config(api_keys=[SECRET]), lambda: backend)
    headers = {"authorization": f"Bearer {SECRET}"}
    with caplog.at_level(logging.DEBUG):
        async with client_of(app) as client:
            body = chat(messages=[{"role": "user", "content": prompt}], stream=stream)
            assert (await client.post(CHAT, json=body, headers=headers)).status_code == 500
            assert (await client.post(CHAT, json={**body, "n": prompt}, headers=headers)).status_code == 400
            assert (
                await client.post(CHAT, json=body, headers={"authorization": f"Bearer {prompt}"})
            ).status_code == 401
            backend.script = type(backend)().script
            assert (await client.post(CHAT, json=body, headers=headers)).status_code == 200
    assert "failed inside the server" in caplog.text
    for secret in (prompt, SECRET, "seven"):
        assert secret not in caplog.text
