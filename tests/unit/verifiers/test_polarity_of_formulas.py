"""The check of polarity on formulas, functions and amounts: what contradicts, and what is only written otherwise."""

from __future__ import annotations

import pytest

from actors.verifiers.polarity import find_contradiction

SAME = [
    ("So 16 large eggs - 3 eggs = 13", "So 16 - 3 = 13"),
    (r"$\frac{x}{2} + 2y = 6$", "So x/2 + 2y = 6"),
    ("So 3 bags x 4 apples = 12", "So 3 * 4 = 12"),
    ("3 years * $720/year = $2160", "3 years * 720 dollars/year = 2160 dollars"),
    ("50% x 50% = 25%", "50% * 50% = 25%"),
    ("10 x .5 = 5", "10*.5 = 5"),
    ("2 x (3 + 4) = 14", "2 * (3 + 4) = 14"),
    (r"$\log_2 8 = 3$", "log_2(8) = 3"),
    ("40 dollars * .5 = 20", "$40 * .5 = $20"),
    ("5 or more apples", "We need at least 5 apples."),
    ("40km + 20km = 60", "40 km + 20 km = 60 km"),
    ("12 miles/hour * 3 hours = 36", "12 * 3 = 36"),
    (r"3 + \sqrt{16} = 7", "3 + √16 = 7"),
    ("3 times five = 15", "3 * 5 = 15"),
    (r"$v = 5\text{ m/s}$", "v = 5 m/s"),
    ("v = 5m/s", "v = 5 m/s"),
    ("$5/h", "$5 per hour"),
    (r"$25\text{ cm}^2$", "25 cm²"),
    ("twelve apples in total", "12 apples in all"),
    ("Is 91 prime or not? It is not.", "Is 91 prime? It is not."),
    ("whether or not x fits", "whether x fits"),
    ("At first x is 5.", "x is 5."),
    (r"$\left|x - 3\right| = 5$", r"\(\lvert x-3 \rvert = 5\)"),
    ("|x| = 5", "The absolute value of x is 5."),
    ("The distance of 3 and x is 5.", "|x - 3| = 5"),
    ("if a || b || c", "if a or b or c"),
    ("Not infinitely many.", "Not an infinite number."),
    (r"$\sin x$ is 0, $\cos x$ is 1", "sin x is 0 and cos x is 1"),
    ("So x cubed is 8.", "So $x^{3}$ is 8."),
    ("Now square both sides: x^2 = 16", "So x² = 16"),
    ("x**2 + y ** 2", "x^2 + y^2"),
    ("the cube of 2 is 8", "2^3 = 8"),
    ("a square of 5 feet, 25 square feet", "25 square feet"),
    ("8 cubes of ice", "8 ice cubes"),
    ("Now take the cube root of both sides.", "Take the cube root on both sides."),
    (r"$\sqrt[3]{8} = 2$", "The cube root of 8 is 2."),
    ("So the slope is sec(x).", r"So the slope is $\sec x$."),
    ("After 5 sec he is at sin(x).", "He is at sin(x) after 5 seconds."),
    ("y = sinh(x)", "y is the hyperbolic sine of x."),
    ("The delay is 5ms - 3ms = 2ms.", "The delay is 5 ms - 3 ms = 2 ms."),
    ("The delay is 5 µs.", "The delay is 5 microseconds."),
    ("The lamp takes 60 W.", "The lamp takes 60 watts."),
    ("It runs at 3 GHz.", "It runs at 3 gigahertz."),
    ("The file has 5 MB.", "The file has 5 megabytes."),
    ("W = 5 and 2 W + 3 L = 22", "W = 5, 2W + 3L = 22"),
    ("In 3 hours he gets 5 US dollars.", "He gets 5 US dollars in 3 hours."),
    ("The 3 Ms. Smith teaches take 2 hours.", "They take 2 hours, the 3 Ms. Smith teaches."),
]

