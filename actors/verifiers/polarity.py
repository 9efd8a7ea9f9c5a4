"""Same polarity: steps that mean the same deny as often, point in the same directions and use the same operations.

Promises: this check only ever rejects; it is a necessary condition for what embeddings are blind to ("is" and "is not",
"add" and "subtract", "more" and "less" lie at cosines around .9). It is symmetric, and equal texts pass. It reads words
of English, and signs; steps whose words in another language differ are rejected. Where a text can be read in two
ways, the reading that rejects is taken: a wrong rejection costs the time of a step, a wrong acceptance the answer.

Negations, with a minus that stands before no number: as many in both. Comparisons and powers in signs: where the other
text has some as well. Formulas: whole ones may be left out, but no part of one. What is said of a number ("5 each", "5
in total"): never two opposites of the same one. Opposites ("more" against "less"), units ("hours" against "minutes",
"kg" against "g", "$" against "cents"), squares and cubes, functions ("sin" against "cos") and operations (words and
signs, "subtract" is "-"): in their order, one may be said once more or once less, but none may stand in the place of
another. What it does not see: who does what ("Tom pays Ann"), and other words of one kind ("red" and "blue").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from actors.messages import JudgeRequest
from actors.verifiers.check import Decision, Opinion, both_steps
from actors.verifiers.formulas import LETTER, find_other_formulas, operations
from actors.verifiers.language import find_unread
from actors.verifiers.modifiers import find_other_modifiers
from actors.verifiers.signs import line_operators, plain
from actors.verifiers.units import units

_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|neither|without|cannot|\w+n't|unable|fails? to|impossible|incorrect\w*"
    r"|invalid|unequal|irrational|undefined|inconsistent|false|wrong\w*|except|exclud\w+|non-(?=[a-z])|non(?!etheless)[a-z]\w*)\b"
    r"|[≠∉∌∄∤∦≢⊄⊅⊈⊉]",
    re.IGNORECASE,
)

# A minus is a negation where nothing stands before it that it could take something from, or a word and a blank ("is
# -x"). Before a number it is left to `same_numbers`; before a blank ("= - x") no word may follow, as behind a dash.
_NO_OPERAND = r"(?:(?<![-\w)\]}%!°∞€£¢|])(?<![\w)\]}%!°∞€£¢|] )|(?<=[^\W\d_]{2} )(?=\S\S))"
_OPENED = r"(?:(?:[({\[|√]|\\[(\[]|(?:frac|sqrt)\b) ?)"
_NAME = r"(?!(?:frac|sqrt)\b)(?:∞|\\[a-z]|[^\W\d_])"
_MINUS = re.compile(
    rf"{_NO_OPERAND}[-±](?={_OPENED}{{0,4}}{_NAME}| {_OPENED}{{1,4}}{_NAME}| (?:∞|\\[a-z]|{LETTER}))", re.IGNORECASE
)

_HYPERBOLIC = {"sine": "sinh", "cosine": "cosh", "tangent": "tanh"}
# As a function, and not for seconds.
_SECANT = r"(?<=\\)sec\b|sec(?=[(^])|(?<!\d)(?<!\d[ -])sec(?= [^\W\d_](?![^\W\d_]))|secant\b"
_TO_SIDE = r"(?:turn\w*|to the|on the|mov\w+|shift\w*|units?)"


def _power(stem: str, exponent: int) -> str:
    """The pattern of a power, in signs (as `plain` writes them) and in words."""
    number = rf"(?:{exponent}(?!\w|\.\d)|\{{ ?{exponent} ?\}}|\( ?{exponent} ?\))"
    words = rf"{stem}(?:ed|ing)\b|{stem}es? (?:of|both|each|the|this)\b|perfect {stem}es?\b|{stem}e numbers?\b"
    return rf"(?<=[\w)\]}}]) ?(?:\^|\*\*) ?{number}|{words}"


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
        "gains": r"(?:increas\w+|ris(?:es?|en|ing)|rose|grow\w*|grew|gain\w*|earn\w*|receiv\w+|win\w*|won"
        r"|sav(?:es?|ed|ing))\b",
        "loses": r"(?:decreas\w+|reduc\w+|fall\w*|fell|drop\w*|shr[aiu]nk\w*|los(?:es?|t|ing)|spen[dt]\w*)\b",
    },
    {"buys": r"(?:buy\w*|bought|purchas\w+)\b", "sells": r"(?:sell\w*|sold)\b"},
    {"before": r"(?:before|earlier|previous\w*)\b", "after": r"(?:after\w*|later)\b"},
    {"first": r"first\b", "second": r"(?<!\d )(?<!\d-)second\b", "last": r"last\b"},
    {"begins": r"(?:begin\w*|began|start\w*)\b", "ends": r"(?:end|ends|ended|ending)\b"},
    {"all": r"(?:all|every|always)\b", "some": r"(?:some|sometimes)\b"},
    {"both": r"both\b", "either": r"either\b"},
    {"and": r"and\b|&&|∧", "or": r"or\b|\|\||∨"},  # noqa: RUF001
    {"intersection": r"intersections?\b|∩", "union": r"unions?\b|∪"},  # noqa: RUF001
    {"even": r"even\b", "odd": r"odd\b"},
    {"positive": r"positive\b", "negative": r"negative\b"},
    {"multiple": r"multiples?\b", "divisor": r"(?:divisors?|factors?)\b"},
    {"numerator": r"numerators?\b", "denominator": r"denominators?\b"},
    {"area": r"areas?\b", "perimeter": r"(?:perimeters?|circumferences?)\b", "volume": r"volumes?\b"},
    {"radius": r"(?:radius|radii)\b", "diameter": r"diameters?\b"},
    {"mean": r"(?:mean|average)\b", "median": r"median\b"},
    {"inside": r"(?:inside|inner)\b", "outside": r"(?:outside|outer)\b"},
    {"up": r"(?:up|upwards?)\b", "down": r"(?:down|downwards?)\b"},
    {
        "left": rf"{_TO_SIDE} left\b|left(?:ward|most|-hand| (?:side|half|of))\b",
        "right": rf"{_TO_SIDE} right\b|right(?:ward|most|-hand| (?:side|half|of))\b",
    },
    {"halves": r"hal(?:f|v\w+)\b", "doubles": r"(?:doubl\w+|twice)\b", "triples": r"(?:tripl\w+|thrice)\b"},
    {"over": r"over\b", "under": r"under\b"},
    {"converges": r"converg\w+", "diverges": r"diverg\w+"},
    {"ascends": r"ascend\w*", "descends": r"descend\w*"},
    {"clockwise": r"clockwise\b", "counterclockwise": r"(?:counter|anti)-?clockwise\b"},
    {"gcd": r"(?:gcd|gcf|hcf)\b|(?:greatest|highest) common\b", "lcm": r"lcm\b|(?:least|lowest) common\b"},
    {"permutations": r"permutations?\b", "combinations": r"combinations?\b"},
    {"floor": r"l?floor\b|⌊", "ceiling": r"l?ceil(?:ing)?\b|⌈"},
    {"square": _power("squar", 2), "cube": _power("cub", 3)},
    {"square_root": r"sqrt\b(?! ?\[)|√|square roots?\b", "cube_root": r"sqrt ?\[ ?3 ?\]|cbrt\b|∛|cube roots?\b"},
    {"sine": r"sine?\b", "cosine": r"cos(?:ine)?\b", "tangent": r"tan(?:gent)?\b"}
    | {"secant": _SECANT, "cosecant": r"(?:csc|cosec(?:ant)?)\b", "cotangent": r"cot(?:angent)?\b"}
    | {"hyperbolic_" + word: rf"{short}\b|hyperbolic {word}\b" for word, short in _HYPERBOLIC.items()}
    | {"arcsine": r"arcsine?\b", "arccosine": r"arccos(?:ine)?\b", "arctangent": r"arctan(?:gent)?\b"},
    {"logarithm": r"(?:log|ln)(?:arithms?)?(?![a-z])", "exponential": r"exp(?:onential)?\b"},
    *(
        {stem: rf"{stem}\w*", prefix + stem: rf"{prefix}{stem}\w*"}
        for prefix, stems in (
            ("in", "finit depend complet"),
            ("un", "bounded countabl directed weighted likel known stabl ordered"),
            ("dis", "connected continuous"),
            ("im", "proper"),
        )
        for stem in stems.split()
    ),
)
"""Words that stand in one another's place and change the meaning; each begins a word."""


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
    ours, theirs = plain(draft), plain(target)
    negated, their_negated = ([*_NEGATION.findall(text), *_MINUS.findall(text)] for text in (ours, theirs))
    if len(negated) != len(their_negated):
        return f"{_quoted(negated)} against {_quoted(their_negated)}: the steps do not deny as often"
    for one, other in ((ours, theirs), (theirs, ours)):
        if _COMPARISON.search(one) and not _SCANS[0].search(other):
            return "only one of the two steps has a comparison"
    senses = [*_senses(ours), line_operators(draft)]
    their_senses = [*_senses(theirs), line_operators(target)]
    for one_list, other_list in zip(senses, their_senses, strict=True):
        shorter, longer = sorted((one_list, other_list), key=len)
        rest = iter(longer)
        if not all(sense in rest for sense in shorter):
            return f"{_listed(one_list)} in one step stands against {_listed(other_list)} in the other"
    return find_other_formulas(ours, theirs) or find_other_modifiers(ours, theirs) or find_unread(draft, target)


def _scan(senses: Mapping[str, str]) -> re.Pattern[str]:
    """One pattern for all senses; the `lastgroup` of a match is its sense."""
    return re.compile(
        "|".join(rf"(?P<{sense}>(?:\b|(?<!\w)|(?<=\d))(?:{words}))" for sense, words in senses.items()), re.IGNORECASE
    )


_SCANS = [_scan(senses) for senses in _OPPOSITES]
_COMPARISON = re.compile("[<>≤≥]")


def _senses(text: str) -> list[list[str]]:
    """What `text` says, in its order: one list for each group of senses that exclude each other."""
    return [[match.lastgroup or "" for match in scan.finditer(text)] for scan in _SCANS] + [
        operations(text),
        *units(text),
    ]


def _listed(senses: Sequence[str]) -> str:
    return ", ".join(sense.replace("_", " ") for sense in senses[:6]) + (", ..." if len(senses) > 6 else "")


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(f'"{word}"' for word in words[:4]) or "no negation"
