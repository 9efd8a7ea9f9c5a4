"""Lists: which lines of a text are items of one.

Promises: a line that may go on with a formula or a program ("* count" behind "total = (price") is no item. So a list is
known by what stands before it: a blank line, a colon, or an item of the list; where nothing stands before it, by a
second item. An item begins with a word, since ``- 5`` may be a number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

ITEM_MARK = re.compile(r"^( *)[-*•](?= +\**[^\W\d_]{2})")
"""The mark of an item, behind its indentation, if the line is one."""


def are_items(lines: Sequence[str]) -> list[bool]:
    """For each line whether it is an item of a list."""
    items: list[bool] = []
    before: str | None = None
    written = [line for line in lines if line]
    has_two = len(written) > 1 and all(map(ITEM_MARK.match, written[:2]))
    for line in lines:
        begins = has_two if before is None else not before or before.rstrip("*").endswith(":")
        items.append(bool(ITEM_MARK.match(line)) and (begins or (bool(items) and items[-1])))
        if line or before is not None:
            before = line
    return items
