"""Same polarity: steps that mean the same deny as often, point in the same directions and use the same operations.

Promises: this check only ever rejects; it is a necessary condition for what embeddings are blind to ("is" and "is not",
"add" and "subtract", "more" and "less" lie at cosines around .9). It is symmetric, and equal texts pass. It reads words
of English, and signs; steps in another language are compared by their signs alone. Where a text can be read in two
ways, the reading that rejects is taken: a wrong rejection costs the time of a step, a wrong acceptance the answer.

Negations: as many in both. Opposites ("more" against "less"), units ("hours" against "minutes", "kg" against "g", "$"
against "cents") and operations (words and signs, "subtract" is "-"): in their order, one may be said once more or once
less, but none may stand in the place of another. What it does not see: who does what ("Tom pays Ann"), and other words
of one kind ("red" and "blue").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from actors.messages import JudgeRequest
from actors.verifiers.check import Decision, Opinion, both_steps
from actors.verifiers.lists import are_items
from actors.verifiers.normal_form import normal_form
from actors.verifiers.units import units

_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|neither|without|cannot|\w+n't|unable|fails? to|impossible|incorrect\w*"
    r"|invalid|unequal|irrational|undefined|inconsistent|false|wrong\w*|non-(?=[a-z])|non(?!etheless)[a-z]\w*)\b"
    r"|[≠∉∌∄∤∦≢⊄⊅⊈⊉]",
    re.IGNORECASE,
)

_OPPOSITES: Sequence[Mapping[str, str]] = (
    {
        "more": r"(?:more|greater|larger|bigger|higher|above|exceed\w*|older|taller|longer|faster|heavier|wider)\b|>",
        "less": r"(?:less|fewer|smaller|lower|below|younger|shorter|slower|lighter|narrower|cheaper)\b|<",
        "at_least": "≥",
        "at_most": "≤",
    },
    {
        "most": r"(?:most|greatest|largest|biggest|highest|longest|oldest|tallest|fastest|maxim\w+|max)\b",
        "least": r"(?:least|smallest|lowest|fewest|shortest|youngest|slowest|cheapest|minim\w+|min)\b",
    },
    {
        "gains": r"(?:increas\w+|ris(?:es?|en|ing)|rose|grow\w*|grew|gain\w*|earn\w*|receiv\w+|win\w*|won)\b",
        "loses": r"(?:decreas\w+|reduc\w+|fall\w*|fell|drop\w*|shr[aiu]nk\w*|los(?:es?|t|ing)|spen[dt]\w*)\b",
    },
    {"buys": r"(?:buy\w*|bought|purchas\w+)\b", "sells": r"(?:sell\w*|sold)\b"},
    {"before": r"(?:before|earlier|previous\w*)\b", "after": r"(?:after\w*|later)\b"},
    {"first": r"first\b", "second": r"(?<!\d )(?<!\d-)second\b", "last": r"last\b"},
    {"begins": r"(?:begin\w*|began|start\w*)\b", "ends": r"(?:end|ends|ended|ending)\b"},
    {"all": r"(?:all|every|always)\b", "some": r"(?:some|sometimes)\b"},
    {"both": r"both\b", "either": r"either\b"},
    {"even": r"even\b", "odd": r"odd\b"},
    {"positive": r"positive\b", "negative": r"negative\b"},
    {"multiple": r"multiples?\b", "divisor": r"(?:divisors?|factors?)\b"},
    {"numerator": r"numerators?\b", "denominator": r"denominators?\b"},
    {"area": r"areas?\b", "perimeter": r"(?:perimeters?|circumferences?)\b", "volume": r"volumes?\b"},
    {"radius": r"(?:radius|radii)\b", "diameter": r"diameters?\b"},
    {"mean": r"(?:mean|average)\b", "median": r"median\b"},
    {"inside": r"(?:inside|inner)\b", "outside": r"(?:outside|outer)\b"},
    {"up": r"(?:up|upwards?)\b", "down": r"(?:down|downwards?)\b"},
    {"over": r"over\b", "under": r"under\b"},
)
"""Words that stand in one another's place and change the meaning; each begins a word."""

# A sign is an operation between operands: a number, a bracket, or a letter that stands alone.
_LEFT = r"(?:(?<=[\d)\]}%€£¢])|(?<=(?<![A-Za-z])[A-Za-z]))\s*"
_RIGHT = r"(?=\s*(?:[-+]\s*)?(?:[$€£]\s*)?(?:[(\[{.\d√]|[A-Za-z]\b|frac\b|sqrt\b))"
_OPERATIONS: Mapping[str, str] = {
    "add": rf"\b(?:add(?:s|ed|ing|ition)?|plus|sum(?:s|med|ming)?)\b|{_LEFT}\+{_RIGHT}",
    "subtract": rf"\b(?:subtract\w*|minus|deduct\w*|tak(?:es?|en|ing) away|remov\w+|difference)\b|{_LEFT}-{_RIGHT}",
    "multiply": rf"\b(?:multipl(?:y|ies|ied|ying|ication)|times|product)\b|{_LEFT}[*×·](?!\*){_RIGHT}"  # noqa: RUF001
    r"|(?<=\d)\s*x\s*(?=[$€£]?\d)",
    "divide": rf"\b(?:divid\w+|division|quotient|split\w*|frac)\b|{_LEFT}[/÷]{_RIGHT}",
    "raise": rf"\b(?:squared|cubed|to the power)\b|{_LEFT}(?:\^|\*\*)(?=\s*(?:[({{\d]|-\d|[A-Za-z]\b))",
    "root": r"\b(?:square root|cube root|sqrt)\b|√",
}

