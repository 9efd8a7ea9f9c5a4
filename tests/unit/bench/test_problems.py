"""Made-up problems and data files."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import RequestError
from deployments.bench.problems import CODE_INSTRUCTION, INSTRUCTION, instruction, load, read_problems, synthetic
from deployments.bench.word_problems import (
    DIFFICULTIES,
    MAX_STEPS,
    MIN_STEPS,
    TEMPLATES,
    _comparison,
    _journey,
    _reading,
    _stock,
    _trip,
    _wages,
    _workshop,
)


def test_same_seed_same_problems():
    assert synthetic(30, seed=7) == synthetic(30, seed=7)
    assert synthetic(30, seed=7) != synthetic(30, seed=8)


def test_more_problems_begin_with_fewer():
    assert synthetic(40, seed=1)[:10] == synthetic(10, seed=1)


def test_problems_differ_and_have_whole_answers():
    problems = synthetic(200)
    assert len({problem.question for problem in problems}) == 200
    assert all(int(problem.answer) > 0 for problem in problems)
    assert all(problem.question.endswith("?") for problem in problems)


class Highest:
    """A chance that always draws the highest number and the last choice."""

    def randint(self, low, high):
        return high

    def choice(self, options):
        return options[-1]

    def sample(self, options, number):
        return list(options)[:number]

    def random(self):
        return 0.9


def test_answers_by_hand():
    question, answer = _journey(Highest(), 4)
    assert question.count("6 hours at 140 kilometres") == 2
    assert answer == 2 * 6 * 140 - 9
    question, answer = _wages(Highest(), 3)
    assert "$32 an hour" in question
    assert "gets $90 as a refund" in question
    assert answer == 32 * 9 * 6 + 90
    question, answer = _comparison(Highest(), 3)
    assert "5 fewer" in question
    assert answer == 40 + 35 + 30
    question, answer = _stock(Highest(), 3)
    assert answer == 20 * 24 + 9 * 15
    question, answer = _trip(Highest(), 5)
    assert "24 children go with them for $22 each" in question
    assert answer == 9 * 24 + 24 * 22 + 12 * 15
    question, answer = _reading(Highest(), 4)
    assert question.endswith("The book has 410 pages. How many are still unread?")
    assert (answer, 30 + 60 + 120) == (200, 410 - 200)
    question, answer = _workshop(Highest(), 4)
    assert "180 parts are left over" in question
    assert answer == (9 * 15 * 8 + 180) // 9


@given(st.integers(0, 10_000), st.integers(MIN_STEPS, MAX_STEPS), st.sampled_from(TEMPLATES))
def test_every_template_takes_every_number_of_steps(seed, num_steps, template):
    question, answer = template(random.Random(seed), num_steps)
    assert isinstance(answer, int)
    assert question.endswith("?")


def test_difficulty_makes_longer_problems():
    easy, hard = (load(f"synthetic:{name}", 70, 0) for name in ("easy", "hard"))
    sentences = [sum(problem.question.count(".") for problem in problems) for problems in (easy, hard)]
    assert sentences[1] > 1.8 * sentences[0]
    assert load("synthetic", 5, 3) == synthetic(5, 3)
    assert list(DIFFICULTIES) == ["easy", "medium", "hard"]
    with pytest.raises(RequestError, match="easy, medium, hard"):
        load("synthetic:cruel", 5, 0)


def test_functions_to_complete_are_recognised_and_not_mixed(tmp_path):
    path = tmp_path / "code.jsonl"
    code = {
        "task_id": "T/0",
        "prompt": 'def f(x):\n    """Twice x."""\n',
        "test": "def check(f): pass",
        "entry_point": "f",
    }
    path.write_text(json.dumps(code))
    problems = read_problems(path)
    assert problems[0].code.entry_point == "f"
    assert (problems[0].question, problems[0].answer) == (code["prompt"], None)
    assert instruction(problems) == CODE_INSTRUCTION
    assert instruction(synthetic(1)) == INSTRUCTION
    path.write_text(json.dumps(code) + '\n{"question": "a", "answer": 1}')
    with pytest.raises(RequestError, match="line 2: questions and functions are mixed"):
        read_problems(path)


def test_gsm8k_answers_are_understood(tmp_path):
    path = tmp_path / "data.jsonl"
    lines = [
        {"question": "How many?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"},
        {"question": "And?", "answer": 73},
        {"question": "Who knows?"},
    ]
    path.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    assert [problem.answer for problem in read_problems(path)] == ["4", "73", None]
    assert len(read_problems(path, limit=2)) == 2


def test_only_a_line_feed_ends_a_line(tmp_path):
    path = tmp_path / "data.jsonl"
    questions = ["Two\u2028lines?", "Two\u0085more?", "One?"]
    path.write_text("\r\n".join(json.dumps({"question": text}, ensure_ascii=False) for text in questions))
    assert [problem.question for problem in read_problems(path)] == questions


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no problem"),
        ("{}", "line 1: there is no 'question'"),
        ('{"question": "a"}\nhello', "line 2: not JSON"),
        ('{"question": "a"}\n{"question": "b \\ud83d"}', "line 2: half of a surrogate pair"),
        ('{"question": "a", "answer": "\\udc00"}', "line 1: half of a surrogate pair"),
    ],
)
def test_broken_files_name_the_line(tmp_path, content, words):
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(RequestError, match=words):
        read_problems(path)


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(RequestError, match="cannot be read"):
        read_problems(tmp_path / "none.jsonl")
