"""Both ends of a link over real sockets of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace

import pytest

from actors.errors import ContextTooLong, RoleUnavailable
from actors.messages import Prefix, StepRequest, StepRule
from deployments.coordinator.pools import Pool, TargetPool
from deployments.link import server as server_module
from deployments.link.client import Link
from deployments.link.frames import HEADER_BYTES, SECRET_BYTES, Address
from deployments.link.members import Members
from deployments.link.server import WINDOW, LinkServer

HOST = "127.0.0.1"
METHODS = frozenset({"add", "add_hints", "stream", "count", "refuse", "break_off", "hang", "who", "give_up"})


class Served:
    """What a replica might serve; remembers what runs."""

    def __init__(self, name: str = "r") -> None:
        self.name = name
        self.num_running = 0
        self.num_counted = 0
        self.hints: list[object] = []

    async def add(self, left: int, right: int) -> int:
        return left + right

    async def who(self) -> str:
        return self.name

    async def count(self, upto: int, pause_s: float = 0.0) -> AsyncGenerator[int, None]:
        self.num_running += 1
        try:
            for number in range(upto):
                self.num_counted = number + 1
                yield number
                await asyncio.sleep(pause_s)
        finally:
            self.num_running -= 1

    async def stream(self, request: StepRequest) -> AsyncGenerator[str, None]:
        yield self.name
        await asyncio.Event().wait()

    async def add_hints(self, call_id: str, session_id: str, hints: object) -> None:
        self.hints.append(hints)

    async def refuse(self) -> int:
        raise ContextTooLong("too long", "messages")

    async def break_off(self) -> AsyncGenerator[int, None]:
        yield 1
        raise KeyError("a defect")

    async def hang(self) -> int:
        self.num_running += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.num_running -= 1
        return 0

    async def give_up(self) -> int:
        raise asyncio.CancelledError

    def hidden(self) -> str:
        return "not served"


@asynccontextmanager
async def serving(served: Served, capacity: int = 8) -> AsyncIterator[LinkServer]:
    server = LinkServer(served, METHODS, served.name, capacity)
    await server.start(HOST)
    try:
        yield server
        await until(lambda: not server.num_calls)
        assert not served.num_running
    finally:
        await server.close()


@asynccontextmanager
async def connected(server: LinkServer, silence_s: float = 5.0) -> AsyncIterator[Link]:
    link = await Link.open(server.address, silence_s)
    try:
        yield link
        assert not link.num_calls
    finally:
        await link.aclose()


async def until(condition: object, limit_s: float = 3.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def result(link: Link, method: str, *args: object) -> object:
    async with aclosing(link.items(method, *args)) as items:
        return [item async for item in items]


async def test_results_and_streams() -> None:
    async with serving(Served()) as server, connected(server) as link:
        assert await result(link, "add", 2, 3) == [5]
        assert await result(link, "count", 3) == [0, 1, 2]
        assert await result(link, "count", 0) == []


async def test_many_calls_at_once_do_not_mix() -> None:
    async with serving(Served()) as server, connected(server) as link:
        found = await asyncio.gather(*(result(link, "add", n, n) for n in range(200)))
        assert found == [[2 * n] for n in range(200)]
        streams = await asyncio.gather(*(result(link, "count", n) for n in range(40)))
        assert streams == [list(range(n)) for n in range(40)]


async def test_errors_keep_their_class_and_defects_are_the_servers(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Served()) as server, connected(server) as link:
        with pytest.raises(ContextTooLong, match="too long") as caught:
            await result(link, "refuse")
        assert caught.value.param == "messages"
        with pytest.raises(RoleUnavailable, match="failed inside the server; the log of replica r says how") as broken:
            await result(link, "break_off")
        assert "a defect" not in str(broken.value)
        assert "a defect" in caplog.text
        with pytest.raises(RoleUnavailable, match="another version"):
            await result(link, "hidden")
        with pytest.raises(RoleUnavailable, match="ended by the replica"):
            await result(link, "give_up")


async def test_closing_a_stream_ends_it_there() -> None:
    served = Served()
    async with serving(served) as server, connected(server) as link:
        async with aclosing(link.items("count", 10**6, 0.01)) as items:
            assert await anext(items) == 0
            assert served.num_running == 1
        await until(lambda: not served.num_running, 0.05)


async def test_cancelling_a_call_ends_it_there() -> None:
    served = Served()
    async with serving(served) as server, connected(server) as link:
        task = asyncio.create_task(result(link, "hang"))
        await until(lambda: served.num_running)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not served.num_running, 0.05)


async def test_a_call_that_is_ended_before_it_has_begun_is_not_counted_and_the_replica_drains() -> None:
    """CALL and END leave in one write, so the replica cancels a task that never ran."""
    served = Served()
    async with serving(served) as server, connected(server) as link:
        for method in ("hang", "count"):
            task = asyncio.create_task(result(link, method, *((5,) if method == "count" else ())))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert await result(link, "add", 1, 1) == [2], "it comes behind them"
        await until(lambda: not server.num_calls, 0.5)
        await asyncio.wait_for(server.drain(), 0.5)


async def test_a_lost_replica_fails_its_calls_at_once() -> None:
    served = Served()
    async with serving(served) as server, connected(server) as link:
        task = asyncio.create_task(result(link, "hang"))
        await until(lambda: served.num_running)
        await server.close()
        with pytest.raises(RoleUnavailable, match="lost"):
            await task
        with pytest.raises(RoleUnavailable, match="lost"):
            await result(link, "add", 1, 1)


async def test_a_lost_caller_ends_its_calls() -> None:
    served = Served()
    async with serving(served) as server:
        async with connected(server) as link:
            task = asyncio.create_task(result(link, "hang"))
            await until(lambda: served.num_running)
            link.close()
            with pytest.raises(RoleUnavailable):
                await task
        await until(lambda: not served.num_running, 0.05)


async def test_a_silent_replica_is_given_up() -> None:
    """A process that is frozen keeps its sockets; it is known by its silence."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(1024):
                pass
        writer.close()

    quiet = await asyncio.start_server(say_nothing, HOST, 0)
    address = Address("frozen", HOST, quiet.sockets[0].getsockname()[1], b"s" * SECRET_BYTES, 1)
    link = await Link.open(address, silence_s=0.15)
    with pytest.raises(RoleUnavailable, match="lost"):
        await asyncio.wait_for(result(link, "add", 1, 1), 2)
    await link.aclose()
    quiet.close()
    await asyncio.sleep(0.01)


