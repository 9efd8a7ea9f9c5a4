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
    ],
)
def test_wrong(text, answer):
    assert not is_correct(text, answer)


def test_a_cut_answer_counts_only_if_it_states_its_result():
    assert not is_correct("She has 42", "42", complete=False)
    assert is_correct("The answer is 42. Let me", "42", complete=False)


def test_reference():
    assert reference_answer("18 of them\n#### 1,018 ") == "1,018"
    assert reference_answer(" 33 ") == "33"
    assert is_correct("The answer is 1018.", "1,018")


def test_boxes_within_boxes():
    assert final_statement("\\boxed{\\frac{1}{2}} and") == "\\frac{1}{2}"
