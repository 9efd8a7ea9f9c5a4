"""Signs: one form for each way to write them, so that patterns need to know one only.

Promises: time that grows with the text. What only looks like a sign (quotations, list marks, arrows, markup, degrees)
is gone; number words are digits; relations that are said in words ("at least 5", "is greater than 5") are signs; a
stroke between units is "per"; a LaTeX command for a letter is a letter. Which letter it was is lost: who compares
letters reads the text itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from actors.verifiers.lists import are_items
from actors.verifiers.normal_form import normal_form
from actors.verifiers.number_words import CARDINAL, cardinal

GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|upsilon|phi|chi|psi"
    "|omega"
)
"""The names of letters that LaTeX has commands for."""
UNWRAPPED = r" ?\\(?:text|mathrm|mathbf|mbox) ?\{ ?([^{}\n]{0,80}?) ?\} ?"
"""The pattern of words in a LaTeX formula, which are its group 1."""
_MORE, _LESS = "(?:greater|larger|bigger|more|higher)", "(?:less|fewer|smaller|lower)"
_IS = r"\b(?:is|are|be|was|were) (?:strictly )?"
_AN_OPERAND = r"(?=[$€£]?[\d(\[\\√]|[a-z]\b)"
_LENGTHS = "[ckdm]?m|ft|in|yd|mi"
_A_NUMBER = r"(?=[^\w\n]{0,4}(?:\d|[a-z]\b))"
_RATED = r"(s|h|hr|min|l|m|kg)\b"

# Every pattern here reads a run of blanks, signs or letters from its beginning only and in one way, so time grows with
# the length of a text and not with its square.
_PLAIN = [
    (re.compile(pattern, re.IGNORECASE | re.MULTILINE), plain)
    for pattern, plain in (
        # Quotations compare nothing, list marks are no operations; "- (2x + 1)" may be a formula.
        (r"^[^\S\n]*(?:>|[-+*•](?!\s*\((?!\w\))))\s+", " "),
        (r"(?<![\w)\]}*])\*\*(?! )([^*\n]{1,200}?)(?<! )\*\*(?![\w(*])", r"\1"),  # bold type
        (r"<-+>|<-+(?![->\w.(\\$])|(?<!-)-+>|(?<!=)=+>", " "),  # nor are arrows, but "x<-2" is a comparison
        # A dollar sign that is left behind the marks of formulas, in front of a number, is money.
        (r"\$\$|(?<![\\$])\$(\S|\S[^$\n]{0,400}?\S)\$(?!\d)", r" \1 "),
        (r"\\(?=\$)", ""),
        (r"\$(?!\.?\d)", " "),
        (r"</?[a-z]+\d?(?: [a-z-]+=\"[^\"\n]{0,80}\")*/?>", " "),  # nor is markup
        (r"\^ ?\{? ?\\(?:circ|prime)(?![a-z]) ?\}?", "°"),
        (r"\^ ?\{? ?(?:\\(?:text|mathrm) ?\{ ?)?(?:st|nd|rd|th)\b", " "),
        # A minus stays beside what it stands before.
        (rf"(-?)\\(?:var)?(?:{GREEK})(?![a-z])", r" \1α "),  # noqa: RUF001
        (r"(-?)\\infty(?![a-z])", r" \1∞ "),
        (r"\\(?:pm|mp)(?![a-z])", " ± "),
        (r"\\(?:times|cdot)(?![a-z])", " × "),  # noqa: RUF001
        (r"\\div(?![a-z])", " ÷ "),
        (r"(-?)\\[dt]?frac(?![a-z])", r" \1frac "),
        (rf"(?<=[\d)\]}}]) (?:times|multiplied by) {_AN_OPERAND}", " × "),  # noqa: RUF001
        (rf"(?<=[\d)\]}}]) divided by {_AN_OPERAND}", " ÷ "),
        (rf"(?<=[\d)\]}}]) plus {_AN_OPERAND}", " + "),
        (rf"(?<=[\d)\]}}]) minus {_AN_OPERAND}", " - "),
        (r"\b(?:the )?square root of\b", " sqrt "),
        (r"(?<=[\w)\]}]) squared\b", "^2 "),
        (r"(?<=[\w)\]}]) cubed\b", "^3 "),
        (r"(-?)\\sqrt(?![a-z])", r" \1sqrt "),
        # "1.5 * 10^3" is one number, as `same_numbers` reads it.
        (r"(?<=\d)\s{0,4}[×x*·]\s{0,4}10 ?(?:\^|\*\*) ?\{?[+-]?\d{1,4}(?!\d)\}?", " "),  # noqa: RUF001
        (r"\\neq?(?![a-z])|!=", " ≠ "),
        (r"\\(?:l?not|neg|notin|nmid|nparallel|nexists|nsubseteq)(?![a-z])|¬|(?<![\w)\]}!])!(?=[\w(])", " not "),
        (r"\\(?:land|wedge)(?![a-z])", " ∧ "),
        (r"\\(?:lor|vee)(?![a-z])", " ∨ "),  # noqa: RUF001
        (r"\\(?:big)?cap(?![a-z])", " ∩ "),
        (r"\\(?:big)?cup(?![a-z])", " ∪ "),  # noqa: RUF001
        (r"\\lt(?![a-z])", " < "),
        (r"\\gt(?![a-z])", " > "),
        (r"\\[lr]?vert(?![a-z])", "|"),
        (r"\\(?:left|right|quad|qquad)(?![a-z])|\\[,;:!]", " "),
        (r"\b(?:add\w*|sum\w*|com\w+|came|round\w*) up to\b", " "),
        (
            rf"\\(?:geq?|geqslant)(?![a-z])|>=|\bat least\b|\bor more\b|\b(?:not?) {_LESS} than\b"
            rf"|\b{_MORE} than or equal to\b",
            " ≥ ",
        ),
        (
            r"\\(?:leq?|leqslant)(?![a-z])|<=|\bat most\b|\bup to\b|\bor (?:less|fewer)\b"
            rf"|\b(?:not?) {_MORE} than\b|\b{_LESS} than or equal to\b",
            " ≤ ",
        ),
        (rf"{_IS}{_MORE} than{_A_NUMBER}", " > "),
        (rf"{_IS}{_LESS} than{_A_NUMBER}", " < "),
        (r"\bno longer\b|\bcan not\b", " not "),
        (r"\bnot only\b|\bwhether or not\b|\bor not\b(?=\s*(?:[.,;:!?)]|\Z))", " "),
        (r"\bmore or less\b|\bat (?:first|last)\b", " "),
        (UNWRAPPED, r" \1 "),
        (r"(?<=\d)(?=(?:[ckm]m|[km]g|ml|mph|kph|hrs?|mins?|secs?|[mnu\u03bc]s|[kmg]?hz|lbs?|oz|ft|yds?)\b)", " "),
        # Areas and volumes are units, not powers.
        (r"\bsq(?:\. ?| )(?=[a-z])", "square "),
        (rf"(?<=\d )({_LENGTHS}) ?\^ ?\{{? ?2 ?\}}?", r"square \1"),
        (rf"(?<=\d )({_LENGTHS}) ?\^ ?\{{? ?3 ?\}}?", r"cubic \1"),
        # "2(3)" multiplies numbers, "f_2(3)" does not; "m/s" divides none.
        (r"(?<=\d)(?<![^\W\d]\d)\((-?\d[\d.]*)\)", r" × \1 "),  # noqa: RUF001
        (rf"(?<=\d) {{0,2}}([cdkm]?m|mi|ft|k?g|l) ?/ ?{_RATED}", r" \1 per \2"),
        (rf"([$€£]\d[\d.,]{{0,20}})/{_RATED}", r"\1 per \2"),
        (r"\\[()\[\]]", " "),
        (r"[^\S\n]+", " "),
    )
]
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]+")
_NUMBER_WORD = re.compile(rf"\b{CARDINAL}\b", re.IGNORECASE)
_LINE_OPERATOR = re.compile(r"\s*([-+*])\s")
_SIGNS = str.maketrans({"−": "-", "–": "-", "—": " ", "’": "'", "⁄": "/", "∗": "*"})  # noqa: RUF001


def plain(text: str) -> str:
    """One form for each way to write a sign, relations said in words as signs, and what only looks like one away."""
    text = _RAISED.sub(lambda run: "^" + run[0], text)  # the normal form of x² is x2
    text = normal_form("NFKC", text).translate(_SIGNS)
    text = _NUMBER_WORD.sub(lambda word: str(cardinal(word)), _with_strokes(text))
    for pattern, sign in _PLAIN:
        text = pattern.sub(sign, text)
    return text


_SHORT = 32
_ONE = re.compile(r"\s*(?:[\d.,]+|[^\W\d]\w*)\s*")
_BRACE_OR_FRACTION = re.compile(r"\\[dtc]?frac(?![a-zA-Z])\s*|[{}]")


def _with_strokes(text: str) -> str:
    r"""`text` with each ``\frac{a}{b}`` as ``a/b``, in brackets what is more than one operand. One that is not whole
    stays."""
    closes: dict[int, int] = {}
    opened: list[int] = []
    fractions: list[re.Match[str]] = []
    for match in _BRACE_OR_FRACTION.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}":
            if opened:
                closes[opened.pop()] = match.start()
        else:
            fractions.append(match)
    written = list(text)
    for fraction in fractions:
        first = _argument(text, fraction.end(), closes)
        second = _argument(text, first[1] + 1, closes) if first else None
        if first is None or second is None:
            continue
        for start, end in (first, second):
            if text[start] == "{":
                is_one = end - start < _SHORT and _ONE.fullmatch(text, start + 1, end) is not None
                written[start], written[end] = ("", "") if is_one else ("(", ")")
        written[first[1] + 1 : second[0]] = [""] * (second[0] - first[1] - 1)
        written[first[1]] += "/"
        written[second[1]] += " "
        is_minus = text[fraction.start() - 1 : fraction.start()] == "-"
        written[fraction.start() : fraction.end()] = ["" if is_minus else " "] + [""] * (len(fraction[0]) - 1)
    return "".join(written)


def _argument(text: str, start: int, closes: Mapping[int, int]) -> tuple[int, int] | None:
    """Where an argument of a LaTeX command begins and ends: a pair of braces, or one digit or letter."""
    while start < len(text) and text[start] == " ":
        start += 1
    if start in closes:
        return start, closes[start]
    return (start, start) if text[start : start + 1].isalnum() else None


def line_operators(text: str) -> list[str]:
    """The signs that begin lines and mark no lists: what they operate on stands on another line, or before the step."""
    lines = [line.rstrip() for line in text.translate(_SIGNS).splitlines()]
    return [
        found[1]
        for line, is_item in zip(lines, are_items(lines), strict=True)
        if not is_item and (found := _LINE_OPERATOR.match(line))
    ]
