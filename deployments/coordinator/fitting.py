"""Prompts that cannot fit, refused by their length before they are sent to draft and target.

Promises: what is refused here is what the target would refuse, in its words; what is short, or whose length only a
tokenizer knows, is not looked at.
"""

from __future__ import annotations

from actors.errors import ContextTooLong
from actors.messages import Prompt
from actors.roles import Target

LONG = 16_384
"""Token ids that are sent on without a question before it: some 80 kB."""


async def require_room(target: Target, prompt: Prompt) -> None:
    """ContextTooLong for token ids that leave no room for one token in the context of the target as it is now."""
    # Of those of a known vocabulary, which go on with what was begun, the target first looks whether it is its own.
    if prompt.token_ids is None or prompt.vocabulary or len(prompt.token_ids) < LONG:
        return
    info = await target.describe()
    if len(prompt.token_ids) >= info.max_model_len:
        raise ContextTooLong.of_prompt(len(prompt.token_ids), info.max_model_len)
