"""Exact: the same text, the way it is set aside.

Promises: two different formulas, programs or numbers never become equal. So nothing is dropped that could carry
meaning: case stays (``X`` is not ``x``), indentation and line ends stay (Python), superscripts stay (NFKC would write
``x²`` as ``x2``), and marks are folded to one form, not removed (a line that begins with ``- 5`` may be a list or a
minus).
"""

from __future__ import annotations

import re
import unicodedata

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
_STRONG = re.compile(r"(?<![\w*)\]])\*\*(?=[^\W\d_])([^*\n]*\w{2}[.:!?]?)\*\*(?![\w*(])")
_BULLET = re.compile(r"^( *)[*•](?= +\**[^\W\d_]{2})")
_NUMBERING = re.compile(r"^( *\d+)\)(?= )")


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
    """`text` with one form for each way to set the same thing: character widths, quotation marks, blanks within a line,
    blank lines, bold words, list marks, the marks around formulas and the spacing inside them."""
    text = "".join(
        unicodedata.normalize("NFKC", c) if unicodedata.decomposition(c).startswith(_WIDTHS) else c for c in text
    )
    text = normal_form("NFC", text).translate(_SIGNS)
    text = _MATHS.sub(lambda found: f"${_formula(found[found.lastgroup or 0])}$", text)
    return "\n".join(line for line in map(_line, text.expandtabs(4).splitlines()) if line)


def _formula(text: str) -> str:
    text = " ".join(_MATHS_SPACING.sub(" ", text.replace(r"\dfrac", r"\frac")).split())
    return _MATHS_OPERATOR.sub(r"\1", text)


def _line(text: str) -> str:
    words = text.split()
    indent = len(text) - len(text.lstrip())
    # One blank before a line is how tokenizers begin a word; two or more are indentation.
    text = (" " * indent if indent > 1 else "") + " ".join(words) if words else ""
    text = _BULLET.sub(r"\1-", text)
    text = _NUMBERING.sub(r"\1.", text)
    return _STRONG.sub(r"\1", text)
