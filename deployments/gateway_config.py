"""The configuration's section of the HTTP side: where it listens, who may ask and how much.

Promises: a key stands here in plain or as its SHA-256, never as both; neither shows in the section's `repr`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from deployments.sections import Fidelity, PlacementConfig, Strict

Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]
"""An origin as browsers send it, without a path: ``https://app.example.com``; ``*`` is any."""


class KeyLimits(Strict):
    """How much the holder of a key may ask for; none: as much as he likes. Each gateway replica counts for itself."""

    requests_per_minute: PositiveInt | None = None
    """Those for completions, streams and traces."""
    tokens_per_minute: PositiveInt | None = None
    """Tokens of prompts and of what is written."""
    concurrency: PositiveInt | None = None
    """Requests at once."""


class ApiKeyConfig(Strict):
    """A key, what its requests get where they do not say, and how many there may be."""

    key: Annotated[str, Field(min_length=1)] | None = Field(default=None, repr=False)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(default=None, repr=False)
    """The SHA-256 of the key, in hex, in its place: `lookahead keys hash` makes it."""
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """What limits and messages call it. Keys of one name share their limits, as an old and a new one should."""
    fidelity: Fidelity | None = None
    """Instead of `speculation.fidelity`; a request may still wish for another."""
    limits: KeyLimits | None = None
    """Instead of `gateway.key_limits`."""
    priority: int = 0
    """Where requests wait: lower goes first, before those of other keys too. A request may ask for a higher number."""
    weight: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """Its share of the tokens where keys of one priority wait."""

    @model_validator(mode="after")
    def _one_of_two(self) -> ApiKeyConfig:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("an API key has either key or sha256")
        return self


ROOM = 64
"""Requests that a gateway replica takes beside those that run or wait: to refuse them, and for probes."""


class AdmissionConfig(Strict):
    """What may run and wait at once, at each gateway replica."""

    max_concurrent: PositiveInt | None = None
    """Generations that run at once. None: found by measuring, at most what the coordinators take."""
    max_waiting: PositiveInt = 256
    """Requests that wait; one key alone gets half of it."""
    max_waiting_tokens: PositiveInt = 2_000_000
    """Tokens that they are expected to need; one key alone gets half of it."""
    max_wait_s: PositiveFloat = 30.0
    """A request that is expected to wait longer is refused."""


class GatewayPlacement(PlacementConfig):
    """Where gateways run; what a section does not say is right for one."""

    num_cpus: Annotated[float, Field(ge=0)] = 0.5
    max_ongoing_requests: PositiveInt = 1000


class GatewayConfig(Strict):
    """The HTTP side."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    api_keys: Annotated[list[Annotated[str, Field(min_length=1)] | ApiKeyConfig], Field(repr=False)] = []
    """If not empty, requests need one as a bearer token."""
    api_keys_file: Annotated[str, Field(pattern="^/")] | None = None
    """The whole path of a YAML file with more entries of `api_keys`, which is read again when it changes."""
    api_keys_env: str | None = None
    """An environment variable of the gateways with more keys, separated by commas or white space. It comes from where
    Ray starts: Ray logs what stands in `placement.env`."""
    key_limits: KeyLimits = KeyLimits()
    """For each key without limits of its own; without keys, for all requests together."""
    admission: AdmissionConfig = AdmissionConfig()
    """What waits and what is refused where more is asked for than can be done."""
    cors_origins: list[Origin] = []
    """Web pages of these origins may call the API from a browser; none: no page may."""
    max_body_bytes: PositiveInt = 4 * 1024 * 1024
    max_n: PositiveInt = 16
    request_timeout_s: PositiveFloat = 3600.0
    resume_s: NonNegativeFloat = 60.0
    """So long after its client is gone a stream that was asked to be resumable is written on and kept; 0: none is."""
    reasoning_content: bool = True
    """Send reasoning as `reasoning_content` too, which older clients look for."""
    placement: GatewayPlacement = GatewayPlacement()

    @model_validator(mode="after")
    def _can_refuse(self) -> GatewayConfig:
        room, most = self.placement.max_ongoing_requests, self.admission.max_waiting + ROOM
        running = self.admission.max_concurrent or 1
        if running + most > room:
            raise ValueError(
                f"gateway.admission: {running} running and {self.admission.max_waiting} waiting, with {ROOM} to be "
                f"refused, are more than gateway.placement.max_ongoing_requests, {room}"
            )
        return self
