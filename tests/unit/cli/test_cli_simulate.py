"""``lookahead simulate`` as a person runs it."""

from __future__ import annotations

import json

from deployments.simulation import published
from deployments.simulation.cost_file import RoleCosts, write_costs
from tests.unit.simulation.test_validation import config, costs, record


def test_a_shipped_scenario_gives_a_table_json_and_a_page(lookahead, tmp_path) -> None:
    page = tmp_path / "page.html"
    done = lookahead("simulate", "failures", "--duration", "40", "--json", "--html", str(page))
    assert done.code == 0
    modes = [outcome["mode"] for outcome in done.json["outcomes"]]
    assert modes == ["target", "lookahead"]
    assert done.json["simulated_steps_per_cpu_minute"] > 0
    assert "Estimated, not measured" in " ".join(done.json["conclusion"])
    text = page.read_text()
    assert "<svg" in text
    assert "http" not in text


def test_what_admission_and_autoscaling_did_is_said(lookahead, tmp_path) -> None:
    page = tmp_path / "page.html"
    narrow = ("--set", "speculation.modes=[target]")
    done = lookahead("simulate", "overload", "--duration", "100", "--json", *narrow)
    assert "refused (" in " ".join(done.json["conclusion"])
    done = lookahead("simulate", "tide", "--duration", "300", "--json", "--html", str(page), *narrow)
    assert "GPUs on average" in " ".join(done.json["conclusion"])
    assert "Replicas that were wanted: target" in page.read_text()


def test_the_published_table_has_a_row_a_set(lookahead, monkeypatch) -> None:
    monkeypatch.setattr(published, "PUBLISHED", published.PUBLISHED[:2])
    done = lookahead("simulate", "--published", "--steps", "100", "--overhead", "0.4", "--json")
    assert done.code == 0
    assert [row["published"]["name"] for row in done.json["rows"]] == ["AIME24", "AMC23"]
    assert done.json["overhead_is_fitted"] is False


def test_what_cannot_be_simulated_is_one_sentence(lookahead) -> None:
    assert lookahead("simulate").code == 1
    missing = lookahead("simulate", "no-such-thing")
    assert missing.code == 1
    assert "neither a scenario that is shipped" in missing.err


def test_the_command_says_what_is_predicted_and_what_is_not(lookahead, tmp_path) -> None:
    record(tmp_path)
    write_costs(tmp_path / "costs.yaml", costs())
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(config().model_dump(mode="json")))
    given = ("--validate", str(tmp_path), "--config", str(path))
    done = lookahead("simulate", *given, "--costs", str(tmp_path / "costs.yaml"), "--json")
    assert done.code == 0, done.err
    assert [row["holds"] for row in done.json["rows"]] == [True] * 5
    assert "not predicted: vllm" in done.json["conclusion"][-1]
    assert "needs --costs" in lookahead("simulate", *given).err
    write_costs(tmp_path / "costs.yaml", costs().model_copy(update={"draft": slow_in_one_round(costs().draft)}))
    done = lookahead("simulate", *given, "--costs", str(tmp_path / "costs.yaml"), "--json")
    assert "the same pass differed by 40% between rounds" in done.json["conclusion"][-1]


def slow_in_one_round(role: RoleCosts) -> RoleCosts:
    return role.model_copy(update={"spread": 0.4})
