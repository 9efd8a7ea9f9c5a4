"""What a restart inside a step brings: the same text, sooner, on a draft that strays at a token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from actors.engines import scripted
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import TARGET, Answer, Bench, config, truth


class Straying(scripted.Script):
    """A draft that leaves the target's words at any token, one in thirty, and stays away to the step's end."""

    def after(self, written: str) -> str:
        rest = super().after(written)
        if self._options.role != "draft" or not rest.strip():
            return rest
        said = ""
        for number, token in enumerate(scripted.TOKEN.findall(rest)):
            if self._number(f"{len(written)} {number}", 30) == 0:
                return f"{said} or else {self._words(len(written), 'elsewhere')}\n\n"
            said += token
        return rest


@pytest.fixture(autouse=True)
def _straying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted, "Script", Straying)


def ask(seed: int, **speculation: Any) -> tuple[Answer, Bench]:
    target = replace(TARGET, num_steps=20, words=12, token_s=0.14, seed=seed)
    draft = replace(target, role="draft", token_s=0.03)
    bench = Bench(target, draft, config(**speculation))
    answer = run_virtually(bench.ask(mode="lookahead", verifier="exact"))
    assert answer.text == truth(target)
    return answer, bench


def test_a_restart_inside_the_step_saves_time_and_work() -> None:
    inside = [ask(seed, progress_s=0.2) for seed in range(3)]
    at_the_end = [ask(seed, progress_s=0.2, restart_in_step=False) for seed in range(3)]
    assert sum(a.elapsed_s for a, _ in inside) < 0.92 * sum(a.elapsed_s for a, _ in at_the_end)
    for writer in ("draft_engine", "target_engine"):
        tokens = [[getattr(bench, writer).num_tokens for _, bench in each] for each in (inside, at_the_end)]
        assert sum(tokens[0]) < sum(tokens[1]), writer
    assert inside[0][0].finished.summary.num_recovered_steps > 0


def test_the_trace_shares_a_call_among_the_steps_that_it_wrote() -> None:
    answer, _ = ask(1, progress_s=0.2)
    spans = [s for s in answer.spans("target") if s["outcome"] != "cancelled"]
    written = {s["step"]: s["text"] for s in spans}
    commits = answer.trace["commits"]
    assert isinstance(commits, list)
    recovered = [c for c in commits if c["origin"] == "recovered"]
    assert recovered
    assert [written[c["step"]] for c in recovered] == [c["text"] for c in recovered]