# Every pattern here reads a run of blanks, signs or letters from its beginning only and in one way, so time grows with
# the length of a text and not with its square.
_PLAIN = [
    (re.compile(pattern, re.IGNORECASE | re.MULTILINE), plain)
    for pattern, plain in (
        (r"^[^\S\n]*(?:>|[-+*•])\s+", " "),  # quotations compare nothing, list marks are no operations
        (r"<-+>?|(?<!-)-+>|(?<!=)=+>", " "),  # nor are arrows
        # A dollar sign that is left behind the marks of formulas, in front of a number, is money.
        (r"\$\$|(?<![\\$])\$(\S|\S[^$\n]{0,400}?\S)\$(?!\d)", r" \1 "),
        (r"\\(?=\$)", ""),
        (r"\$(?!\.?\d)", " "),
        (r"</?[a-z]+\d?(?: [a-z-]+=\"[^\"\n]{0,80}\")*/?>", " "),  # nor is markup
        (r"\\(?:times|cdot)(?![a-z])", " × "),  # noqa: RUF001
        (r"\\div(?![a-z])", " ÷ "),
        (r"\\[dt]?frac(?![a-z])", " frac "),
        (r"\\sqrt(?![a-z])", " sqrt "),
        (r"\\neq?(?![a-z])|!=", " ≠ "),
        (r"\\(?:not|notin|nmid|nparallel|nexists|nsubseteq)(?![a-z])", " not "),
        (r"\\lt(?![a-z])", " < "),
        (r"\\gt(?![a-z])", " > "),
        (r"\\(?:left|right|quad|qquad)(?![a-z])|\\[,;:!]", " "),
        (r"\\(?:geq?|geqslant)(?![a-z])|>=|\bat least\b|\bor more\b|\b(?:not?) (?:less|fewer|smaller) than\b", " ≥ "),
        (
            r"\\(?:leq?|leqslant)(?![a-z])|<=|\bat most\b|\bup to\b|\bor (?:less|fewer)\b"
            r"|\b(?:not?) (?:more|greater|larger|bigger|higher) than\b",
            " ≤ ",
        ),
        (r"\bno longer\b|\bcan not\b", " not "),
        (r"\bnot only\b|\b(?:whether )?or not\b|\bno\. ?(?=\d)|\bmore or less\b|\b(?:at|in) (?:first|last)\b", " "),
        (r"[^\S\n]+", " "),
    )
]
_LINE_OPERATOR = re.compile(r"\s*([-+*])\s")
_SIGNS = str.maketrans({"−": "-", "–": "-", "—": " ", "’": "'", "⁄": "/", "∗": "*"})  # noqa: RUF001


class SamePolarityCheck:
    """Rejects steps whose negations, directions or operations contradict each other; else unsure."""

    name = "same_polarity"
    reads_context = False

    async def check(self, request: JudgeRequest) -> Opinion:
        steps = both_steps(request)
        if isinstance(steps, Opinion):
            return steps
        contradiction = find_contradiction(*(step.text for step in steps))
        if contradiction is None:
            return Opinion(Decision.UNSURE, "negations, directions and operations do not contradict each other")
        return Opinion(Decision.REJECT, contradiction)


def find_contradiction(draft: str, target: str) -> str | None:
    """How the two texts contradict each other, in words, or None if they do not. Symmetric but for the words."""
    ours, theirs = _plain(draft), _plain(target)
    negated, their_negated = (_NEGATION.findall(text) for text in (ours, theirs))
    if len(negated) != len(their_negated):
        return f"{_quoted(negated)} against {_quoted(their_negated)}: the steps do not deny as often"
    senses = [*_senses(ours), _line_operators(draft)]
    their_senses = [*_senses(theirs), _line_operators(target)]
    for one, other in zip(senses, their_senses, strict=True):
        shorter, longer = sorted((one, other), key=len)
        rest = iter(longer)
        if not all(sense in rest for sense in shorter):
            return f"{_listed(one)} in one step stands against {_listed(other)} in the other"
    return None


def _plain(text: str) -> str:
    """One form for each way to write a sign, relations said in words as signs, and what only looks like one away."""
    text = normal_form("NFKC", text).translate(_SIGNS)
    for pattern, plain in _PLAIN:
        text = pattern.sub(plain, text)
    return text


def _line_operators(text: str) -> list[str]:
    """The signs that begin lines and mark no lists: what they operate on stands on another line, or before the step."""
    lines = [line.rstrip() for line in text.translate(_SIGNS).splitlines()]
    return [
        found[1]
        for line, is_item in zip(lines, are_items(lines), strict=True)
        if not is_item and (found := _LINE_OPERATOR.match(line))
    ]


def _scan(senses: Mapping[str, str], begins_word: bool) -> re.Pattern[str]:
    """One pattern for all senses; the `lastgroup` of a match is its sense."""
    begin = r"(?:\b|(?<!\w))" if begins_word else ""
    return re.compile("|".join(f"(?P<{sense}>{begin}(?:{words}))" for sense, words in senses.items()), re.IGNORECASE)


_SCANS = [*(_scan(senses, True) for senses in _OPPOSITES), _scan(_OPERATIONS, False)]


def _senses(text: str) -> list[list[str]]:
    """What `text` says, in its order: one list for each group of senses that exclude each other."""
    return [[match.lastgroup or "" for match in scan.finditer(text)] for scan in _SCANS] + units(text)


def _listed(senses: Sequence[str]) -> str:
    return ", ".join(sense.replace("_", " ") for sense in senses[:6]) + (", ..." if len(senses) > 6 else "")


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(f'"{word}"' for word in words[:4]) or "no negation"
