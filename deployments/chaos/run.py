"""A chaos run: starts a cluster of scripted engines, asks, strikes, waits, and looks for what is left.

Promises: the cluster is its own, on this machine or on the Ray cluster that is named, and is gone afterwards; faults
end before the last streams do, so that whoever survives can finish; everything that happens is in `events.jsonl` as
it happens.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from actors.engines.scripted import ScriptOptions
from deployments.chaos.faults import FaultMaker, striking
from deployments.chaos.files import Files
from deployments.chaos.leftovers import after_deletion, processes_left, wait_until_ready, work_left
from deployments.chaos.plan import ROLES, faults
from deployments.chaos.report import build_report
from deployments.chaos.streams import Load, StreamEnd, run_streams
from deployments.config import Config, load_profile, validate_config
from deployments.server.launch import running

READY_S = 90.0
"""Serve needs seconds for each replica that was killed."""
SEE_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What to do. Times are seconds."""

    num_streams: int = 200
    concurrency: int = 24
    duration_s: float = 300.0
    every_s: float = 2.0
    roles: tuple[str, ...] = ROLES
    seed: int = 0
    lasts_s: tuple[float, float] = (1.0, 6.0)
    num_replicas: int = 2
    num_steps: int = 12
    token_s: float = 0.05
    timeout_s: float = 180.0
    """For one stream, as its client waits."""
    address: str = "local"


def chaos_config(settings: Settings, control: Path) -> Config:
    """The scripted profile with several replicas of each role that listen to `control`, on a free port."""
    data = load_profile("scripted").model_dump()
    shared = {"num_steps": settings.num_steps, "control": str(control), "hint_gain": 2.0}
    data["target"]["engine"]["options"] |= shared | {"token_s": settings.token_s}
    data["draft"]["engine"]["options"] |= shared | {"token_s": settings.token_s / 8}
    data["verifier"]["verifiers"]["numbers"].insert(0, {"kind": "scripted", "control": str(control)})
    for role in ROLES:
        data[role]["placement"] |= {"num_replicas": settings.num_replicas, "num_cpus": 0.01}
    data["gateway"] |= {"port": 0, "placement": data["gateway"]["placement"] | {"num_cpus": 0.01}}
    data["speculation"]["draft_retry_s"] = 0.5
    return validate_config(data, "chaos")


@dataclass(slots=True)
class Progress:
    """Where a run is, for whoever shows it."""

    phase: str = "starting the cluster"
    elapsed_s: float = 0.0
    num_faults: int = 0
    num_ended: int = 0
    num_failed: int = 0
    last: str = ""


def run_chaos(settings: Settings, files: Files, on_progress: Callable[[Progress], None]) -> dict[str, Any]:
    """The report of a run, whose events go to `files` as they happen; to `finish` them is the caller's.

    Raises ServiceError if the cluster does not start, RequestError for roles that do not exist.
    """
    plan = faults(settings.seed, settings.duration_s, settings.every_s, settings.roles, settings.lasts_s)
    with ExitStack() as stack:
        stack.enter_context(files)
        control = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lookahead-chaos-")))
        run = _Run(settings, control, files, on_progress)
        config = chaos_config(settings, control)
        on_progress(run.progress)
        with running(config, address=settings.address) as url:
            ends = asyncio.run(run.streams(config, url, plan))
            run.show("deleting the application")
            run.aftermath["ray"] = after_deletion()
        run.show("looking for processes")
        run.aftermath["processes"] = processes_left(run.maker.seen)
        run.aftermath["num_processes_seen"] = len({replica.pid for replica in run.maker.seen})
    return build_report(asdict(settings), ends, run.events, run.aftermath, settings.num_streams)


class _Run:
    """What one run gathers."""

    def __init__(
        self, settings: Settings, control: Path, files: Files, on_progress: Callable[[Progress], None]
    ) -> None:
        self._settings = settings
        self._files = files
        self._on_progress = on_progress
        self._started = time.monotonic()
        self.progress = Progress()
        self.events: list[dict[str, Any]] = []
        self.aftermath: dict[str, Any] = {}
        self.maker = FaultMaker(control, self.tell)

    def tell(self, event: dict[str, Any]) -> None:
        """Keep `event`, with its time."""
        event = {"at": time.time(), **event}
        self.events.append(event)
        self._files.add(event)
        if event["event"] == "fault":
            self.progress.num_faults += 1
            self.progress.last = f"{event['role']} {event['kind']}"
        self.show()

    def show(self, phase: str | None = None) -> None:
        """Tell whoever watches."""
        self.progress.phase = phase or self.progress.phase
        self.progress.elapsed_s = time.monotonic() - self._started
        self._on_progress(self.progress)

    async def streams(self, config: Config, url: str, plan: list[Any]) -> list[StreamEnd]:
        """Ask and strike; then wait until nothing should run any more, and look."""
        settings = self._settings
        load = Load(
            url,
            config.served_model_name,
            ScriptOptions(**config.target.engine.options),
            ScriptOptions(**config.draft.engine.options) if config.draft is not None else ScriptOptions(),
            uuid4().hex[:8],
            settings.num_streams,
            settings.concurrency,
            settings.timeout_s,
        )
        await self.maker.see()
        self._started = time.monotonic()
        self.show("streams under fault")
        watcher = asyncio.create_task(self._watch())
        try:
            async with striking(self.maker, plan) as strikes:
                ends = await run_streams(load, strikes.done, self._stream_ended)
                await strikes
            self.show("waiting for every role")
            self.aftermath["ready_after_s"] = await wait_until_ready(url, READY_S)
            self.aftermath["work"] = await work_left(url)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        await self.maker.see()
        return ends

    def _stream_ended(self, end: StreamEnd) -> None:
        self.progress.num_ended += 1
        self.progress.num_failed += end.problem is not None
        self.tell(end.as_dict())

    async def _watch(self) -> None:
        """So that no replica comes and goes unseen, and the clock moves."""
        while True:
            await asyncio.sleep(SEE_EVERY_S)
            await self.maker.see()
            self.show()
