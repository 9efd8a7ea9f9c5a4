"""A recorded run, answered again: what was recorded on the virtual clock is predicted, and other costs are noticed."""

from __future__ import annotations

import json
import statistics
import threading
from pathlib import Path
from typing import Any

import pytest

from actors.errors import RequestError
from deployments.bench.figures import bootstrap_ci
from deployments.bench.plan import fingerprint
from deployments.config import Config, validate_config
from deployments.coordinator.control.ways import FIRST_TRY
from deployments.simulation.cost_file import CostFile, PassTimes, RoleCosts
from deployments.simulation.cutting import cut_at_words as cut
from deployments.simulation.recorded import read_traces
from deployments.simulation.replay import read_rows
from deployments.simulation.replay_engine import PassCost
from deployments.simulation.replay_text import Vocabulary, replay_text
from deployments.simulation.strangers import strangers
from deployments.simulation.validation import Answer, Replayer, compare, predict, read_run
from deployments.telemetry.timeline import read_trace

MODES = ["target:none", "target:ngram", "lookahead:exact", "lookahead:balanced", "specreason", "vllm"]
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn")
STEPS = [f"{name} has {number} apples and gives {number + 2} of them away.\n" for number, name in enumerate(NAMES)]
PLAN = {"modes": MODES, "temperature": 0.0, "max_tokens": 400, "instruction": "Step by step."}


def config(*, is_controlled: bool = False) -> Config:
    engine = {"kind": "vllm", "options": {"block_size": 32, "speculative_config": {"method": "hints"}}}
    checks = {"exact": [{"kind": "exact"}], "balanced": [{"kind": "exact"}, {"kind": "always"}]}
    score = {"kind": "score", "engine": "target", "accept": 7, "answer_prefix": "</think>"}
    return validate_config(
        {
            "name": "recorded",
            "served_model_name": "recorded",
            "target": {"model": "t", "engine": engine},
            "draft": {"model": "d", "engine": engine},
            "verifier": {"verifiers": checks | {"score": [score]}},
            "speculation": {
                "fidelity": "balanced",
                "fidelities": {"exact": "exact", "balanced": "balanced"},
                "specreason": {"verifier": "score"},
                "step": {"boundary": "line"},
                "controller": {"enabled": is_controlled},
            },
        },
        "test",
    )


def costs(draft_s: float = 0.04) -> CostFile:
    passes = [PassTimes(proposed=0, pass_s=[(1, 0.1), (4, 0.12)]), PassTimes(proposed=8, pass_s=[(1, 0.13)])]
    target = RoleCosts(model="t", passes=passes, prefill_token_s=0.005)
    draft = RoleCosts(model="d", passes=[PassTimes(proposed=0, pass_s=[(1, draft_s)])], prefill_token_s=0.002)
    return CostFile(source="test", target=target, draft=draft)


def seed_trace(mode: str) -> dict[str, Any]:
    """As a server would have recorded it, but for the times, which only order it."""
    spans: list[dict[str, Any]] = []
    commits = []
    judged = mode in ("lookahead:balanced", "lookahead_sync:balanced", "specreason")
    for number, text in enumerate(STEPS):
        size, origin = len(cut(text, 12)), "target"
        at = {"position": number, "step": number, "start_s": number + 0.1, "end_s": number + 0.2}
        wrong = number % 3 == 2
        draft = text.replace("apples", "pears") if wrong else text
        if mode.startswith("lookahead:exact"):
            spans += [at | {"kind": "draft", "num_tokens": 12, "text": draft, "outcome": "accepted"}]
            if wrong:
                left = {"kind": "draft", "num_tokens": 0, "outcome": "cancelled", "end_s": number + 0.95}
                spans += [at | left | {"start_s": number + 0.9}]
        if judged:
            origin = "recovered" if wrong else "accepted"
            spans += [at | {"kind": "draft", "num_tokens": 12, "text": draft, "outcome": origin}]
            spans += [at | {"kind": "target", "num_tokens": size, "text": text, "outcome": origin}]
            verdict = "rejected" if wrong else "accepted"
            spans += [at | {"kind": "verdict", "outcome": verdict, "detail": {"accepted": not wrong}}]
        commits.append({"step": number, "at_s": number + 0.9, "origin": origin, "num_tokens": size, "text": text})
    if not judged:
        spans.insert(0, {"kind": "answer", "position": -1, "start_s": 0.0, "end_s": 9.0, "num_tokens": 72})
    return {"mode": mode.partition(":")[0], "spans": spans, "commits": commits}


