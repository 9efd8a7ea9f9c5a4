"""Orders reach one process and end when they are withdrawn; the log says what each generation did."""

from __future__ import annotations

import os

import pytest

from actors.engines import control_folder
from actors.engines.control_folder import Orders, give_orders, read_logs, withdraw_orders
from actors.engines.scripted import NONSENSE, ScriptedEngine, ScriptOptions, tokenize
from actors.messages import Prompt, Sampling, StepRule


@pytest.fixture(autouse=True)
def _no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_folder, "READ_EVERY_S", 0.0)


async def say(engine: ScriptedEngine, steps: int | None = 2, max_tokens: int = 1000) -> str:
    ids = await engine.encode_prompt(Prompt(text="How many?"))
    rule, text = StepRule(), ""
    async for delta in engine.generate(
        "call", ids, max_tokens=max_tokens, rule=rule, max_steps=steps, sampling=Sampling()
    ):
        text += delta.text
    return text


async def test_orders_count_for_their_process_until_they_are_withdrawn(tmp_path) -> None:
    options = ScriptOptions(role="draft", control=str(tmp_path))
    engine = ScriptedEngine(options)
    usual = await say(engine)
    give_orders(tmp_path, os.getpid() + 1, Orders(garbage="nonsense"))
    assert await say(engine) == usual
    give_orders(tmp_path, os.getpid(), Orders(garbage="nonsense"))
    assert await say(engine) == 2 * NONSENSE
    give_orders(tmp_path, os.getpid(), Orders(garbage="wrong"))
    wrong = await say(engine)
    assert wrong.count("\n\n") == 2
    assert wrong != usual
    for garbage in ("broken", "refusing"):
        give_orders(tmp_path, os.getpid(), Orders(garbage=garbage))
        with pytest.raises(RuntimeError, match="ordered"):
            await say(engine)
    withdraw_orders(tmp_path, os.getpid())
    assert await say(engine) == usual
    assert engine.num_running() == 0


async def test_a_target_writes_what_it_always_does_whatever_is_ordered(tmp_path) -> None:
    engine = ScriptedEngine(ScriptOptions(control=str(tmp_path)))
    usual = await say(engine)
    for garbage in ("nonsense", "wrong"):
        give_orders(tmp_path, os.getpid(), Orders(garbage=garbage))
        assert await say(engine) == usual


async def test_slow_is_slow(tmp_path, monkeypatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("actors.engines.scripted.asyncio.sleep", sleep)
    engine = ScriptedEngine(ScriptOptions(token_s=0.5, control=str(tmp_path)))
    await say(engine, max_tokens=2)
    give_orders(tmp_path, os.getpid(), Orders(slow=10.0))
    await say(engine, max_tokens=2)
    assert slept == [0.0, 0.5, 0.5, 0.0, 5.0, 5.0]


async def test_the_log_has_each_generation_with_the_time_of_each_token(tmp_path) -> None:
    engine = ScriptedEngine(ScriptOptions(control=str(tmp_path)))
    text = await say(engine, steps=1)
    ids = await engine.encode_prompt(Prompt(text="How many?"))
    cut = engine.generate("cut", ids, max_tokens=100, rule=StepRule(), max_steps=1, sampling=Sampling())
    await anext(cut)
    await cut.aclose()
    whole, closed = list(read_logs(tmp_path))
    assert whole["pid"] == os.getpid()
    assert whole["is_whole"]
    assert whole["text"] == text
    assert whole["prompt"] == "How many?"
    assert len(whole["token_times"]) == len(tokenize(text))
    assert whole["began_at"] <= whole["token_times"][0] <= whole["ended_at"]
    assert (closed["call_id"], closed["is_whole"], len(closed["token_times"])) == ("cut", False, 1)
