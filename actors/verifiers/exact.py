"""Exact: the same text, the way it is set aside.

Promises: two different formulas, programs or numbers never become equal. So nothing is dropped that could carry
meaning: case stays (``X`` is not ``x``), indentation and line ends stay (Python), superscripts stay (NFKC would write
``x²`` as ``x2``), and marks are folded to one form, not removed (a line that begins with ``- 5`` may be a list or a
minus). Code, between fences or indented, keeps all but its characters' widths. Elsewhere list marks are folded where a
list can be seen, and formulas where nothing looks like a program: ``$DIR /$NAME`` is two variables.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from actors.messages import JudgeRequest
from actors.verifiers.check import Decision, Opinion, both_steps
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
_ITEM = re.compile(r"^( *)[-*•](?= +\**[^\W\d_]{2})")
_NUMBERING = re.compile(r"^( *\d+)\)(?= )")
_QUOTES = re.compile("[\"'`]")
_FENCES = ("```", "~~~")
_INDENT = 4
"""So many blanks before a line make it code, as in Markdown."""


class ExactCheck:
    """Accepts steps whose normalised texts are equal; else unsure."""

    name = "exact"
    reads_context = False

    async def check(self, request: JudgeRequest) -> Opinion:
        steps = both_steps(request)
        if isinstance(steps, Opinion):
            return steps
        draft, target = steps
        if normalise(draft.text) == normalise(target.text):
            return Opinion(Decision.ACCEPT, "the texts are equal", probability=1.0)
        return Opinion(Decision.UNSURE, "the texts are not equal")


def normalise(text: str) -> str:
    """`text` with one form for each way to set the same thing: character widths, and outside of code quotation marks,
    blanks within a line, blank lines, bold words, list marks, the marks around formulas and the spacing inside them."""
    text = "".join(
        unicodedata.normalize("NFKC", c) if unicodedata.decomposition(c).startswith(_WIDTHS) else c for c in text
    )
    lines = normal_form("NFC", text).strip("\n").splitlines()
    normalised: list[str] = []
    for is_code, block in groupby(zip(_are_code(lines), lines, strict=True), key=itemgetter(0)):
        written = [line for _, line in block]
        normalised += written if is_code else _prose(written)
    return "\n".join(normalised)


def _are_code(lines: Sequence[str]) -> list[bool]:
    """For each line whether it is code. Where a fence is open at one end of the text nobody knows which side is code:
    all of it."""
    fences = [line.lstrip().startswith(_FENCES) for line in lines]
    is_open = sum(fences) % 2 == 1
    codes, inside = [], False
    for line, is_fence in zip(lines, fences, strict=True):
        is_indented = line.expandtabs(_INDENT).startswith(" " * _INDENT) and not line.isspace()
        codes.append(is_open or inside or is_fence or is_indented)
        inside ^= is_fence
    return codes


def _prose(lines: Sequence[str]) -> list[str]:
    text = _MATHS.sub(_formula, "\n".join(lines).translate(_SIGNS))
    return [_STRONG.sub(r"\1", line) for line in _fold_lists([_line(line) for line in text.splitlines()]) if line]


def _formula(found: re.Match[str]) -> str:
    text, whole = found[found.lastgroup or 0], found.string
    is_touched = _TOUCHED_BEFORE.match(whole[max(0, found.start() - 1) : found.start()]) or _TOUCHED_BEHIND.match(
        whole, found.end()
    )
    if is_touched or _NO_MATHS.search(text) or not _MATHS_SIGN.search(text):
        return found[0]
    text = " ".join(_MATHS_SPACING.sub(" ", text.replace(r"\dfrac", r"\frac")).split())
    text = _MATHS_OPERATOR.sub(r"\1", text)
    return f"${text}$"


def _line(text: str) -> str:
    text = text.expandtabs(4)
    # Blanks between quotation marks may be a program's.
    words = [text.strip()] if _QUOTES.search(text) else text.split()
    indent = len(text) - len(text.lstrip())
    # One blank before a line is how tokenizers begin a word; two or more are indentation.
    text = (" " * indent if indent > 1 else "") + " ".join(words) if any(words) else ""
    return _NUMBERING.sub(r"\1.", text)


def _fold_lists(lines: Sequence[str]) -> list[str]:
    """`lines` with one mark for the items of lists. A line may begin with an operator as well ("* count" goes on with a
    product), so a list is known by what stands before it: a blank line, a colon, or an item of the list. Where nothing
    stands before it, it has two items."""
    folded: list[str] = []
    before, in_list = None, False
    written = [line for line in lines if line]
    has_two = len(written) > 1 and all(map(_ITEM.match, written[:2]))
    for line in lines:
        begins = has_two if before is None else not before or before.rstrip("*").endswith(":")
        in_list = bool(_ITEM.match(line)) and (in_list or begins)
        folded.append(_ITEM.sub(r"\1-", line) if in_list else line)
        if line or before is not None:
            before = line
    return folded
