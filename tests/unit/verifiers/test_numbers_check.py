"""The check of numbers: what counts as one, when two lists of them agree, and that it never accepts."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.messages import Ending
from actors.verifiers.check import Decision
from actors.verifiers.numbers import Quantity, SameNumbersCheck, find_difference, quantities

READ = [
    ("1,234.50", ["1234.5"]),
    ("12,345,678 and 1,2,345", ["12345678", "1", "2345"]),
    ("$5, €6 and .5", ["5", "6", "0.5"]),
    ("50% of 50 percent, 50\\%", ["50%", "50%", "50%"]),
    ("3/4 and \\frac{3}{4} and ¾", ["3", "4", "3", "4", "3", "4"]),
    ("is -5, = - 5, (-5), $-5$, -$5, minus 5", ["-5"] * 6),
    ("8 - 5, 8-5, 8 −5, 3–5", ["8", "take 5", "8", "take 5", "8", "take 5", "3", "take 5"]),  # noqa: RUF001
    ("10 minus 5, 50% - $5", ["10", "take 5", "50%", "take 5"]),
    ("8 - -3, 8 - (-3)", ["8", "take -3", "8", "-3"]),
    ("x - 5, (3 + 4) - 5, top-5", ["take 5", "3", "4", "take 5", "-5"]),
    ("16 eggs - 3 eggs, $16$ - $3$, a[1] - 3", ["16", "take 3", "16", "take 3", "1", "take 3"]),
    ("$16 \\text{ eggs} - 3 \\text{ eggs}$, top -5", ["16", "take 3", "-5"]),
    ("x-5, x -5, x_i - 5, 8h-5h", ["take 5", "take 5", "take 5", "8", "take 5"]),
    ("it is - 5, equals - 5, x or - 5", ["-5", "-5", "-5"]),
    ("10\n- 5", ["10", "-5"]),
    ("20-year-old", ["20"]),
    ("±5, \\pm 5", ["5±", "5±"]),
    ("x ---\n5", ["5"]),
    ("3x4 and 3x + 4", ["3", "4", "3", "4"]),
    ("1.5e3, 2E-3, 1.5 × 10^3, 1.5 \\times 10^{3}", ["1500", "0.002", "1500", "1500"]),  # noqa: RUF001
    ("2^10, x², x_1", ["2", "10", "2", "1"]),
    ("1{,}234 and 10\\,000", ["1234", "10000"]),
    ("two, Twenty-one, ninety", ["2", "21", "90"]),
    ("5 million, 5k, half", ["5", "1million", "5k", "1half"]),
    ("one of them", []),
    ("1. Add 3\n", ["3"]),
    ("**Step 2:** add 3", ["3"]),
    ("### 3. The total", []),
    ("- 2. add 5", ["5"]),
    ("The answer is\n4. So", ["4"]),
    ("4.", ["4"]),
    ("1.2.3", ["1.2", "3"]),
    ("3:30", ["3", "30"]),
    ("８ ÷ 2", ["8", "2"]),  # noqa: RUF001
    ("2 1/2, 2½, 2\\frac12, 2 and 1/2", ["2+", "1", "2"] * 4),
    ("10⁻³, 10^{-3}, 10²², x₁₁", ["10", "-3", "10", "-3", "10", "22", "11"]),
    ("-\\frac{1}{2}, \\frac12, \\frac123, \\frac{12}3", ["-1", "2", "1", "2", "1", "2", "3", "12", "3"]),
    ("√3, \\sqrt{3}, sqrt(3), the square root of 3", ["3√"] * 4),
    ("is -(5), = -\\left(5\\right), or -|5|", ["-5("] * 3),
    ("8 - (5 + 3), 8 - √4", ["8", "take 5(", "3", "8", "take 4√"]),
    ("-\\sqrt{3}, \\pm\\sqrt{3}, \\mp 3", ["-3√", "3±√", "3∓"]),
    ("negative five, minus twenty-one, negative one", ["-5", "-21", "-1"]),
    ("$5M, 5bn, $5m, $5 B, 5 m, 5b", ["5m", "5b", "5m", "5b", "5", "5"]),
    ("a fifth, two sixths, the fourth", ["1fifth", "2", "1sixth", "1fourth"]),
    ("5\\,\\%, 5 \\text{ percent}", ["5%", "5%"]),
    ("0xFF, 0x1e5, -0x10, (0xa)", ["255", "485", "-16", "10"]),
    ("0x + 5, 10x5, 0xfg", ["0", "5", "10", "5", "0"]),
]

SAME = [
    ("So 3 * 4 = 12.", "3 × 4 gives \\(12\\)."),  # noqa: RUF001
    ("3 * 4 = 12. So there are 12 apples.", "3 * 4 = 12 apples."),
    ("The cost is $1,200.00", "It costs 1200 dollars"),
    ("12/4 = 3", "\\frac{12}{4} = 3"),
    ("two bags of 5", "2 bags of five"),
    ("1. Add 3 and 5", "Add 3 and 5"),
    ("No numbers here", "Nor there"),
    ("She eats 3, so 16 - 3 = 13 are left", "After that she has 16 - 3 = 13 left"),
    ("1. Add\n2. Subtract", "1) Add\n2) Subtract"),
    ("1. Add.\n2. Subtract.", "Then:\n2. Subtract."),
    ("x = -\\frac{1}{2}", "x = -1/2"),
    ("2\\tfrac12 cups", "2 1/2 cups"),
    ("8 - (5 + 3) = 0", "8 minus (5 + 3) is 0"),
    ("10 minus five", "10 - 5"),
    ("16 eggs - 3 eggs = 13 eggs", "16 - 3 = 13 eggs"),
    ("Let x be the number of red marbles.", "Denote the number of red marbles by x."),
    ("x + y = 5, so y = 3", "So y = 3, as x + y = 5, that is y = 3"),
    ("A bag has 5 apples.", "Each bag has 5 apples."),
    ("Then: **A bag** has 5 apples, x = 5", "So a bag has 5 apples, and x = 5"),
    ("I have a 5-km run, so x = 5", "We have the 5-km run, so x = 5"),
    ("I've a \\(5\\) here, it's x", "There is a \\(5\\) for x"),
    ("x = 12 h", "x = 12 hours"),
    ("At 8 a.m. x leaves", "At 8 x leaves, e.g. on foot"),
    ("$\\alpha + \\beta$", "α + β"),  # noqa: RUF001
    ("x = 2\\pi", "x = 2π, where pi is known"),
    ("x = 3 x 4", "x = 3 * 4"),
    ("So x costs 5 per T-shirt", "So x costs 5 per shirt"),
    ("\\boxed{A}", "The answer is (A)."),
    ("So $(x+1)(x-2) = 0$.", "So (x + 1)(x - 2) = 0."),
    ("(16 - 3) - 4 = 9", "16 - 3 - 4 = 9"),
    ("$16 \\text{ eggs} - 3 \\text{ eggs}$", "16 - 3 eggs"),
    ("\\(5m = 10\\)", "$5m = 10$"),
    ("\\sqrt{16} = 4", "The square root of 16 is 4"),
    ("mask = 0xff", "mask = 0xFF"),
    (r"v = 5\text{ m/s}", "v = 5 m/s"),
    ("v = 5m/s", "v = 5 meters per second"),
    ("At 5 PM x leaves", "At 5 pm x leaves"),
    (r"$\pi r^2 = 25\pi$", "πr² = 25π"),
    ("10 cents per page x 500 = 5000, so B pays that.", "10 * 500 = 5000, so B pays that."),
    ("So x + y = 10.", "So the sum is 10."),
]

DIFFERENT = [
    ("The sum is = 794", "The sum is = 694"),
    ("8 - 5 = 3", "5 - 8 = -3"),
    ("10/2", "2/10"),
    ("Tom has 3, Ann has 5", "Tom has 5, Ann has 3"),
    ("Tom 3, Ann 5, Bob 3", "Tom 3, Ann 5, Bob 5"),
    ("Tom 3, Ann 5", "Tom 3, Ann 5, Bob 3"),
    ("50% of 10", "50 of 10"),
    ("5 million", "5 thousand"),
    ("$5k", "$5"),
    ("x = 5", "x = -5"),
    ("x = 5", "x = - 5"),
    ("negative 5", "5"),
    ("x - 5 = 0", "x + 5 = 0"),
    ("x² - 5x + 6 = 0", "x² + 5x + 6 = 0"),
    ("x = -5 or x = 5", "x = 5"),
    ("The result is - 5.", "The result is 5."),
    ("16 eggs - 3 eggs", "16 eggs, 3 eggs"),
    ("So the answer is (B).", "So the answer is (C)."),
    ("So the answer is A.", "So the answer is B."),
    ("Option A is right.", "Option B is right."),
    ("A is right.", "B is right."),
    ("A or B, so B", "A"),
    ("\\boxed{A}", "\\boxed{B}"),
    ("y = x - z", "y = z - x"),
    ("dp[i][j]", "dp[j][i]"),
    ("return a;", "return b;"),
    ("a \\cdot b", "c \\cdot b"),
    ("if a and b", "if c and b"),
    ("x = A + b", "x = a + b"),
    ("x = AB + 3", "x = AC + 3"),
    ("So A implies B.", "So B implies A."),
    ("\\alpha = 3", "\\beta = 3"),
    ("x_i = 3", "x_j = 3"),
    ("x = ±5", "x = 5"),
    ("10\n- 5", "10\n5"),
    ("8 - 5 is left", "8 + 5 is left"),
    ("half of the eggs", "a third of the eggs"),
    ("two eggs", "three eggs"),
    ("x² = 9", "x^3 = 9"),
    ("5²", "52"),
    ("1.5", "15"),
    ("1e5", "1e6"),
    ("5 apples", "apples"),
    ("a = 3, b = 5, 3", "a = 5, b = 3, 3"),
    ("a = 5, 3, 5", "a = 3, 5"),
    ("2 1/2 cups", "1/2 cups"),
    ("2½ cups", "½ cups"),
    ("2 and 1/2 cups", "1/2 cups"),
    ("10⁻³", "10³"),
    ("10²²", "10²"),
    ("-\\sqrt{3}", "\\sqrt{3}"),
    ("x = -\\sqrt3 or \\sqrt3", "x = \\sqrt3"),
    ("-\\sqrt{3}", "-3"),
    ("\\sqrt{3}", "3"),
    ("-\\frac{1}{2}", "\\frac{1}{2}"),
    ("8 - \\frac{1}{2}", "8 + \\frac{1}{2}"),
    ("2^{-\\frac12}", "2^{\\frac12}"),
    ("\\frac12", "12"),
    ("\\frac123", "\\frac{1}{23}"),
    ("-(5)", "5"),
    ("-\\(5\\)", "5"),
    ("-(5 + 3)", "-5 + 3"),
    ("8 - (5 + 3)", "8 - 5 + 3"),
    ("\\pm\\sqrt{3}", "\\sqrt{3}"),
    ("negative five", "five"),
    ("minus one", "one"),
    ("$5M", "$5B"),
    ("$5M", "$5"),
    ("$5m", "$5b"),
    ("a fifth", "a sixth"),
    ("a hundredth", "a thousandth"),
    ("the fourth term", "the fifth term"),
    ("42. So she has that many", "43. So she has that many"),
    ("Step 2: add 3", "Step 3: add 3"),
    ("Then:\n4. Add", "Then:\n5. Add"),
    ("5\\,\\%", "5"),
    ("mask = 0xFF", "mask = 0xFE"),
    ("0xA000", "0xB000"),
    ("So a < b < c.", "So b < c."),
    ("So y + x = 5.", "So x = 5."),
    ("v = 5 m/s", "v = 5 n/s"),
]


def shown(text: str) -> list[str]:
    return [f"{'take ' if q.taken else ''}{q.value.normalize():f}{q.unit}" for q in quantities(text)]


@pytest.mark.parametrize(("text", "numbers"), READ)
def test_reads_numbers_as_values(text, numbers):
    assert shown(text) == numbers


@pytest.mark.parametrize(("one", "other"), SAME)
async def test_is_unsure_where_the_numbers_agree(make_request, one, other):
    assert find_difference(one, other) is None
    assert (await SameNumbersCheck().check(make_request(one, other))).decision is Decision.UNSURE


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
async def test_rejects_where_they_differ(make_request, one, other):
    for draft, target in ((one, other), (other, one)):
        assert (await SameNumbersCheck().check(make_request(draft, target))).decision is Decision.REJECT


async def test_says_which_number(make_request):
    opinion = await SameNumbersCheck().check(make_request("3 + 4 = 7", "3 + 5 = 8"))
    assert opinion.reason == "only one of the two steps has 4, 5, 7, 8"


async def test_rejects_where_only_one_closes_the_reasoning(make_request):
    request = make_request("So 5.", "So 5.", target_ending=Ending.CLOSE)
    assert (await SameNumbersCheck().check(request)).decision is Decision.REJECT


def test_numbers_of_any_length_and_size():
    assert quantities("9" * 5000) == [Quantity(Decimal("9" * 5000))]
    assert find_difference("9" * 50, "9" * 49 + "8") is not None
    assert find_difference("1e9999", "1e9998") is not None
    assert find_difference("1e99999999999999999999", "1e99999999999999999999") is None


NUMERIC = st.text(st.sampled_from(list("0123456789 .,-+*/=x$%^e\n")), max_size=40) | st.text(max_size=40)


@settings(deadline=None)  # the machine may be busy
@given(NUMERIC, NUMERIC)
def test_symmetric_and_reflexive(one, other):
    assert find_difference(one, one) is None
    assert (find_difference(one, other) is None) == (find_difference(other, one) is None)


@settings(deadline=None)  # the machine may be busy
@given(NUMERIC, st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_another_result_is_always_rejected(text, ours, theirs):
    same = find_difference(f"{text}\nSo x = {ours}.", f"{text}\nSo x = {theirs}.") is None
    assert same == (ours == theirs)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.data())
def test_changing_one_number_is_always_found(numbers, data):
    index = data.draw(st.integers(0, len(numbers) - 1))
    changed = numbers.copy()
    changed[index] += data.draw(st.integers(1, 50))
    one, other = (" and ".join(map(str, found)) for found in (numbers, changed))
    assert find_difference(one, other) is not None


@pytest.mark.timeout(10)  # it takes less than one second
def test_no_text_takes_long(hostile_text):
    assert find_difference(hostile_text, hostile_text) is None
