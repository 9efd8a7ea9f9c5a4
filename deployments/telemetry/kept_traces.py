"""The step traces that a coordinator keeps: those of its last requests, as far as there is room.

Promises: however many requests there are and however long each is, no more than `MAX_ENTRIES` spans, commits and
decisions are held in all, those of requests under way included; the oldest request's trace goes first. A single request
that has more keeps the first of them, and its trace says that it was cut.
"""

from __future__ import annotations

from collections import OrderedDict

from deployments.telemetry.trace import TraceRecorder

MAX_ENTRIES = 300_000
"""Some 150 MB, and the steps' words."""


class KeptTraces:
    """The traces of one coordinator, by request id."""

    def __init__(self) -> None:
        self._traces: OrderedDict[str, TraceRecorder] = OrderedDict()
        self._num_entries = 0

    def keep(self, trace: TraceRecorder, most: int) -> None:
        """`trace`, which has recorded nothing yet, is the newest one from now on, of `most` at most."""
        if (former := self._traces.pop(trace.request_id, None)) is not None:
            self._forget(former)
        self._traces[trace.request_id] = trace
        trace.on_growth = self._grow
        while len(self._traces) > most:
            self._forget_oldest()

    def get(self, request_id: str) -> TraceRecorder | None:
        """The trace of a request; None if it is not kept."""
        return self._traces.get(request_id)

    def _grow(self, num_entries: int) -> None:
        self._num_entries += num_entries
        while self._num_entries > MAX_ENTRIES and len(self._traces) > 1:
            self._forget_oldest()
        if self._num_entries >= MAX_ENTRIES and len(self._traces) == 1:
            next(iter(self._traces.values())).cut()

    def _forget_oldest(self) -> None:
        self._forget(self._traces.popitem(last=False)[1])

    def _forget(self, trace: TraceRecorder) -> None:
        self._num_entries -= trace.num_entries
        trace.forget()
