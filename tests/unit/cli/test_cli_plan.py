"""``lookahead plan`` as a person runs it."""

from __future__ import annotations

from deployments.config import load_config


def test_a_plan_writes_a_profile_and_a_page(lookahead, tmp_path) -> None:
    profile, page = tmp_path / "planned.yaml", tmp_path / "plan.html"
    arguments = ["--gpus", "3", "--gpu", "h200", "--users", "2", "--output-tokens", "400", "--alpha", "0.9"]
    done = lookahead("plan", *arguments, "--write-profile", str(profile), "--html", str(page), "--json")
    assert done.code == 0
    assert done.json["estimated"] is True
    assert done.json["wrote"] == str(profile)
    assert load_config(profile).served_model_name == "r1-distill-32b"
    assert "<polyline" in page.read_text()
    assert "estimated" in done.err
    shown = [done.json["chosen"]["simulated"], *(rival["simulated"] for rival in done.json["rivals"])]
    assert {one["way"] for one in shown} == {"target", "windows", "guided"}
    assert {one["token_level"] for one in shown if one["way"] == "guided"} == {"hints"}
    assert " guided " in done.err
    assert ("--draft-token-alpha" in done.err) == (shown[0]["token_level"] == "draft_model")


def test_what_cannot_be_planned_is_one_sentence(lookahead) -> None:
    assert "no GPU 'x'" in lookahead("plan", "--gpu", "x").err
    assert lookahead("plan", "--objective", "joy").code == 1
    assert lookahead("plan", "--users", "1", "--rate", "1").code == 1


def test_a_wish_that_is_not_met_is_no_plan(lookahead) -> None:
    done = lookahead("plan", "--gpus", "4", "--gpu", "h100", "--users", "2", "--min-speed", "1000")
    assert done.code == 1
    assert "No layout of 4 GPUs gives each user 1000 tokens a second" in " ".join(done.err.split())
