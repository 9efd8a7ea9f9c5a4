"""Exact: the same text, the way it is set aside.

Promises: two different formulas, programs or numbers never become equal. So nothing is dropped that could carry
meaning: case stays (``X`` is not ``x``), indentation and line ends stay (Python), superscripts stay (NFKC would write
``x²`` as ``x2``), and marks are folded to one form, not removed (a line that begins with ``- 5`` may be a list or a
minus). Code keeps all but its characters' widths: lines between fences, whether the fence stands in the step or before
it, indented lines, and lines with a back quote. Elsewhere list marks are folded where a list can be seen, and formulas
where nothing looks like a program: ``$DIR /$NAME`` is two variables.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from actors.messages import JudgeRequest
from actors.verifiers.check import Decision, Opinion, both_steps
from actors.verifiers.lists import ITEM_MARK, are_items
from actors.verifiers.normal_form import normal_form

_WIDTHS = ("<wide>", "<narrow>", "<noBreak>")
_SIGNS = str.maketrans({"−": "-", "‘": "'", "’": "'", "“": '"', "”": '"'})  # noqa: RUF001

# Bounded, so that marks which never close cost no time. Pandoc's rule for a single dollar: no blank inside the marks,
# no digit after them; "$5 and $6" is no formula.
_MATHS = re.compile(
    r"""
    \\\((?P<round>.{1,400}?)\\\) | \\\[(?P<square>.{1,400}?)\\\] | \$\$(?P<double>.{1,400}?)\$\$
    | (?<![\\$])\$(?P<single>\S|\S[^$\n]{0,400}?\S)\$(?!\d)
    """,
    re.DOTALL | re.VERBOSE,
)
_MATHS_SPACING = re.compile(
    r"(?<!\\)\\[,;:!]|\\q?quad(?![a-zA-Z])|\\(?:left|right)(?=[()\[\]|.])|\\displaystyle(?![a-zA-Z])|~"
)
_MATHS_OPERATOR = re.compile(r"\s*([=+\-*/<>^])\s*")
# A shell's variables and a pattern's groups have the marks of formulas. What tells them apart: they touch other words,
# or have an operator at the end, a quotation or an option inside, or no sign at all.
_TOUCHED_BEFORE = re.compile(r"[A-Za-z0-9_/\\^$\"'`]")
_TOUCHED_BEHIND = re.compile(r"[A-Za-z0-9_/\\({$\"'`]")
_MATHS_SIGN = re.compile(r"[=+\-*/<>^_()\\]")
_NO_MATHS = re.compile(r"[=+\-*/<>^_]\s*\Z|[\"`]|(?:^|\s)-[A-Za-z]{2}")
_STRONG = re.compile(r"(?<![\w*)\]])\*\*(?=[^\W\d_])([^*\n]*\w{2}[.:!?]?)\*\*(?![\w*(])")
_NUMBERING = re.compile(r"^( *\d+)\)(?= )")
_QUOTES = re.compile("[\"'`]")
_FENCE = re.compile(r"\s*(?:```[^`]*$|~~~)")
"""A line that opens or closes a block of code; back quotes that close on the same line are none."""
_ITEM = re.compile(r"\s*(?:[-*•]|\d+[.)])\s")
_INDENT = 4
"""So many blanks before a line make it code, as in Markdown."""


class ExactCheck:
    """Accepts steps whose normalised texts are equal; else unsure."""

    name = "exact"
    reads_context = True  # a line of code is a step like any other, and what makes it code stands before it

    async def check(self, request: JudgeRequest) -> Opinion:
        steps = both_steps(request)
        if isinstance(steps, Opinion):
            return steps
        draft, target = steps
        is_code = begins_in_code(request)
        if normalise(draft.text, is_code) == normalise(target.text, is_code):
            return Opinion(Decision.ACCEPT, "the texts are equal", probability=1.0)
        return Opinion(Decision.UNSURE, "the texts are not equal")


def normalise(text: str, begins_in_code: bool = False) -> str:
    """`text` with one form for each way to set the same thing: character widths, and outside of code quotation marks,
    blanks within a line, blank lines, bold words, list marks, the marks around formulas and the spacing inside them.
    Code that it begins in lasts until the fence that closes it."""
    text = "".join(
        unicodedata.normalize("NFKC", c) if unicodedata.decomposition(c).startswith(_WIDTHS) else c for c in text
    )
    lines = normal_form("NFC", text).strip("\n").splitlines()
    normalised: list[str] = []
    for is_code, block in groupby(zip(_are_code(lines, begins_in_code), lines, strict=True), key=itemgetter(0)):
        written = [line for _, line in block]
        normalised += written if is_code else _prose(written, normalised[-1:])
    return "\n".join(normalised)


def begins_in_code(request: JudgeRequest) -> bool:
    """Whether a fence is open where the steps begin."""
    return _ends_in_code(request.question) or _ends_in_code(_before(request))


def holds_code(text: str, begins_in_code: bool) -> bool:
    """Whether lines of `text` are code by a fence, as all are that begin behind an open one, or by their indentation;
    items of lists may be indented too, and a back quote may stand in a sentence."""
    lines = [line for line in text.splitlines() if not _ITEM.match(line)]
    lines = [line.replace("`", "") if not _FENCE.match(line) else line for line in lines]
    return begins_in_code or any(_are_code(lines, inside=False))


def _before(request: JudgeRequest) -> str:
    """What was written before the steps: all of it where it was sent, else its last words."""
    pieces = request.prefix.pieces if request.prefix is not None else ()
    return "".join(piece.text for piece in pieces) or request.context


def _ends_in_code(text: str) -> bool:
    """Whether a fence is open at the end of `text`. A question of a chat ends its own; one whose fence is open counts
    all the same, since the question may be a text that the steps continue."""
    if "```" not in text and "~~~" not in text:  # a long text is looked through for each verdict of several checks
        return False
    return sum(_FENCE.match(line) is not None for line in text.splitlines()) % 2 == 1


def _are_code(lines: Sequence[str], inside: bool) -> list[bool]:
    """For each line whether it is code, where the first is `inside` a fence or not. With a fence that has no other one
    in the text, all of it is: the fence may be another's inner one."""
    fences = [_FENCE.match(line) is not None for line in lines]
    is_open = sum(fences) % 2 == 1
    codes = []
    for line, is_fence in zip(lines, fences, strict=True):
        is_indented = line.expandtabs(_INDENT).startswith(" " * _INDENT) and not line.isspace()
        codes.append(is_open or inside or is_fence or is_indented or "`" in line)
        inside ^= is_fence
    return codes


