"""How a replica starts its engine: one after the other on a card that several share, and as part of the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors import engines
from actors.engines import start_turn
from actors.engines.scripted import ScriptedEngine, ScriptOptions
from actors.engines.start_turn import turn
from actors.start_phases import StartPhases
from deployments import replicas
from deployments.config import load_profile
from deployments.sections import PlacementConfig, WriterConfig
from deployments.verifier_config import VerifierConfig, VerifierPlacement

HOLD = """
import asyncio, sys
from actors.engines.start_turn import turn

async def hold():
    async with turn(sys.argv[1:]):
        print("held", flush=True)
        await asyncio.sleep(60)

asyncio.run(hold())
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(start_turn, "POLL_S", 0.01)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize("cards", [(), ("0",), ("1", "0")])
def test_one_at_a_time_whatever_ends_it(cards: tuple[str, ...]) -> None:
    running, most = 0, 0

    async def start(fails: bool) -> None:
        nonlocal running, most
        async with turn(cards):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1
            if fails:
                raise ValueError("no memory")

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(start(n % 2 == 0) for n in range(4)), return_exceptions=True)

    assert [type(end) for end in asyncio.run(all_of_them())] == [ValueError, type(None), ValueError, type(None)]
    assert most == 1


def test_who_is_cancelled_while_waiting_leaves_the_turn_to_others() -> None:
    async def scene() -> None:
        async with turn():
            waiting = asyncio.create_task(turn().__aenter__())
            await asyncio.sleep(0.03)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert waiting.cancelled()
        async with asyncio.timeout(5), turn():
            pass

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (["0"], ["1"], True),
        (["0"], ["GPU-8a/1/0"], True),
        (["0"], ["0"], False),
        (["0", "1"], ["1", "2"], False),
        ([], ["0"], False),  # its cards are not known
        (["0"], [], False),
        ([], [], False),
    ],
)
async def test_only_engines_of_one_card_wait_for_each_other(
    first: list[str], second: list[str], together: bool
) -> None:
    async def start() -> None:
        async with turn(second):
            pass

    async with turn(first):
        waiting = asyncio.create_task(start())
        done, _ = await asyncio.wait([waiting], timeout=5 if together else 0.1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert bool(done) == together


@pytest.mark.parametrize("cards", [["0", "1"], ["1", "0"]])
async def test_cards_are_taken_in_one_order_so_that_nobody_waits_in_a_circle(cards: list[str]) -> None:
    async def start() -> None:
        async with turn(cards):
            pass

    async with turn(["1"]):
        waiting = asyncio.create_task(start())
        await asyncio.sleep(0.03)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), turn(["0"]):
                raise AssertionError("who waits for 1 has 0")
    async with asyncio.timeout(5):
        await waiting


def test_a_process_that_is_killed_lets_go(tmp_path: Path) -> None:
    command, environment = [sys.executable, "-c", HOLD, "0"], {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"

        async def scene() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1), turn(["0"]):
                    raise AssertionError("the other process has it")
            holder.kill()
            async with asyncio.timeout(5), turn(["0"]):
                pass

        asyncio.run(scene())


def in_a_replica(monkeypatch: pytest.MonkeyPatch, create: Callable[..., Any], *cards: list[int]) -> None:
    """From now on engines are made by `create`, in replicas of the cluster at 10.0.0.1:6379 with these `cards` each."""
    given = iter(cards)
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="here"))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    monkeypatch.setattr(replicas, "create_engine", create)
    monkeypatch.setattr(replicas.serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(replicas.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="10.0.0.1:6379"))
    monkeypatch.setattr(replicas.ray, "get_gpu_ids", lambda: next(given))