async def test_a_silent_caller_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "CALLER_SILENCE_S", 0.2)
    served = Served()
    async with serving(served) as server:
        link = await Link.open(server.address, 5.0)
        assert link._watcher is not None
        task = asyncio.create_task(result(link, "hang"))
        await until(lambda: served.num_running)
        link._watcher.cancel()  # as if it were frozen
        await until(lambda: not served.num_running, 2)
        with pytest.raises(RoleUnavailable):
            await task
        await link.aclose()


@pytest.mark.parametrize("secret", [b"x" * SECRET_BYTES, b"", b"\0" * SECRET_BYTES])
async def test_without_the_secret_nothing_is_read(secret: bytes) -> None:
    """What follows would be a pickle that raises where it is loaded."""
    async with serving(Served()) as server:
        reader, writer = await asyncio.open_connection(HOST, server.address.port)
        evil = b"cos\nsystem\n(S'false'\ntR."
        writer.write(secret + len(evil).to_bytes(HEADER_BYTES, "big") + evil)
        await writer.drain()
        if secret:
            assert await reader.read() == b""
        assert not server.num_calls
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_an_absurd_length_ends_the_connection() -> None:
    async with serving(Served()) as server:
        reader, writer = await asyncio.open_connection(HOST, server.address.port)
        writer.write(server.address.secret + b"\xff" * HEADER_BYTES)
        assert await asyncio.wait_for(reader.read(), 2) == b""
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_a_reader_that_does_not_read_holds_back_only_its_own_call() -> None:
    served = Served()
    async with serving(served) as server, connected(server) as link:
        async with aclosing(link.items("count", 100_000)) as items:
            assert await anext(items) == 0
            await until(lambda: served.num_counted >= WINDOW)
            await asyncio.sleep(0.05)
            assert served.num_counted == WINDOW + 1
            assert await result(link, "add", 1, 1) == [2]
            for number in range(1, 3 * WINDOW):
                assert await anext(items) == number
        assert served.num_counted < 5 * WINDOW


async def test_load_is_told_and_counted_on_meanwhile() -> None:
    served = Served()
    async with serving(served, capacity=4) as server, connected(server) as link:
        tasks = [asyncio.create_task(result(link, "hang")) for _ in range(2)]
        await until(lambda: served.num_running == 2)
        assert link.load == pytest.approx(0.5)
        await until(lambda: link._num_then == 2)
        assert link.load == pytest.approx(0.5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: link.load == 0)


async def test_a_replica_that_is_to_stop_finishes_what_it_has() -> None:
    async with serving(Served()) as server, connected(server) as link:
        task = asyncio.create_task(result(link, "count", 20, 0.01))
        await until(lambda: server.num_calls)
        drained = asyncio.create_task(server.drain())
        await until(lambda: link.is_leaving)
        assert not drained.done()
        assert await task == list(range(20))
        await asyncio.wait_for(drained, 1)
        async with connected(server) as late:
            await until(lambda: late.is_leaving)


# --- members and pools -----------------------------------------------------------------------------------------------


class Cluster:
    """Replicas that come and go, as Serve would tell of them."""

    def __init__(self) -> None:
        self.servers: dict[str, LinkServer] = {}
        self.served: dict[str, Served] = {}
        self.members = Members("target", self.announce)

    async def announce(self) -> list[Address]:
        return [server.address for server in self.servers.values()]

    async def add(self, name: str) -> None:
        self.served[name] = Served(name)
        self.servers[name] = LinkServer(self.served[name], METHODS, name, 8)
        await self.servers[name].start(HOST)

    async def kill(self, name: str) -> None:
        await self.servers.pop(name).close()

    async def aclose(self) -> None:
        await self.members.aclose()
        for name in tuple(self.servers):
            await self.kill(name)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster()
    yield cluster
    await cluster.aclose()


