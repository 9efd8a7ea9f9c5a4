"""Same numbers: steps that mean the same name the same quantities in the same order, take away the same ones, and come
to the same result; and the letters that stand for quantities, points and choices are the same and follow each other in
the same order, unless one of the two names none.

Promises: this check only ever rejects; it is a necessary condition, put before an embedding, which cannot tell
"= 794" from "= 694". Where a text can be read in two ways, the reading that rejects is taken: a wrong rejection costs
the time of a step, a wrong acceptance the answer.

Read as equal: ``1,234.50`` and ``1234.5``, ``$5`` and ``5``, ``3/4`` and ``\\frac{3}{4}``, ``50%`` and ``50 percent``,
``1.5 * 10^3`` and ``1500``, ``10⁻³`` and ``10^{-3}``, ``0xFF`` and ``255``, ``two`` and ``2``. Not numbers: ``1.`` and
``Step 2:`` at the beginning of a line, but two steps with other ones there are rejected: a step that begins in
mid-sentence may begin so too. ``one`` is left alone, since it is a pronoun more often than a number; ``first`` and
``second`` are left to `same_polarity`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from actors.messages import JudgeRequest
from actors.verifiers.check import Decision, Opinion, both_steps
from actors.verifiers.letters import letters
from actors.verifiers.number_words import CARDINAL, SCALES, TWO_DIGITS, VALUES, cardinal


class Quantity(NamedTuple):
    """A number as it stands in a text. `unit` is ``%``, ``k``, ``±``, a word such as ``million`` or ``half`` (of value
    1), or nothing, and says in signs what else belongs to the number: ``√``, ``(`` for a minus in front of a bracket
    that begins with it, ``+`` for a fraction behind it ("2 1/2"). `taken` is whether it is taken away from the number
    before it ("8 - 5")."""

    value: Decimal
    unit: str = ""
    taken: bool = False

    @property
    def amount(self) -> tuple[Decimal, str]:
        """The quantity, whatever is done with it."""
        return self.value, self.unit

    def __str__(self) -> str:
        return (
            self.unit
            if len(self.unit) > 1 and self.unit.isalpha()
            else f"{'- ' if self.taken else ''}{self.value:f}{self.unit}"[:40]
        )


_LATEX = [
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\{,\}", ","),
        (
            r"\\[dtc]?frac\s*(?:\{\s*([\d.,]+)\s*\}|(\d))\s*(?:\{\s*([\d.,]+)\s*\}|(\d))",
            r" \1\2/\3\4 ",
        ),
        (r"\\[dtc]?frac", " "),
        (r"\\sqrt(?![a-zA-Z])|\b(?:[Ss]quare root of\b|sqrt\b)", "√"),
        (r"(?<=\d)\\[,;:! ](?=\d{3})", ""),
        (r"\\(?:text|mathrm|mbox)\s*\{([^{}\n]{0,80})\}", r" \1 "),
        (r"\\[()\[\]]", "$"),
        (r"\\[,;:! ]|\\q?quad(?![a-zA-Z])|~|\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])", " "),
        (r"\\(?=[$%])", ""),
        (r"\\pm(?![a-zA-Z])", "±"),
        (r"\\mp(?![a-zA-Z])", "∓"),
        (r"\\(?:times|cdot)(?![a-zA-Z])", "×"),  # noqa: RUF001
        (r"(?i)\b(?:minus|negative)\s+(?=[\d$(\[|√])", "-"),
    )
]
_NEGATIVE_WORD = re.compile(rf"\b(?:minus|negative)\s+(?:{TWO_DIGITS}|(?P<value>{'|'.join(VALUES)}))\b", re.IGNORECASE)
# A run of them is one number: "10²²" is not "10²" twice.
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_DASHES = str.maketrans({"−": "-", "–": "-", "—": " ", "⁄": "/"})  # noqa: RUF001

# Each mark and each blank can be read in one way only: what does not end in a number is given up at once.
_LIST_NUMBER = re.compile(
    r"\s*(?:[#>*•]\s*|-\s+)*(?:step\s+(?P<step>\d+)\b\s*[:.)]?|(?P<number>\d+)[.)](?=\s+\S|\*))", re.IGNORECASE
)
_LINE_ENDS = ".:;!?*)]"
_LOOK_BACK = 64
"""So many characters before a minus are searched for what it takes away from."""
# A number, a bracket or a letter that stands alone, or, with blanks around the minus, a word that can be a unit or a
# name.
_NO_NAME = (
    "is|are|was|were|be|equals?|gives?|gets?|makes?|becomes?|means|to|of|or|and|by|than|so|then|thus|hence|from|with"
    "|for|at|in|as|that|have|has|get|plus|times|minus|over|either|both|not|let"
)
_TAKEN_FROM = re.compile(
    rf"(?:(?:[\d%)\]}}]|(?<![^\W\d_])[^\W\d_])\$?\s*|(?<![^\W\d])(?!(?:{_NO_NAME})\b)[^\W\d]+(?P<blank>\$?\s+))\Z",
    re.IGNORECASE,
)

_NUMBER = re.compile(
    r"""
    (?: (?P<minus>[-±∓])[ \t]* (?P<opened>[({\[|√][({\[|√ \t]*(?=[$€£]?[\d.]))?
      | (?P<root>√[({\[ \t]*(?=[$€£]?[\d.])) )?
    (?P<money>[$€£])? (?P<inner_minus>-(?=[\d.]))?
    (?P<digits> (?<![\w.])0[xX][0-9a-fA-F]{1,512}(?!\w)
      | \d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)? | \d+(?:\.\d+)? | (?<![\d.])\.\d+ )
    (?: [eE](?P<exponent>[+-]?\d{1,4})(?!\w) | \s*[×x*·]\s*10\s*(?:\^|\*\*)\s*\{?(?P<power>[+-]?\d{1,4})(?!\d)\}? )?
    (?P<unit> \s*(?:%|percent\b|per\ cent\b) | [kK]\b | (?:[MBT]n?|[mbt]n)\b | (?(money)(?:\ [MBT]n?|[mbt])\b|(?!)) )?
    (?P<whole> [ \t]+(?:(?:and|&)[ \t]+)?(?=\d+\s*/\s*\d) )?
    """,  # noqa: RUF001
    re.VERBOSE,
)
_WORD = re.compile(rf"\b(?:{CARDINAL}|(?P<scale>{'|'.join(SCALES)})s?|(?P<halves>halves))\b", re.IGNORECASE)


class SameNumbersCheck:
    """Rejects steps with different numbers or different results; else unsure."""

    name = "same_numbers"
    reads_context = False

    async def check(self, request: JudgeRequest) -> Opinion:
        steps = both_steps(request)
        if isinstance(steps, Opinion):
            return steps
        draft, target = steps
        difference = find_difference(draft.text, target.text)
        if difference is None:
            return Opinion(Decision.UNSURE, "the numbers are the same")
        return Opinion(Decision.REJECT, difference)


def find_difference(draft: str, target: str) -> str | None:
    """How the numbers of two texts differ, in words, or None if they do not. Symmetric but for the words."""
    ours, theirs = _Reading(draft), _Reading(target)
    if missing := {found.amount for found in ours.quantities} ^ {found.amount for found in theirs.quantities}:
        return f"only one of the two steps has {_listed([Quantity(*amount) for amount in sorted(missing)])}"
    shorter, longer = sorted((ours.quantities, theirs.quantities), key=len)
    # A number may be said once more or once less ("= 12. So 12 apples"), but none may stand in another's place.
    if not _is_within(shorter, longer):
        return f"the numbers are used otherwise: {_listed(ours.quantities)} against {_listed(theirs.quantities)}"
    if shorter and shorter[-1] != longer[-1]:
        return f"the last numbers are {_listed(ours.quantities[-1:])} and {_listed(theirs.quantities[-1:])}"
    if ours.result and theirs.result and ours.result != theirs.result:
        return f"the results are {_listed([ours.result])} and {_listed([theirs.result])}"
    if not _is_within(*sorted((ours.list_numbers, theirs.list_numbers), key=len)):
        return "the steps or their lines are numbered otherwise"
    names, their_names = letters(draft), letters(target)
    if not _is_within(*sorted((names.found, their_names.found), key=len)):
        return (
            f"the letters are used otherwise: {', '.join(names.found[:8])} against {', '.join(their_names.found[:8])}"
        )
    unshared = (names.sure - {*their_names.found}) | (their_names.sure - {*names.found})
    if unshared and names.sure and their_names.sure:
        return f"only one of the two steps names {', '.join(sorted(unshared)[:8])}"
    if names.last and their_names.last and names.last != their_names.last:
        return f"the last letters are {names.last} and {their_names.last}"
    return None


def quantities(text: str) -> list[Quantity]:
    """The quantities in `text`, in its order, repeated ones included."""
    return _Reading(text).quantities


class _Reading:
    """The numbers of one text. `result` is the first one after the last sign of equality, `list_numbers` are those
    that only number a line."""

    def __init__(self, text: str) -> None:
        text, self.list_numbers = _without_list_numbers(_plain(text))
        found = [(match.start(), _number(text, match)) for match in _NUMBER.finditer(text)]
        found += [(match.start(), _word(match)) for match in _WORD.finditer(text)]
        found.sort(key=lambda item: item[0])
        self.quantities = [quantity for _, quantity in found]
        equals = text.rfind("=")
        results = [quantity for start, quantity in found if start > equals] if equals >= 0 else []
        self.result = results[0] if results else None


def _is_within(shorter: Sequence[object], longer: Sequence[object]) -> bool:
    """Whether all of `shorter` stands in `longer` in its order."""
    rest = iter(longer)
    return all(one in rest for one in shorter)


def _plain(text: str) -> str:
    text = _RAISED.sub(lambda run: "^" + unicodedata.normalize("NFKC", run[0]), text)
    text = _LOWERED.sub(lambda run: "_" + unicodedata.normalize("NFKC", run[0]), text)
    text = "".join(map(_plain_character, text)).translate(_DASHES)
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    return _NEGATIVE_WORD.sub(lambda word: f"-{cardinal(word)}", text)


def _without_list_numbers(text: str) -> tuple[str, list[Decimal]]:
    lines: list[str] = []
    numbers: list[Decimal] = []
    begins = True
    for line in text.splitlines():
        # After a line that just breaks off, "4." may be the end of its sentence and not the number of a list.
        mark = _LIST_NUMBER.match(line) if begins else None
        if mark:
            numbers.append(Decimal(mark["step"] or mark["number"]))
        lines.append(line[mark.end() :] if mark else line)
        begins = not line.strip() or line.rstrip()[-1] in _LINE_ENDS
    return "\n".join(lines), numbers


def _plain_character(character: str) -> str:
    kind = unicodedata.decomposition(character).partition(" ")[0]
    if not kind.startswith("<"):
        return character
    plain = unicodedata.normalize("NFKC", character)
    return {"<super>": f"^{plain}", "<sub>": f"_{plain}", "<fraction>": f" {plain}"}.get(kind, plain)


def _number(text: str, match: re.Match[str]) -> Quantity:
    digits, power = match["digits"].replace(",", ""), match["exponent"] or match["power"] or "0"
    if digits[1:2] in {"x", "X"}:
        digits = str(int(digits, 16))
    value = Decimal(f"{digits}e{power}")
    unit = (match["unit"] or "").strip().lower()
    unit = "%" if unit.startswith("per") else unit.rstrip("n")
    opened = match["opened"] or match["root"] or ""
    unit = ("√" if "√" in opened else "(" if opened else "") + unit
    # After a number or its unit on the same line a minus takes away; elsewhere it is read as a sign, which is wrong for
    # "top-5" and for lists with dashes: it rejects where only one of the two has the dash.
    left = text[max(0, match.start() - _LOOK_BACK) : match.start()].rpartition("\n")[2]
    if match["whole"] and left.rstrip()[-1:] != "/":
        unit += "+"
    if match["minus"] in {"±", "∓"}:
        return Quantity(value, match["minus"] + unit)
    taken_from = _TAKEN_FROM.search(left) if match["minus"] else None
    taken = taken_from is not None and (not taken_from["blank"] or text[match.start() + 1].isspace())
    negative = bool(match["inner_minus"]) or (bool(match["minus"]) and not taken)
    return Quantity(value.copy_negate() if negative else value, unit, taken)


def _word(match: re.Match[str]) -> Quantity:
    if scale := match["scale"] or (match["halves"] and "half"):
        return Quantity(Decimal(1), scale.lower())
    return Quantity(Decimal(cardinal(match)))


def _listed(found: Sequence[Quantity]) -> str:
    return ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
