"""Admission as the gateway sees it: from its configuration and its requests to places in the waiting room, and metrics.

Promises: a request without a place is never begun; its place is given back when its response has ended (of a resumable
stream: when its `Stay` has), however it ended; a key's requests do not go before those of other keys further than the
key's own priority says.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Literal

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from deployments.config import Config
from deployments.gateway.admission import REASONS, Admission, Bounds
from deployments.gateway.arrivals import Arrival, Arrivals
from deployments.gateway.auth import answered_of, holder_of, key_of, leaving_of
from deployments.gateway.fair_queue import Wish
from deployments.gateway.keys import Key
from deployments.gateway.translate import Ask
from deployments.gateway.waiting_room import Place, WaitingRoom, num_chars
from deployments.gateway_config import ROOM
from deployments.sections import PlacementConfig

FIRST_CONCURRENT = 64
"""Generations that run at once before anything is measured: more than a lightly loaded server sees."""
LEAST_CONCURRENT = 8


class FrontQueue:
    """The waiting room of one gateway."""

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self._admission = Admission(bounds_of(config))
        self._room = WaitingRoom(self._admission, clock)
        self._clock = clock
        self._metrics = _Metrics(self._admission)
        most, refused = config.gateway.placement.max_ongoing_requests, self._admission.refused
        self._arrivals = Arrivals(most, lambda: refused.update(["room"]))

    def arrive(self, request: Request) -> Arrival:
        """`request` is here, until its response has ended."""
        arrival = self._arrivals.come(holder_of(request))
        answered_of(request).callback(arrival.leave)
        return arrival

    @property
    def is_in_use(self) -> bool:
        """Whether anything waits or runs."""
        return self._admission.num_waiting + self._admission.num_running > 0

    def enter(self, request: Request, ask: Ask) -> Place:
        """A place for what `request` asks for. Raises CapacityError if there is none."""
        return self._given(self._room.enter(self._wish(key_of(request), ask)), request)

    def go_on(self, request: Request, ask: Ask) -> Place:
        """A place for `ask`, which had one before and goes on."""
        return self._given(self._room.go_on(self._wish(key_of(request), ask)), request)

    def held_back(self) -> dict[str, float]:
        """As `Admission.held_back`, now."""
        return self._admission.held_back(self._clock())

    def metrics(self) -> str:
        """Prometheus' text format."""
        return self._metrics.text()

    def _given(self, place: Place, request: Request) -> Place:
        leaving_of(request).callback(place.leave)
        return place

    def _wish(self, key: Key, ask: Ask) -> Wish:
        usual = key.priority or 0
        priority = usual if ask.priority is None else ask.priority
        needs = self._admission.needs
        num_tokens = sum(
            needs.expected(key.name, num_chars(each), len(each.prompt.token_ids or ()), each.max_tokens)
            for each in ask.requests
        )
        longest = [needs.longest(key.name, each.max_tokens) for each in ask.requests]
        return Wish(
            holder=key.name,
            num_tokens=num_tokens,
            num_generations=len(ask.requests),
            deadline=self._clock() + (ask.timeout_s or float("inf")),
            longest=max((each for each in longest if each is not None), default=None),
            rank=priority if key.priority is None else max(priority, key.priority),
            priority=priority,
            weight=key.weight,
        )


class _Metrics:
    """Of one gateway replica, under a label of its own: another scrape may be answered by another replica."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._registry = CollectorRegistry()
        gateway = secrets.token_hex(4)

        def gauge(name: str, text: str, value: Callable[[], float]) -> None:
            Gauge(name, text, ["gateway"], registry=self._registry).labels(gateway).set_function(value)

        gauge("lookahead_queue_requests", "Requests that wait for their turn.", lambda: admission.num_waiting)
        gauge("lookahead_queue_tokens", "Tokens that they are expected to need.", lambda: admission.waiting_tokens)
        gauge("lookahead_admitted_generations", "Generations that were let in.", lambda: admission.num_running)
        gauge("lookahead_admission_limit", "Generations that may run at once.", lambda: admission.limit)
        gauge("lookahead_drain_tokens_per_second", "Tokens a second under load.", lambda: admission.rate() or 0.0)
        refused = Counter(
            "lookahead_refused_requests", "Requests refused.", ["gateway", "reason"], registry=self._registry
        )
        self._refused = {reason: refused.labels(gateway, reason) for reason in REASONS}
        self._told = dict.fromkeys(REASONS, 0)

    def text(self) -> str:
        """Everything as it is now."""
        for reason, counter in self._refused.items():
            counter.inc(self._admission.refused[reason] - self._told[reason])
            self._told[reason] = self._admission.refused[reason]
        return generate_latest(self._registry).decode()


def bounds_of(config: Config) -> Bounds:
    """What one gateway replica may let in: its share of what the coordinators take, and what Serve lets it take."""
    settings = config.gateway.admission
    front, coordinators = config.gateway.placement, config.coordinator.placement
    share = coordinators.max_ongoing_requests * num_replicas(config, "coordinator") // num_replicas(config, "gateway")
    most = max(1, min(share, front.max_ongoing_requests - settings.max_waiting - ROOM))
    fixed = settings.max_concurrent
    return Bounds(
        first_running=FIRST_CONCURRENT if fixed is None else fixed,
        least_running=LEAST_CONCURRENT if fixed is None else fixed,
        most_running=most if fixed is None else fixed,
        max_waiting=settings.max_waiting,
        max_waiting_tokens=settings.max_waiting_tokens,
        max_wait_s=settings.max_wait_s,
    )


def num_replicas(config: Config, name: Literal["coordinator", "gateway"]) -> int:
    """As many of that role as there may be."""
    role = None if config.autoscaling is None else config.autoscaling.role(name)
    if role is not None:
        return role.max_replicas
    placement: PlacementConfig = getattr(config, name).placement
    if placement.autoscaling is None:
        return placement.num_replicas
    return int(placement.autoscaling.get("max_replicas", 1))
