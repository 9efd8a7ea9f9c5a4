"""Plans in which the draft's words are hints, or the draft model proposes inside the target's engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deployments.config import validate_config
from deployments.planning import trial
from deployments.planning.profile import profile
from deployments.planning.search import Layout, candidates, predict
from deployments.simulation.cost_file import PassTimes, read_costs, write_costs
from deployments.simulation.hardware import MODELS
from tests.unit.planning.test_plan import SMALL, measured_file

GUIDED = Layout(1, 2, 1, 1, 4, 16, is_guided=True)
DRAFTED = Layout(2, 2, 0, 1, 0, 5, by_draft=True)


@pytest.mark.parametrize("alpha", [0.75, 0.9])
def test_a_guided_prediction_is_near_what_sessions_reach(alpha: float) -> None:
    asked = replace(SMALL, draft_token_alpha=alpha)
    found = predict(asked, GUIDED, 2)
    assert found is not None
    reached = trial.simulated(asked, found)
    assert reached.user_tokens_per_s == pytest.approx(found.user_tokens_per_s, rel=0.08)
    assert reached.results_per_s > reached.user_tokens_per_s  # a coordinator hears each pass, and the draft's words too
    windows = predict(asked, Layout(1, 2, 1, 1, 4, 0), 2)
    assert windows is not None
    assert trial.simulated(asked, windows).results_per_s < 0.2 * reached.results_per_s


def test_a_draft_model_inside_the_target_s_engine_costs_its_passes_and_its_memory() -> None:
    plain, drafted = (SMALL.cost("target", 2, 5, by_draft=by_draft) for by_draft in (False, True))
    assert plain is not None
    assert drafted is not None
    gains = SMALL.tokens_per_pass(5), SMALL.tokens_per_pass(5, by_draft=True)
    for batch in (1, 64):
        per_pass = [cost.seconds(batch) * gain for cost, gain in zip((plain, drafted), gains, strict=True)]
        assert 1.2 * per_pass[0] < per_pass[1] < 2.0 * per_pass[0]
    assert drafted.seconds(1) < plain.seconds(1)
    assert SMALL.max_users(2, by_draft=True) < SMALL.max_users(2)
    found = predict(SMALL, DRAFTED, 2)
    assert found is not None
    looked_up = predict(SMALL, replace(DRAFTED, by_draft=False), 2)
    assert looked_up is not None
    assert found.user_tokens_per_s > looked_up.user_tokens_per_s
    assert predict(SMALL, replace(DRAFTED, num_targets=1, target_gpus=8), 2) is None  # twelve heads
    assert trial.simulated(SMALL, found).results_per_s == pytest.approx(
        2 * trial.simulated(SMALL, found).user_tokens_per_s / gains[1]
    )


def test_the_profile_of_a_guided_plan_gives_the_target_s_text() -> None:
    config = validate_config(profile(SMALL, GUIDED), "plan")
    assert config.speculation.fidelity == "exact"
    assert config.target.engine.options["speculative_config"] == {"method": "hints", "num_speculative_tokens": 16}
    assert config.draft is not None
    assert config.draft.engine.options["speculative_config"]["method"] == "ngram"


@pytest.mark.parametrize(
    ("target", "draft", "has_other_rows"),
    [("r1-distill-32b", "r1-distill-1.5b", True), ("qwen3-32b", "qwen3-0.6b", False)],
)
def test_the_profile_of_a_draft_model_inside_is_one_that_vllm_takes(
    target: str, draft: str, has_other_rows: bool
) -> None:
    """vLLM refuses models whose output matrices have other numbers of rows, unless it is told."""
    asked = replace(SMALL, target=target, draft=draft)
    config = validate_config(profile(asked, DRAFTED), "plan")
    level = config.target.engine.options["speculative_config"]
    assert level["method"] == "draft_model"
    assert (level["model"], level["num_speculative_tokens"]) == (MODELS[draft].hub, 5)
    assert ("use_heterogeneous_vocab" in level) == has_other_rows
    assert config.draft is None
    assert config.speculation.mode == "target"


def test_measured_engines_are_planned_guided_where_the_target_takes_hints(tmp_path: Path) -> None:
    file = measured_file(tmp_path / "costs.yaml")
    asked = replace(SMALL, gpu=None, costs=file, num_gpus=2, users=1, output_tokens=500)
    assert {found.layout.way for found in candidates(asked)} == {"target", "windows"}
    costs = read_costs(file)
    passes = [*costs.target.passes, PassTimes(proposed=4, pass_s=[(1, 0.31)])]
    options = {"max_model_len": 999, "speculative_config": {"method": "hints", "num_speculative_tokens": 6}}
    target = costs.target.model_copy(update={"writer": {"engine": {"options": options}}, "passes": passes})
    other = tmp_path / "hints.yaml"
    write_costs(other, costs.model_copy(update={"target": target}))
    hinted = replace(asked, costs=other, draft_token_alpha=0.95)
    found = {one.layout.way: one.layout for one in reversed(candidates(hinted))}
    assert found["guided"].num_proposed == 6
    kept = profile(hinted, found["guided"])["target"]["engine"]["options"]
    assert kept == options
    inside = profile(hinted, Layout(2, 1, 0, 1, 0, 4, by_draft=True))["target"]["engine"]["options"]
    assert inside["speculative_config"] == {
        "method": "draft_model",
        "model": "package:little",
        "num_speculative_tokens": 4,
    }
    assert inside["max_model_len"] == 999
