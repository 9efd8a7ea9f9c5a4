"""Whether answers are graded as a person would."""

from __future__ import annotations

import pytest

from deployments.bench.grading import final_statement, is_correct, reference_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2 * 21 = 42\n\nThe answer is 42.", "42"),
        ("The answer is $1,234.00", "1234"),
        ("The answer is 70,000.", "70000"),
        ("The answer is **18** dollars.", "18"),
        ("**The answer is: 18**.", "18"),
        ("### Answer: \\(18\\)", "18"),
        ("It is \\boxed{42} in all. There were 7.", "42"),
        ("\\boxed{\\frac{3}{4}}", "0.75"),
        ("The answer is 1/2", "0.5"),
        ("The answer is $1+x$.", "x+1"),
        ("The answer is 4 + 5 = 9.", "9"),
        ("the answer is 12 / 6 = 2", "2"),
        ("The answer is 20 miles in 4 hours.", "20"),
        ("Answer: 033", "33"),
        ("The answer is -3.", "-3"),
        ("The answer is 3.50", "3.5"),
        ("so she has 12 - 7 = 5", "5"),
        ("First the answer is 4. No, the answer is 5.", "5"),
        ("The answer is -$5.", "-5"),
        ("The answer is \u22125.", "-5"),
        ("The answer is \u20135.", "-5"),
        ("The answer is negative 5.", "-5"),
        ("The answer is 12 minus 5 = 7.", "7"),
        ("The answer is:\n- 5 apples", "5"),
        ("In all:\n- 5 apples", "5"),
        ("The answer is 5\u20136 apples.", "5"),
        ("\\boxed{- 5}", "-5"),
        ("\\boxed{-\\$5}", "-5"),
        ("The answer is .5", "0.5"),
        ("The answer is 3 1/2.", "3.5"),
        ("The answer is -3 1/2 degrees.", "-3.5"),
        ("\\boxed{3\\frac{1}{2}}", "3.5"),
        ("\\boxed{10{,}000}", "10000"),
        ("\\boxed{10,\\!000}", "10000"),
        ("The answer is 10\\,000 dollars.", "10,000"),
        ("The answer is 5 million.", "5000000"),
        ("The answer is $1.5 million.", "1,500,000"),
        ("\\boxed{5\\text{ million}}", "5000000"),
        ("\\boxed{2\\pi}", "2\\pi"),
        ("\\boxed{(1,2)}", "(1,2)"),
        ("The answer is 3 \\times 4 = 12", "12"),
        ("The answer is 18.\n\n- checked in 3 steps", "18"),
        ("The answer is 18, 3 more than before.", "18"),
        ("The answer is 18 2-pound bags.", "18"),
        ("The answer is 5 hundred-dollar bills.", "5"),
        ("The answer is 18 dollars per hour", "18"),
        ("The answer is 5 apples.", "5"),
        ("The answer is 5kg", "5"),
        ("The answer is 18!", "18"),
        ("\\boxed{18 dollars}", "18"),
        ("\\boxed{18 (dollars)}", "18"),
        ("\\boxed{18\\text{ miles/hour}}", "18"),
        ("\\boxed{\\text{18 dollars}}", "18"),
        ("\\boxed{x = 18}", "18"),
    ],
)
def test_right(text, answer):
    assert is_correct(text, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 19. There were 18 ducks.", "18"),
        ("18 ducks, so the answer is 20.", "18"),
        ("The answer is \\boxed{41}.", "42"),
        ("No idea.", "42"),
        ("", "42"),
        ("The answer is 142.", "42"),
        ("The answer is 4 + 5 = 10.", "9"),
        ("The answer is 1/3", "0.5"),
        ("The answer is -$5.", "5"),
        ("The answer is \u22125.", "5"),
        ("The answer is \u20135.", "5"),
        ("The answer is negative 5.", "5"),
        ("\\boxed{- 5}", "5"),
        ("The answer is .5", "5"),
        ("The answer is 3 1/2.", "3"),
        ("The answer is 10 000.", "10"),
        ("The answer is 5 million.", "5"),
        ("The answer is 3,5", "35"),
        ("The answer is \\(2\\pi\\).", "2"),
        ("\\boxed{2\\pi}", "2"),
        ("\\boxed{3\\sqrt{2}}", "3"),
        ("\\boxed{3\\frac{1}{2}}", "3"),
        ("\\boxed{10{,}000}", "10"),
        ("\\boxed{(1,2)}", "12"),
        ("\\boxed{1, 2}", "1"),
        ("\\boxed{34}", "3,4"),
        ("\\boxed{3!}", "3"),
        ("\\boxed{3i}", "3"),
        ("\\boxed{x - 5}", "5"),
    ],
)
def test_wrong(text, answer):
    assert not is_correct(text, answer)


@pytest.mark.parametrize("text", ["The answer is 10%.", "The answer is 10\\%.", "\\boxed{10\\%}"])
def test_a_percentage_is_right_as_a_number_and_as_a_share(text):
    assert is_correct(text, "10")
    assert is_correct(text, "0.1")
    assert not is_correct(text, "1")


def test_a_cut_answer_counts_only_if_it_states_its_result():
    assert not is_correct("She has 42", "42", complete=False)
    assert is_correct("The answer is 42. Let me", "42", complete=False)


def test_reference():
    assert reference_answer("18 of them\n#### 1,018 ") == "1,018"
    assert reference_answer(" 33 ") == "33"
    assert is_correct("The answer is 1018.", "1,018")


def test_boxes_within_boxes():
    assert final_statement("\\boxed{\\frac{1}{2}} and") == "\\frac{1}{2}"


@pytest.mark.parametrize("text", ["1" * 50_000 + " million", "1" * 5000 + " 1/2"])
def test_a_number_without_end_is_wrong_and_takes_no_time(text):
    assert not is_correct(text, "42")
