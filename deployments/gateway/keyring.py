"""The keys that count now: those of the configuration, of an environment variable, and of a file that may change.

Promises: a gateway does not start with a source of keys that cannot be read or is empty; a file that is broken later
changes nothing, and `trouble` says so until it is whole again; one that cannot be read is tried again at every look; a
change is seen within `LOOK_S` seconds, with no restart; streams go on while the file is read, and whoever comes
meanwhile is let in or refused by what it says; where a source is named but holds no key, nobody is let in.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from actors.errors import ConfigError
from deployments.gateway.keys import Entry, Key, find, keys_of, parse_keys, split_keys
from deployments.gateway_config import GatewayConfig

log = logging.getLogger("lookahead.gateway")

LOOK_S = 1.0
"""How often at most the file is looked at."""

Stamp = tuple[int, int, int]
"""What changes when a file does: time of change, size, inode."""


class KeyRing:
    """All keys of a deployment. `fidelities` are those that a key may name. Raises ConfigError (see the promises)."""

    def __init__(self, config: GatewayConfig, fidelities: frozenset[str], environment: Mapping[str, str]) -> None:
        self._fidelities = fidelities
        self._limits = config.key_limits
        self._path = Path(config.api_keys_file) if config.api_keys_file is not None else None
        self._fixed: list[Entry] = list(config.api_keys)
        if config.api_keys_env is not None:
            self._fixed += _from_environment(config.api_keys_env, environment)
        self._is_closed = bool(self._fixed) or self._path is not None
        self._stamp: Stamp | None = None
        self._next_look = float("-inf")
        self._turn = threading.Lock()
        """Of whoever looks at the file."""
        self.trouble: str | None = None
        """Why the file cannot be used as it is now; the keys read last count."""
        self._keys = self._read()

    @property
    def is_open(self) -> bool:
        """Whether everybody may ask, since no source of keys is configured."""
        return not self._is_closed

    async def find(self, given: bytes, now: float) -> Key | None:
        """The key that was given, if it counts at `now` (seconds of a clock that does not go back)."""
        await self.look(now)
        return find(given, self._keys)

    async def look(self, now: float) -> None:
        """Read the file again if it has changed: in a thread, since a thousand keys take a tenth of a second."""
        if self._path is not None and now >= self._next_look:
            await asyncio.to_thread(self._look, self._path, now)

    def _look(self, path: Path, now: float) -> None:
        with self._turn:
            if now < self._next_look:
                return  # another thread has looked while this one waited
            try:
                self._read_changed(path)
            finally:
                self._next_look = now + LOOK_S

    def _read_changed(self, path: Path) -> None:
        stamp = _stamp(path)
        if stamp is not None and stamp == self._stamp:
            return
        try:
            self._keys = self._read()
        except ConfigError as error:
            self._complain(error.message)
        else:
            self.trouble = None
            log.info("Read the API keys again: there are %d now.", len(self._keys))

    def _read(self) -> tuple[Key, ...]:
        entries = list(self._fixed)
        if self._path is not None:
            # Before reading, so that a change in between is seen at the next look; none until it was read, since what
            # keeps it from being read may go without a trace in the stamp.
            stamp, self._stamp = _stamp(self._path), None
            try:
                text = self._path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                message = f"The file of API keys {self._path} cannot be read ({type(error).__name__})."
                raise ConfigError(message, "gateway.api_keys_file") from None
            self._stamp = stamp
            entries += parse_keys(text, f"The file of API keys {self._path}")
        keys = keys_of(entries, self._limits, "gateway.api_keys")
        for key in keys:
            if key.fidelity is not None and key.fidelity not in self._fidelities:
                message = f"{key.name!r} has the fidelity {key.fidelity!r}, which is not in speculation.fidelities."
                raise ConfigError(message, "gateway.api_keys")
        return keys

    def _complain(self, message: str) -> None:
        trouble = f"{message} The keys that were read last count."
        if trouble != self.trouble:
            log.error("%s", trouble)
        self.trouble = trouble


def _from_environment(name: str, environment: Mapping[str, str]) -> list[Entry]:
    entries = split_keys(environment.get(name, ""))
    if not entries:
        message = (
            f"gateway.api_keys_env names {name}, which is not set or empty in the gateway's environment: set it where "
            "Ray starts on that node."
        )
        raise ConfigError(message, "gateway.api_keys_env")
    return entries


def _stamp(path: Path) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