def _prose(lines: Sequence[str], before: Sequence[str]) -> list[str]:
    """`lines` without their setting; `before` is the line of code that they follow, if there is one."""
    text = _MATHS.sub(_formula, "\n".join(lines).translate(_SIGNS))
    # One blank before a text is how tokenizers begin a word; before another line it is indentation.
    text = text.removeprefix(" ") if not before and text[1:2] != " " else text
    lines = [_line(line) for line in text.splitlines()]
    items = are_items([*before, *lines])[len(before) :]
    folded = [ITEM_MARK.sub(r"\1-", line) if is_item else line for line, is_item in zip(lines, items, strict=True)]
    return [_STRONG.sub(r"\1", line) for line in folded if line]


def _formula(found: re.Match[str]) -> str:
    text, whole = found[found.lastgroup or 0], found.string
    is_touched = _TOUCHED_BEFORE.match(whole[max(0, found.start() - 1) : found.start()]) or _TOUCHED_BEHIND.match(
        whole, found.end()
    )
    is_shell = found.lastgroup in {"round", "square"} and "$" in text
    if is_touched or is_shell or _NO_MATHS.search(text) or not _MATHS_SIGN.search(text):
        return found[0]
    text = " ".join(_MATHS_SPACING.sub(" ", text.replace(r"\dfrac", r"\frac")).split())
    text = _MATHS_OPERATOR.sub(r"\1", text)
    return f"${text}$"


def _line(text: str) -> str:
    words = text.strip()
    if not words:
        return ""
    if not _QUOTES.search(words):  # blanks and tabs between quotation marks may be a program's
        words = " ".join(words.split())
    indent = len(text) - len(text.lstrip())
    return _NUMBERING.sub(r"\1.", " " * indent + words)
