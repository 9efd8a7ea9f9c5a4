"""Prompts to tokens, and back, beside an event loop that has streams and heartbeats to carry.

Promises: encoding or decoding a prompt never holds the loop up by more than a short one takes; a short one waits for no
other; long ones are worked on one after the other in a thread of their own, so that their memory is that of one; a
caller that is cancelled is free at once, and what nobody waits for any more is not begun; what is kept is bounded by
its size, and nothing of a prompt that is refused is kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from actors.engines.tokenizer import ModelTokenizer
from actors.messages import Prompt, TokenIds

SHORT_PROMPT = 4096
"""A prompt of so many characters is encoded at once, in three milliseconds at most; in the thread it would wait for
others' long ones."""
MAX_KEPT = 4_000_000
"""Characters of prompts and tokens, added up, that are kept: at most about 80 MB."""


class PromptEncoder:
    """Encodes and decodes prompts with `tokenizer` for one event loop."""

    def __init__(self, tokenizer: ModelTokenizer, max_kept: int = MAX_KEPT) -> None:
        self._tokenizer = tokenizer
        self._thread = ThreadPoolExecutor(1, "prompts")
        self._kept: OrderedDict[Prompt, TokenIds] = OrderedDict()
        """Of long prompts, the one used last at the end. The thread's own: nothing else touches it."""
        self._max_kept = max_kept
        self._num_kept = 0

    async def encode(self, prompt: Prompt) -> TokenIds:
        """As `ModelTokenizer.encode_prompt`."""
        if size(prompt) <= SHORT_PROMPT:
            return self._tokenizer.encode_prompt(prompt)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._encode_long, prompt)

    async def decode(self, token_ids: TokenIds) -> str:
        """As `ModelTokenizer.decode`."""
        if len(token_ids) <= SHORT_PROMPT:
            return self._tokenizer.decode(token_ids)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._tokenizer.decode, token_ids)

    def close(self) -> None:
        """Takes no more long prompts; those it has are still encoded. Does not wait."""
        self._thread.shutdown(wait=False)

    def _encode_long(self, prompt: Prompt) -> TokenIds:
        if (known := self._kept.get(prompt)) is not None:
            self._kept.move_to_end(prompt)
            return known
        token_ids = self._tokenizer.encode_prompt(prompt)
        num_new = size(prompt) + len(token_ids)
        if num_new <= self._max_kept:
            self._kept[prompt] = token_ids
            self._num_kept += num_new
            while self._num_kept > self._max_kept:
                oldest, its_ids = self._kept.popitem(last=False)
                self._num_kept -= size(oldest) + len(its_ids)
        return token_ids


def size(prompt: Prompt) -> int:
    """Characters of all texts of `prompt`, and its token ids."""
    texts = (prompt.text or "", prompt.template_options, prompt.answer_prefix)
    messages = sum(len(message.role) + len(message.content) for message in prompt.messages)
    return messages + sum(map(len, texts)) + len(prompt.token_ids or ())
