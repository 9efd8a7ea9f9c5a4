"""Plans: the formulas' fixed point, the choice, the profile, and the map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.errors import ConfigError
from deployments.app import build
from deployments.calibration import engine_run
from deployments.config import load_profile, parse_config, validate_config
from deployments.coordinator.theory import window_speed_up
from deployments.planning import answer as answering
from deployments.planning import trial
from deployments.planning.answer import plan, why
from deployments.planning.map import Terms, break_even, draw
from deployments.planning.profile import profile, profile_text
from deployments.planning.question import Objective, Question
from deployments.planning.search import Layout, Prediction, best_of_each, candidates, predict, rank, serve
from deployments.sections import WriterConfig
from deployments.simulation.cost_file import CostFile, PassTimes, RoleCosts, write_costs
from deployments.simulation.hardware import GPUS, MODELS, estimated_cost

SMALL = Question("r1-distill-32b", "r1-distill-1.5b", "h100", 4, users=2, output_tokens=1000)


def test_a_prediction_is_the_formula_at_the_batches_it_leads_to() -> None:
    layout = Layout(1, 2, 1, 1, 4, 0)
    found = predict(SMALL, layout, 1)
    assert found is not None
    assert found.speed_up == pytest.approx(window_speed_up(0.6, found.c, 4, found.verdict), rel=0.1)
    assert found.target_batch > 1.5
    crowded = predict(SMALL, layout, 20)
    assert crowded is not None
    assert crowded.user_tokens_per_s < found.user_tokens_per_s
    assert crowded.tokens_per_s > found.tokens_per_s


def test_what_does_not_fit_is_no_candidate() -> None:
    assert predict(SMALL, Layout(2, 2, 0, 1, 0, 0), 2) is not None
    assert predict(replace(SMALL, gpu="l40s"), Layout(4, 1, 0, 1, 0, 0), 2) is None
    with pytest.raises(ConfigError, match="No layout of 1 GPUs"):
        plan(replace(SMALL, gpu="l40s", num_gpus=1))


def test_a_rate_keeps_so_many_users_as_it_needs() -> None:
    asked = replace(SMALL, users=None, rate=0.5)
    found = serve(asked, Layout(2, 2, 0, 1, 0, 0))
    assert found is not None
    assert found.tokens_per_s == pytest.approx(500, rel=0.01)
    quiet = serve(replace(SMALL, users=None, rate=1e-3), Layout(2, 2, 0, 1, 0, 0))
    assert quiet is not None
    assert quiet.users < 0.1
    assert serve(replace(SMALL, users=None, rate=1e6), Layout(2, 2, 0, 1, 0, 0)) is None


def test_a_cheap_agreeing_draft_is_chosen_and_a_useless_one_is_not() -> None:
    ahead, alone = best_of_each(candidates(replace(SMALL, alpha=0.95)))
    assert ahead is not None
    assert alone is not None
    assert ahead.user_tokens_per_s > alone.user_tokens_per_s
    ahead, alone = best_of_each(candidates(replace(SMALL, alpha=0.05)))
    assert ahead is not None
    assert alone is not None
    assert ahead.user_tokens_per_s < alone.user_tokens_per_s


def test_the_cheapest_uses_no_more_gpus_than_it_needs() -> None:
    cheap = replace(SMALL, num_gpus=6, objective=Objective.COST, min_speed=30.0)
    found = candidates(cheap)[0]
    assert found.layout.num_gpus < 6
    assert found.user_tokens_per_s >= 30.0


def test_a_wish_that_no_layout_meets_is_refused_with_the_fastest() -> None:
    asked = replace(SMALL, objective=Objective.COST)
    with pytest.raises(ConfigError, match=r"gives each user 1000 tokens a second.*the fastest gives \d") as speed:
        plan(replace(asked, min_speed=1000.0))
    assert speed.value.param == "min_speed"
    with pytest.raises(ConfigError, match=r"answers within 2 s.*the fastest takes \d+\.\d s") as latency:
        plan(replace(asked, max_latency=2.0))
    assert latency.value.param == "max_latency"


def test_a_wish_that_the_best_by_formula_miss_is_met_by_a_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = replace(SMALL, num_gpus=6, objective=Objective.COST, min_speed=60.0)
    tried: list[Layout] = []

    def simulated(question: Question, prediction: Prediction) -> trial.Simulated:
        tried.append(prediction.layout)
        slow = len(tried) <= 8 or prediction.user_tokens_per_s < 60.0
        return trial.Simulated(40.0 if slow else prediction.user_tokens_per_s)

    monkeypatch.setattr(answering, "simulated", simulated)
    found = plan(asked)
    assert len(tried) == len(set(tried)) > 8
    assert found.chosen.predicted.layout == tried[-1]
    assert found.chosen.simulated_user_tokens_per_s >= 60.0
    assert all(one.simulated_user_tokens_per_s < 60.0 for one in found.rivals)


@pytest.mark.parametrize("alpha", [0.05, 0.95])
def test_a_plan_says_why_and_its_profile_can_be_served(alpha: float) -> None:
    answer = plan(replace(SMALL, alpha=alpha, output_tokens=500, num_gpus=3))
    text = profile_text(answer)
    config = parse_config(text, "plan")
    build({"settings": yaml.safe_load(text)})  # as `serve deploy` calls it
    layout = answer.chosen.predicted.layout
    assert config.target.placement.num_replicas == layout.num_targets
    assert (config.speculation.mode == "lookahead") == (layout.depth > 0) == (alpha > 0.5)
    assert (config.draft is not None) == (layout.depth > 0)
    judged = config.speculation.fidelity != "exact"
    assert ("# accuracy on your questions first (lookahead bench)" in text) == judged == (layout.depth > 0)
    if layout.target_gpus > 1:
        assert len(config.target.placement.placement_group_bundles or []) == layout.target_gpus
    assert len(why(answer)) == 3
    assert answer.as_dict()["chosen"]["simulated"]["user_tokens_per_s"] > 0
    assert {"target"} <= {one.place for one in answer.next_gpus}
    assert answer.frontier[0].users == 1


@pytest.mark.parametrize("num_proposed", [0, 8])
def test_the_profile_s_engines_have_the_batches_that_were_planned_with(num_proposed: int) -> None:
    config = validate_config(profile(SMALL, Layout(1, 2, 2, 1, 4, num_proposed)), "plan")
    assert config.draft is not None
    for role, gpus, options in (
        ("target", 2, config.target.engine.options),
        ("draft", 1, config.draft.engine.options),
    ):
        cost = SMALL.cost(role, gpus, num_proposed)
        assert cost is not None
        assert options["max_num_seqs"] == cost.max_num_seqs
        assert options["max_num_batched_tokens"] >= cost.max_num_seqs * (1 + num_proposed)


def measured_file(path: Path, settings: dict[str, Any] | None = None, **more: float) -> Path:
    """Engines that were timed, both with room for 999 tokens."""

    def role(model: str, seconds: float) -> RoleCosts:
        writer = {"model": model, "engine": {"options": {"max_model_len": 999}}, "placement": {"cpu_cores": "1"}}
        passes = [PassTimes(proposed=0, pass_s=[(1, seconds), (4, 2.0 * seconds)])]
        return RoleCosts(model=model, passes=passes, writer=writer, **more)  # type: ignore[arg-type]

    target, draft = role("package:big", 0.3), role("package:little", 0.03)
    write_costs(path, CostFile(source="test", target=target, draft=draft, settings=settings or {}))
    return path


def test_measured_engines_are_planned_with(tmp_path: Path) -> None:
    file = measured_file(tmp_path / "costs.yaml")
    answer = plan(replace(SMALL, gpu=None, costs=file, num_gpus=2, users=1, alpha=0.9, output_tokens=500))
    config = parse_config(profile_text(answer), "plan")
    assert config.target.model == "package:big"
    assert config.target.engine.options == {"max_model_len": 999}
    assert config.target.placement.cpu_cores == "1"
    assert config.draft is not None
    assert answer.chosen.predicted.layout.depth
    assert "The cost file says nothing of reasoning" in profile_text(answer)  # an older one


def test_windows_are_foretold_as_slow_as_engines_are_beside_each_other(tmp_path: Path) -> None:
    """The target alone has the machine to itself; the server is there for both."""
    paces = {}
    for name, more in (("quiet", {}), ("beside", {"disturbance": 0.5}), ("served", {"stream_s": 0.3})):
        asked = replace(SMALL, gpu=None, costs=measured_file(tmp_path / name, **more), users=1, output_tokens=500)
        ahead, alone = predict(asked, Layout(1, 1, 1, 1, 4, 0), 1), predict(asked, Layout(1, 1, 0, 1, 0, 0), 1)
        assert ahead is not None
        assert alone is not None
        simulated = trial.simulated(asked, ahead).user_tokens_per_s
        paces[name] = ahead.user_tokens_per_s, alone.user_tokens_per_s, simulated
        assert ahead.speed_up == pytest.approx(ahead.user_tokens_per_s / alone.user_tokens_per_s)
    for place, factor in ((0, 1.5), (1, 1.0), (2, 1.5)):
        assert paces["beside"][place] == pytest.approx(paces["quiet"][place] / factor, rel=0.02)
    assert paces["served"][1] == pytest.approx(paces["quiet"][1] / 2, rel=0.02)


def test_an_answer_that_has_no_room_in_what_was_measured_is_refused(tmp_path: Path) -> None:
    asked = replace(SMALL, gpu=None, costs=measured_file(tmp_path / "costs.yaml"), users=1, output_tokens=800)
    with pytest.raises(ConfigError, match=r"room for 999 tokens \(max_model_len\).*takes 1000") as refused:
        plan(asked)
    assert refused.value.param == "output_tokens"


def test_a_measured_profile_says_what_it_does_otherwise_than_was_planned(tmp_path: Path) -> None:
    """It is at its own fidelity, and its replicas are bound to the cores of the one that was measured."""
    settings = load_profile("local").model_dump(mode="json", include={"speculation", "verifier"})
    file = measured_file(tmp_path / "costs.yaml", settings)
    asked = replace(SMALL, gpu=None, costs=file, num_gpus=2, users=1, alpha=0.9, output_tokens=500)

    def text(layout: Layout) -> str:
        found = predict(asked, layout, 1)
        assert found is not None
        chosen = answering.Candidate(found, found.user_tokens_per_s, 1)
        return profile_text(answering.Plan(asked, chosen, (), (), None, ()))

    guided, single, several = "This profile is at fidelity exact", Layout(1, 1, 1, 1, 4, 0), Layout(2, 1, 3, 1, 4, 0)
    assert guided in text(single)
    assert "is bound to the cores" not in text(single)
    for role in ("target", "draft"):
        assert f"# Each {role} is bound to the cores 1 of its host: give every replica a host" in text(several)
    alone = text(Layout(2, 1, 0, 1, 0, 0))
    assert guided not in alone
    assert alone.count("is bound to the cores") == 1


@pytest.mark.parametrize(
    ("target", "marks", "scope", "prefix"),
    [
        ("r1-distill-32b", ("<think>", "</think>"), "think", "</think>\n\n"),
        ("qwen3-32b", ("<think>", "</think>"), "think", "<think>\n\n</think>\n\n"),
        ("qwen2.5-32b", (None, None), "all", ""),
    ],
)
def test_the_profile_s_judge_has_a_label_to_give(
    target: str, marks: tuple[str | None, str | None], scope: str, prefix: str
) -> None:
    question = replace(SMALL, target=target)
    config = validate_config(profile(question, Layout(1, 2, 2, 1, 4, 0)), "plan")
    assert (config.reasoning.open, config.reasoning.close) == marks
    assert config.reasoning.starts_open
    assert config.speculation.scope == scope
    judges = [check for checks in config.verifier.verifiers.values() for check in checks if check.kind == "judge"]
    assert [judge.answer_prefix for judge in judges] == [prefix, prefix]
    alone = validate_config(profile(question, Layout(2, 2, 0, 1, 0, 0)), "plan")
    assert (alone.reasoning.open, alone.reasoning.close) == marks
    assert alone.speculation.mode == "target"


async def test_a_plan_with_measured_engines_keeps_their_texts_and_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def timed(writer: WriterConfig, tell: object) -> RoleCosts:
        passes = [PassTimes(proposed=0, pass_s=[(1, 0.1)])]
        return RoleCosts(model=writer.model, passes=passes, writer=writer.model_dump(mode="json"))

    monkeypatch.setattr(engine_run, "_time", timed)
    measured = load_profile("gpu-cluster")
    costs = await engine_run.time_engines(measured, lambda *_: lambda: None)
    question = replace(SMALL, gpu=None, costs=tmp_path / "costs.yaml", num_gpus=2)
    assert question.costs is not None
    write_costs(question.costs, costs)
    config = validate_config(profile(question, Layout(1, 1, 1, 1, 6, 0)), "plan")
    assert (config.reasoning, config.verifier) == (measured.reasoning, measured.verifier)
    assert config.speculation == measured.speculation.model_copy(update={"max_lookahead": 6})
    alone = validate_config(profile(question, Layout(2, 1, 0, 1, 0, 0)), "plan")
    assert alone.reasoning == measured.reasoning


def test_questions_that_cannot_be_answered_name_the_option() -> None:
    for wrong, words in (
        ({"users": None}, "--users or --rate"),
        ({"gpu": "x"}, "no GPU"),
        ({"gpu": None}, "--gpu or --costs"),
        ({"target": "x"}, "no model"),
    ):
        with pytest.raises(ConfigError, match=words):
            replace(SMALL, **wrong)


def test_the_map_is_where_both_sides_are_as_fast() -> None:
    terms = Terms(share=1.0)
    at = break_even(terms, 2.0)
    assert (1.0 + at) * terms.alone_gain == pytest.approx(2.0 * terms.inner_gain)
    cells = draw(terms)
    by_place = {(cell.alpha, cell.c): cell.break_even for cell in cells}
    assert by_place[0.9, 0.05] > by_place[0.9, 0.4]
    assert by_place[0.9, 0.05] > by_place[0.3, 0.05]
    assert draw(Terms(share=0.5))[0].break_even == pytest.approx(2.0 * cells[0].break_even)
    assert all(cell.simulated is None for cell in cells)


def test_the_map_s_simulated_places_are_near_the_formula() -> None:
    cells = [cell for cell in draw(Terms(depth=3), 300) if cell.simulated is not None]
    assert len(cells) == 6
    for cell in cells:
        assert cell.simulated == pytest.approx(cell.break_even, abs=0.5)


def test_gpus_that_cannot_share_the_attention_heads_are_no_engine() -> None:
    """Seven billion parameters have 28 heads: vLLM refuses eight GPUs, and so twice the four."""
    asked = replace(SMALL, target="r1-distill-7b", num_gpus=8, users=1)
    assert predict(asked, Layout(1, 4, 0, 1, 0, 0), 1) is not None
    assert predict(asked, Layout(1, 8, 0, 1, 0, 0), 1) is None
    assert {found.layout.target_gpus for found in candidates(asked)} == {1, 2, 4}
    chosen = predict(asked, Layout(1, 4, 0, 1, 0, 0), 1)
    assert chosen is not None
    candidate = answering.Candidate(chosen, chosen.user_tokens_per_s, chosen.users)
    assert {one.place for one in answering.next_gpus(asked, candidate)} == {"target"}
    with pytest.raises(ValueError, match="28 attention heads"):
        estimated_cost(MODELS["r1-distill-7b"], GPUS["h100"], 8)


def test_a_long_answer_has_room_in_the_planned_engines() -> None:
    long = replace(SMALL, output_tokens=16_000)
    config = validate_config(profile(long, Layout(1, 2, 1, 1, 4, 0)), "plan")
    assert config.draft is not None
    for role in (config.target, config.draft):
        assert role.engine.options["max_model_len"] >= long.prompt_tokens + long.output_tokens
    assert long.max_users(2) == pytest.approx(SMALL.max_users(2) / 2, abs=1)
    assert profile(SMALL, Layout(1, 2, 0, 1, 0, 0))["target"]["engine"]["options"]["max_model_len"] == 8192
    with pytest.raises(ConfigError, match=r"qwen2.5-0.5b has room for 32768 tokens.*40200") as refused:
        replace(SMALL, draft="qwen2.5-0.5b", output_tokens=40_000)
    assert refused.value.param == "output_tokens"


def test_the_words_say_with_how_many_gpus_each_kind_is_as_fast() -> None:
    answer = plan(replace(SMALL, num_gpus=6, objective=Objective.COST, min_speed=30.0, output_tokens=500))
    chosen, *others = (one.predicted.layout for one in (answer.chosen, *answer.rivals))
    other = next(one for one in others if bool(one.depth) != bool(chosen.depth))
    assert why(answer)[1].startswith(f"With {other.num_gpus} GPUs the best of ")
    assert f" with {chosen.num_gpus}, as simulated" in why(answer)[1]


def test_a_rate_keeps_as_many_users_as_the_simulated_speed_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    def slower(question: Question, prediction: Prediction) -> trial.Simulated:
        found = predict(question, prediction.layout, prediction.users)
        assert found is not None
        return trial.Simulated(0.8 * found.user_tokens_per_s)

    monkeypatch.setattr(answering, "simulated", slower)
    answer = plan(replace(SMALL, users=None, rate=0.5))
    assert answer.chosen.users > 1.2 * answer.chosen.predicted.users
    for one in (answer.chosen, *answer.rivals):
        assert one.as_simulated.tokens_per_s == pytest.approx(500, rel=0.011)


def test_every_layout_that_bears_a_rate_as_simulated_is_found_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Near saturation more users are so much slower each that Little's law alone needs dozens of simulations."""
    asked = Question("qwen2.5-32b", "qwen2.5-0.5b", "h100", 8, rate=1.0)
    num_simulations = 0

    def slower(question: Question, prediction: Prediction) -> trial.Simulated:
        nonlocal num_simulations
        num_simulations += 1
        users = trial.num_simulated(prediction.layout, prediction.users)
        found = predict(question, prediction.layout, float(users))
        return trial.Simulated(0.85 * found.user_tokens_per_s if found is not None else 1e-6)

    def bears(prediction: Prediction) -> bool:
        for _ in range(60):
            pace = slower(asked, prediction).user_tokens_per_s
            if abs(prediction.users * pace / asked.asked_tokens_per_s - 1.0) <= 0.01:
                return True
            prediction = replace(prediction, users=asked.asked_tokens_per_s / pace)
            if predict(asked, prediction.layout, prediction.users) is None:
                return False
        return False

    found = candidates(asked)
    borne = [one.layout for one in found if bears(one)]
    assert 0.5 * len(found) < len(borne)
    num_simulations = 0
    monkeypatch.setattr(answering, "simulated", slower)
    tried = [answering.try_out(asked, one) for one in found]
    assert set(borne) <= {one.predicted.layout for one in tried if answering._bears(asked, one)}
    assert num_simulations < 4 * len(found)


