"""Whether a prompt leaves the reasoning open, read from the end of its tokens: the template may close it there.

Promises: all of it is in the words of one model, whatever replicas are being replaced; a mark in a message closes
nothing; the prompt is encoded a second time only where a message has the mark.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile

from actors.errors import OtherVocabulary, RequestError
from actors.messages import Prompt, RoleInfo, TokenIds
from actors.roles import Target
from deployments.config import ReasoningConfig
from deployments.coordinator.output import Marks

PROMPT_TAIL = 16
"""So many last tokens of a prompt are looked at to see whether the template has closed the reasoning already."""


async def rendered(target: Target, prompt: Prompt, reasoning: ReasoningConfig) -> tuple[RoleInfo, TokenIds, Marks]:
    """What the target is now, `prompt` in its tokens, and the prompt's reasoning marks: none without messages."""
    if reasoning.close is None or not prompt.messages:
        info, (token_ids,) = await target.render(prompt)
        return info, token_ids, Marks()
    marks = "", reasoning.close, reasoning.open or ""  # as at the beginning of a line
    info, ids = await target.render(prompt, *(Prompt(text=f"\n{mark}") for mark in marks))
    token_ids, bare, close, opening = ids
    close, opening = _within(bare, close), _within(bare, opening)
    is_closed = _closes(token_ids, close, opening)
    if is_closed and any(reasoning.close in message.content for message in prompt.messages):
        is_closed = _closes(await _behind_messages(target, info, prompt, token_ids), close, opening)
    return info, token_ids, Marks(reasoning.open, reasoning.close, reasoning.starts_open and not is_closed)


async def _behind_messages(target: Target, info: RoleInfo, prompt: Prompt, token_ids: TokenIds) -> TokenIds:
    """The end of `token_ids`, which are those of `prompt`, that the template wrote behind the last message: what is the
    same with another one."""
    *before, last = prompt.messages
    other = replace(prompt, messages=(*before, replace(last, content=f"{last.content}.")))
    try:
        other_info, (other_ids,) = await target.render(other)
    except RequestError:  # there is no room for one token more
        return token_ids
    if other_info.vocabulary != info.vocabulary:
        raise OtherVocabulary(f"{other_info.model} took the place of {info.model} while the request began; ask again.")
    pairs = zip(reversed(token_ids), reversed(other_ids), strict=False)
    num_same = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return token_ids[len(token_ids) - num_same :]


def _within(bare: TokenIds, token_ids: TokenIds) -> TokenIds:
    """`token_ids` without those that a tokenizer puts around all texts, also the `bare` one."""
    start = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(bare, token_ids, strict=False))))
    return token_ids[start : len(token_ids) - len(bare) + start]


def _closes(prompt: TokenIds, close: TokenIds, opening: TokenIds) -> bool:
    """Whether the end of `prompt` closes the reasoning, and opens it no more."""
    closed_at, opened_at = (_last_place(ids, prompt[-PROMPT_TAIL:]) for ids in (close, opening))
    return closed_at > opened_at


def _last_place(wanted: TokenIds, token_ids: TokenIds) -> int:
    """Where `wanted` stands in `token_ids` for the last time; -1 if it does not, or is nothing."""
    places = range(len(token_ids) - len(wanted), -1, -1) if wanted else ()
    return next((at for at in places if token_ids[at : at + len(wanted)] == wanted), -1)