def record(folder: Path, factor: float = 1.0) -> None:
    """A run on a machine on which all takes `factor` times as long."""
    replayer, lines = Replayer(config(), costs(), PLAN), []
    for mode in MODES[:-1]:
        line = {"mode": mode, "index": 0, "concurrency": 1, "question": "How many?", "usage": {"prompt_tokens": 40}}
        done = replayer.answer(line, read_trace(seed_trace(mode)), factor)
        lines.append(line | {"latency_s": done.took_s, "output_tokens": done.num_tokens, "trace": done.trace})
    (folder / "requests.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (folder / "plan.json").write_text(json.dumps({"plan": PLAN}))


def test_what_one_answer_has_taught_is_known_for_the_next() -> None:
    """Both ways are tried by a controller that has seen answers go before; a fresh one guides each time."""
    learning = config(is_controlled=True)
    line = {"mode": "lookahead:balanced", "question": "How many?", "usage": {"prompt_tokens": 40}}
    trace = read_trace(seed_trace("lookahead:balanced"))
    one = Replayer(learning, costs(), PLAN)

    def kinds(replayer: Replayer) -> set[str]:
        return {span["kind"] for span in replayer.answer(line, trace).trace["spans"]}

    in_order = ["answer" in kinds(one) for _ in range(2 * FIRST_TRY)]
    assert all(in_order[:FIRST_TRY])
    assert in_order.count(False) == 1, "a window once, after guided ones"
    assert all("answer" in kinds(Replayer(learning, costs(), PLAN)) for _ in range(2 * FIRST_TRY))


def test_a_cut_has_as_many_tokens_as_were_counted() -> None:
    for num_tokens in (1, 5, 12, 60):
        pieces = cut(STEPS[0], num_tokens)
        assert len(pieces) == num_tokens
        assert "".join(pieces) == STEPS[0]


def test_a_guided_draft_agrees_where_it_did() -> None:
    text = replay_text(read_trace(seed_trace("lookahead:exact")), vocabulary := Vocabulary())
    strayed = [at for at, agreed in text.agrees.items() if not agreed]
    assert [vocabulary.text(text.truth[at]) for at in strayed] == [" apples"] * 2
    assert vocabulary.text(text.strays[strayed[0]][0]) == " pears"
    assert text.draft_after(text.truth[: strayed[0]])[:1] == text.strays[strayed[0]][:1]


def test_a_pass_costs_what_it_holds() -> None:
    cost = PassCost(costs().target, scale=2.0)
    assert cost.seconds(1, 0, 0, 0) == pytest.approx(0.2)
    assert cost.seconds(1, 8, 0, 0) == pytest.approx(0.26)
    assert cost.seconds(4, 0, 0, 0) == pytest.approx(0.24)
    assert cost.seconds(1, 4, 0, 0) == pytest.approx(0.23), "half as many guesses as were timed"
    assert cost.seconds(4, 16, 0, 0) == pytest.approx(0.25), "four each"
    assert cost.seconds(1, 0, 39, 0) == pytest.approx(0.4)
    curve = PassCost(costs().target.model_copy(update={"reading_s": [(1, 0.1), (8, 0.11), (32, 0.3)]}))
    assert curve.seconds(1, 0, 7, 0) == pytest.approx(0.11)
    assert curve.seconds(4, 0, 28, 0) == pytest.approx(0.12 + 0.3 - 0.1 - 0.01 * 3 / 7)


def test_every_mode_of_a_run_is_predicted_from_its_own_recording(tmp_path) -> None:
    record(tmp_path, factor=1.5)
    answers, against = predict(config(), costs(), tmp_path)
    rows = {row.mode: row for row in compare(answers, against)}
    assert (against, list(rows)) == ("target:none", MODES[:-1])
    for row in rows.values():
        assert row.off_latency == pytest.approx(0.0, abs=0.05), row
        assert row.holds, row
    speed_ups = {mode: row.speed_up or 1.0 for mode, row in rows.items()}
    assert speed_ups["lookahead:exact"] > 1.3
    assert speed_ups["target:ngram"] > 1.05
    slower, _ = predict(config(), costs(draft_s=0.2), tmp_path)
    assert not {row.mode: row for row in compare(slower, against)}["lookahead:exact"].holds
    absolute, _ = predict(config(), costs(), tmp_path, anchored=False)
    assert compare(absolute, against)[0].off_latency == pytest.approx(1 / 1.5 - 1, abs=0.02)


@pytest.mark.parametrize("is_in_the_way", [False, True])
def test_what_is_answered_again_is_in_no_audit_log(tmp_path, is_in_the_way: bool) -> None:
    """Nobody asked for it; and where the log cannot be written, it is answered all the same."""
    folder = tmp_path / "audit"
    if is_in_the_way:
        folder.write_text("a file")
    telemetry = {"audit": {"path": str(folder)}, "trace_texts": False}
    audited = validate_config(config().model_dump(mode="json") | {"telemetry": telemetry}, "test")
    line = {"mode": "lookahead:balanced", "question": "How many?", "usage": {"prompt_tokens": 40}}
    before = threading.active_count()
    done = Replayer(audited, costs(), PLAN).answer(line, read_trace(seed_trace("lookahead:balanced")))
    assert done.num_tokens
    assert folder.is_file() if is_in_the_way else not folder.exists()
    assert threading.active_count() == before


def test_what_the_run_asked_for_of_all_rows_is_asked_again() -> None:
    line = {"mode": "lookahead", "question": "How many?", "usage": {"prompt_tokens": 40}}
    trace = read_trace(seed_trace("lookahead:exact"))

    def took(mode: str, **wished: str) -> float:
        return Replayer(config(), costs(), PLAN | wished).answer(line | {"mode": mode}, trace).took_s

    exact = took("lookahead:exact")
    assert exact != took("lookahead:balanced") == took("lookahead")
    assert took("lookahead", fidelity="exact") == exact
    assert took("lookahead:exact", fidelity="balanced") == exact


def off_by(mode: str, factors: list[float]) -> list[Answer]:
    return [Answer(mode, index, 100, 5.0 + index, factor * (5.0 + index), 100) for index, factor in enumerate(factors)]


@pytest.mark.parametrize(
    ("factors", "holds", "stands_out"),
    [
        ([1.2, 1.25, 1.3, 1.2, 1.3, 1.25, 1.25, 1.2], False, True),
        ([0.8, 0.75, 0.7, 0.8, 0.7, 0.75, 0.75, 0.8], False, True),
        ([0.8, 1.0, 1.6, 1.25, 1.3, 1.02, 0.9, 1.4], False, False),
        ([1.0, 1.02, 0.99, 1.0, 1.01, 0.98, 1.0, 1.0], True, False),
        ([1.3, 1.3], False, None),
    ],
)
def test_off_beyond_chance_is_another_verdict_than_within_the_goal(
    factors: list[float], holds: bool, stands_out: bool | None
) -> None:
    """A median of a few prompts misses the goal by chance; of pairs the interval says whether it does."""
    answers = [*off_by("target:none", [1.0] * len(factors)), *off_by("lookahead:exact", factors)]
    base, row = compare(answers, "target:none", seed=7)
    assert (row.holds, row.stands_out) == (holds, stands_out)
    assert row.latency_ratio == pytest.approx(statistics.median(factors))
    assert row.speed_up_ratio == pytest.approx(statistics.median(1.0 / factor for factor in factors))
    assert row.as_dict()["stands_out"] is stands_out
    assert (base.speed_up_ratio, base.latency_ratio) == (None, 1.0)
    if stands_out is not None:
        assert row.latency_ratio_ci95 == pytest.approx(bootstrap_ci(factors, 7))
        assert base.latency_ratio_ci95 == (1.0, 1.0)


def test_a_folder_that_is_no_run_says_so(tmp_path) -> None:
    with pytest.raises(RequestError, match="no folder of"):
        read_run(tmp_path)
    (tmp_path / "plan.json").write_text('{"plan": {"modes": []}}')
    (tmp_path / "requests.jsonl").write_text('{"mode": "target", "index": 0}\n')
    with pytest.raises(RequestError, match="no answered request"):
        read_run(tmp_path)


def test_a_run_whose_words_were_not_kept_is_refused(tmp_path) -> None:
    """Empty words would be replayed without a complaint, and foretell nothing."""
    record(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    for part in [*lines[-1]["trace"]["commits"], *lines[-1]["trace"]["spans"]]:
        part["text"] = None
    (tmp_path / "requests.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(RequestError, match=r"traces without texts.*telemetry\.trace_texts: true"):
        predict(config(), costs(), tmp_path)


def test_a_model_that_reasons_is_refused(tmp_path) -> None:
    """Replayed without its marks, nothing of it would be speculated, or its answer as well."""
    record(tmp_path)
    plain = config().model_dump(mode="json")
    for scope in ("think", "all"):
        marks = {"reasoning": {"close": "</think>"}, "speculation": plain["speculation"] | {"scope": scope}}
        with pytest.raises(RequestError, match=r"a model that reasons \(reasoning\.close\) cannot be replayed"):
            predict(validate_config(plain | marks, "test"), costs(), tmp_path)


def test_what_does_not_belong_together_is_said() -> None:
    own = config()
    mark = fingerprint(own.model_dump(mode="json"))
    assert strangers(own, costs(), PLAN) == []
    assert strangers(own, costs(), {"server": f"mine.yaml #{mark}"}) == []
    assert strangers(own, costs(), {"server": "http://somewhere:8000"}) == []
    (said,) = strangers(own, costs(), {"server": "local #4b5c27b8d7b2"})
    assert said.startswith(f"The run is of local #4b5c27b8d7b2, and is answered by recorded #{mark}: ")


def test_costs_of_other_engines_are_said() -> None:
    own, timed = config(), costs()
    other = timed.draft.model_copy(update={"model": "other"})
    (said,) = strangers(own, timed.model_copy(update={"draft": other}), PLAN)
    assert said == "The costs are of another draft: other, not d."
    writer = own.target.model_dump(mode="json")
    same = timed.target.model_copy(update={"writer": writer})
    assert strangers(own, timed.model_copy(update={"target": same}), PLAN) == []
    options = {"block_size": 16, "max_num_seqs": 4}
    changed = same.model_copy(update={"writer": writer | {"engine": writer["engine"] | {"options": options}}})
    (said,) = strangers(own, timed.model_copy(update={"target": changed}), PLAN)
    assert said == (
        "The costs of the target were measured with other settings: engine.options.block_size, "
        "engine.options.speculative_config, engine.options.max_num_seqs."
    )


def test_a_run_in_which_nothing_was_guided_is_replayed_in_windows(tmp_path) -> None:
    """Draft and target of two vocabularies: the draft's words are no hints, so another algorithm answered."""
    unhinted, lines = Replayer(config(), costs(), PLAN, takes_hints=False), []
    for mode, words in (("target:none", "target:none"), ("lookahead:exact", "lookahead:balanced")):
        line = {"mode": mode, "index": 0, "concurrency": 1, "question": "How many?", "usage": {"prompt_tokens": 40}}
        done = unhinted.answer(line, read_trace(seed_trace(words)))
        lines.append(line | {"latency_s": done.took_s, "output_tokens": done.num_tokens, "trace": done.trace})
    (tmp_path / "requests.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (tmp_path / "plan.json").write_text(json.dumps({"plan": PLAN}))
    for row in compare(*predict(config(), costs(), tmp_path)):
        assert row.off_latency == pytest.approx(0.0, abs=0.05), row
    (said,) = strangers(config(), costs(), PLAN, lines)
    assert said.startswith("No request of the run was guided, though some could be: ")
    record(tmp_path)
    assert strangers(config(), costs(), PLAN, read_run(tmp_path)[1]) == []


@pytest.mark.parametrize(
    ("speculation", "words"),
    [
        ({"method": "draft_model", "model": "m"}, "by vLLM's own method draft_model, which is not replayed"),
        ({"method": "hints", "model": "m"}, "by method hints with a draft model, which is not replayed"),
    ],
)
def test_guesses_that_are_not_replayed_are_said(speculation: dict[str, str], words: str) -> None:
    data = config().model_dump(mode="json")
    data["target"]["engine"]["options"]["speculative_config"] = speculation
    (said,) = strangers(validate_config(data, "test"), costs(), PLAN)
    assert said.startswith(f"The target guesses tokens {words}")


def test_only_a_line_feed_ends_a_line_of_a_run(tmp_path) -> None:
    trace = seed_trace("target:none")
    line = {"mode": "target", "index": 0, "concurrency": 1, "question": "Two\u2028lines?", "trace": trace}
    (tmp_path / "plan.json").write_text(json.dumps({"plan": PLAN}))
    (tmp_path / "requests.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n")
    assert read_run(tmp_path) == (PLAN, [line])
    assert len(read_traces(tmp_path)) == 1
    with pytest.raises(RequestError, match="nothing to replay"):
        read_rows(tmp_path)


def test_a_baseline_without_a_trace_is_named(tmp_path) -> None:
    record(tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps({"plan": PLAN | {"modes": ["lookahead:exact", "vllm"]}}))
    with pytest.raises(RequestError, match="against vllm, of which it holds no answered request with a trace"):
        predict(config(), costs(), tmp_path)
