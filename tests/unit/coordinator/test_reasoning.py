"""Reasoning through the coordinator: whether a prompt leaves it open, and what is speculated then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.engines.scripted import ScriptedEngine
from actors.messages import Message, Prompt, TokenIds
from actors.target import TargetModel
from deployments.config import Config, validate_config
from deployments.generation import Channel, Committed
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import DRAFT, TARGET, Answer, Bench, Closing, config

THINKS = replace(TARGET, think=True)


def thinking(**speculation: object) -> Config:
    made = config().model_dump()
    made["speculation"] |= speculation
    made["reasoning"] = {"open": "<think>", "close": "</think>"}
    return validate_config(made, "test")


def ask(text: str, target: type[TargetModel] = TargetModel, **wishes: object) -> Answer:
    """The answer of a scripted model, whose mark is of several tokens, to a message that ends in `text`."""
    bench = Bench(THINKS, replace(THINKS, role="draft", token_s=DRAFT.token_s), thinking(scope="think"))
    bench.roles = replace(bench.roles, target=target(bench.target_engine))
    prompt = Prompt(messages=(Message("user", text),))
    return run_virtually(bench.ask(prompt=prompt, mode="lookahead", verifier="exact", **wishes))


def channels(answer: Answer) -> dict[Channel, str]:
    said = [o for o in answer.outputs if isinstance(o, Committed)]
    return {c: "".join(o.text for o in said if o.channel is c) for c in Channel if any(o.channel is c for o in said)}


@pytest.mark.parametrize(
    "text",
    [
        "How many?",
        "Is it k> or not?",
        "What is\n<think>",
        "So it was\n</think>\n<think>\n",
        "And what is this:\n</think>",
        "Or this:\n<think>\n\n</think>\n\n",
    ],
)
def test_reasoning_that_a_prompt_leaves_open_is_speculated_and_told_apart(text: str) -> None:
    answer = ask(text)
    said = channels(answer)
    assert said[Channel.CONTENT].startswith("The answer is ")
    assert "The answer is" not in said[Channel.REASONING]
    assert "<think>" not in answer.text
    assert "</think>" not in answer.text
    assert answer.finished.num_reasoning_tokens > 100
    assert answer.finished.summary.num_accepted_steps > 0


@pytest.mark.parametrize("text", ["How many?", "What is\n<think>", "And what is this:\n</think>"])
def test_a_template_that_has_closed_the_reasoning_is_found_out(text: str) -> None:
    answer = ask(text, Closing)
    assert set(channels(answer)) == {Channel.CONTENT}
    assert answer.finished.num_reasoning_tokens == answer.finished.summary.num_draft_steps == 0


@pytest.mark.parametrize(("text", "num_times"), [("How many?", 1), ("What is </think>?", 2)])
def test_a_closed_prompt_is_encoded_again_only_where_a_message_has_the_mark(text: str, num_times: int) -> None:
    class Counting(Closing):
        num_chats = 0

        async def encode(self, prompt: Prompt) -> TokenIds:
            Counting.num_chats += bool(prompt.messages)
            return await super().encode(prompt)

    assert set(channels(ask(text, Counting))) == {Channel.CONTENT}
    assert Counting.num_chats == num_times


class Framing(TargetModel):
    """A target whose tokenizer puts special tokens around every text that is no chat."""

    async def encode(self, prompt: Prompt) -> TokenIds:
        ids = await super().encode(prompt)
        return ids if prompt.messages else (7, 8, *ids, 9)


class FramingAndClosing(Framing, Closing):
    """Both."""


def test_what_a_tokenizer_puts_around_a_text_is_no_part_of_the_mark() -> None:
    assert set(channels(ask("How many?", FramingAndClosing))) == {Channel.CONTENT}
    assert set(channels(ask("How many?", Framing))) == {Channel.CONTENT, Channel.REASONING}


def test_a_closed_prompt_that_leaves_room_for_one_token_is_answered() -> None:
    """Another last message, by which the template's own words are found, has no room."""
    prompt = Prompt(messages=(Message("user", "What is </think>"),))

    async def scene() -> Answer:
        num_tokens = len(await Closing(ScriptedEngine(THINKS)).encode(prompt))
        bench = Bench(replace(THINKS, max_model_len=num_tokens + 1), settings=thinking(scope="think"))
        bench.roles = replace(bench.roles, target=Closing(bench.target_engine))
        return await bench.ask(prompt=prompt, mode="target")

    answer = run_virtually(scene())
    assert set(channels(answer)) == {Channel.CONTENT}
    assert answer.finished.num_output_tokens == 1