async def test_waiting_for_a_replica_is_bounded(cluster: Cluster) -> None:
    with pytest.raises(RoleUnavailable, match=r"No target replica took the call within 0\.05 s"):
        await Pool(cluster.members, 0.05).call("who", "s")


async def test_a_call_waits_for_the_first_replica(cluster: Cluster) -> None:
    call = asyncio.create_task(Pool(cluster.members, 5).call("who", "s"))
    await asyncio.sleep(0.05)
    await cluster.add("r0")
    assert await asyncio.wait_for(call, 2) == "r0"


async def test_a_session_keeps_its_replica_and_finds_another_when_it_dies(cluster: Cluster) -> None:
    for name in ("r0", "r1", "r2"):
        await cluster.add(name)
    pool = Pool(cluster.members, 5)
    await pool.call("who", "")
    homes = {await pool.call("who", "s") for _ in range(20)}
    assert len(homes) == 1
    await cluster.kill(homes.pop())
    assert await pool.call("who", "s") in cluster.servers


async def test_a_session_is_at_home_where_its_last_call_went_until_that_replica_leaves(cluster: Cluster) -> None:
    for name in ("r0", "r1"):
        await cluster.add(name)
    pool = Pool(cluster.members, 5)
    await pool.call("who", "")
    await until(lambda: len(cluster.members.links) == 2)
    assert pool.home("s") == ""
    home = await pool.call("who", "s")
    assert pool.home("s") == home
    next(link for link in cluster.members.links if link.replica == home).is_leaving = True
    assert pool.home("s") == ""
    other = await pool.call("who", "s")
    assert pool.home("s") == other != home


async def test_a_short_call_is_made_again_when_its_replica_dies(cluster: Cluster) -> None:
    await cluster.add("r0")
    pool = Pool(cluster.members, 5)
    assert await pool.call("who", "s") == "r0"
    call = asyncio.create_task(pool.call("hang", "s"))
    await until(lambda: cluster.served["r0"].num_running)
    await cluster.add("r1")
    await cluster.kill("r0")
    await until(lambda: cluster.served["r1"].num_running)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def test_a_short_call_that_hangs_is_given_up(cluster: Cluster) -> None:
    await cluster.add("r0")
    with pytest.raises(RoleUnavailable, match="did not answer within"):
        await Pool(cluster.members, 0.1).call("hang", "s")
    await until(lambda: not cluster.served["r0"].num_running)


async def test_a_stream_fails_with_its_replica(cluster: Cluster) -> None:
    await cluster.add("r0")
    pool = Pool(cluster.members, 5)
    async with aclosing(pool.items("count", "s", 1000, 0.01)) as items:
        assert await anext(items) == 0
        await cluster.kill("r0")
        with pytest.raises(RoleUnavailable):
            async for _ in items:
                pass


async def test_a_session_leaves_a_replica_that_refuses_its_calls(cluster: Cluster) -> None:
    """A replica may live and not work."""
    for name in ("r0", "r1"):
        await cluster.add(name)
    pool = Pool(cluster.members, 5)
    await pool.call("who", "")
    await until(lambda: len(cluster.members.links) == 2)
    first = await pool.call("who", "s")
    with pytest.raises(RoleUnavailable):
        async with aclosing(pool.items("break_off", "s")) as items:
            assert [item async for item in items]
    assert await pool.call("who", "s") != first


async def test_hints_go_where_their_call_runs_though_its_session_would_go_elsewhere(cluster: Cluster) -> None:
    for name in ("r0", "r1"):
        await cluster.add(name)
    pool, clock = TargetPool(cluster.members, 5), asyncio.get_running_loop().time
    await pool.add_hints("not begun", "s", ())
    await until(lambda: len(cluster.members.links) == 2)
    async with aclosing(pool.stream(StepRequest("c", "s", Prefix((1,)), StepRule(), 10))) as deltas:
        there = cluster.served[str(await anext(deltas))]
        link = next(link for link in cluster.members.links if link.address.replica == there.name)
        link.silence.given_up(clock(), clock())
        link.silence.tried(clock())  # it is tried with this call, and others go elsewhere until it says something
        await pool.add_hints("c", "s", ((1,),))
        link.silence.heard(clock())
        await pool.add_hints("c", "s", ((2,),))
        assert there.hints[-2:] == [((1,),), ((2,),)]
        await cluster.kill(there.name)
        await pool.add_hints("c", "s", ((3,),))
        (other,) = (served for served in cluster.served.values() if served is not there)
        assert other.hints[-1:] == [((3,),)], "where it is lost, as before its begin"


async def test_a_replica_at_an_address_that_does_not_answer_is_no_member(cluster: Cluster) -> None:
    await cluster.add("r0")
    address = cluster.servers["r0"].address
    announced = [replace(address, replica="gone", port=1), address]

    async def announce() -> list[Address]:
        return announced

    members = Members("target", announce)
    assert await Pool(members, 5).call("who", "s") == "r0"
    assert len(members.links) == 1
    await members.aclose()
