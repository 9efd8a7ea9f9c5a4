"""The questions of a benchmark: from a JSON-lines file, or made up from a seed with answers that are known.

Promises: the same seed makes the same problems everywhere; each needs 2 to 6 sums, has one whole number above zero as
its answer, and no two of a set are the same; a broken line of a file is an error that names the line.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from actors.errors import RequestError
from deployments.bench.grading import reference_answer

_NAMES = (
    "Ada",
    "Bruno",
    "Chidi",
    "Dana",
    "Emeka",
    "Farah",
    "Goran",
    "Hana",
    "Ivo",
    "Jun",
    "Kaya",
    "Mara",
    "Nils",
)
_GOODS = (
    ("a library", "books", "crates"),
    ("an orchard", "apples", "baskets"),
    ("a workshop", "bolts", "boxes"),
    ("a bakery", "rolls", "trays"),
    ("a school", "pencils", "packs"),
    ("a nursery", "seedlings", "flats"),
)
MIN_STEPS, MAX_STEPS = 2, 6
DEFAULT_SYNTHETIC = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One question. `answer` is the final answer alone; None if it is not known."""

    question: str
    answer: str | None


def read_problems(path: str | Path, limit: int | None = None) -> list[Problem]:
    """The first `limit` problems of a JSON-lines file with `question` and `answer` (GSM8K's ``#### 42`` too)."""
    problems: list[Problem] = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"The data file {path} cannot be read: {error}.", "data") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if limit is not None and len(problems) == limit:
            break
        problems.append(_parse(line, f"{path}, line {number}"))
    if not problems:
        raise RequestError(f"The data file {path} holds no problem.", "data")
    return problems


def _parse(line: str, where: str) -> Problem:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise RequestError(f"{where}: not JSON ({error}).", "data") from error
    question = data.get("question") if isinstance(data, dict) else None
    if not isinstance(question, str) or not question.strip():
        raise RequestError(f"{where}: there is no 'question'.", "data")
    answer = data.get("answer")
    return Problem(question, None if answer is None else reference_answer(str(answer)))


def synthetic(num_problems: int, seed: int = 0) -> list[Problem]:
    """`num_problems` word problems, in turn of each kind."""
    chance = random.Random(f"lookahead-problems-{seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < num_problems:
        template = _TEMPLATES[len(problems) % len(_TEMPLATES)]
        question, answer = template(chance, chance.randint(MIN_STEPS, MAX_STEPS))
        if answer > 0:
            problems.setdefault(question, Problem(question, str(answer)))
    return list(problems.values())


def _stock(chance: random.Random, num_steps: int) -> tuple[str, int]:
    """Things that come and go: one sum for the start, then one an event."""
    place, things, packs = chance.choice(_GOODS)
    each, many = chance.randint(6, 24), chance.randint(5, 20)
    left = each * many
    story = [f"{place.capitalize()} receives {many} {packs} of {things} with {each} {things} in each."]
    while num_steps > 1:
        kind = chance.choice(("less", "more", "part", "double", "packs"))
        if kind == "less" and left > 20:
            number = chance.randint(5, left // 2)
            left -= number
            story.append(f"Then {number} {things} are taken away.")
        elif kind == "part" and (divisors := [d for d in (2, 3, 4, 5) if left % d == 0 and left > 4 * d]):
            divisor = chance.choice(divisors)
            left -= left // divisor
            story.append(f"One in every {divisor} of the {things} there is damaged and thrown out.")
            num_steps -= 1
        elif kind == "double" and left < 400:
            left *= 2
            story.append(f"A delivery doubles the number of {things}.")
        elif kind == "packs" and num_steps > 2:
            number, size = chance.randint(2, 9), chance.randint(4, 15)
            left += number * size
            story.append(f"Another {number} {packs} come in, with {size} {things} in each.")
            num_steps -= 1
        else:
            number = chance.randint(5, 60)
            left += number
            story.append(f"Somebody brings {number} more {things}.")
        num_steps -= 1
    return f"{' '.join(story)} How many {things} are there in the end?", left


def _wages(chance: random.Random, num_steps: int) -> tuple[str, int]:
    """Money earned by the hour, then spent or added."""
    name = chance.choice(_NAMES)
    rate, hours = chance.randint(11, 32), chance.randint(3, 9)
    money = rate * hours
    story = [f"{name} earns ${rate} an hour and works for {hours} hours"]
    if num_steps > 2:
        days = chance.randint(2, 6)
        money *= days
        story[0] += f" on each of {days} days"
        num_steps -= 1
    story[0] += "."
    for _ in range(num_steps - 1):
        amount = chance.randint(4, max(5, min(90, money // 3)))
        spends = chance.random() < 0.6
        money += -amount if spends else amount
        what = chance.choice(("a book", "food", "tools") if spends else ("a gift", "a refund"))
        story.append(f"{name} {'spends' if spends else 'gets'} ${amount} {'on' if spends else 'as'} {what}.")
    return f"{' '.join(story)} How many dollars does {name} have then?", money


def _journey(chance: random.Random, num_steps: int) -> tuple[str, int]:
    """Legs of a journey at different speeds; one product for each leg, then a sum for each but the first."""
    name = chance.choice(_NAMES)
    legs = max(1, (num_steps + 1) // 2)
    distance, story = 0, []
    for leg in range(legs):
        speed, hours = chance.randint(4, 28) * 5, chance.randint(2, 6)
        distance += speed * hours
        story.append(f"{name if leg == 0 else 'Then ' + name} travels for {hours} hours at {speed} kilometres an hour.")
    if num_steps % 2 == 0:
        back = chance.randint(1, 9)
        distance -= back
        story.append(f"The last {back} kilometres were a detour that does not count.")
    return f"{' '.join(story)} How many kilometres count in all?", distance


def _comparison(chance: random.Random, num_steps: int) -> tuple[str, int]:
    """A chain of people who have more, fewer or several times as many; the last sum adds them up."""
    names = chance.sample(_NAMES, num_steps)
    things = chance.choice(("stamps", "marbles", "shells", "cards"))
    held = [chance.randint(6, 40)]
    story = [f"{names[0]} has {held[0]} {things}."]
    for before, name in pairwise(names):
        kind, number = chance.choice(("times", "more", "fewer")), chance.randint(2, 5)
        if kind == "times" and held[-1] < 150:
            held.append(held[-1] * number)
            story.append(f"{name} has {number} times as many as {before}.")
        elif kind == "fewer" and held[-1] > 8:
            held.append(held[-1] - number)
            story.append(f"{name} has {number} fewer than {before}.")
        else:
            held.append(held[-1] + number * 3)
            story.append(f"{name} has {number * 3} more than {before}.")
    return f"{' '.join(story)} How many {things} do they have together?", sum(held)


_TEMPLATES: tuple[Callable[[random.Random, int], tuple[str, int]], ...] = (_stock, _wages, _journey, _comparison)
