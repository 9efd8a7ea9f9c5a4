"""``lookahead bench`` from the command line to the report, against a server that speaks the real stream."""

from __future__ import annotations

import json

import pytest

from tests.unit.cli import made_up
from tests.unit.cli.conftest import lines_of, reviews_of


def test_run_writes_requests_and_both_reports(server, bench, tmp_path):
    end = bench("--concurrency", "1,2", "--json")
    assert end.code == 0, end.err
    lines = lines_of(tmp_path / "run")
    assert len(lines) == 12
    assert [line["mode"] for line in lines[:4]] == ["target", "lookahead", "lookahead", "target"]
    assert [review["correct"] for review in reviews_of(tmp_path / "run")].count(False) == 4
    assert all(0 < line["ttft_s"] <= line["first_step_s"] < line["latency_s"] for line in lines)
    assert all(line["longest_silence_s"] > 0 for line in lines)
    assert all(line["output_tokens"] == 30 and line["error"] is None for line in lines)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert end.json == report
    rows = {(row["mode"], row["concurrency"]): row for row in report["rows"]}
    assert set(rows) == {("target", 1), ("lookahead", 1), ("target", 2), ("lookahead", 2)}
    row = rows["lookahead", 1]
    assert row["num_requests"] == 3
    assert row["accuracy"] == pytest.approx(2 / 3)
    assert row["accept_rate"] == 0.5
    by_hand = [
        next(x["latency_s"] for x in lines if (x["mode"], x["concurrency"], x["index"]) == ("target", 1, index))
        / next(x["latency_s"] for x in lines if (x["mode"], x["concurrency"], x["index"]) == ("lookahead", 1, index))
        for index in range(3)
    ]
    assert row["speedup_vs_target"] == pytest.approx(sorted(by_hand)[1])
    assert report["environment"]["server"] == {"version": "9.9"}
    assert report["complete"] is True
    assert "With one request at a time lookahead" in (tmp_path / "run" / "report.html").read_text()
    assert server.most_open == 2


def test_warm_up_is_asked_and_not_counted(server, bench, tmp_path):
    assert bench("--limit", "1").code == 0
    assert [body["max_tokens"] for body in server.bodies] == [24, 24, 50, 50]
    assert len(lines_of(tmp_path / "run")) == 2


def test_modes_of_one_server_do_not_read_each_other_s_prompts(server, bench):
    """A server that is not ours may refuse a salt, and answers one mode alone."""
    assert bench("--limit", "1", "--modes", "target,lookahead:exact,plain").code == 0
    salts = {body["speculation"]["mode"]: body["cache_salt"] for body in server.bodies if "speculation" in body}
    start, _, row = salts["target"].partition(" ")
    assert (row, salts["lookahead"]) == ("target, 1 at once", f"{start} lookahead:exact, 1 at once")
    assert sum("cache_salt" not in body for body in server.bodies) == 2  # of plain, warm-up included


def test_nothing_is_found_in_the_prefix_caches_of_an_earlier_start_or_load(server, bench, tmp_path):
    """Each load has a salt of its own; the same run gone on with, or another one, has others."""
    assert bench("--modes", "target", "--concurrency", "1,2").code == 0
    path = tmp_path / "run" / "requests.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    num_first = len(server.bodies)
    assert bench("--modes", "target", "--concurrency", "1,2").code == 0
    num_both = len(server.bodies)
    assert bench("--modes", "target", out="other").code == 0
    salts = [body["cache_salt"] for body in server.bodies]
    starts = [set(salts[:num_first]), set(salts[num_first:num_both]), set(salts[num_both:])]
    assert [len(one) for one in starts] == [2, 2, 1]  # a start warms up under its first load
    assert len(set.union(*starts)) == 5


def test_options_and_instruction_reach_the_server(server, bench):
    assert bench("--limit", "1", "--temperature", "0.6", "--seed", "5", "--fidelity", "exact").code == 0
    body = server.bodies[-1]
    assert body["temperature"] == 0.6
    assert body["seed"] == 5
    assert body["speculation"]["fidelity"] == "exact"
    assert "The answer is N" in body["messages"][0]["content"]


