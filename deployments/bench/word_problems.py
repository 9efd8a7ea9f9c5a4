"""Word problems that are made up from a seed, with answers that are known.

Promises: the same seed makes the same problems everywhere; a problem needs as many sums as its difficulty says, 2 to 8,
has one whole number above zero as its answer, and no two of a set are the same. The problems are our own: no model has
read them, and no score on a public set carries over.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from itertools import pairwise

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
MIN_STEPS, MAX_STEPS = 2, 8
DIFFICULTIES: Mapping[str, tuple[int, int]] = {"easy": (2, 3), "medium": (4, 5), "hard": (6, 8)}
"""Fewest and most sums of a problem."""

Template = Callable[[random.Random, int], tuple[str, int]]
"""Makes a question with so many sums, and its answer."""


def word_problems(num_problems: int, seed: int, difficulty: str | None = None) -> dict[str, int]:
    """Questions with their answers, in turn of each kind; without `difficulty` of 2 to 8 sums."""
    chance = random.Random(f"lookahead-problems-{seed}")  # it must come out the same again
    fewest, most = DIFFICULTIES[difficulty] if difficulty else (MIN_STEPS, MAX_STEPS)
    problems: dict[str, int] = {}
    while len(problems) < num_problems:
        template = TEMPLATES[len(problems) % len(TEMPLATES)]
        question, answer = template(chance, chance.randint(fewest, most))
        if answer > 0:
            problems.setdefault(question, answer)
    return problems


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


def _trip(chance: random.Random, num_steps: int) -> tuple[str, int]:
    """What a group pays for tickets and more, shared or with money back; two sums for the tickets of two kinds."""
    place = chance.choice(("the museum", "the zoo", "the castle", "the aquarium"))
    adults, children = chance.randint(2, 9), chance.randint(3, 24)
    price = chance.randint(8, 24)
    cost, story = adults * price, [f"{adults} adults go to {place}; a ticket is ${price}."]
    left = num_steps - 1
    if left >= 2:
        child = chance.randint(2, price - 2)
        cost += children * child
        story.append(f"{children} children go with them for ${child} each.")
        left -= 2
    while left > 0:
        kind = chance.choice(("bus", "voucher", "lunch"))
        if kind == "lunch" and left >= 2:
            meals, each = chance.randint(2, 12), chance.randint(4, 15)
            cost += meals * each
            story.append(f"They buy {meals} lunches for ${each} each.")
            left -= 2
        elif kind == "voucher" and cost > 20:
            back = chance.randint(2, min(40, cost // 2))
            cost -= back
            story.append(f"A voucher takes ${back} off.")
            left -= 1
        else:
            fare = chance.randint(5, 60)
            cost += fare
            story.append(f"Getting there costs ${fare} in all.")
            left -= 1
    return f"{' '.join(story)} How many dollars does the outing cost?", cost


def _reading(chance: random.Random, num_steps: int) -> tuple[str, int]:
    """Pages of a book, day by day: each day one sum from the day before, and one sum takes all from the whole."""
    name = chance.choice(_NAMES)
    pages = [chance.randint(8, 30)]
    story = [f"On the first day {name} reads {pages[0]} pages of a book."]
    for _ in range(num_steps - 2):
        kind, number = chance.choice(("more", "fewer", "twice")), chance.randint(2, 7)
        if kind == "twice" and pages[-1] < 100:
            pages.append(pages[-1] * 2)
            story.append("The next day it is twice as many as the day before.")
        elif kind == "fewer" and pages[-1] > 9:
            pages.append(pages[-1] - number)
            story.append(f"The next day it is {number} fewer than the day before.")
        else:
            pages.append(pages[-1] + number)
            story.append(f"The next day it is {number} more than the day before.")
    left = chance.randint(10, 200)
    return f"{' '.join(story)} The book has {sum(pages) + left} pages. How many are still unread?", left


def _workshop(chance: random.Random, num_steps: int) -> tuple[str, int]:
    """Things made by machines, in shifts, less what is broken or sold, packed at the end without a rest."""
    machines, rate, hours = chance.randint(2, 9), chance.randint(3, 15), chance.randint(2, 8)
    made = machines * rate
    story = [f"Each of {machines} machines makes {rate} parts an hour."]
    left = num_steps - 1
    if left >= 1:
        made *= hours
        story.append(f"They run for {hours} hours.")
        left -= 1
    packs = left >= 1
    for _ in range(left - 1 if packs else 0):
        number = chance.randint(1, max(1, made // 6))
        loses = chance.random() < 0.6 and made > 2 * number
        made += -number if loses else number
        story.append(f"{number} parts are {'broken' if loses else 'left over from yesterday and added'}.")
    if not packs:
        return f"{' '.join(story)} How many parts do they make in all?", made
    size = chance.choice([number for number in range(2, 10) if made % number == 0] or [1])
    return f"{' '.join(story)} The parts are packed {size} to a box. How many boxes are filled?", made // size


TEMPLATES: tuple[Template, ...] = (_stock, _wages, _journey, _comparison, _trip, _reading, _workshop)
