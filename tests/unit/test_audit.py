"""The audit records of whole requests: every decision once, with its reason, and no text that nobody wanted."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.errors import ConfigError, RequestError, RoleUnavailable
from actors.messages import Message, Prompt, Sampling
from deployments.bench.audit_cost import cost_of
from deployments.config import Config, validate_config
from deployments.coordinator.events import Basis, Outcome, Retired, TargetStep
from deployments.generation import Committed, GenerationRequest, SpeculationOptions
from deployments.ledger import Ledger
from deployments.live_settings import changed
from deployments.telemetry.audit import (
    COVERED,
    EQUAL,
    NO_DRAFT,
    ONLY_EQUAL,
    AuditRecorder,
    Deployed,
    Terms,
    digest,
    prompt_text,
)
from deployments.telemetry.audit_reading import explain, find
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import DRAFT, TARGET, Bench, config, request
from tests.unit.coordinator.talk import Talk, step
from tests.unit.coordinator.test_spans import answer, drafted

SECRET = "zebra-crossing-9931"


def audited(path: Path, texts: str = "hash", **speculation: object) -> Config:
    settings = config(**speculation).model_dump()
    settings["telemetry"]["audit"] = {"path": str(path), "texts": texts}
    return validate_config(settings, "test")


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(path.glob("*.jsonl")) for line in file.read_text().splitlines()]


def ask(bench: Bench, **wishes: object) -> tuple[Any, list[dict[str, Any]]]:
    """The summary of one request and its audit records."""

    async def scene() -> Any:
        coordinator = await bench.coordinator()
        outputs = [output async for output in coordinator.generate(request(**wishes))]
        coordinator.close()
        return outputs[-1].summary

    folder = bench.settings.telemetry.audit.path
    assert folder is not None
    return run_virtually(scene()), records(Path(folder))


def count(found: list[dict[str, Any]], outcome: str) -> int:
    return sum(r.get("num_steps", 1) for r in found if r["record"] == "decision" and r["outcome"] == outcome)


MANNERS: list[dict[str, Any]] = [
    {},
    {"branches": 2},
    {"mode": "lookahead_sync"},
    {"mode": "specreason"},
    {"mode": "specreason", "verifier": "never"},
]
MIXED = replace(DRAFT, agree=0.4, paraphrase=0.4)


@pytest.mark.parametrize("wishes", MANNERS)
def test_every_draft_step_is_decided_once_and_the_counts_are_those_of_the_summary(
    tmp_path: Path, wishes: dict[str, Any]
) -> None:
    settings = audited(tmp_path, specreason={"verifier": "numbers"})
    wishes = {"mode": "lookahead", "verifier": "numbers"} | wishes
    summary, found = ask(Bench(draft=MIXED, settings=settings), **wishes)
    assert [r["record"] for r in found[:2]] == ["settings", "begin"]
    assert found[-1]["record"] == "end"
    assert (found[-1]["outcome"], found[-1]["reason"]) == ("finished", "stop")
    assert count(found, "accepted") == summary.num_accepted_steps
    assert count(found, "recovered") == summary.num_recovered_steps
    assert summary.num_accepted_steps * summary.num_recovered_steps > 0 or "specreason" in wishes.values()
    assert count(found, "cancelled") == summary.num_cancelled_steps
    assert count(found, "merged") == summary.num_merged_steps
    steps = [r["step"] for r in found if r["record"] == "decision" and r["step"] is not None]
    assert steps == list(range(summary.num_steps)), "each step of the output has its one decision"
    assert {r["run"] for r in found[1:]} == {found[1]["run"]}
    for record in found[1:]:
        assert (record["request_id"], record["versions"]["target"]) == ("r", "scripted")


def test_a_decision_names_its_verdict_and_the_rules_behind_it(tmp_path: Path) -> None:
    _, found = ask(Bench(draft=MIXED, settings=audited(tmp_path, spans=False)), mode="lookahead", verifier="numbers")
    decided = [r for r in found if r["record"] == "decision" and r["check"] is not None]
    assert {r["check"] for r in decided} == {"numbers/same_numbers", "numbers/always"}
    rules = found[0]["verifiers"]["numbers"]
    assert [check["kind"] for check in rules["checks"]] == ["exact", "same_numbers", "always"]
    assert {r["rules"] for r in decided} == {rules["rules"]} == {found[1]["rules"]}
    for record in decided:
        assert record["outcome"] != "accepted" or record["check"] == "numbers/always"
        assert record["draft"]["sha256"] != record["target"]["sha256"]
    equal = [r for r in found if r["record"] == "decision" and r["reason"] == EQUAL]
    assert all(r["draft"]["sha256"] == r["target"]["sha256"] for r in equal)


def test_other_thresholds_have_another_digest(tmp_path: Path) -> None:
    digests = set()
    for accept in (0.2, 0.3):
        settings = audited(tmp_path / str(accept)).model_dump()
        settings["verifier"]["verifiers"]["numbers"] = [{"kind": "random", "accept": accept}]
        _, found = ask(Bench(settings=validate_config(settings, "test")), mode="lookahead", verifier="numbers")
        digests.add(found[1]["rules"])
    assert len(digests) == 2


def test_changed_checks_are_those_that_the_records_of_later_requests_name(tmp_path: Path) -> None:
    settings = audited(tmp_path)
    changes = {"verifiers": {"numbers": [{"kind": "random", "accept": 0.3}]}}

    async def scene() -> None:
        coordinator = await Bench(draft=MIXED, settings=settings).coordinator()
        for user_config in ({}, changes, changes, {}):
            coordinator.reconfigure(changed(settings, user_config))
            _ = [output async for output in coordinator.generate(request(mode="lookahead", verifier="numbers"))]
        coordinator.close()

    run_virtually(scene())
    found = [r for r in records(tmp_path) if r["record"] in ("settings", "begin")]
    assert [r["record"] for r in found] == ["settings", "begin", "settings", "begin", "begin", "settings", "begin"]
    first, second, third = (r["verifiers"]["numbers"] for r in found if r["record"] == "settings")
    assert first == third != second
    for number, rules in enumerate((first, second, second, third), 1):
        asked = find(tmp_path, "r", number)
        assert asked.begin is not None
        assert {key: asked.begin[key] for key in ("rules", "checks")} == rules
        assert {decision["rules"] for decision in asked.decisions} == {rules["rules"]}
    assert "random (accept 0.3" in "\n".join(explain(find(tmp_path, "r", 2), None))


def test_a_step_that_another_one_covers_says_so() -> None:
    talk = Talk(verifier="judge")
    told: list[dict[str, Any]] = []
    recorder = AuditRecorder(request(), Deployed({"judge": []}, {}), "hash", lambda: 0.0, told.append)
    recorder.begin(Terms("run", "lookahead", "judge", 4, 1, False, "blank_line", "v", Sampling()))
    targets = drafted(talk, step(1, 2, 3), step(4, 5, 6), step(7, 8))
    talk.hear(TargetStep(targets[0], step(9, 8, 7, 6, 5, 4)))
    answer(talk, False)
    answer(talk, True)
    for command in talk.said:
        recorder.on_command(command)
    first, second = [r for r in told if r["record"] == "decision"]
    assert [r["outcome"] for r in (first, second)] == ["accepted", "accepted"]
    assert (first["check"], second["check"]) == ("judge", "judge")
    assert second["reason"] == COVERED != first["reason"]
    assert second["target"] is None


def test_only_equal_steps_and_no_draft(tmp_path: Path) -> None:
    summary, found = ask(Bench(draft=MIXED, settings=audited(tmp_path)), mode="lookahead", verifier="exact")
    reasons = {r["outcome"]: r["reason"] for r in found if r["record"] == "decision" and r["outcome"] != "cancelled"}
    assert reasons["accepted"] == EQUAL
    assert reasons["recovered"] == ONLY_EQUAL
    assert reasons.get("target", NO_DRAFT) == NO_DRAFT
    assert count(found, "target") == summary.num_target_steps


def test_chunks_of_a_guided_draft_are_told_in_runs(tmp_path: Path) -> None:
    hinted = {
        "target": replace(TARGET, num_steps=5, hint_gain=4.0),
        "draft": replace(DRAFT, num_steps=5, agree=0.8, token_s=0.001),
    }

    async def scene() -> Any:
        coordinator = await Bench(**hinted, settings=audited(tmp_path)).coordinator()
        for _ in range(2):  # the first request learns that the target takes hints
            outputs = [output async for output in coordinator.generate(request(mode="lookahead", verifier="exact"))]
        coordinator.close()
        return outputs[-1].summary

    summary = run_virtually(scene())
    found = find(tmp_path, "r")
    assert found.begin is not None
    assert found.begin["is_guided"]
    assert found.num_runs == 2
    assert count(found.decisions, "accepted") == summary.num_accepted_steps > 0
    assert len(found.decisions) < summary.num_draft_steps / 4
    assert count(found.decisions, "recovered") == summary.num_recovered_steps
    assert count(found.decisions, "cancelled") == summary.num_cancelled_steps
    assert any("chunks from step" in line for line in explain(found, None))
    covered = [step for step in range(summary.num_steps) for _ in found.at(step)]
    assert len(covered) == len(set(covered)) == summary.num_steps - summary.num_target_steps


def test_a_run_of_chunks_ends_where_the_target_has_written_a_step_of_its_own() -> None:
    told: list[dict[str, Any]] = []
    recorder = AuditRecorder(request(), Deployed({}, {}), "hash", lambda: 0.0, told.append)
    recorder.begin(Terms("run", "lookahead", None, 4, 1, True, "blank_line", "v", Sampling()))
    for serial, number in enumerate((0, 1, 3, 4, 5)):
        recorder.on_command(Retired(serial, Outcome.ACCEPTED, number, Basis(step(1, 2))))
    for serial in (5, 6):
        recorder.on_command(Retired(serial, Outcome.CANCELLED, None, Basis(step(1, 2))))
    recorder.close(None)
    assert [(r["step"], r["num_steps"]) for r in told if r["record"] == "decision"] == [(0, 2), (3, 3), (None, 2)]


@pytest.mark.parametrize("texts", ["hash", "none", "full"])
def test_texts_are_kept_as_the_operator_says(tmp_path: Path, texts: str) -> None:
    prompt = Prompt(messages=(Message("user", f"Count {SECRET} \ud800"),))
    bench = Bench(draft=MIXED, settings=audited(tmp_path, texts))
    _, found = ask(bench, mode="lookahead", verifier="always", prompt=prompt)
    whole = "".join(file.read_text() for file in tmp_path.glob("*.jsonl"))
    assert (SECRET in whole) == (texts == "full")
    assert ("counts" in whole.replace('"counts"', "")) == (texts == "full"), "words of steps"
    if texts == "hash":
        assert found[1]["prompt"] == {"sha256": digest(prompt_text(prompt))}
    decision = next(r for r in found if r["record"] == "decision")
    kept = {"num_tokens", "ending", "vocabulary"} | {"hash": {"sha256"}, "none": set(), "full": {"text"}}[texts]
    assert set(decision["draft"]) == kept


def test_the_end_is_told_however_it_comes(tmp_path: Path) -> None:
    class Gone:
        async def judge(self, asked: object) -> Any:
            raise RoleUnavailable("gone")

    async def scene() -> None:
        bench = Bench(settings=audited(tmp_path))
        coordinator = await bench.coordinator()
        ask_for = SpeculationOptions(mode="lookahead", verifier="always")
        left = GenerationRequest("left", Prompt(text="?"), speculation=ask_for, holder="alice")
        async with aclosing(coordinator.generate(left)) as outputs:
            async for output in outputs:
                if isinstance(output, Committed):
                    break
        long = replace(left, request_id="refused", max_tokens=10**9)
        with pytest.raises(Exception, match="context"):
            await anext(coordinator.generate(long))
        late = replace(left, request_id="late", timeout_s=0.01)
        with pytest.raises(Exception, match="not done within"):
            _ = [output async for output in coordinator.generate(late)]
        bench.target_engine.break_down("told to")
        with pytest.raises(RoleUnavailable):
            _ = [output async for output in coordinator.generate(replace(left, request_id="failed"))]
        await asyncio.sleep(0)
        coordinator.close()

    run_virtually(scene())
    ends = {r["request_id"]: (r["outcome"], r["reason"]) for r in records(tmp_path) if r["record"] == "end"}
    assert ends["left"] == ("left", "nobody read on")
    assert ends["refused"] == ("refused", "context_length_exceeded")
    assert ends["late"][0] == "failed"
    assert ends["failed"][0] in ("failed", "refused")
    assert {r["key"] for r in records(tmp_path) if "key" in r} == {"alice"}


def test_a_verdict_that_failed_is_told_as_such(tmp_path: Path) -> None:
    class Broken:
        async def judge(self, asked: object) -> Any:
            raise RoleUnavailable("no verifier is there")

    bench = Bench(draft=MIXED, settings=audited(tmp_path))
    bench.roles = replace(bench.roles, verifier=Broken())  # type: ignore[arg-type]
    _, found = ask(bench, mode="lookahead", verifier="always")
    reasons = {r["reason"] for r in found if r["record"] == "decision" and r["outcome"] == "recovered"}
    assert "the verifier failed: no verifier is there" in reasons


def test_without_a_path_nothing_is_recorded(tmp_path: Path) -> None:
    answer = run_virtually(Bench().ask(mode="lookahead"))
    assert "lookahead_audit_records_total 0.0" in answer.metrics
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("texts", ["hash", "full", "none"])
def test_what_a_decision_costs_is_measured_without_a_loss(texts: Any) -> None:
    cost = cost_of(texts, 100, 50)
    assert cost["num_lost"] == 0
    assert 0 < cost["us_a_decision"] <= cost["us_a_decision_with_the_writer"] + 1
    assert cost["bytes_a_decision"] > 100


def test_the_folder_has_to_be_a_whole_path() -> None:
    with pytest.raises(ConfigError, match=r"telemetry\.audit\.path: .*whole path"):
        audited(Path("logs"))


def test_requests_of_one_id_are_told_apart(tmp_path: Path) -> None:
    async def scene() -> None:
        coordinator = await Bench(settings=audited(tmp_path)).coordinator()
        for mode in ("lookahead_sync", "target", "lookahead"):
            _ = [output async for output in coordinator.generate(request(mode=mode))]
        coordinator.close()

    run_virtually(scene())
    assert [find(tmp_path, "r", run).begin["mode"] for run in (1, 2, 3, None)] == [  # type: ignore[index]
        "lookahead_sync",
        "target",
        "lookahead",
        "lookahead",
    ]
    assert "The id was used for 3 requests; this is number 1 (--run chooses)." in explain(find(tmp_path, "r", 1), None)
    with pytest.raises(RequestError, match="has 3 runs"):
        find(tmp_path, "r", 4)


def test_a_step_that_an_earlier_run_decided_is_not_told_as_the_targets_own(tmp_path: Path) -> None:
    async def scene() -> int:
        coordinator = await Bench(settings=audited(tmp_path)).coordinator()
        wish, ledger = request(mode="lookahead", verifier="always"), Ledger()
        async with aclosing(coordinator.generate(wish)) as outputs:
            async for output in outputs:
                ledger.take(output)
                if isinstance(output, Committed) and output.step >= 4:
                    break
        behind = ledger.standing()
        assert behind is not None
        assert behind.counts is not None
        _ = [output async for output in coordinator.generate(replace(wish, resume=behind))]
        coordinator.close()
        return behind.counts.num_steps

    resumed_at = run_virtually(scene())
    first, second = (find(tmp_path, "r", run) for run in (1, 2))
    assert first.begin is not None
    assert second.begin is not None
    assert (first.begin["resumed_at"], second.begin["resumed_at"]) == (None, resumed_at)
    assert resumed_at > 3
    assert not second.at(3)
    told = explain(second, 3)
    assert "it went on at step" in told[0]
    assert told[1] == "Step 3: it was decided by an earlier run of this id; --run chooses which one is told of."
    assert "The id was used for one request, in 2 runs; this is number 2 (--run chooses)." in told
    assert explain(first, 3)[1].startswith("Step 3: the draft's step was accepted")
    assert second.at(resumed_at)