def test_stopped_run_goes_on_where_it_was(server, bench, tmp_path):
    assert bench().code == 0
    path = tmp_path / "run" / "requests.jsonl"
    kept = path.read_text().splitlines(keepends=True)
    path.write_text("".join(kept[:4]) + kept[4][:20])
    asked = len(server.bodies)
    end = bench()
    assert end.code == 0
    assert "Going on: 4 of 6 requests are kept." in end.out
    assert len(server.bodies) - asked == 2 + 2
    assert len({(line["mode"], line["index"]) for line in lines_of(tmp_path / "run")}) == 6


def test_finished_run_asks_nothing(server, bench):
    assert bench().code == 0
    asked = len(server.bodies)
    assert bench().code == 0
    assert len(server.bodies) == asked


def test_a_finished_run_keeps_what_it_was_measured_on(bench, monkeypatch, tmp_path):
    from deployments.bench import environment

    assert bench("--model", "small").code == 0
    before = json.loads((tmp_path / "run" / "report.json").read_text())["environment"]
    monkeypatch.setattr(environment, "describe_machine", lambda: {"cpu": "another"})
    end = bench("--model", "small", "--json")
    after = end.json["environment"]
    names = ("server", "models", "cpu", "packages")
    assert [after[name] for name in names] == [before[name] for name in names]
    assert (after["server"], after["models"]) == ({"version": "9.9"}, {"target": "small", "lookahead": "small"})
    assert after["runs"][1]["machine"] == {"cpu": "another"}
    assert "<dt>model</dt><dd>small</dd>" in (tmp_path / "run" / "report.html").read_text()


def test_another_model_in_the_same_folder_is_refused_before_it_is_asked(server, bench, tmp_path):
    assert bench("--model", "small").code == 0
    path = tmp_path / "run" / "requests.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    asked = len(server.bodies)
    end = bench("--model", "big")
    assert (end.code, len(server.bodies)) == (1, asked)
    assert "holds answers of the model small in mode target, and now big would answer" in end.err
    assert bench("--model", "small").code == 0


def test_a_folder_in_which_another_start_runs_is_refused(server, bench, tmp_path):
    import fcntl

    assert bench("--limit", "1").code == 0
    with (tmp_path / "run" / "requests.jsonl").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        end = bench("--limit", "1")
    assert (end.code, "Another bench runs in" in end.err) == (1, True)
    assert bench("--limit", "1").code == 0


def test_other_settings_in_the_same_folder_are_refused(bench):
    assert bench().code == 0
    end = bench("--seed", "9")
    assert end.code == 1
    assert "seed was 0, now 9" in end.err


def test_failures_are_counted_and_tried_again_on_demand(server, bench, tmp_path):
    source = tmp_path / "bad.jsonl"
    source.write_text('{"question": "BREAK", "answer": "42"}\n{"question": "Fine", "answer": "42"}')
    end = bench("--json", source=source)
    assert end.code == 0
    assert {row["num_failed"] for row in end.json["rows"]} == {1}
    assert {row["accuracy"] for row in end.json["rows"]} == {0.5}
    assert "The target was lost" in end.err
    asked = len(server.bodies)
    assert bench(source=source).code == 0
    assert len(server.bodies) == asked
    server.fail_mid_stream = "NEVER"
    end = bench("--retry-failed", "--json", source=source)
    assert {row["num_failed"] for row in end.json["rows"]} == {0}
    assert {row["num_tried_again"] for row in end.json["rows"]} == {1}
    assert {row["num_failed_before"] for row in end.json["rows"]} == {1}
    asked_again = "1 request of lookahead failed and was asked again; its last answer counts."
    assert asked_again in end.json["notes"]
    assert asked_again in (tmp_path / "run" / "report.html").read_text()
    assert len(lines_of(tmp_path / "run")) == 6


