"""API keys as the gateway knows them: by their SHA-256 only.

Promises: a key in plain is hashed as soon as it is read and kept nowhere; no error repeats a key or a part of one; how
long `find` takes tells nothing about the keys. No I/O and no clock.

A plain hash without salt is enough because keys are random (`new_key`, 256 bits): there is no list of likely ones to
try. It is not for passwords.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from actors.errors import ConfigError
from deployments.gateway_config import ApiKeyConfig, KeyLimits
from deployments.sections import Fidelity

PREFIX = "lk-"
"""Every key of ours begins so: those who look for leaked secrets can find it."""
HASHED = "sha256:"
"""Before a hash, where a key is written as one string."""

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C, where PyYAML was built with it: it is several times as fast."""

Entry = str | ApiKeyConfig
_ENTRIES: TypeAdapter[list[Entry]] = TypeAdapter(list[Entry], config=ConfigDict(hide_input_in_errors=True))


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its SHA-256, what limits and messages call its holder, and what its requests get."""

    digest: bytes
    name: str
    fidelity: Fidelity | None
    limits: KeyLimits
    priority: int | None = 0
    """The rank of its requests and their priority where they do not say; none: they choose both."""
    weight: float = 1.0


def new_key() -> str:
    """A new key, of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(key: bytes) -> bytes:
    """The SHA-256 of a key."""
    return hashlib.sha256(key).digest()


def keys_of(entries: Iterable[Entry], limits: KeyLimits, source: str) -> tuple[Key, ...]:
    """The keys that `entries` give; `limits` are for those without their own.

    Raises ConfigError for a key that is there twice, and for keys of one name with different limits.
    """
    keys = tuple(_key(entry, limits, source) for entry in entries)
    seen: dict[bytes, Key] = {}
    named: dict[str, Key] = {}
    for key in keys:
        if seen.setdefault(key.digest, key) is not key:
            raise ConfigError(f"{source} has the API key {key.name!r} twice; remove one of the two.", source)
        if named.setdefault(key.name, key).limits != key.limits:
            message = f"{source} has API keys of the name {key.name!r} with different limits; they share one limit."
            raise ConfigError(message, source)
    return keys


def _key(entry: Entry, limits: KeyLimits, source: str) -> Key:
    known = entry if isinstance(entry, ApiKeyConfig) else _plain(entry, source)
    digest = bytes.fromhex(known.sha256) if known.sha256 is not None else digest_of((known.key or "").encode())
    # Without a name the hash is one; a part of it that nobody can use to find the key.
    name = known.name or f"key {digest.hex()[:8]}"
    return Key(digest, name, known.fidelity, known.limits or limits, known.priority, known.weight)


def _plain(text: str, source: str) -> ApiKeyConfig:
    try:
        if text.startswith(HASHED):
            return ApiKeyConfig(sha256=text.removeprefix(HASHED))
        return ApiKeyConfig(key=text)
    except ValidationError:
        wants = f"it is a key, or '{HASHED}' and 64 hexadecimal digits in lower case"
        raise ConfigError(f"{source} has an API key that cannot be used: {wants}.", source) from None


def parse_keys(text: str, source: str) -> list[Entry]:
    """The entries in the YAML `text` of a file of keys: a list as in ``gateway.api_keys``.

    Raises ConfigError. An empty text is an error too: so does a file look while it is being written.
    """
    try:
        data: Any = yaml.load(text, LOADER)  # nosec B506 # both are safe loaders
    except (yaml.YAMLError, ValueError) as error:  # a date that does not exist is a ValueError
        mark = getattr(error, "problem_mark", None)  # the error itself would show the line
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise ConfigError(f"{source} is not valid YAML{where}.", source) from None
    if not isinstance(data, list):
        raise ConfigError(f"{source} must hold a list of API keys.", source)
    try:
        return _ENTRIES.validate_python(data)
    except ValidationError as error:
        number = error.errors(include_input=False)[0]["loc"][0]
        message = f"{source}: entry {number} (from 0) is neither a key nor a mapping with key or sha256, name, "
        raise ConfigError(message + "fidelity and limits.", source) from None


def split_keys(text: str) -> list[Entry]:
    """The entries in the value of an environment variable: separated by commas or white space."""
    return list(text.replace(",", " ").split())


def find(given: bytes, keys: Sequence[Key]) -> Key | None:
    """The key that was given. Compares with every one, so that it cannot be timed which one came near."""
    digest = digest_of(given)
    found = None
    for key in keys:
        if hmac.compare_digest(digest, key.digest):
            found = key
    return found
