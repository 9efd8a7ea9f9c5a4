"""Carries out faults on processes of this machine, and takes them back.

Promises: whatever ends the body, every frozen or slowed process runs again and every order is withdrawn; a process
suffers one fault at a time; each thing that is done, and each that could not be, is told with its time.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from actors.engines.control_folder import Orders, give_orders, withdraw_orders
from deployments.chaos.plan import Fault
from deployments.chaos.replicas import Replica, replicas_now

SLOW = 10.0
SLICE_S = 0.02
"""A process without an engine is slowed by letting it run for one slice in `SLOW`."""

Tell = Callable[[dict[str, Any]], None]


class FaultMaker:
    """Strikes replicas. `control` is the folder of orders to scripted engines and checks."""

    def __init__(self, control: Path, tell: Tell) -> None:
        self._control = control
        self._tell = tell
        self._suffering: dict[int, asyncio.Task[None]] = {}
        self.seen: set[Replica] = set()
        """Every replica that was ever seen, in each of its states."""

    async def see(self) -> list[Replica]:
        """Who is there now."""
        found = await asyncio.to_thread(replicas_now)
        self.seen |= set(found)
        return found

    async def strike(self, fault: Fault) -> None:
        """Begin `fault`; it ends by itself."""
        there = [r for r in await self.see() if r.role == fault.role and r.state == "RUNNING"]
        free = sorted((r for r in there if r.pid not in self._suffering), key=lambda replica: replica.id)
        what = {"fault": fault.number, "role": fault.role, "kind": fault.name, "num_there": len(there)}
        if not free:
            self._tell(what | {"event": "nobody to strike"})
            return
        victim = free[int(fault.place * len(free))]
        lasts_s = 0.0 if fault.kind == "kill" else fault.lasts_s
        self._tell(what | {"event": "fault", "pid": victim.pid, "replica": victim.id, "lasts_s": round(lasts_s, 2)})
        if fault.kind == "kill":
            victim.send(signal.SIGKILL)
            return
        task = asyncio.create_task(self._keep_up(fault, victim))
        self._suffering[victim.pid] = task
        task.add_done_callback(lambda _: self._suffering.pop(victim.pid, None))

    async def end(self) -> None:
        """Take everything back now."""
        tasks = list(self._suffering.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_up(self, fault: Fault, victim: Replica) -> None:
        try:
            if fault.kind == "freeze":
                victim.send(signal.SIGSTOP)
                await asyncio.sleep(fault.lasts_s)
            elif fault.kind == "slow" and fault.role not in ("draft", "target"):
                await self._slow(victim, fault.lasts_s)
            else:
                orders = Orders(slow=SLOW) if fault.kind == "slow" else Orders(garbage=fault.garbage)
                give_orders(self._control, victim.pid, orders)
                await asyncio.sleep(fault.lasts_s)
        finally:
            withdraw_orders(self._control, victim.pid)
            victim.send(signal.SIGCONT)
            self._tell({"event": "fault over", "fault": fault.number, "pid": victim.pid})

    async def _slow(self, victim: Replica, lasts_s: float) -> None:
        end = asyncio.get_running_loop().time() + lasts_s
        while asyncio.get_running_loop().time() < end and victim.send(signal.SIGSTOP):
            await asyncio.sleep(SLICE_S * (SLOW - 1))
            victim.send(signal.SIGCONT)
            await asyncio.sleep(SLICE_S)


@asynccontextmanager
async def striking(maker: FaultMaker, plan: Sequence[Fault]) -> AsyncIterator[asyncio.Task[None]]:
    """Carry out `plan` while the body runs; the task is done when the plan is."""

    async def strike_all() -> None:
        zero = asyncio.get_running_loop().time()
        for fault in plan:
            await asyncio.sleep(zero + fault.at_s - asyncio.get_running_loop().time())
            await maker.strike(fault)

    task = asyncio.create_task(strike_all())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await maker.end()
