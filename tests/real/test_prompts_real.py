"""Long prompts in the tokenizers of real models: a pasted log holds nothing up, and no text has fewer tokens than its
characters say."""

from __future__ import annotations

import asyncio
import time

import pytest
from transformers import AutoTokenizer

from actors.engines.prompts import PromptEncoder
from actors.engines.token_chars import TokenChars
from actors.engines.tokenizer import ModelTokenizer
from actors.errors import ContextTooLong
from actors.messages import Message, Prompt, RoleInfo
from actors.models import resolve

pytestmark = pytest.mark.real

LINE = "2024-05-17T12:{:02}:{:02}Z WARN  [worker-{}] disk é/日 at {}% of /var/log, request {:x} took {} ms\n"
LOG = "".join(LINE.format(n % 60, n % 7, n % 13, n % 100, n * 7919, n % 1000) for n in range(36_000))
"""About three million characters."""
TEXTS = ["", " ", "a\u0301" * 50, "안녕 漢字 🙂" * 20, "\n\n\t  x" * 40, "0123456789" * 30, "if x:\n    y = 1\n" * 9]


@pytest.fixture(scope="module", params=["package:qwen2.5-coder-0.5b-instruct", "package:smollm2-135m-instruct"])
def tokenizer(request):
    return AutoTokenizer.from_pretrained(resolve(request.param), local_files_only=True)


async def test_streams_and_heartbeats_go_on_while_a_log_is_read_and_refused(tokenizer) -> None:
    wrapped = ModelTokenizer(tokenizer, 10**6, RoleInfo("m", "", 100_000))
    encoder = PromptEncoder(wrapped)
    ids = wrapped.encode_text("Streams go on, token by token. ")
    asked = [asyncio.create_task(encoder.encode(Prompt(messages=(Message("user", LOG + end),)))) for end in "ab"]
    stream, gaps, last = wrapped.text_stream((), None), list[float](), time.monotonic()
    while not all(task.done() for task in asked):
        for token in ids:
            stream.step(token)
        await asyncio.sleep(0.001)
        gaps.append(time.monotonic() - last)
        last += gaps[-1]
    for task in asked:
        with pytest.raises(ContextTooLong, match=r"is 100000 tokens\. The prompt has \d{6,7} tokens"):
            await task
    assert max(gaps) < sum(gaps) / 4, "the loop stood still"
    encoder.close()


def test_a_prompt_has_the_tokens_that_its_tokenizer_gives_it(tokenizer) -> None:
    wrapped = ModelTokenizer(tokenizer, 10**6)
    for text in (*TEXTS[1:], LOG[:20_000]):
        expected = tuple(tokenizer.backend_tokenizer.encode(text, add_special_tokens=True).ids)
        assert wrapped.encode_prompt(Prompt(text=text)) == expected
        messages = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        whole = tuple(tokenizer.backend_tokenizer.encode(rendered, add_special_tokens=False).ids)
        assert wrapped.encode_prompt(Prompt(messages=(Message("user", text),))) == whole


def test_no_text_has_fewer_tokens_than_its_characters_say(tokenizer) -> None:
    backend = tokenizer.backend_tokenizer
    bound = TokenChars.of(backend)
    drops_some = not backend.encode("\x13\x14", add_special_tokens=False).ids  # as SmolLM2's, so it has no bound
    assert (bound.ascii is None) == drops_some
    longest = max((backend.decode([token]) for token in range(len(tokenizer))), key=len)
    for text in (*TEXTS, LOG[:20_000], longest * 500, "\x13" * 10_000):
        assert len(backend.encode(text, add_special_tokens=False)) >= bound.fewest_tokens(text)
