"""``lookahead simulate`` as a person runs it."""

from __future__ import annotations

import json

from deployments.cli.validate import conclusion, paired_cells
from deployments.simulation import published
from deployments.simulation.cost_file import RoleCosts, write_costs
from deployments.simulation.validation import ValidationRow
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
    assert [row["stands_out"] for row in done.json["rows"]] == [None] * 5, "one prompt says nothing of chance"
    assert "not predicted: vllm" in done.json["conclusion"][-1]
    assert "needs --costs" in lookahead("simulate", *given).err
    absent = lookahead("simulate", "--validate", f"{tmp_path}/none", "--costs", f"{tmp_path}/no.yaml", "--config", path)
    assert absent.code == 1
    assert absent.err.startswith(f"lookahead: There is no {tmp_path}/none and no {tmp_path}/no.yaml: --validate takes")
    assert absent.out == "", "no bar before it"
    (tmp_path / "empty.yaml").touch()
    broken = lookahead("simulate", *given, "--costs", f"{tmp_path}/empty.yaml")
    assert "is no cost file" in broken.err
    assert broken.out == "", "no bar before it"
    write_costs(tmp_path / "costs.yaml", costs().model_copy(update={"draft": slow_in_one_round(costs().draft)}))
    done = lookahead("simulate", *given, "--costs", str(tmp_path / "costs.yaml"), "--json")
    assert "the same pass differed by 40% between rounds" in done.json["conclusion"][-1]
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["plan"]["server"] = "another #0123456789ab"
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    done = lookahead("simulate", *given, "--costs", str(tmp_path / "costs.yaml"), "--json")
    assert done.code == 0, "a warning"
    assert "The run is of another #0123456789ab, " in done.json["conclusion"][-2]


def test_both_verdicts_stand_in_the_table_and_in_words() -> None:
    figures = (20.0, 20.0, 5.0, 6.25, 1.5, 1.2)
    out = ValidationRow("windows", 8, *figures, 1.25, (1.15, 1.3), 0.8, (0.7, 0.95))
    unsure = ValidationRow("exact", 8, *figures, 1.25, (0.95, 1.4), 0.8, (0.7, 1.05))
    few = ValidationRow("specreason", 2, *figures, 1.25, None, 0.8, None)
    assert paired_cells(out) == ["windows", "+25%", "+15% to +30%", "-20%", "-30% to -5%", "no", "yes"]
    assert [paired_cells(row)[-2:] for row in (unsure, few)] == [["no", "no"], ["no", "-"]]
    assert paired_cells(few)[2] == "-"
    said = conclusion([out, unsure, few], "target:none", [], anchored=True)
    assert said[0].startswith("0 of 3 modes are within 10 %")
    assert said[2] == "1 of 2 are off by more than 10 % beyond chance, paired by prompt: windows."
    assert "fewer than three prompts" in said[3]


def slow_in_one_round(role: RoleCosts) -> RoleCosts:
    return role.model_copy(update={"spread": 0.4})