def test_a_layout_that_does_not_reach_the_rate_as_simulated_is_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many users are in the system, they get no more than so much together."""

    def saturated(question: Question, prediction: Prediction) -> trial.Simulated:
        most = 600.0 if prediction.layout.depth else 400.0
        return trial.Simulated(min(prediction.user_tokens_per_s, most / prediction.users))

    monkeypatch.setattr(answering, "simulated", saturated)
    answer = plan(replace(SMALL, users=None, rate=0.5))
    assert all(one.predicted.layout.depth for one in (answer.chosen, *answer.rivals))
    with pytest.raises(ConfigError, match=r"bears 0\.7 requests a second") as refused:
        plan(replace(SMALL, users=None, rate=0.7))
    assert refused.value.param == "rate"


def test_of_layouts_that_bear_a_rate_at_the_same_price_the_one_that_is_faster_for_a_user_is_cheapest() -> None:
    asked = replace(SMALL, users=None, rate=0.5, objective=Objective.COST)
    found = serve(asked, Layout(1, 2, 0, 1, 0, 0))
    assert found is not None
    faster = replace(found, user_tokens_per_s=2.0 * found.user_tokens_per_s, tokens_per_s=0.999 * found.tokens_per_s)
    assert rank(asked, faster) < rank(asked, found)


def test_a_draft_that_fits_nowhere_leaves_the_target_alone() -> None:
    answer = plan(replace(SMALL, draft="r1-distill-32b", gpu="l40s"))
    assert not answer.chosen.predicted.layout.depth
    assert answer.chosen.simulated_user_tokens_per_s > 0.0
