"""Prompts are encoded beside an event loop that goes on, in a real tokenizer of bytes whose template can be held."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from actors.engines.prompts import KEPT_S, SHORT_PROMPT, PromptEncoder
from actors.engines.tokenizer import ModelTokenizer
from actors.errors import ContextTooLong, RequestError
from actors.messages import Message, Prompt, RoleInfo
from tests.unit.test_tokenizer import END, VOCABULARY_SIZE, ByteTokenizer

LONG = 2 * SHORT_PROMPT
HELD_S = 30.0
"""Longer than any test may take: what waits so long stands still."""


class HeldTokenizer(ByteTokenizer):
    """Its template renders nothing before it is let go; `rendered` has the first letter of each prompt."""

    def __init__(self) -> None:
        super().__init__("<end>")
        self.rendered: list[str] = []
        self.begun = threading.Event()
        self.go = threading.Event()

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> str:
        self.rendered.append(conversation[0]["content"][0])
        self.begun.set()
        assert self.go.wait(HELD_S)
        return super().apply_chat_template(conversation, **options)


@pytest.fixture
def held() -> Iterator[HeldTokenizer]:
    tokenizer = HeldTokenizer()
    yield tokenizer
    tokenizer.go.set()


def encoder_of(tokenizer: ByteTokenizer, context: int = 10**6, **others: Any) -> PromptEncoder:
    return PromptEncoder(ModelTokenizer(tokenizer, VOCABULARY_SIZE, RoleInfo("m", "", context)), **others)


def asking(letter: str, num_letters: int = LONG, role: str = "user") -> Prompt:
    return Prompt(messages=(Message(role, letter * num_letters),))


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, HELD_S)


async def test_the_loop_goes_on_while_a_long_prompt_is_encoded(held: HeldTokenizer) -> None:
    tokenizer = ModelTokenizer(held, VOCABULARY_SIZE)
    encoder = PromptEncoder(tokenizer)
    first, second = (asyncio.create_task(encoder.encode(asking(letter))) for letter in "ab")
    await until(held.begun)
    stream = tokenizer.text_stream((), None)
    assert "".join(map(stream.step, tokenizer.encode_text("Streams go on."))) == "Streams go on."
    assert await encoder.encode(Prompt(text="Hi<end>")) == (*tokenizer.encode_text("Hi"), END), "waits for no long one"
    assert not first.done()
    held.go.set()
    for letter, task in (("a", first), ("b", second)):
        words = tokenizer.encode_text(f"user: {LONG * letter}"), tokenizer.encode_text("assistant:")
        assert await task == (*words[0], END, *words[1])
    assert held.rendered == ["a", "b"], "one after the other"
    encoder.close()


async def test_the_loop_turns_while_the_tokenizer_works() -> None:
    """What is done outside Python holds up all threads if it keeps Python's lock."""
    encoder = encoder_of(ByteTokenizer(), 10**7)
    task = asyncio.create_task(encoder.encode(Prompt(text="lorem ipsum dolor " * 80_000)))
    num_turns = 0
    while not task.done():
        await asyncio.sleep(0.001)
        num_turns += 1
    assert len(await task) == 18 * 80_000
    assert num_turns > 40
    encoder.close()


@pytest.mark.parametrize("num_letters", [1, LONG], ids=["short", "long"])
async def test_prompts_are_decoded_however_long(num_letters: int) -> None:
    encoder = encoder_of(ByteTokenizer("<end>"))
    text = f"{num_letters * 'x'}<end>"
    assert await encoder.decode(await encoder.encode(Prompt(text=text))) == text
    encoder.close()


