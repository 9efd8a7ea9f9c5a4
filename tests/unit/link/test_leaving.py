"""A replica that is to leave: it stays for callers that have more to ask and nobody else to ask, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from deployments.coordinator.pools import Pool
from deployments.link import client as client_module
from deployments.link import members as members_module
from deployments.link.members import Members
from deployments.link.server import LinkServer
from tests.unit.link.test_links import HOST, METHODS, Cluster, Served, until


class Process:
    """One that calls targets, and between its calls is busy with what needs them, or not."""

    def __init__(self, cluster: Cluster) -> None:
        self.is_busy = True
        self.members = Members("target", cluster.announce, is_used=lambda: self.is_busy)
        self.pool = Pool(self.members, 5.0)

    async def meets(self, num: int) -> None:
        await self.pool.call("who", "s")
        await until(lambda: len(self.members.links) == num)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster()
    yield cluster
    await cluster.aclose()


@pytest.fixture
async def process(cluster: Cluster) -> AsyncIterator[Process]:
    process = Process(cluster)
    yield process
    await process.members.aclose()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told and looked for every second or more, at shorter intervals."""
    monkeypatch.setattr(client_module, "ALIVE_S", 0.02)
    monkeypatch.setattr(members_module, "LOOK_S", 0.05)


@pytest.mark.usefixtures("quick")
async def test_the_last_replica_stays_between_calls_until_nothing_is_under_way(
    cluster: Cluster, process: Process
) -> None:
    await cluster.add("r0")
    await process.meets(1)
    leaving = asyncio.create_task(cluster.servers["r0"].drain())
    await until(lambda: process.members.links[0].is_leaving)
    await asyncio.sleep(0.1)
    assert not leaving.done()
    assert await process.pool.call("who", "s") == "r0"
    process.is_busy = False
    await asyncio.wait_for(leaving, 1)


async def test_one_that_nothing_needs_leaves_at_once(cluster: Cluster, process: Process) -> None:
    await cluster.add("r0")
    await process.meets(1)
    process.is_busy = False
    await asyncio.wait_for(cluster.servers["r0"].drain(), 0.3)


async def test_one_beside_another_leaves_at_once(cluster: Cluster, process: Process) -> None:
    for name in ("r0", "r1"):
        await cluster.add(name)
    await process.meets(2)
    await asyncio.wait_for(cluster.servers["r0"].drain(), 0.3)


@pytest.mark.usefixtures("quick")
async def test_of_replicas_that_are_to_leave_together_one_stays(cluster: Cluster, process: Process) -> None:
    for name in ("r0", "r1"):
        await cluster.add(name)
    await process.meets(2)
    leaving = {name: asyncio.create_task(server.drain()) for name, server in cluster.servers.items()}
    await until(lambda: any(task.done() for task in leaving.values()))
    await asyncio.sleep(0.1)
    [gone] = [name for name, task in leaving.items() if task.done()]
    await cluster.kill(gone)
    [stayed] = cluster.servers
    assert await process.pool.call("who", "s") == stayed
    process.is_busy = False
    await asyncio.wait_for(leaving[stayed], 1)


@pytest.mark.usefixtures("quick")
async def test_the_last_one_leaves_when_its_successor_is_found(cluster: Cluster, process: Process) -> None:
    await cluster.add("r0")
    await process.meets(1)
    leaving = asyncio.create_task(cluster.servers["r0"].drain())
    await until(lambda: process.members.links[0].is_leaving)
    await cluster.add("r1")
    await asyncio.wait_for(leaving, 1)
    assert await process.pool.call("who", "s") == "r1"


@pytest.mark.usefixtures("quick")
async def test_a_successor_that_hangs_is_none(cluster: Cluster, process: Process) -> None:
    for name in ("r0", "r1"):
        await cluster.add(name)
    await process.meets(2)
    now = asyncio.get_running_loop().time()
    hung = next(link for link in process.members.links if link.address.replica == "r1")
    hung.silence.given_up(now, now)
    leaving = asyncio.create_task(cluster.servers["r0"].drain())
    await asyncio.sleep(0.1)
    assert not leaving.done()
    hung.silence.heard(now)
    await asyncio.wait_for(leaving, 1)


async def test_a_caller_that_is_lost_keeps_nobody(cluster: Cluster, process: Process) -> None:
    await cluster.add("r0")
    await process.meets(1)
    leaving = asyncio.create_task(cluster.servers["r0"].drain())
    await until(lambda: process.members.links[0].is_leaving)
    process.members.links[0].close()
    await asyncio.wait_for(leaving, 0.5)


@pytest.mark.usefixtures("quick")
async def test_a_replica_that_stays_for_others_keeps_those_that_it_calls(cluster: Cluster) -> None:
    """As a coordinator between gateways and targets, when all of them are to leave together."""
    front, targets = Cluster(), cluster
    await targets.add("target")
    coordinator = front.servers["coordinator"] = LinkServer(Served(), METHODS, "coordinator", 8)
    await coordinator.start(HOST)
    gateway, behind = Process(front), Members("target", targets.announce, is_used=lambda: coordinator.is_needed)
    await gateway.meets(1)
    await Pool(behind, 5.0).call("who", "s")
    leaving = [asyncio.create_task(coordinator.drain())]
    await until(lambda: gateway.members.links[0].is_leaving)
    leaving.append(asyncio.create_task(targets.servers["target"].drain()))
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in leaving)
    gateway.is_busy = False
    await asyncio.wait_for(asyncio.gather(*leaving), 1)
    for members in (gateway.members, behind):
        await members.aclose()
    await front.aclose()
