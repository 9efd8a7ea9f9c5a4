"""Quoting steps to a judge so that nothing in them can end the quotation or pass for an instruction.

Promises: the mark around quoted text occurs in none of the quoted texts, so whatever stands there stays inside; the
same texts get the same mark; prompts on one question share theirs, except where a text happens to hold it, so that
everything up to the step itself is found in the engine's prefix cache. Tokens with a meaning of their own
(``<|im_end|>``) stay text, since prompts that quote are made with `Prompt.literal`.
"""

from __future__ import annotations

import hashlib
from itertools import count

from actors.messages import JudgeRequest, Message, Prompt

MARK_CHARS = 6
"""It is looked whether a text has it, so a short one is as safe as a long one and costs a judge fewer tokens."""


def mark_for(question: str, *quoted: str) -> str:
    """A mark that no text of `quoted` and not the question contains, whatever the case of its letters."""
    texts = [text.lower() for text in (question, *quoted)]
    marks = (_hash(f"{number}:{question}") for number in count())
    return next(mark for mark in marks if not any(mark in text for text in texts))


def block(title: str, text: str, mark: str) -> str:
    """`text` under its title, between an opening and a closing mark."""
    return f"{title}:\n<{mark}>\n{text}\n</{mark}>\n"


def prompt_of(text: str, request: JudgeRequest, answer_prefix: str) -> Prompt:
    """`text`, which quotes from `request`, as a model is asked it: what looks like a special token in it stays text."""
    return Prompt((Message("user", text),), literal=True, answer_prefix=answer_prefix, cache_salt=request.cache_salt)


def tail(text: str, max_chars: int) -> str:
    """The end of `text`: all of it, or the last `max_chars` to half as many characters.

    The cut moves in jumps of half the bound, so that the beginning stays the same, and in the prefix cache, while a
    text grows.
    """
    if len(text) <= max_chars:
        return text
    jump = max(1, max_chars // 2)
    cut = -(-(len(text) - max_chars) // jump) * jump
    return "..." + text[cut:]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:MARK_CHARS]