async def test_who_is_cancelled_is_free_at_once_and_what_nobody_waits_for_is_not_begun(held: HeldTokenizer) -> None:
    encoder = encoder_of(held)
    callers = [asyncio.create_task(encoder.encode(asking(letter))) for letter in "abc"]
    await until(held.begun)
    for caller in callers[:2]:
        caller.cancel()
    async with asyncio.timeout(HELD_S):
        ends = await asyncio.gather(*callers[:2], return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 2
    assert not callers[2].done()
    held.go.set()
    assert len(await callers[2]) > LONG
    assert held.rendered == ["a", "c"]
    encoder.close()


@pytest.mark.parametrize("num_letters", [1, LONG], ids=["short", "long"])
async def test_what_a_template_refuses_is_the_clients_error_however_long(num_letters: int) -> None:
    encoder = encoder_of(ByteTokenizer("<end>"))
    with pytest.raises(RequestError, match="System role not supported") as caught:
        await encoder.encode(asking("a", num_letters, role="system"))
    assert caught.value.param == "messages"
    encoder.close()


async def test_what_has_no_room_is_refused_with_its_tokens() -> None:
    encoder = encoder_of(ByteTokenizer("<end>"), LONG)
    for prompt in (Prompt(text="x" * LONG), Prompt(token_ids=(5,) * LONG)):
        with pytest.raises(
            ContextTooLong, match=rf"is {LONG} tokens\. The prompt has {LONG} tokens,.*Shorten"
        ) as caught:
            await encoder.encode(prompt)
        assert caught.value.param == "prompt"
    assert len(await encoder.encode(Prompt(text="x" * (LONG - 1)))) == LONG - 1
    encoder.close()


async def test_what_cannot_have_room_is_refused_before_it_is_encoded() -> None:
    """The longest token has five characters: a text of no others is the longest that has room."""
    encoder = encoder_of(ByteTokenizer("<end>"), LONG)
    assert await encoder.encode(Prompt(text="<end>" * (LONG - 1))) == (END,) * (LONG - 1)
    for prompt in (Prompt(text="<end>" * LONG), Prompt(text="x" * 5 * LONG), asking("x", 5 * LONG)):
        with pytest.raises(ContextTooLong, match=rf"is {LONG} tokens\. The prompt has \d+ tokens or more,"):
            await encoder.encode(prompt)
    encoder.close()


async def test_what_the_template_leaves_out_counts_for_nothing() -> None:
    class Trimming(ByteTokenizer):
        def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> str:
            return f"user: {conversation[-1]['content'].strip()}"

    encoder = encoder_of(Trimming(), 20)
    prompt = Prompt(messages=(*asking("x").messages, Message("user", f"{LONG * ' '}Hi")))
    assert len(await encoder.encode(prompt)) == len("user: Hi")
    encoder.close()


async def test_a_long_prompt_that_comes_again_is_encoded_once_while_it_is_kept(held: HeldTokenizer) -> None:
    held.go.set()
    encoder = encoder_of(held, max_kept=5 * LONG)
    for letter in "aabab":
        assert len(await encoder.encode(asking(letter))) > LONG
    assert held.rendered == ["a", "b"]
    await encoder.encode(asking("c"))  # there is room for two: the one that was used last stays
    await encoder.encode(asking("b"))
    await encoder.encode(asking("a"))
    assert held.rendered == ["a", "b", "c", "a"]
    await encoder.encode(asking("d", 3 * LONG))  # larger than all that is kept
    await encoder.encode(asking("b"))
    assert held.rendered == ["a", "b", "c", "a", "d"]
    encoder.close()


async def test_nothing_of_a_refused_prompt_is_kept(held: HeldTokenizer) -> None:
    held.go.set()
    encoder = encoder_of(held, 2 * LONG, max_kept=5 * LONG)
    await encoder.encode(asking("a"))
    for _ in range(2):
        with pytest.raises(ContextTooLong):
            await encoder.encode(asking("b", 2 * LONG))
    await encoder.encode(asking("a"))
    assert held.rendered == ["a", "b", "b"]
    encoder.close()


async def test_what_nobody_has_asked_for_in_a_minute_is_kept_no_more(held: HeldTokenizer) -> None:
    held.go.set()
    now = 100.0
    encoder = encoder_of(held, clock=lambda: now)
    await encoder.encode(asking("a"))
    await encoder.encode(asking("b"))
    now += KEPT_S - 1.0
    await encoder.encode(asking("a"))
    now += 1.0
    encoder.forget_old()  # another minute has begun for the first, and none for the second
    await encoder.encode(asking("a"))
    assert held.rendered == ["a", "b"]
    assert [prompt for prompt, _ in kept_by(encoder)] == [asking("a")]
    await encoder.encode(asking("b"))
    assert held.rendered == ["a", "b", "b"]
    now += KEPT_S
    encoder.forget_old()
    assert kept_by(encoder) == []
    encoder.close()


def kept_by(encoder: PromptEncoder) -> list[tuple[Prompt, Any]]:
    """What is kept once the thread has done what it was told before."""
    return encoder._thread.submit(lambda: list(encoder._kept.items())).result(HELD_S)
