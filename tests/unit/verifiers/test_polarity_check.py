"""The check of polarity: what contradicts, what may be said in other words, and that it never accepts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.messages import Ending
from actors.verifiers.check import Decision
from actors.verifiers.polarity import SamePolarityCheck, find_contradiction

SAME = [
    ("So the total is 12 apples.", "In total there are 12 apples."),
    ("That isn't possible.", "That is impossible."),
    ("She no longer works there.", "She does not work there any more."),
    ("The claim is false.", "The claim is not true."),
    ("x is at least 5", "x ≥ 5"),
    (r"so $x \geq 5$", "so x is no less than 5"),
    ("no more than 5", "at most 5"),
    ("5 or more", "at least 5"),
    ("x is greater than 5", "x > 5"),
    ("x is not 3", r"$x \neq 3$"),
    ("Subtract 3 from 16.", "16 - 3"),
    ("Subtract 3 from 16: 16 - 3 = 13.", "16 - 3 = 13"),
    ("10 minus 5", "10-5"),
    ("3 times 4", "3 * 4"),
    ("3 × 4", "3 x 4"),  # noqa: RUF001
    (r"$\frac{3}{4} \times 8$", "3/4 * 8"),
    ("3 squared", "3^2"),
    ("2^10", "2**10"),
    (r"$\sqrt{16}$", "the square root of 16"),
    ("- Tom: 5\n- Ann: 6", "Tom: 5, Ann: 6"),
    ("> 5 apples", "5 apples"),
    ("3 + 4 => 7", "3 + 4 -> 7"),
    ("<b>5</b> apples", "5 apples"),
    ("**5** + 3", "5 + 3"),
    ("not only red but also blue", "red and blue"),
    ("He has 5 more apples, so 12.", "That makes 12."),
    ("the top-5 list, a well-known e-mail", "the list"),
    ("3 km/h", "3 km"),
    ("2 hours are 120 minutes", "It takes 120 minutes."),
    ("It is non-negative.", "It is not negative."),
    ("nonzero", "x is not zero"),
    ("Nonetheless it holds.", "Still it holds."),
    (r"$x \notin A$", "x ∉ A"),
    (r"$x \not\in A$", "x is not in A"),
    ("12 h", "12 hours"),
    ("at max 12 min", "at max 12 minutes"),
    ("5 kg", "5 kilograms"),
    (r"$5\text{ kg}$", "5 kg"),
    ("40 km/h", "40 kilometers per hour"),
    ("5 metres", "5 m"),
    ("$5", "5 dollars"),
    (r"\$5", "5 dollars"),
    ("10 - $5 = $5", "10 - 5 = 5 dollars"),
    ("$5 + $3 = $8", "5 + 3 = 8 dollars"),
    ("It costs $5$ cents.", r"It costs \(5\) cents."),
    ("It costs 5 cents, $x = 5$.", "It costs 5 cents."),
    ("h + m", "m + h"),
    ("Bags:\n* apples\n* pears", "Bags:\n- apples\n- pears"),
    ("* apples\n* pears", "- apples\n- pears"),
    ("Bags\n- apples, 3 + 4", "Bags: apples, 3 + 4"),
    ("- Tom: 5", "Tom: 5"),
    ("Total = subtotal + tax", "The total is subtotal + tax."),
    ("The total - which is 5 + 3 - is 8.", "The total, which is 5 + 3, is 8."),
    ("Tom - he is 5 - and Ann have 3 + 4 = 7.", "Tom (he is 5) and Ann have 3 + 4 = 7."),
    (r"$\alpha+\beta$", "α + β"),  # noqa: RUF001
    ("Use --force here.", "Use it by force here."),
    ("so y = - x", "so y = -x"),
    (r"x = -\frac{1}{2}", "x = -1/2"),
    (r"x = -\frac{a}{2}", "x = -a/2"),
    ("-(2x + 1)", "- (2x + 1)"),
    ("The answer is -x.", "So we get -x."),
    ("So n - k is left.", "Then we have n - k left."),
    ("a well-known top-k list", "the list"),
    ("x <- 5", "x = 5"),
    ("x is greater than or equal to 5", "x ≥ 5"),
    ("The numbers add up to 12.", "The sum is 12."),
    ("Each bag has 5 apples, so 6 bags have 30.", "6 bags of 5 apples have 30 in total."),
    ("He has 3 more apples, that is 12 in total.", "So he has 12 apples."),
    ("3 times as many as Tom", "3 times more than Tom"),
    ("at 8 a.m. or 8:30 p.m.", "at 8am or 8:30pm"),
    ("We divide 12 by 3 to get 4.", "12 divided by 3 is 4."),
    ("The 3 eggs that are left are all right.", "The 3 eggs left are fine."),
    ("x² = 16", "x^2 = 16"),
    ("3 * 4 = 12. So 12", "So 12"),
    ("(3*4) + (2*4) = 20", "3*4 + 2*4 = 20"),
    ("(16 - 3) - 4 = 9", "16 - 3 - 4 = 9"),
    ("16 eggs - 3 eggs - 4 eggs = 9 eggs", "16 - 3 - 4 = 9"),
    (r"$\frac{a+b}{c}$", "(a + b)/c"),
    (r"$\frac{1}{2x}$", "1/(2x)"),
    (r"$\frac{\frac{a}{b}}{c}$", "(a/b)/c"),
    (r"$2\frac{1}{2}$ cups", "2 1/2 cups"),
    (r"$\frac{120 \text{ km}}{3 \text{ h}} + 5$", "120 / 3 + 5"),
    ("2 * x + 3 = 7", "2x + 3 = 7"),
    (r"15 x $\frac{3}{5}$ = 9", "15 * 3/5 = 9"),
    ("10 years*5%=50%", "10 years * 5% = 50%"),
    (r"$2 \cdot (y + 3)$", "2(y + 3)"),
    ("2(3) + 4 = 10", "2 * 3 + 4 = 10"),
    ("2 times 3 plus 4", "2 * 3 + 4"),
    ("2^{10} + 1", "2^10 + 1"),
    ("5 m/s", "5 meters per second"),
    ("The total (3 + 4) is 7.", "The total is 3 + 4 = 7."),
    ("**Total (3 + 4)**: 7", "Total (3 + 4): 7"),
    ("That's great! So 12 eggs!", "So 12 eggs."),
    ("8! = 40320", "8 factorial is 40320"),
    (r"$\binom{8}{3} = 56$", "C(8, 3) = 56"),
    ("20% of 50", "20 % of 50"),
    ("7 % 2 = 1", "7 mod 2 = 1"),
    ("in (2, 5]", "in (2, 5], so 3 fits"),
    ("12 m²", "12 square meters"),
    ("5 * 5 = 25 square feet.", "5 * 5 = 25."),
    ("5 * 5 = 25 square feet.", "5 * 5 = 25 sq ft."),
    ("5 * 5 = 25 ft^2", "5 * 5 = 25 sq. ft"),
    ("8 cubic meters", "8 m³"),
    ("1.5 * 10^3", "1500"),
    (r"an angle of $90^\circ$", "an angle of 90 degrees"),
    (r"the $5^{th}$ term", "the 5th term"),
    ("We have a **5** here.", "We have a 5 here."),
    ("the square of 5 is 25", "5^2 = 25"),
    ("x < -2 or x > 2", "Either x < -2 or x > 2."),
    (r"$A \cap B$", "A ∩ B"),
    (r"$p \lor q$", "p ∨ q"),  # noqa: RUF001
    ("Total cost: 5 * 3 = 15 dollars", "Cost, total: 5 * 3 = 15 dollars"),
    ("for el in items: print(el)", "for el in data: print(el)"),
    ("public static void main(String args)", "static public void main(String args)"),
    ("αβ = 5", "βα = 5"),
    ("José has 5 apples.", "So José has 5 apples."),
    ("So I've found x = 5.", "I've found x = 5."),
    ("In Los Angeles he drives on for 5 miles.", "He drives 5 miles in Los Angeles."),
    ("José is 5.", "So José is 5."),
    ("So Ann pays 5 dollars today.", "Ann pays 5 dollars a day, as does Tom."),
    ("总数是 12 个。", "总数是 12个。"),
    ("Die Summe 5 + 3 = 8 ist klein.", "Die Summe 5 + 3 = 8 ist klein!"),
    ("So x squared is 16.", "So x^2 is 16."),
    ("Now take the square root of both sides.", "We take square roots on both sides now."),
    ("So the slope is cot(x).", r"So the slope is $\cot x$."),
    ("The delay is 5 ms.", "The delay is 5 milliseconds."),
]

DIFFERENT = [
    ("The number is prime.", "The number is not prime."),
    ("Tom can come.", "Tom can't come."),
    ("This holds.", "This never holds."),
    ("x = 3", "x ≠ 3"),
    ("x == 3", "x != 3"),
    ("So we add 5 to 3.", "So we subtract 5 from 3."),
    ("Divide by 3.", "Multiply by 3."),
    ("3x + 4", "3x - 4"),
    ("3x + 4 = y", "3 x 4 = y"),
    ("Subtract 3 from 16.", "16 + 3"),
    ("2^10", "2 * 10"),
    ("5 - 3 + 2", "5 + 3 - 2"),
    ("Tom is older than Ann.", "Tom is younger than Ann."),
    ("x > 5", "x < 5"),
    ("if a<b and c>d", "if a>b and c<d"),
    ("x ≥ 5", "x > 5"),
    ("at least 5", "at most 5"),
    ("5 or more", "5 or fewer"),
    ("the largest angle", "the smallest angle"),
    ("The price increases by 5.", "The price decreases by 5."),
    ("She buys 5 eggs.", "She sells 5 eggs."),
    ("before noon", "after noon"),
    ("All of them fit.", "Some of them fit."),
    ("n is even", "n is odd"),
    ("a positive root", "a negative root"),
    ("a multiple of 6", "a divisor of 6"),
    ("the area", "the perimeter"),
    ("12 hours", "12 minutes"),
    ("5 feet", "5 inches"),
    ("3 dollars", "3 cents"),
    ("The number is non-negative.", "The number is negative."),
    ("x is nonzero", "x is zero"),
    ("It is non-prime.", "It is prime."),
    ("x ∉ A", "x ∈ A"),
    (r"$x \notin A$", r"$x \in A$"),
    (r"$x \not\in A$", r"$x \in A$"),
    (r"$a \nmid b$", r"$a \mid b$"),
    ("12 h", "12 min"),
    ("12h", "12 minutes"),
    ("5 kilograms", "5 grams"),
    ("5 kg", "5 g"),
    ("5 km", "5 m"),
    ("5 m²", "5 cm²"),
    ("5 square feet", "5 feet"),
    ("5 m²", "5 m³"),
    ("5 km/h", "5 km/s"),
    (r"$5\text{ kg}$", r"$5\text{ g}$"),
    (r"\(5\) kg", r"\(5\) g"),
    ("a 5-km run", "a 5-mile run"),
    ("60 mph", "60 km/h"),
    ("2 cups", "2 pints"),
    ("5 l", "5 ml"),
    ("$5", "5 cents"),
    (r"\$5", "5¢"),
    ("$5", "€5"),
    ("5€", "5£"),
    ("10 - $5", "10 + $5"),
    ("5€ - 3€", "5€ + 3€"),
    ("3 x $5", "3 + $5"),
    ("the first term", "the second term"),
    ("total = (price\n* count)", "total = (price\n- count)"),
    ("* count)", "- count)"),
    ("10\n- 5", "10\n+ 5"),
    ("- We add 3 to 4.", "We subtract 3 from 4."),
    ("Total = subtotal + tax", "Total = subtotal - tax"),
    ("price * count", "price + count"),
    ("price*count", "price+count"),
    ("price × count", "price ÷ count"),  # noqa: RUF001
    (r"$\alpha + \beta$", r"$\alpha - \beta$"),
    (r"$\alpha+\beta$", r"$\alpha-\beta$"),
    (r"\text{price} \times \text{count}", r"\text{price} + \text{count}"),
    ("α + β", "α - β"),  # noqa: RUF001
    ("a_i + b_i", "a_i - b_i"),
    ("a_i+b_i", "a_i-b_i"),
    ("x_total + y_total", "x_total - y_total"),
    ("x += 5", "x -= 5"),
    ("x *= 5", "x /= 5"),
    ("x **= 2", "x *= 2"),
    ("i++", "i--"),
    ("for (;;++i)", "for (;;--i)"),
    ("y = -x + 3", "y = x + 3"),
    ("y = - x", "y = x"),
    ("The answer is -x.", "The answer is x."),
    ("y = -tax", "y = tax"),
    ("-(x + 1)", "(x + 1)"),
    (r"$-\left(x+1\right)$", r"$\left(x+1\right)$"),
    (r"= -\infty", r"= \infty"),
    ("= -∞", "= ∞"),
    ("e^{-x}", "e^{x}"),
    (r"-\pi/2", r"\pi/2"),
    (r"-\frac{\pi}{2}", r"\frac{\pi}{2}"),
    (r"\lim_{x \to -\infty}", r"\lim_{x \to \infty}"),
    (r"The slope is $-\frac{a}{b}$.", r"The slope is $\frac{a}{b}$."),
    ("|a| - |b|", "|a| + |b|"),
    ("self.x - other.x", "self.x + other.x"),
    (r"-\sin x", r"\sin x"),
    ("x<-2", "x>-2"),
    ("x<-y", "x>-y"),
    ("So x > 5.", "So x = 5."),
    ("So x is greater than 5.", "So x is 5."),
    ("x ≥ 5", "x = 5"),
    ("x is at least 5", "x is 5"),
    ("Tom has 3 times as many as Ann.", "Tom has 3 more than Ann."),
    ("They pay 5 dollars each.", "They pay 5 dollars in total."),
    ("All except 3 are red.", "All 3 are red."),
    ("5 dollars including tax", "5 dollars excluding tax"),
    ("at 8 a.m.", "at 8 p.m."),
    ("The price increases by 5.", "The price increases to 5."),
    ("Tom gives 5 apples to Ann.", "Tom gets 5 apples from Ann."),
    ("He turns left.", "He turns right."),
    ("two units left", "two units right"),
    ("The claim is true.", "The claim is false."),
    ("The price doubled.", "The price halved."),
    ("The price doubled.", "The price tripled."),
    ("She saves 5 dollars.", "She spends 5 dollars."),
    ("x^2 = 16", "2x = 16"),
    ("The cost is 3 * 4 + 4 dollars", "The cost is 3 * 4 dollars"),
    ("5 + 5 + 5", "5 + 5"),
    ("x^2 + 2x + 2", "x^2 + 2x"),
    ("return w * h", "return w + w * h"),
    ("12 / y", "12y"),
    ("x = 12 / y", "x = 12y"),
    ("a^2 + b^2 + c^2", "a^2 + b^2"),
    ("3 * (4 + 5)", "3 * 4 + 5"),
    ("2^{x+1}", "2^x + 1"),
    (r"\frac{a+b}{c}", r"\frac{a}{b+c}"),
    (r"\frac{a+b}{c}", r"a+\frac{b}{c}"),
    ("a - (b - c)", "a - b - c"),
    ("-(x + 1)", "-x + 1"),
    (r"\sqrt{a+1}", r"\sqrt{a}+1"),
    (r"\sqrt{2x}", r"\sqrt{2}x"),
    ("2(y + 3)", "2y + 3"),
    ("(2x)^2", "2x^2"),
    ("(-3)^2", "-3^2"),
    ("8 / (4 * 2)", "8 / 4 * 2"),
    ("f(x + 1)", "f(x) + 1"),
    ("dp[i-1]", "dp[i]-1"),
    ("x_{n+1}", "x_n + 1"),
    ("(x + 1)(x + 2)", "x + 1(x + 2)"),
    ("(2, 5]", "[2, 5)"),
    ("items[1:]", "items[:1]"),
    ("7!", "7"),
    ("5!/3!", "5!/3"),
    ("n! ways", "n ways"),
    (r"\binom{8}{3}", r"\frac{8}{3}"),
    (r"\binom{8}{3} = 56", "8 * 3 = 56"),
    ("if !found", "if found"),
    ("return !(a && b)", "return (a && b)"),
    ("a % b", "a * b"),
    ("total % count", "total / count"),
    ("a // b", "a / b"),
    ("x += 5", "x = 5"),
    ("x %= 5", "x = 5"),
    ("x² = 16", "2x = 16"),
    ("2^x = 8", "2x = 8"),
    ("x squared is 16", "2x is 16"),
    ("price ** 2", "price * 2"),
    ("x < -2 or x > 2", "x < -2 and x > 2"),
    ("p ∧ q", "p ∨ q"),  # noqa: RUF001
    (r"$p \land q$", r"$p \lor q$"),
    (r"$p \wedge q$", "p or q"),
    (r"$\neg p$", "p"),
    ("A ∩ B", "A ∪ B"),  # noqa: RUF001
    (r"$A \cap B$", r"$A \cup B$"),
    ("a && b", "a || b"),
    ("Die Zahl 91 ist eine Primzahl.", "Die Zahl 91 ist keine Primzahl."),
    ("Le nombre 91 est premier.", "Le nombre 91 est pair."),
    ("El número 91 es primo.", "El número 91 es par."),
    ("Also ist die Zahl 92 gerade.", "Also ist die Zahl 92 ungerade."),
    ("We tellen 5 en 3 op.", "We trekken 5 en 3 af."),
    ("Ahora sumamos 5 y 3.", "Ahora restamos 5 y 3."),
    ("Talet 91 är ett primtal.", "Talet 91 är jämnt."),
    ("Nambari hii haiwezi kugawanywa kwa mbili kamwe", "Nambari hii inaweza kugawanywa kwa mbili kabisa"),
    ("91是质数。", "91不是质数。"),
    ("一共有三个苹果", "一共有五个苹果"),
    ("x = 三", "x = 五"),
    ("Число 91 простое.", "Число 91 составное."),
    ("Ο αριθμός δεν είναι πρώτος.", "Ο αριθμός είναι πρώτος."),  # noqa: RUF001
    ("이것은 소수이다", "이것은 소수가 아니다"),
    ("संख्या है", "संख्या हो"),
    ("So x squared is 16.", "So x cubed is 16."),
    ("Now take the square root of both sides.", "Now take the cube root of both sides."),
    ("So the slope is tan(x).", "So the slope is cot(x)."),
    ("The delay is 5 s.", "The delay is 5 ms."),
]


@pytest.mark.parametrize(("one", "other"), SAME)
async def test_is_unsure_where_nothing_contradicts(make_request, one, other):
    assert find_contradiction(one, other) is None
    assert (await SamePolarityCheck().check(make_request(one, other))).decision is Decision.UNSURE


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
async def test_rejects_contradictions(make_request, one, other):
    for draft, target in ((one, other), (other, one)):
        assert (await SamePolarityCheck().check(make_request(draft, target))).decision is Decision.REJECT


def test_says_what_contradicts_what():
    assert find_contradiction("It is not 3.", "It is 3.") == (
        '"not" against no negation: the steps do not deny as often'
    )
    assert find_contradiction("add 3 to 5", "subtract 3 from 5") == (
        "add in one step stands against subtract in the other"
    )


async def test_other_endings_are_rejected(make_request):
    request = make_request("So 5.", "So 5.", target_ending=Ending.CLOSE)
    assert (await SamePolarityCheck().check(request)).decision is Decision.REJECT


def test_says_which_words_it_does_not_read():
    assert find_contradiction("Das ist rot.", "Das ist blau.") == (
        "the steps differ in words of another language, which this check does not read"
    )
    assert find_contradiction("2 и 3", "2 или 3") == (
        "the steps differ in letters of another language, which this check does not read"
    )
    assert find_contradiction("So x > 5.", "So x = 5.") == "only one of the two steps has a comparison"


TEXT = "not no more less > < ≥ at least add subtract + - * / x 3 5 ( ) even odd isn't the 3-4"
TEXT += " -x ** ^ und ist 是 -- += or and"
WORDS = st.lists(st.sampled_from([*TEXT.split(), "\n"]), max_size=12).map(" ".join) | st.text(max_size=40)


@settings(deadline=None)  # the machine may be busy
@given(WORDS, WORDS)
def test_symmetric_and_reflexive(one, other):
    assert find_contradiction(one, one) is None
    assert (find_contradiction(one, other) is None) == (find_contradiction(other, one) is None)


@given(WORDS)
def test_one_negation_more_is_always_found(text):
    assert find_contradiction(f"{text}\nThat is 5.", f"{text}\nThat is not 5.") is not None


def test_long_texts_take_no_time():
    text = "<" * 20000 + "3 - " * 20000
    assert find_contradiction(text, text) is None


@pytest.mark.timeout(10)  # it takes about one second
def test_no_text_takes_long(hostile_text):
    assert find_contradiction(hostile_text, hostile_text) is None


@pytest.mark.timeout(10)  # it takes less than two seconds
@pytest.mark.parametrize("sign", "-=")
def test_arrows_without_a_head_take_no_time(sign):
    text = sign * 60_000
    assert find_contradiction(text, text) is None