@pytest.mark.parametrize(
    ("placement", "cards", "shares"),
    [
        ({"num_gpus": 0.3}, ([0], [0]), True),
        ({"num_gpus": 0.3}, ([0], [1]), False),
        ({"placement_group_bundles": [{"CPU": 1, "GPU": 0.5}]}, ([], []), True),
        ({"num_gpus": 1}, ([0], [1]), None),
        ({"num_gpus": 0, "placement_group_bundles": [{"CPU": 1, "GPU": 1}, {"CPU": 1}]}, ([], []), None),
        ({}, ([], []), None),
    ],
)
def test_replicas_with_a_part_of_one_card_take_turns(
    monkeypatch: pytest.MonkeyPatch,
    placement: dict[str, Any],
    cards: tuple[list[int], ...],
    shares: bool | None,
) -> None:
    """`shares` is None for those that need no turn."""
    running, most = 0, 0

    async def create(*_: Any, turn: contextlib.AbstractAsyncContextManager[None]) -> Any:
        nonlocal running, most
        async with turn:
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1

    config = WriterConfig(model="m", placement=PlacementConfig.model_validate(placement))
    phases = StartPhases()
    in_a_replica(monkeypatch, create, *cards)

    async def both() -> None:
        await asyncio.gather(*(replicas.start_engine(config, config.placement, phases) for _ in cards))

    asyncio.run(both())
    assert most == (1 if shares else 2)
    assert list(phases.seconds) == ([] if shares is None else ["turn"])


async def test_weights_and_imports_do_not_wait_for_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    @contextlib.asynccontextmanager
    async def own_turn() -> AsyncIterator[None]:
        done.append("turn")
        yield
        done.append("end of the turn")

    class VllmEngine:
        @staticmethod
        async def create(*_: Any) -> str:
            done.append("engine")
            return "engine"

    def fetch(models: list[str]) -> list[Path]:
        done.append("weights")
        return [Path("folder")]

    monkeypatch.setattr(engines, "settle_sampler", lambda environment: None)
    monkeypatch.setattr(engines, "_fetch", fetch)
    monkeypatch.setitem(sys.modules, "actors.engines.vllm", SimpleNamespace(VllmEngine=VllmEngine))
    phases = StartPhases()
    await engines.create_engine("vllm", "m", {}, phases=phases, turn=own_turn())
    assert done == ["weights", "turn", "engine", "end of the turn"]
    assert list(phases.seconds) == ["weights", "import", "engine"]


async def test_the_engine_s_processes_join_the_cluster_of_the_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's core takes the workers of that cluster; without the address it would start one of its own."""

    async def create(*_: Any, **__: Any) -> str:
        return os.environ["RAY_ADDRESS"]

    in_a_replica(monkeypatch, create)
    address: Any = await replicas.start_engine(WriterConfig(model="m"), PlacementConfig(), StartPhases())
    assert address == "10.0.0.1:6379"


class LoneVerifier(replicas.VerifierReplica):
    """Without connections, which Ray would have to make, so that there are none to end."""

    def __del__(self) -> None:  # type: ignore[override]
        pass


@pytest.mark.parametrize(("num_gpus", "during_engine"), [(0.2, ["turn of 3"]), (1.0, [])])
async def test_a_judge_of_its_own_takes_turns_where_the_verifier_has_a_part_of_a_card(
    monkeypatch: pytest.MonkeyPatch, num_gpus: float, during_engine: list[str]
) -> None:
    held: list[str] = []
    seen: list[list[str]] = []

    @contextlib.asynccontextmanager
    async def turn(cards: Iterable[str]) -> AsyncIterator[None]:
        held.extend(f"turn of {card}" for card in cards)
        yield
        held.clear()

    async def create(*_: Any, turn: contextlib.AbstractAsyncContextManager[None]) -> ScriptedEngine:
        async with turn:
            seen.append(list(held))
            return ScriptedEngine(ScriptOptions())

    async def listen(*_: Any) -> None:
        pass

    in_a_replica(monkeypatch, create, [3])
    monkeypatch.setattr(replicas, "turn", turn)
    monkeypatch.setattr(replicas, "listen", listen)
    monkeypatch.setattr(replicas, "members", lambda role, handle: role)
    verifier = VerifierConfig(judge=WriterConfig(model="judge"), placement=VerifierPlacement(num_gpus=num_gpus))
    config = load_profile("scripted").model_copy(update={"verifier": verifier})
    replica = LoneVerifier.__new__(LoneVerifier)
    await replica.__init__(config, None, None)  # type: ignore[misc, arg-type, func-returns-value]
    assert (seen, held) == ([during_engine], [])
