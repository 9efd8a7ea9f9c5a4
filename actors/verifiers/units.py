"""Units of measure: which ones a text names, each kind for itself.

Promises: time that grows with the text. A word is a unit wherever it stands, and so is a sign for money; a short form
("m", "h", "in") behind a number or a stroke only, since it is a letter or another word elsewhere. Capitals count where
they make another unit ("MW" and "mW"), and else not. An area or a volume
("square feet") is a unit of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_KINDS: Sequence[Mapping[str, tuple[str, str]]] = (
    {
        "": ("", "US Ms"),  # a country and a title
        "nanosecond": ("nanosecond nanoseconds", "ns"),
        "microsecond": ("microsecond microseconds", "us \u03bcs"),
        "millisecond": ("millisecond milliseconds", "ms msec msecs"),
        "second": ("second seconds", "sec secs s"),
        "minute": ("minute minutes", "min mins"),
        "hour": ("hour hours", "hr hrs h"),
        "day": ("day days", ""),
        "week": ("week weeks", ""),
        "month": ("month months", ""),
        "year": ("year years", "yr yrs"),
        "decade": ("decade decades", ""),
        "century": ("century centuries", ""),
    },
    {
        "dollar": ("dollar dollars $", ""),
        "cent": ("cent cents ¢", ""),
        "euro": ("euro euros €", ""),
        "pound": ("pound pounds £", ""),
    },
    {
        "inch": ("inch inches", "in"),
        "foot": ("foot feet", "ft"),
        "yard": ("yard yards", "yd yds"),
        "mile": ("mile miles mph", "mi"),
        "millimeter": ("millimeter millimeters millimetre millimetres", "mm"),
        "centimeter": ("centimeter centimeters centimetre centimetres", "cm"),
        "meter": ("meter meters metre metres", "m"),
        "kilometer": ("kilometer kilometers kilometre kilometres km kph", ""),
    },
    {
        "milligram": ("milligram milligrams mg", ""),
        "gram": ("gram grams gramme grammes", "g"),
        "kilogram": ("kilogram kilograms kilo kilos kg kgs", ""),
        "ton": ("ton tons tonne tonnes", "t"),
        "ounce": ("ounce ounces oz", ""),
        "pound": ("pound pounds lb lbs", ""),
    },
    {
        "milliliter": ("milliliter milliliters millilitre millilitres ml", ""),
        "liter": ("liter liters litre litres", "l"),
        "teaspoon": ("teaspoon teaspoons tsp", ""),
        "tablespoon": ("tablespoon tablespoons tbsp", ""),
        "cup": ("cup cups", ""),
        "pint": ("pint pints", "pt"),
        "quart": ("quart quarts", "qt"),
        "gallon": ("gallon gallons", "gal"),
    },
    {
        "milliwatt": ("milliwatt milliwatts", "mW"),
        "watt": ("watt watts", "W"),
        "kilowatt": ("kilowatt kilowatts kw", ""),
        "megawatt": ("megawatt megawatts", "MW"),
        "gigawatt": ("gigawatt gigawatts", "GW"),
    },
    {
        "hertz": ("hertz hz", ""),
        "kilohertz": ("kilohertz khz", ""),
        "megahertz": ("megahertz mhz", ""),
        "gigahertz": ("gigahertz ghz", ""),
    },
    {
        "joule": ("joule joules", "J"),
        "kilojoule": ("kilojoule kilojoules kj", ""),
        "calorie": ("calorie calories", "cal"),
        "kilocalorie": ("kilocalorie kilocalories kcal", ""),
        "kilowatt_hour": ("kwh", ""),
    },
    {
        "bit": ("bits", "bit"),
        "byte": ("byte bytes", ""),
        "kilobyte": ("kilobyte kilobytes", "kb"),
        "megabyte": ("megabyte megabytes", "mb"),
        "gigabyte": ("gigabyte gigabytes", "gb"),
        "terabyte": ("terabyte terabytes", "tb"),
    },
    {"celsius": ("celsius centigrade", ""), "fahrenheit": ("fahrenheit", ""), "kelvin": ("kelvin kelvins", "")},
)
"""For each kind the units, their words, and what is written for them behind a number."""

_WORDS = [{word: unit for unit, (words, _) in kind.items() for word in words.split()} for kind in _KINDS]
_SHORT = [{word: unit for unit, (_, short) in kind.items() for word in short.split()} for kind in _KINDS]

# Behind "5", "5 ", "5-", "km/", and inside "5\text{ m}", "\(5\) m".
_WORD = re.compile(
    r"(?P<number>(?<=[\d/{~])|(?<=[\d/{]\s)|(?<=\d-)|(?<=\d\\[)]\s)|(?<=per\s))?"
    r"(?P<power>(?<![A-Za-z\u03bc_])(?:square|cubic)\s)?"
    r"(?P<word>(?<![A-Za-z\u03bc_])[A-Za-z\u03bc]+|[$€£¢])",
    re.IGNORECASE,
)


def units(text: str) -> list[list[str]]:
    """The units that `text` names, in its order: one list for each kind, such as time."""
    found = [
        ((match["power"] or "").lower(), match["word"], match["number"] is not None) for match in _WORD.finditer(text)
    ]
    return [
        [
            power + unit
            for power, word, behind in found
            if (unit := _unit(word, words) or (behind and _unit(word, short)))
        ]
        for words, short in zip(_WORDS, _SHORT, strict=True)
    ]


def _unit(word: str, units: Mapping[str, str]) -> str | None:
    return units.get(word, units.get(word.lower()))
