"""A layout on the simulated clock, and what of it its profile serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deployments.config import Config, parse_config, validate_config
from deployments.gateway.front_queue import bounds_of
from deployments.planning import trial
from deployments.planning.answer import Candidate, Plan, beyond_timed
from deployments.planning.profile import profile, profile_text
from deployments.planning.search import Layout, predict
from tests.unit.planning.test_plan import SMALL, measured_file


@pytest.mark.parametrize(
    ("layout", "users", "parts"),
    [
        (Layout(7, 1, 1, 1, 4, 0), 200, 1),
        (Layout(8, 1, 4, 1, 4, 0), 200, 4),
        (Layout(8, 1, 4, 1, 4, 0), 50, 1),
        (Layout(7, 1, 7, 1, 4, 0), 101, 1),  # a seventh of them are no whole users
        (Layout(9, 1, 3, 1, 4, 0), 900, 3),
        (Layout(16, 1, 0, 1, 0, 0), 256, 4),
    ],
)
def test_a_part_of_the_cluster_has_its_share_of_every_role_and_of_the_users(
    layout: Layout, users: float, parts: int
) -> None:
    assert trial.equal_parts(layout, users) == parts


def test_users_of_long_texts_are_simulated_all_over_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes take longer the more there is before them: a text's first steps say too little of it."""
    long = replace(SMALL, output_tokens=25_000)
    for layout, users in ((Layout(1, 2, 1, 1, 4, 0), 8), (Layout(2, 2, 0, 1, 0, 0), 3)):
        found = predict(long, layout, users)
        assert found is not None
        monkeypatch.undo()
        part = trial.simulated(long, found).user_tokens_per_s
        monkeypatch.setattr(trial, "STEPS_PER_USER", 625)  # of which a whole text is measured
        assert part == pytest.approx(trial.simulated(long, found).user_tokens_per_s, rel=0.05)


@pytest.mark.parametrize(
    ("num_users", "num_steps"), [(1, 500), (2, 160), (7, 160), (64, 100), (3, 60), (2, 20), (1, 1)]
)
def test_users_begin_where_their_text_is_passed_evenly(num_users: int, num_steps: int) -> None:
    most = 60
    begun = trial.places(num_users, num_steps, most)
    assert all(0 <= place < num_steps for place in begun)
    measured = range(int(trial.FIRST_SHARE * most), most)
    passed = [(place + step) % num_steps for place in begun for step in measured]
    assert sum(passed) / len(passed) + 0.5 == pytest.approx(num_steps / 2, abs=0.02 * num_steps + 0.5)


def test_a_plan_simulates_the_windows_that_its_profile_serves(tmp_path: Path) -> None:
    def pace(name: str, **speculation: int) -> float:
        file = measured_file(tmp_path / name, {"speculation": speculation})
        asked = replace(SMALL, gpu=None, costs=file, users=1, alpha=0.9, output_tokens=500)
        found = predict(asked, Layout(1, 1, 1, 1, 4, 0), 1)
        assert found is not None
        return trial.simulated(asked, found).user_tokens_per_s

    assert pace("one", max_target_steps=1) != pace("all") == pace("many", max_target_steps=99)


def test_seven_targets_beside_one_draft_are_simulated_with_all_their_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "STEPS_PER_USER", 4)
    small = replace(SMALL, target="r1-distill-7b")
    found = predict(small, Layout(7, 1, 1, 1, 4, 0), 200)
    assert found is not None
    speed = trial.simulated(small, found)
    monkeypatch.setattr(trial, "MOST_USERS", 10**6)
    assert speed == trial.simulated(small, found)


@pytest.mark.parametrize("layout", [Layout(24, 2, 16, 1, 4, 0), Layout(32, 2, 0, 1, 0, 0)])
def test_a_large_plan_has_coordinators_that_hear_it_and_gateways_that_let_its_users_in(layout: Layout) -> None:
    """docs/scaling.md: one coordinator is full at about 46 GPUs; one gateway lets some 680 users in."""

    def served(users: float) -> Config:
        found = predict(asked, layout, users)
        assert found is not None
        ran = trial.simulated(asked, found)
        chosen = Candidate(found, ran.user_tokens_per_s, users, ran.results_per_s)
        return parse_config(profile_text(Plan(asked, chosen, (), (), None, ())), "plan")

    asked = replace(SMALL, num_gpus=64, users=192.0)
    config = served(192.0)
    assert config.coordinator.placement.num_replicas >= 2
    assert config.gateway.placement.num_replicas == 1
    crowd = served(700.0)
    assert crowd.gateway.placement.num_replicas * bounds_of(crowd).most_running >= 700


def test_a_target_alone_is_served_with_the_look_up_that_was_planned(tmp_path: Path) -> None:
    """An engine that hears requests looks n-grams up unless it is told not to."""
    asked = replace(SMALL, gpu=None, costs=measured_file(tmp_path / "costs.yaml"), users=1, output_tokens=500)
    for num_proposed, wished in ((0, "none"), (4, "ngram")):
        config = validate_config(profile(asked, Layout(1, 1, 0, 1, 0, num_proposed)), "plan")
        assert config.speculation.token_speculation == wished


def test_batches_that_were_not_timed_are_said(tmp_path: Path) -> None:
    """Four sequences at most were."""
    asked = replace(SMALL, gpu=None, costs=measured_file(tmp_path / "costs.yaml"), output_tokens=500)

    def said(users: int) -> list[str]:
        found = predict(asked, Layout(1, 1, 0, 1, 0, 0), users)
        assert found is not None
        chosen = Candidate(found, found.user_tokens_per_s, users)
        return beyond_timed(Plan(asked, chosen, (), (), None, ()))

    assert said(4) == []
    (sentence,) = said(9)
    assert sentence.startswith("The target would write 9 sequences at a time, and was timed with 4 at most")
