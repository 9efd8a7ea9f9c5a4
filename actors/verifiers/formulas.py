"""Formulas: the operations that a text names, and how they are put together in its formulas.

Promises: time that grows with the text, which is as `signs.plain` writes it. A formula is signs of operations with
nothing between them that ends it (a sign of equality, a mark of a sentence, a word such as "and"). It may be left out
as a whole ("3 * 4 = 12. So 12"), since its result may be said alone, but not in part: its operations are the same in
both texts, in their order, and so is whether a number or a name stands on either side of them ("x^2" is not "2^x"), and
the brackets that change what they operate on: those around a sum that is multiplied, divided, raised or taken away,
those around more than one operand in a power, a divisor or a root, and the bars of absolute values. Where two texts
have as many signs of relation, none of their formulas is left out, unless it is said in words.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from actors.verifiers.operands import JOINS, Kind, Operands

LETTER = r"[^\W\d_](?![^\W\d_])"
"""One that stands alone: a variable."""

# A sign is an operation between operands: a number, a bracket, or a letter that stands alone. Between words and names
# it is one with blanks around it, if what follows is no word that a dash stands before ("the total - which is 5"); a
# plus or an asterisk also without.
_LEFT = r"(?:(?<=[\d)\]}%!°∞€£¢])|(?<=(?<![^\W\d_])[^\W\d_]))\s*"
_RIGHT = rf"(?=\s*(?:[-+]\s*)?(?:[$€£]\s*)?(?:[(\[{{.\d√∞]|\\[a-z(\[]|{LETTER}|frac\b|sqrt\b))"
_AFTER_DASH = (
    "which|that|so|and|but|or|not|the|an|it|he|she|we|they|this|these|those|there|then|you|because|since|as|if|where"
    "|when|who|what|with|for|in|of|to|is|are|our|her|his|its|their|just|only|all|both|each|some|now|also"
)
_WORD_LEFT = r"(?<=[\w)\]}'\"|])\s+"
_WORD_RIGHT = rf"\s+(?=[$€£]?(?:\.\d|[\\\w(\[{{'\"|]))(?!(?:{_AFTER_DASH})\b)"


def _between(sign: str) -> str:
    """The pattern of a sign between two operands of any kind."""
    return rf"{_LEFT}{sign}{_RIGHT}|{_WORD_LEFT}{sign}{_WORD_RIGHT}"


_EXPONENT = rf"(?:[({{\d∞\\]|-\s?[\w(]|{LETTER})"
_SIGNS: Mapping[str, str] = {
    "add": rf"\+[+=]|(?<=\w)\+(?=[\w(])|{_between('[+]')}",
    "subtract": r"(?<!-)-=|(?<=[\w\])])--(?![-\w>])|(?<![-\w])--(?=\w+[;)\]])"
    rf"|{_LEFT}-{_RIGHT}|{_WORD_LEFT}-{_WORD_RIGHT}(?![$€£.\d])",
    "multiply": rf"(?<!\*)\*=|(?<=\w)\*(?=[\w(])|{_between('[*×·](?![*])')}|(?<=\d)\s*x\s*(?=[$€£]?\.?\d)"  # noqa: RUF001
    r"|(?<=[\d)%])\s+x\s+(?=[$€£]?(?:\.?\d|\())",
    "divide_down": r"(?<=[\w)\]])\s*//(?:=|\s*(?=[\w(]))",
    "divide": rf"(?<!/)/=|{_between('[/÷]')}|(?<=\w)/(?=[(\d])|\bfrac\b",
    # A percentage has a blank on the right only, or a number on the left and a word on the right.
    "take_the_remainder": r"(?<=[^\W\d])\s?%=|(?<=[\w)\]])%(?=[\w(])"
    rf"|{_LEFT}(?<=\s)%(?=\s){_RIGHT}|(?<=[^\W\d]|[)\]])\s+%{_WORD_RIGHT}",
    "raise": rf"(?<=[\w)\]}}])\s*\^(?=\s*{_EXPONENT})|\*\*="
    rf"|(?<=[\w)\]}}])(?:\*\*|\s+\*\*\s+)(?={_EXPONENT})",  # with a blank on one side it is bold type
    "root": r"\bsqrt\b|√",
    "factorial": r"(?:(?<=[\d)])|(?<=(?<![^\W\d_])[^\W\d_]))!(?![=\w(])",
    "choose": r"\\[dt]?binom(?![a-z])",
}
_WORDS: Mapping[str, str] = {
    "add": r"\b(?:add(?:s|ed|ing|ition)?|plus|sum(?:s|med|ming)?)\b|\\sum(?![a-z])|∑",
    "subtract": r"\b(?:subtract\w*|minus|deduct\w*|tak(?:es?|en|ing) away|remov\w+|difference)\b",
    "multiply": r"\b(?:multipl(?:y|ies|ied|ying|ication)|times|product)\b|\\prod(?![a-z])|∏",
    "divide": r"\b(?:divid\w+|division|quotient|split\w*)\b",
    "take_the_remainder": r"\b(?:mod|modulo|remainder)\b",
    "raise": r"\b(?:squar(?:ed|ing)|cub(?:ed|ing)|to the power|the (?:square|cube) of)\b",
    "root": r"\b(?:square|cube) roots?\b",
    "factorial": r"\bfactorial\b",
    "choose": r"\b(?:n?C[kr]?(?=\()|combinations?|binomial)\b",
}


def _one_pattern(patterns: Mapping[str, str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in patterns.items()), re.IGNORECASE)


_SIGN = _one_pattern(_SIGNS)
_OPERATION = _one_pattern({name: "|".join(filter(None, (_WORDS.get(name), sign))) for name, sign in _SIGNS.items()})
# Behind a number and its unit ("16 eggs - 3", "3 bags x 4"). Behind other words a minus before a number may be its
# sign, and an x a name.
_BEHIND_UNIT = re.compile(r"(?<=[^\W\d_]{2})[^\S\n]+(?:(?P<subtract>-)|(?P<multiply>x))(?=[^\S\n]+[$€£]?\.?\d)")
_ASSIGNMENT = re.compile(r"(?<![-+*/%&|^<>=])(?:[-+*/&|^]|(?<=[^\W\d])\s?%|\*\*|//|<<|>>)=(?!=)")
_POWER, _FACTORIAL = (re.compile(_SIGNS[name] + "|" + _WORDS[name], re.IGNORECASE) for name in ("raise", "factorial"))
_ANY_BINOMIAL = re.compile(rf"{_SIGNS['choose']}|{_WORDS['choose']}|\b(?:n?C[kr]?|choose\w*)\b", re.IGNORECASE)
_BARS = re.compile(r"(?<!\|)\|[^|\n]{1,80}\|(?!\|)")
_ABSOLUTE = rf"{_BARS.pattern}|\babsolute value|\babs(?=\()"
_ANY_ABSOLUTE = rf"{_ABSOLUTE}|\b(?:modulus|magnitude|distance|elements|cardinality)\b"
_IN_BOTH = (
    ("a power", _POWER, _POWER),
    ("a factorial", _FACTORIAL, _FACTORIAL),
    ("an assignment that computes", _ASSIGNMENT, _ASSIGNMENT),
    ("a binomial", re.compile(_SIGNS["choose"]), _ANY_BINOMIAL),
    ("an absolute value", re.compile(_ABSOLUTE, re.IGNORECASE), re.compile(_ANY_ABSOLUTE, re.IGNORECASE)),
)
"""What one of two texts may not have alone, and how the other one may write it."""

_RELATION = re.compile("[=<>≤≥≠≈]+")
_ENDS_FORMULA = re.compile(rf"[=<>≤≥≠≈→;:?\n]|,(?!\d{{3}})|[.!](?:\s|\Z)|\b(?:{JOINS})\b", re.IGNORECASE)
# What may follow the last sign of a text that ends in its formula: its operand, and words.
_LAST_OPERAND = re.compile(r"\s*[-+(\[{$€£\\ ]*(?:[\d.,]*\d|[^\W\d]\w*)?")
_GOES_ON = re.compile(r"[\d=]")


class _Mark(NamedTuple):
    """A sign, a bracket or a bar of a formula: where it begins and ends, and what it does."""

    start: int
    end: int
    does: str


def operations(text: str) -> list[str]:
    """The operations that `text` names, in words and signs, in its order."""
    return [match.lastgroup or "" for match in _OPERATION.finditer(text)]


def find_other_formulas(one: str, other: str) -> str | None:
    """How the formulas of two texts differ, in words, or None if they do not. Symmetric but for the words."""
    for what, sign, any_form in _IN_BOTH:
        if any(sign.search(a) and not any_form.search(b) for a, b in ((one, other), (other, one))):
            return f"only one of the two steps has {what}"
    ours, theirs = _Reading(one), _Reading(other)
    for what, one_list, other_list in (
        ("formulas", ours.formulas, theirs.formulas),
        ("comparisons", ours.comparisons, theirs.comparisons),
        ("ranges", ours.ranges, theirs.ranges),
    ):
        shorter, longer = sorted((one_list, other_list), key=len)
        rest = iter(longer)
        if not all(found in rest for found in shorter):
            return f"the {what} are built otherwise: {_listed(one_list)} against {_listed(other_list)}"
    has_as_many = ours.num_relations == theirs.num_relations > 0
    if has_as_many and ours.formulas != theirs.formulas and operations(one) != operations(other):
        return f"only one of the two steps has all of {_listed(max(ours.formulas, theirs.formulas, key=len))}"
    for a, b in ((ours, theirs), (theirs, ours)):
        if a.ends_in_formula and not b.ends_in_formula and not operations(b.tail):
            return f"only one of the two steps ends in {_listed(a.formulas[-1:])}"
    return None


class _Reading:
    """The formulas of one text; its `ranges` are the brackets of intervals, points and slices, its `comparisons` those
    with an operand directly on both sides; `tail` is what stands behind its last sign of equality."""

    def __init__(self, text: str) -> None:
        operands = Operands(text)
        marks = [
            _Mark(match.start(), match.end(), match.lastgroup or "")
            for match in _SIGN.finditer(text)
            if not (match.lastgroup == "multiply" and _is_needless(text, match))
        ]
        behind_units = (_Mark(*match.span(), match.lastgroup or "") for match in _BEHIND_UNIT.finditer(text))
        marks += [mark for mark in behind_units if operands.beside(mark.start, mark.end)[0] == "number"]
        marks.sort()
        pairs = list(_pairs(text))
        self.ranges = [shape for pair in pairs if (shape := _range(text, *pair))]
        marks = sorted([*marks, *_brackets(text, pairs, marks), *_bars(text)])
        self.formulas: list[tuple[str, ...]] = []
        last: list[str] = []
        for index, mark in enumerate(marks):
            if last and _ENDS_FORMULA.search(text, marks[index - 1].end, mark.start):
                self.formulas.append(tuple(last))
                last = []
            last.append(_shape(mark, operands))
        if last:
            self.formulas.append(tuple(last))
        self.ends_in_formula = bool(marks) and _is_last(text, marks[-1].end)
        self.tail = text[text.rfind("=") + 1 :]
        relations = list(_RELATION.finditer(text))
        self.num_relations = len(relations)
        self.comparisons = [shape for match in relations if (shape := _comparison(match, operands))]


_BINARY = {"add", "subtract", "multiply", "divide_down", "divide", "take_the_remainder", "raise"}


def _shape(mark: _Mark, operands: Operands) -> str:
    """What a mark does, and to operands of which kinds: a number or a name."""
    if mark.does not in _BINARY:
        return mark.does
    left, right = operands.beside(mark.start, mark.end)
    return " ".join(filter(None, (_number_or_name(left), mark.does, _number_or_name(right))))


def _comparison(match: re.Match[str], operands: Operands) -> str | None:
    """A comparison by the kinds of its operands, if both stand directly beside it. Beside a word it may be one that
    was said in words, as "5 or more apples" is said for "at least 5"."""
    left, right = operands.beside(match.start(), match.end())
    if match[0] not in {"<", ">", "≤", "≥"} or not (left and right):
        return None
    if match[0] in "≤≥" and "word" in {left, right}:
        return None
    return f"{_number_or_name(left)} {match[0]} {_number_or_name(right)}"


def _number_or_name(kind: Kind) -> str:
    return "name" if kind in {"letter", "word"} else kind


def _is_last(text: str, end: int) -> bool:
    """Whether behind a sign that ends at `end` only its operand stands, and words."""
    operand = _LAST_OPERAND.match(text, end)
    return operand is not None and _GOES_ON.search(text, operand.end()) is None


def _bars(text: str) -> Iterator[_Mark]:
    """The bars of absolute values."""
    for match in _BARS.finditer(text):
        yield _Mark(match.start(), match.start() + 1, "|")
        yield _Mark(match.end() - 1, match.end(), "|")


_BEFORE_FACTOR, _BEHIND_FACTOR = re.compile(r"[\d)]\s*\Z"), re.compile(rf"\s*(?:\(|{LETTER})")


def _is_needless(text: str, match: re.Match[str]) -> bool:
    """Whether a sign of multiplication may be left out: "2 * x" is "2x"."""
    before = text[max(0, match.start() - _NEAR) : match.start()]
    return _BEFORE_FACTOR.search(before) is not None and _BEHIND_FACTOR.match(text, match.end()) is not None


_NEAR = 16
"""So many characters are searched beside a bracket."""
_BRACKET = re.compile(r"(?<!\\)[()\[\]{}]")


def _pairs(text: str) -> Iterator[tuple[int, int]]:
    """The brackets of `text`, where they open and close, inner ones first. An interval opens and closes by other
    kinds."""
    opened: list[int] = []
    for match in _BRACKET.finditer(text):
        if match[0] in "([{":
            opened.append(match.start())
        elif opened and (text[opened[-1]] == "{") == (match[0] == "}"):
            yield opened.pop(), match.start()


# What takes all of a bracket's content as its operand: in front of it and behind it.
_TAKES_AFTER = re.compile(
    rf"(?:[-/÷^√×·%_]|(?<!\*)\*|[\w)\]}}]\s?\*\*|\bsqrt(?:\s*\[\w+\])?|[\w)\]}}](?=\Z)|\d|(?<![^\W\d_]){LETTER})\s*\Z"  # noqa: RUF001
)
_BRACE_AFTER = re.compile(r"(?:[\^_]|\bsqrt(?:\s*\[\w+\])?)\s*\Z")
_TAKES_BEFORE = re.compile(rf"\s*(?:[/÷^×·]|\*\*?(?=\s?[\w(\\$]))|[\w(√]|\s+{LETTER}\s*(?:[-+*/^=]|\Z)")  # noqa: RUF001
_BINDS_AFTER, _BINDS_BEFORE = re.compile(r"(?:[/÷^√]|//|\*\*|\bsqrt)\s*\Z"), re.compile(r"\s*(?:\^|\*\*)")
_ONE_OPERAND = re.compile(
    r"[\s({\[$€£-]*(?:[\d.,]*\d|[^\W\d]\w*)(?:\s+(?:[^\W\d_]{2,}|[hsmglt]\b))*[\s)}\]%!°]*"  # with its unit
)


def _brackets(text: str, pairs: Sequence[tuple[int, int]], marks: Sequence[_Mark]) -> Iterator[_Mark]:
    """The brackets that change what an operation operates on."""
    starts = [mark.start for mark in marks if mark.does in {"add", "subtract"}]
    for opens, closes in pairs:
        before, behind = text[max(0, opens - _NEAR) : opens], text[closes + 1 : closes + 1 + _NEAR]
        if text[opens] == "{":
            is_taken = _BRACE_AFTER.search(before) is not None
        else:
            is_taken = _TAKES_AFTER.search(before) is not None or _TAKES_BEFORE.match(behind) is not None
        holds_sum = bisect_left(starts, opens) < bisect_left(starts, closes)
        content = text[opens + 1 : closes] if closes - opens < 4 * _NEAR else None
        is_one = content is not None and _ONE_OPERAND.fullmatch(content) is not None
        is_raised = _BINDS_BEFORE.match(behind) is not None
        is_bound = is_raised or _BINDS_AFTER.search(before) is not None
        is_negative = is_raised and content is not None and content.lstrip().startswith("-")
        if (is_taken and holds_sum) or (is_bound and (not is_one or is_negative)):
            yield _Mark(opens, opens + 1, "(")
            yield _Mark(closes, closes + 1, ")")


_RANGE = re.compile(r"\s*([^\s,:()\[\]{}]{0,40})\s*([,:])\s*([^\s,:()\[\]{}]{0,40})\s*")


def _range(text: str, opens: int, closes: int) -> str | None:
    """An interval, a point or a slice by its brackets and what it leaves out: "[_:]" is "[1:]"."""
    found = _RANGE.fullmatch(text, opens + 1, closes) if closes - opens < 8 * _NEAR else None
    if found is None or text[opens] == "{" or (found[2] == "," and re.match(r"\w", text[max(0, opens - 1) : opens])):
        return None
    sides = ["_" if side else "" for side in (found[1], found[3])]
    return f"{text[opens]}{sides[0]}{found[2]}{sides[1]}{text[closes]}"


def _listed(found: Sequence[Sequence[str]]) -> str:
    names = [one if isinstance(one, str) else " ".join(one).replace("_", " ") for one in found[:4]]
    return ("; ".join(names) or "none")[:200]
