"""Scenarios from YAML to figures, and the errors of those that cannot be run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from actors.errors import ConfigError, RequestError
from deployments.simulation.cost_file import CostFile, PassTimes, RoleCosts, read_costs, write_costs
from deployments.simulation.hardware import GPUS, MODELS, estimated_cost, max_requests
from deployments.simulation.outcome import Outcome
from deployments.simulation.recorded import read_scripts
from deployments.simulation.run import run_scenario
from deployments.simulation.scenario import Scenario, load_scenario, parse_scenario, scenario_names
from deployments.simulation.scripts import Agreement
from tests.unit.simulation.test_validation import seed_trace

LEAST = "name: s\ntarget: {token_s: 0.02}\ndraft: {token_s: 0.002}\n"


def outcomes(more: str) -> dict[str, Outcome]:
    scenario = parse_scenario(LEAST + more, "test")
    return {outcome.mode: outcome for outcome in run_scenario(scenario)}


def test_every_shipped_scenario_can_be_used() -> None:
    assert {"small", "failures", "thousand-gpus"} <= set(scenario_names())
    sizes = {name: load_scenario(name).num_gpus for name in scenario_names()}
    assert sizes["thousand-gpus"] == 1000


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("tarjet: 1", "tarjet is not a setting|tarjet: is not a setting"),
        ("arrivals: {users: 2, rate: 1}", "users or rate"),
        ("failures: [{at_s: 1, back_s: 2}]", "role or node"),
        ("failures: [{role: draft, at_s: 3, back_s: 2}]", "back_s"),
        ("failures: [{role: draft, replica: 9, at_s: 1, back_s: 2}]", "no draft replica 9"),
        ("failures: [{node: 9, at_s: 1, back_s: 2}]", "no node 9"),
        ("text: {alpha: 2}", "text.alpha"),
        ("speculation: {modes: [specreason]}\nverifier: {replicas: 0}", "specreason"),
        ("- 1", "YAML"),
    ],
)
def test_a_scenario_that_cannot_be_says_why(more: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_scenario(LEAST + more, "test")


def test_where_costs_come_from_is_one_place() -> None:
    with pytest.raises(ConfigError, match="give one of"):
        parse_scenario("name: s\ntarget: {token_s: 1, costs: a}\ndraft: {token_s: 1}", "test")
    with pytest.raises(ConfigError, match="there is no gpu"):
        parse_scenario("name: s\ntarget: {model: qwen3-32b, gpu: x1}\ndraft: {token_s: 1}", "test")
    with pytest.raises(ConfigError, match="does not fit"):
        run_scenario(parse_scenario("name: s\ntarget: {model: qwen3-32b, gpu: l40s}\ndraft: {token_s: 1}", "test"))


def test_lookahead_beats_the_target_where_the_draft_is_cheap() -> None:
    found = outcomes("duration_s: 200\narrivals: {users: 2}\ntext: {num_steps: 20}")
    assert found["lookahead"].tokens_per_s > 1.4 * found["target"].tokens_per_s
    assert found["target"].user_tokens_per_s == pytest.approx(50.0, rel=0.01)
    assert found["lookahead"].accept_rate == pytest.approx(0.6, abs=0.06)


def test_equal_hardware_gives_the_drafts_gpus_to_the_target() -> None:
    more = "speculation: {modes: [target, target_all_gpus]}\narrivals: {users: 8}\nduration_s: 300\n"
    found = outcomes(more + "text: {num_steps: 10}").values()
    alone, everything = (outcome.tokens_per_s for outcome in found)
    assert everything == pytest.approx(alone, rel=0.02)  # a batch is free here
    shared = (LEAST + more).replace("{token_s: 0.02}", "{token_s: 0.02, sequence_share: 1.0}")
    alone, everything = (outcome.tokens_per_s for outcome in run_scenario(parse_scenario(shared, "test")))
    assert everything == pytest.approx(2.0 * alone, rel=0.1)


def test_requests_at_random_come_at_their_rate_and_are_refused_when_full() -> None:
    more = "speculation: {modes: [target]}\ntext: {num_steps: 2}\nduration_s: 1000\n"
    free = outcomes(more + "arrivals: {rate: 1.5}")["target"]
    assert free.num_requests == pytest.approx(1500, rel=0.06)
    ramp = outcomes(more + "arrivals: {rate: 1.5, rate_from: 0, ramp_s: 1000}")["target"]
    assert ramp.num_requests == pytest.approx(750, rel=0.1)
    full = outcomes(more + "arrivals: {rate: 1.5, max_in_flight: 1}")["target"]
    assert full.num_refused > 400
    assert full.num_failed == 0


def test_a_node_takes_its_replicas_with_it() -> None:
    more = (
        "gpus_per_node: 1\narrivals: {users: 4}\nduration_s: 60\nspeculation: {modes: [lookahead]}\n"
        "failures: [{node: 0, at_s: 10, back_s: 40}]\n"
    )
    broken = outcomes(more)["lookahead"]
    whole = outcomes(more.split("failures")[0])["lookahead"]
    assert broken.num_lost_calls
    assert broken.num_failed == 0
    assert broken.tokens_per_s == pytest.approx(whole.tokens_per_s / 2, rel=0.15)


def test_the_controller_keeps_to_the_target_where_looking_ahead_harms() -> None:
    """A saturated engine with a useless draft; a free one with a good draft."""
    more = "speculation: {modes: [target, lookahead, controlled]}\narrivals: {users: 2}\ntext: {num_steps: 30, "
    bad = (LEAST + more + "alpha: 0.05}\nduration_s: 120").replace(
        "{token_s: 0.02}", "{token_s: 0.02, sequence_share: 1.0}"
    )
    alone, ahead, controlled = (outcome.tokens_per_s for outcome in run_scenario(parse_scenario(bad, "test")))
    assert ahead < 0.9 * alone
    assert controlled > 1.05 * ahead
    good = outcomes(more + "alpha: 0.8}\nduration_s: 60")
    assert good["controlled"].tokens_per_s > 1.3 * good["target"].tokens_per_s


def test_goodput_counts_what_came_in_time() -> None:
    found = outcomes("duration_s: 30\ntext: {num_steps: 10}\nlatency_goal_s: 0.001")
    assert found["target"].goodput_rps == 0.0


def test_the_same_scenario_gives_the_same_figures() -> None:
    assert outcomes("duration_s: 20") == outcomes("duration_s: 20")


def test_costs_are_written_and_read(tmp_path: Path) -> None:
    role = RoleCosts(
        model="m", passes=[PassTimes(proposed=0, pass_s=[(1, 0.5), (2, 0.6)]), PassTimes(proposed=8, pass_s=[(1, 0.9)])]
    )
    file = tmp_path / "costs.yaml"
    write_costs(file, CostFile(source="a test", target=role, draft=role))
    assert read_costs(file).cost("target").seconds(2) == pytest.approx(0.6)
    assert read_costs(file).cost("draft", 7).seconds(1) == pytest.approx(0.9)
    scenario = parse_scenario(f"name: s\ntarget: {{costs: {file}}}\ndraft: {{costs: {file}}}\nduration_s: 60", "test")
    assert run_scenario(scenario)[0].user_tokens_per_s is None or scenario.target.cost("target").seconds(1) == 0.5
    file.write_text("source: x")
    with pytest.raises(ConfigError, match="no cost file"):
        read_costs(file)


def test_measured_engines_are_as_slow_as_a_server_and_the_other_engine_make_them(tmp_path: Path) -> None:
    """What the server adds is in each pass; the disturbance where both engines work at a time."""
    file = tmp_path / "costs.yaml"

    def num_tokens(mode: str, factor: float, **more: float) -> float:
        target, draft = (
            RoleCosts(model="m", passes=[PassTimes(proposed=0, pass_s=[(1, each)])], **more)  # type: ignore[arg-type]
            for each in (0.1, 0.02)
        )
        write_costs(file, CostFile(source="a test", target=target, draft=draft))
        roles = f"target: {{costs: {file}}}\ndraft: {{costs: {file}}}\nspeculation: {{modes: [{mode}]}}\n"
        text = f"name: s\n{roles}arrivals: {{users: 1}}\nduration_s: {factor * 200.0}"
        return run_scenario(parse_scenario(text, "test"))[0].output_tokens

    disturbed = {"disturbance": 1.0, "disturbance_guided": 3.0}
    for mode, factor in (("target", 1.0), ("lookahead_sync", 1.0), ("lookahead", 2.0), ("guided", 4.0)):
        assert num_tokens(mode, factor, **disturbed) == pytest.approx(num_tokens(mode, 1.0), rel=0.03), mode
    assert num_tokens("target", 2.0, stream_s=0.1) == pytest.approx(num_tokens("target", 1.0), rel=0.03)


@pytest.mark.parametrize("mode", ["controlled", "guided_controlled"])
def test_a_draft_that_rests_makes_the_target_no_slower(tmp_path: Path, mode: str) -> None:
    """The controller lets a useless draft rest: the target is then as fast as alone, as on a real machine."""
    file = tmp_path / "costs.yaml"
    target, draft = (
        RoleCosts(model="m", passes=[PassTimes(proposed=0, pass_s=[(1, each)])], disturbance=0.2)
        for each in (0.1, 0.02)
    )
    write_costs(file, CostFile(source="a test", target=target, draft=draft))
    roles = f"target: {{costs: {file}}}\ndraft: {{costs: {file}}}\nspeculation: {{modes: [target, {mode}]}}\n"
    more = "text: {alpha: 0.02, token_alpha: 0.02}\narrivals: {users: 1}\nduration_s: 2000"
    alone, controlled = run_scenario(parse_scenario(f"name: s\n{roles}{more}", "test"))
    assert controlled.tokens_per_s > 0.95 * alone.tokens_per_s


def test_estimates_follow_the_roofline() -> None:
    model, gpu = MODELS["r1-distill-32b"], GPUS["h100"]
    one, two = estimated_cost(model, gpu, 2, context=2048), estimated_cost(model, gpu, 4, context=2048)
    assert 1.5 < one.seconds(1) / two.seconds(1) < 2.0
    assert one.seconds(64) == pytest.approx(one.seconds(1), rel=0.1)
    assert one.seconds(1024) > 2 * one.seconds(1)
    assert 0.012 < one.seconds(1) < 0.020
    assert max_requests(model, gpu, 1, 4096) < max_requests(model, gpu, 2, 4096)


def trace(origins: list[str]) -> dict[str, object]:
    spans, commits = [], []
    for step, origin in enumerate(origins):
        for kind in ("draft", "target"):
            spans.append(
                {
                    "kind": kind,
                    "position": step,
                    "start_s": 0.0,
                    "end_s": 1.0,
                    "step": step,
                    "outcome": origin,
                    "num_tokens": 7 if kind == "draft" else 9,
                    "text": "same" if step == 0 else kind,
                }
            )
        commits.append({"step": step, "at_s": 1.0, "origin": origin, "num_tokens": 9})
    return {"request_id": "r", "mode": "lookahead", "spans": spans, "commits": commits, "summary": {}}


def test_recorded_steps_are_replayed(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    line = {"mode": "lookahead", "index": 0, "trace": trace(["accepted", "recovered", "accepted"])}
    others = [line | {"index": 1, "trace": None}, line | {"index": 2, "trace": {"error": "It is gone."}}]
    file.write_text("".join(json.dumps(one) + "\n" for one in (line, *others, line)))
    (script,) = read_scripts(tmp_path)
    assert [pair.agreement for pair in script.pairs] == [Agreement.EQUAL, Agreement.DIFFERENT, Agreement.SAME]
    assert [pair.num_draft_tokens for pair in script.pairs] == [7, 7, 7]
    more = f"text: {{recorded: {tmp_path}}}\nspeculation: {{modes: [lookahead]}}\nduration_s: 60"
    assert outcomes(more)["lookahead"].accept_rate is not None
    file.write_text(json.dumps(others[0]) + "\n")
    with pytest.raises(RequestError, match="no request with steps"):
        read_scripts(file)
    file.write_text("{}\n")
    with pytest.raises(RequestError, match="line 1 is no measured request"):
        read_scripts(file)


def test_a_scenario_is_what_it_says() -> None:
    scenario = Scenario.model_validate({"name": "n", "target": {"token_s": 1}, "draft": {"token_s": 1, "gpus": 2}})
    assert (scenario.num_gpus, scenario.num_nodes, scenario.all_gpus.target.replicas) == (3, 1, 3)


def test_one_coordinator_is_what_a_cluster_waits_for_and_more_are_not() -> None:
    """A core hears 20 results a second; sixteen users make more than ten times as many."""
    found = {}
    for replicas in (1, 16):
        more = f"coordinator: {{replicas: {replicas}, message_s: 0.05}}\narrivals: {{users: 16}}\nduration_s: 60\n"
        found[replicas] = outcomes(more + "text: {num_steps: 10, mean_tokens: 20}")["lookahead"]
    assert found[1].coordinator_busy == pytest.approx(1.0, abs=0.02)
    assert found[16].coordinator_busy < 0.8
    assert found[16].tokens_per_s > 4 * found[1].tokens_per_s
    assert found[16].calls_mb_per_s > 0


def test_a_change_is_a_setting_and_its_mistakes_are_named() -> None:
    scenario = load_scenario("scale-64", ["coordinator.replicas=2", "duration_s=5", "speculation.modes=[target]"])
    assert (scenario.coordinator.replicas, scenario.duration_s, scenario.num_gpus) == (2, 5.0, 64)
    assert scenario.speculation.modes == ("target",)
    assert [load_scenario(f"scale-{num}").num_gpus for num in (8, 512, 4096)] == [8, 512, 4096]
    for change, words in (("duration_s", "KEY=VALUE"), ("name.x=1", "no section"), ("coordinator.cores=1", "cores")):
        with pytest.raises(ConfigError, match=words):
            load_scenario("scale-8", [change])


def test_an_exchange_has_one_direction_of_the_link() -> None:
    """NVLink is sold by both together: 900 GB/s of an H100 are 450 each way. A ring sends each byte twice."""
    model, gpu = MODELS["r1-distill-32b"], GPUS["h100"]
    per_token = 2.0 * model.num_layers * 2.0 * (2.0 * model.hidden) / 450e9

    def exchanged(num_tokens: int) -> float:
        linked = estimated_cost(model, gpu, 2, context=2048)
        free = estimated_cost(model, replace(gpu, link=1e30), 2, context=2048)
        return linked.seconds(num_tokens) - free.seconds(num_tokens)

    assert exchanged(64) == pytest.approx(64 * per_token, rel=1e-6)


def test_guided_requests_have_no_steps_to_replay(tmp_path: Path) -> None:
    """Their chunks of two tokens would pass for steps of the draft's that mean the same as many of the target's."""
    file = tmp_path / "requests.jsonl"
    line = {"mode": "lookahead:balanced", "index": 0, "trace": trace(["accepted", "recovered", "accepted"])}
    words = seed_trace("lookahead:exact")
    for commit in words["commits"]:
        commit["origin"] = "accepted"
    guided = line | {"mode": "lookahead:exact", "index": 1, "trace": words}
    file.write_text(f"{json.dumps(guided)}\n{json.dumps(line)}\n")
    (script,) = read_scripts(file)
    assert [pair.num_target_tokens for pair in script.pairs] == [9, 9, 9]
    both = f"text: {{recorded: {file}}}\nspeculation: {{modes: [target, guided, lookahead]}}\n"
    with pytest.raises(ConfigError, match="a scenario of its own"):
        outcomes(both)
    file.write_text(json.dumps(guided) + "\n")
    with pytest.raises(RequestError, match="no request with steps"):
        read_scripts(file)


def test_the_target_on_all_gpus_is_spared_no_failure() -> None:
    """The first example of docs/simulation.md, shortened: what befalls a draft's GPUs befalls the target on them."""
    more = (
        "name: six-gpus\n"
        "target: {replicas: 2, gpus: 2, model: r1-distill-32b, gpu: h100}\n"
        "draft: {replicas: 2, model: r1-distill-1.5b, gpu: h100}\n"
        "speculation: {modes: [target_all_gpus]}\n"
        "text: {num_steps: 8}\n"
        "arrivals: {users: 6}\n"
        "duration_s: 30\n"
    )

    def run(*failures: str) -> Outcome:
        (found,) = run_scenario(parse_scenario(f"{more}failures: [{', '.join(failures)}]\n", "test"))
        return found

    whole = run()
    assert whole.num_lost_calls == 0
    assert run("{role: draft, replica: 0, at_s: 10, back_s: 20}").num_lost_calls > 0
    assert run("{role: target, replica: 1, at_s: 10, back_s: 20}").num_lost_calls > 0
    gone = run("{node: 0, at_s: 10, back_s: 20}")
    assert gone.num_lost_calls == 6
    assert gone.tokens_per_s == pytest.approx(whole.tokens_per_s * 2 / 3, rel=0.1)


def test_guesses_in_larger_batches_than_they_were_timed_in_cost_what_each_does() -> None:
    """Look-up is timed with one sequence and two: the line through both says nothing of eight."""
    passes = [
        PassTimes(proposed=0, pass_s=[(1, 0.133), (2, 0.14), (4, 0.14), (8, 0.158)]),
        PassTimes(proposed=4, pass_s=[(1, 0.133), (2, 0.165)]),
        PassTimes(proposed=7, pass_s=[(1, 0.155), (2, 0.224)]),
    ]
    role = RoleCosts(model="m", passes=passes, stream_s=0.01)
    costs = CostFile(source="a test", target=role, draft=role)
    looked_up, plain = costs.cost("target", 4), costs.cost("target")
    assert looked_up.seconds(2) == pytest.approx(0.175)
    for size in (4, 8, 16):
        assert looked_up.seconds(size) == pytest.approx(plain.seconds(size, num_guessed=4 * size), rel=0.05)
    assert looked_up.seconds(8) == pytest.approx(0.27, rel=0.01)