def test_mode_that_always_fails_is_a_failure(bench, tmp_path):
    source = tmp_path / "bad.jsonl"
    source.write_text('{"question": "BREAK", "answer": "42"}')
    end = bench(source=source)
    assert end.code == 1
    assert "Every request failed in mode target, lookahead" in end.err
    assert (tmp_path / "run" / "report.html").exists()


def test_mode_the_server_does_not_know_stops_before_anything_is_measured(bench, tmp_path):
    end = bench("--modes", "target,psychic")
    assert end.code == 1
    assert "Mode psychic does not work on this server" in end.err
    assert lines_of(tmp_path / "run") == []
    assert bench("--modes", "target").code == 0


def test_traces_are_kept_on_demand(server, bench, tmp_path):
    server.traces.update({f"req-{number}": made_up.trace(2) for number in range(1, 4)})
    assert bench("--limit", "1", "--traces").code == 0
    first, second = lines_of(tmp_path / "run")
    assert first["trace"]["request_id"] == "chatcmpl-7f3a91c2"
    assert "There is no trace" in second["trace"]["error"]


def test_synthetic_problems(bench, tmp_path):
    assert bench("--limit", "2", "--modes", "target", source="synthetic").code == 0
    assert all(line["answer"].isdigit() for line in lines_of(tmp_path / "run"))


def test_ctrl_c_keeps_what_was_measured(server, bench, monkeypatch, tmp_path):
    from deployments.bench.record import Record

    add = Record.add

    def add_then_stop(self, line):
        add(self, line)
        if len(self.lines) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Record, "add", add_then_stop)
    end = bench()
    assert end.code == 130
    assert "3 of 6 requests are kept. Go on with:" in end.out
    assert f"lookahead bench --url {server.url}" in end.out
    assert len(lines_of(tmp_path / "run")) == 3
    assert json.loads((tmp_path / "run" / "report.json").read_text())["complete"] is False
    monkeypatch.setattr(Record, "add", add)
    end = bench("--json")
    assert end.json["complete"] is True
    assert {row["num_graded"] for row in end.json["rows"]} == {3}


def test_a_block_that_was_broken_off_is_said_to_be_asked_again(server, bench, tmp_path):
    options = ("--limit", "2", "--concurrency", "2")
    assert bench(*options).code == 0
    path = tmp_path / "run" / "requests.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    end = bench(*options)
    assert end.code == 0
    assert "2 of 4 requests are kept (1 more will be asked again, with the rest of their block)." in end.out
    assert len(lines_of(tmp_path / "run")) == 3 + 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--modes", ","), "must name modes"),
        (("--modes", "target,target"), "each once"),
        (("--concurrency", "one"), "must be whole numbers"),
        (("--concurrency", "0"), "1 or more"),
        (("--rate", "-1"), "must be numbers above zero"),
        (("--rate", "2,2"), "each once"),
        (("--rate", "nan"), "must be numbers above zero"),
        (("--modes", "plain@nowhere"), "after '@' comes an address"),
        (("--modes", "plain:exact"), "takes no wishes"),
        (("--modes", "vllm"), "needs --profile or --config"),
        (("--profile", "scripted"), "exactly one of"),
    ],
)
def test_wrong_options_are_sentences(bench, arguments, words):
    end = bench(*arguments)
    assert (end.code, words in end.err) == (1, True)


def test_a_row_that_is_there_twice_is_named_without_its_password(bench):
    end = bench("--modes", "plain@http://ann:geheim@host,plain@http://bob:geheim@host")
    assert (end.code, "each once" in end.err, "geheim" in end.err) == (1, True, False)


def test_server_that_is_not_there(lookahead, tmp_path):
    end = lookahead("bench", "--url", "http://127.0.0.1:9", "--out", str(tmp_path / "run"))
    assert end.code == 1
    assert "No server answers" in end.err


def test_unknown_profile(lookahead, tmp_path):
    end = lookahead("bench", "--profile", "nope", "--out", str(tmp_path / "run"))
    assert (end.code, "There is no profile 'nope'" in end.err) == (1, True)
