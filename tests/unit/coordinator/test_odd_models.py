"""Models that never end a step, repeat themselves, write half characters or nothing to see: every mode ends, with the
right text, and nothing runs on."""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import Any

import pytest

from actors.draft import Draft
from actors.messages import Message, Prompt
from actors.target import TargetModel
from actors.verifier import create_verifier
from deployments.config import Config, validate_config
from deployments.coordinator.coordinator import Coordinator
from deployments.coordinator.pipeline import Roles
from deployments.generation import Committed, Finished, GenerationRequest, SpeculationOptions
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import config
from tests.unit.coordinator.odd import Odd, OddEngine

MAX_TOKENS = 50
NUM_PAIRS = int(os.environ.get("LOOKAHEAD_ODD_PAIRS", "2"))
"""Each model meets so many others; with all of them it takes minutes."""
ODD = {
    "no step ends": Odd(b"", b"and so on "),
    "one word for ever": Odd(b"", b"a"),
    "the same step for ever": Odd(b"", b"Wait, let me think.\n\n"),
    "blank lines": Odd(b"", b"\n\n"),
    "blanks": Odd(b"", b" \t\r\n"),
    "nothing": Odd(),
    "nothing to see": Odd(b"\n\n \n\n"),
    "characters of four bytes": Odd(b"", "\U0001f600\n\n".encode()),
    "steps that end inside a character": Odd(b"", "\u20ac".encode() * 11 + b"\n\n"),
    "half a character at the end": Odd("It is 3 \u20ac.\n\nOr 4 ".encode() + b"\xe2\x82"),
    "bytes that are no text": Odd(b"", b"\xff\xfe12\xc3\n\n\xf0\x9f"),
    "null bytes": Odd(b"", b"\x00\x1b[2J\x7f\n\n"),
    "marks without sense": Odd(b"", b"</think><think></think>\n\n<|im_end|>"),
}
MODES = {
    "lookahead, exact": {"mode": "lookahead", "verifier": "exact"},
    "lookahead, never": {"mode": "lookahead", "verifier": "never", "branches": 2},
    "lookahead, numbers": {"mode": "lookahead", "verifier": "numbers"},
    "sync": {"mode": "lookahead_sync", "verifier": "never"},
    "specreason": {"mode": "specreason", "verifier": "never"},
    "specreason, always": {"mode": "specreason", "verifier": "always"},
}


def settings(think: bool = False) -> Config:
    made = config(step={"max_tokens": 16}, specreason={"verifier": "never"}).model_dump()
    if think:
        made["reasoning"] = {"open": "<think>", "close": "</think>"}
    return validate_config(made, "test")


async def ask(
    target: Odd,
    draft: Odd,
    wishes: dict[str, Any],
    *,
    hints: bool = False,
    foreign: bool = False,
    think: bool = False,
    max_tokens: int = MAX_TOKENS,
) -> tuple[str, Finished]:
    """The text and the end of the second of two requests; the first one learns that the target takes hints."""
    engines = (
        OddEngine(target, "target", 0.1, takes_hints=hints),
        OddEngine(draft, "draft", 0.01, "others" if foreign else "bytes", hints),
    )
    made = settings(think)
    checks = {name: [c.model_dump() for c in cascade] for name, cascade in made.verifier.verifiers.items()}
    roles = Roles(TargetModel(engines[0]), Draft(engines[1]), await create_verifier(checks, {}))
    coordinator = Coordinator(made, roles)
    prompt = Prompt(messages=(Message("user", "?"),)) if think else Prompt(text="?")  # a text has no reasoning
    for _ in range(1 + hints):
        request = GenerationRequest("r", prompt, max_tokens=max_tokens, speculation=SpeculationOptions(**wishes))
        outputs = [output async for output in coordinator.generate(request)]
        await asyncio.sleep(0)
        assert [engine.num_running() for engine in engines] == [0, 0]
    last = outputs[-1]
    assert isinstance(last, Finished)
    assert sum(o.num_tokens for o in outputs if isinstance(o, Committed)) == last.num_output_tokens <= max_tokens
    return "".join(o.text for o in outputs if isinstance(o, Committed)), last


def others(name: str) -> list[Odd]:
    """Whom the model `name` meets."""
    names = list(ODD)
    start = names.index(name)
    return [ODD[names[(start + 1 + 5 * number) % len(names)]] for number in range(min(NUM_PAIRS, len(names)))]


def check(text: str, last: Finished, odd: Odd) -> None:
    """The text is what `odd` writes of its own; it ends where the model or the limit ends it."""
    assert text == odd.text(MAX_TOKENS)
    ends = not odd.cycle
    assert last.finish_reason == ("stop" if ends else "length")
    assert last.num_output_tokens == (len(odd.start) + 1 if ends else MAX_TOKENS)


@pytest.mark.parametrize("name", ODD)
def test_where_draft_and_target_are_odd_alike(name: str) -> None:
    for wishes in ({"mode": "target"}, *MODES.values()):
        check(*run_virtually(ask(ODD[name], ODD[name], wishes)), ODD[name])
    check(*run_virtually(ask(ODD[name], ODD[name], {"mode": "lookahead", "verifier": "exact"}, hints=True)), ODD[name])


@pytest.mark.parametrize("name", ODD)
def test_where_the_draft_is_odd_in_another_way(name: str) -> None:
    for other in others(name):
        for mode in ("lookahead, exact", "lookahead, never", "sync", "specreason"):
            check(*run_virtually(ask(ODD[name], other, MODES[mode])), ODD[name])
        check(*run_virtually(ask(ODD[name], other, {"mode": "lookahead", "verifier": "exact"}, hints=True)), ODD[name])


@pytest.mark.parametrize("name", ODD)
def test_where_the_draft_has_another_vocabulary(name: str) -> None:
    """Then its steps are text; what it left unfinished is not in it."""
    for other, wishes in itertools.product(others(name), ("lookahead, exact", "sync")):
        text, last = run_virtually(ask(ODD[name], other, MODES[wishes], foreign=True))
        assert last.finish_reason in ("stop", "length")
        whole = ODD[name].text(10_000)
        assert text in whole or "\ufffd" in whole, "what is no text is not the same in another vocabulary"


@pytest.mark.parametrize("name", ODD)
def test_where_every_step_of_the_draft_is_taken(name: str) -> None:
    """Nobody knows the right text of two odd models: it ends, and comes once."""
    for other, foreign in itertools.product(others(name), (False, True)):
        wishes = {"mode": "lookahead", "verifier": "always"}
        _, last = run_virtually(ask(ODD[name], other, wishes, foreign=foreign))
        assert last.finish_reason in ("stop", "length")


@pytest.mark.parametrize("name", ODD)
def test_where_there_is_reasoning_that_may_never_close(name: str) -> None:
    for mode in ("lookahead, exact", "sync", "specreason"):
        text, last = run_virtually(ask(ODD[name], ODD[name], MODES[mode], think=True))
        assert last.finish_reason in ("stop", "length")
        whole = ODD[name].text(MAX_TOKENS)
        for mark in ("<think>", "</think>"):
            whole = whole.replace(mark, "", 1) if name == "marks without sense" else whole
        assert text.strip("\n") in whole or name == "marks without sense"


def test_no_more_tokens_than_asked_for_are_counted_where_the_draft_leaves_half_a_character_out() -> None:
    odd = ODD["steps that end inside a character"]
    _, last = run_virtually(ask(odd, odd, MODES["lookahead, exact"], foreign=True, max_tokens=150))
    assert last.num_output_tokens == 150
