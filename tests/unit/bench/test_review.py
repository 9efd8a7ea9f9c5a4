"""Answers that are programs, where programs cannot be run and where they can."""

from __future__ import annotations

from dataclasses import replace

from deployments.bench import rows, sandbox
from deployments.bench.problems import CodeTest, Problem
from deployments.bench.record import Record
from deployments.bench.review import review, review_all, run_programs
from tests.unit.bench.test_plan_and_record import LINE, PLAN

PROBLEM = Problem("q", None, CodeTest("def f():\n    'Seven.'\n", "def check(f): assert f() == 7", "f"))
WHOLE = "```python\ndef f():\n    return 7\n```\n"


async def test_while_programs_were_not_run_there_is_no_accuracy_and_a_later_start_grades_them(tmp_path, monkeypatch):
    plan, problems = replace(PLAN, num_problems=2), [PROBLEM] * 2

    async def start():
        with Record(tmp_path) as record:
            if not record.lines:
                for mode in plan.modes:
                    record.add(replace(LINE, mode=mode, text=WHOLE, started_at=len(record.lines)))
                    cut = replace(LINE, mode=mode, index=1, text=WHOLE[:20], finish_reason="length")
                    record.add(replace(cut, started_at=len(record.lines)))
            await review_all(record, problems, {})
            await run_programs(record, problems)
            return rows.rows(record.lines, plan)

    monkeypatch.setattr(sandbox, "find_place", lambda: None)
    for row in (*await start(), *await start()):
        assert (row["accuracy"], row["accuracy_ci95"], row["accuracy_difference"], row["num_graded"]) == (None,) * 3 + (
            1,
        )
    assert len((tmp_path / "reviews.jsonl").read_text().splitlines()) == 4, "nothing is noted of what was not found out"
    monkeypatch.setattr(sandbox, "run", lambda program, bounds=None: sandbox.Outcome(True))
    for row in await start():
        assert (row["accuracy"], row["num_graded"]) == (0.5, 2)


async def test_a_difference_waits_for_the_programs_of_the_baseline_too(tmp_path, monkeypatch):
    plan = replace(PLAN, num_problems=2)
    monkeypatch.setattr(sandbox, "find_place", lambda: None)
    with Record(tmp_path) as record:
        for index, text in enumerate((WHOLE, WHOLE[:20])):
            record.add(replace(LINE, mode="target", index=index, text=text, started_at=index))
            record.add(replace(LINE, mode="lookahead", index=index, text=WHOLE[:20], started_at=10 + index))
        await review_all(record, [PROBLEM] * 2, {})
        await run_programs(record, [PROBLEM] * 2)
        base, own = rows.rows(record.lines, plan)
    assert (base["accuracy"], own["accuracy"]) == (None, 0.0)
    assert (own["accuracy_difference"], own["accuracy_difference_p"]) == (None, None)


def test_a_trace_that_is_forgotten_before_it_is_fetched_is_said():
    answered = replace(LINE, answer="4", text="The answer is 4.", speculation={"mode": "target"})
    forgotten = review(answered, Problem("q", "4"), {"error": "There is no trace of r."})
    assert (forgotten.correct, forgotten.note) == (True, "There is no trace of r.")
    kept = review(answered, Problem("q", "4"), {"spans": [], "commits": []})
    lines = [replace(answered, review=forgotten), replace(answered, index=1, review=kept)]
    (row,) = rows.rows(lines, replace(PLAN, num_problems=2, modes=("target",)))
    assert (row["num_traced"], row["num_untraced"]) == (1, 1)