DIFFERENT = [
    ("So 2x + y = 10.", "So x + 2y = 10."),
    ("So x^2 = 16.", "So 2^x = 16."),
    ("So x/2 = 6.", "So 2/x = 6."),
    (r"So $\frac{x}{2} = 6$.", r"So $\frac{2}{x} = 6$."),
    ("So x < 5.", "So 5 < x."),
    ("if count < 5", "if 5 < count"),
    ("So 3x = 12.", "So 3 + x = 12."),
    ("So 3x = 12.", "So 3/x = 12."),
    ("So x + x = 10.", "So x = 10."),
    ("So y + x = 5.", "So x = 5."),
    ("So x^2 = 16 and y^2 = 9.", "So x^2 = 16 and y = 9."),
    ("They get 5 oranges each.", "They get 5 oranges in total."),
    ("5 islands each", "5 islands in total"),
    ("two each", "2 in total"),
    ("$1,200 each", "$1200 in total"),
    ("They get 5, each of them.", "They get 5 in total."),
    ("twelve apples each", "twelve apples in total"),
    ("twenty-one apples each", "21 apples in total"),
    ("So the formula is p or not q.", "So the formula is p or q."),
    ("n is odd or not prime", "n is odd or prime"),
    ("if a or not b:", "if a or b:"),
    ("The answer is no. 91 = 7 * 13.", "The answer is yes. 91 = 7 * 13."),
    ("So Ann finishes in first place.", "So Ann finishes in last place."),
    ("|x - 3| = 5", "x - 3 = 5"),
    ("|x| = 5", "x = 5"),
    ("|x - 3| = 5", "|x| - 3 = 5"),
    ("The absolute value of x is 5.", "x is 5."),
    (r"\sin x", r"\cos x"),
    (r"\lfloor x \rfloor", r"\lceil x \rceil"),
    (r"\sum_{i=1}^n i", r"\prod_{i=1}^n i"),
    ("the GCD of 12 and 18", "the LCM of 12 and 18"),
    ("the number of permutations", "the number of combinations"),
    ("infinitely many primes", "finitely many primes"),
    ("The events are independent.", "The events are dependent."),
    ("The sequence is bounded.", "The sequence is unbounded."),
    ("The series converges.", "The series diverges."),
    ("in ascending order", "in descending order"),
    ("So x^2 is 16.", "So x^3 is 16."),
    ("We get x squared.", "We get $x^3$."),
    ("Now square both sides.", "Now cube both sides."),
    ("Squaring gives 64.", "Cubing gives 64."),
    ("the square of x", "the cube of x"),
    ("64 is a perfect square.", "64 is a perfect cube."),
    ("Now take square roots.", "Now take cube roots."),
    (r"$\sqrt{x}$", r"$\sqrt[3]{x}$"),
    ("So the slope is sec(x).", "So the slope is csc(x)."),
    (r"$\sec^2 x$", r"$\cos^2 x$"),
    (r"$y = \sinh x$", r"$y = \sin x$"),
    ("y = sinh(x)", "y = cosh(x)"),
    ("y = 2tanh(x)", "y = 2tan(x)"),
    ("y = 2sin(x)", "y = 2cos(x)"),
    ("The delay is 5ms.", "The delay is 5s."),
    ("The delay is 5 ms.", "The delay is 5 µs."),
    ("The delay is 5 us.", "The delay is 5 ns."),
    ("It took 2 decades.", "It took 2 centuries."),
    ("It took a century.", "It took a year."),
    ("The lamp takes 60 W.", "The lamp takes 60 kW."),
    ("The plant gives 60 MW.", "The plant gives 60 mW."),
    ("It runs at 3 MHz.", "It runs at 3 GHz."),
    ("It runs at 3 Hz.", "It runs at 3 kHz."),
    ("It takes 5 J.", "It takes 5 kJ."),
    ("The file has 5 MB.", "The file has 5 GB."),
    ("It sends 8 bits.", "It sends 8 bytes."),
    ("It has 20 degrees Celsius.", "It has 20 degrees Fahrenheit."),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_finds_nothing_where_it_is_only_written_otherwise(one, other):
    assert find_contradiction(one, other) is None
    assert find_contradiction(other, one) is None


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_finds_what_contradicts(one, other):
    assert find_contradiction(one, other) is not None
    assert find_contradiction(other, one) is not None


@pytest.mark.timeout(10)  # it takes two or three seconds
@pytest.mark.parametrize(
    "run", ["3 + " + "(" * 50_000 + "x = ", "3 + " + "a" * 50_000 + " = ", "3" + " + (1,2)" * 9_000]
)
def test_what_may_end_a_formula_is_read_once(run):
    text = run + "word " * 10_000
    assert find_contradiction(text, text) is None
