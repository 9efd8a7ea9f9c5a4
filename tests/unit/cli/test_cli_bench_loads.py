"""``lookahead bench``: open loops, other servers, failures, and what happens between the blocks."""

from __future__ import annotations

import json
from base64 import b64encode
from contextlib import contextmanager

import pytest

from deployments.config import load_profile
from tests.unit.cli import made_up, speaking_server
from tests.unit.cli.conftest import lines_of, reviews_of
from tests.unit.cli.speaking_server import SpeakingServer


def test_open_loop_sends_at_its_times_whoever_was_answered(bench, tmp_path):
    end = bench("--rate", "40,80", "--objective-s", "100", "--objective-ttft-s", "100", "--json")
    assert end.code == 0, end.err
    assert [(row["mode"], row["concurrency"], row["rate"]) for row in end.json["rows"]] == [
        ("target", None, 40.0), ("lookahead", None, 40.0), ("target", None, 80.0), ("lookahead", None, 80.0),
    ]  # fmt: skip
    assert {row["share_in_objective"] for row in end.json["rows"]} == {1.0}
    assert all(row["goodput_per_s"] == row["requests_per_s"] > 0 for row in end.json["rows"])
    assert end.json["rows"][1]["num_pairs"] == 3
    lines = lines_of(tmp_path / "run")
    assert all(line["started_at"] >= line["block_started_at"] and line["late_s"] >= 0 for line in lines)
    assert "Latency against arrivals" in (tmp_path / "run" / "report.html").read_text()


def test_open_loop_does_not_wait_for_answers(server, bench, tmp_path):
    """All three are in flight at once, though each hangs until its time is over."""
    source = tmp_path / "slow.jsonl"
    source.write_text("\n".join(json.dumps({"question": f"STALL {n}", "answer": "1"}) for n in range(3)))
    end = bench("--request-timeout", "4", "--modes", "target", "--rate", "100", source=source)
    assert (end.code, server.most_open) == (1, 3)
    assert "Every request failed in mode target" in end.err


def test_a_timeout_is_a_failure_with_its_reason(bench, tmp_path):
    source = tmp_path / "slow.jsonl"
    source.write_text('{"question": "STALL", "answer": "42"}\n{"question": "Fine", "answer": "42"}')
    end = bench("--request-timeout", "4", "--modes", "target", "--json", source=source)
    assert end.code == 0
    (row,) = end.json["rows"]
    assert (row["num_requests"], row["num_failed"], row["accuracy"]) == (2, 1, 0.5)
    reason = "The answer was not complete after 4 s."
    assert row["failures"] == {reason: 1}
    assert {line["question"]: line["error"] for line in lines_of(tmp_path / "run")} == {"STALL": reason, "Fine": None}
    assert end.json["notes"][0].endswith(reason)


def test_plain_sends_nothing_of_ours_to_any_openai_endpoint(server, lookahead, data, tmp_path):
    end = lookahead(
        "bench", "--url", f"{server.url}/v1/", "--data", str(data), "--out", str(tmp_path / "run"), "--modes", "plain",
        "--model", "their-model", "--fidelity", "exact", "--json",
    )  # fmt: skip
    assert end.code == 0, end.err
    assert all("speculation" not in body and body["model"] == "their-model" for body in server.bodies)
    assert end.json["baseline"] == "plain"


def test_one_run_may_compare_two_servers(server, bench):
    other = SpeakingServer()
    other.start()
    try:
        end = bench("--modes", f"lookahead,plain@{other.url}", "--api-key", "ours", "--json")
    finally:
        other.stop()
    assert end.code == 0, end.err
    assert {body["speculation"]["mode"] for body in server.bodies} == {"lookahead"}
    assert all("speculation" not in body and "cache_salt" not in body for body in other.bodies)
    assert len(server.bodies) == len(other.bodies) == 4
    assert (server.keys, other.keys) == ({"Bearer ours"}, {None})
    assert end.json["baseline"] == f"plain@{other.url}"
    assert end.json["rows"][0]["num_pairs"] == 3
    assert end.json["environment"]["server"]["others"] == {other.url: {"version": "9.9"}}


def test_passwords_in_addresses_are_sent_and_written_nowhere(server, lookahead, data, tmp_path, monkeypatch):
    other = SpeakingServer()
    other.start()
    ours, theirs = (place.url.replace("://", f"://{who}:geheim@") for place, who in ((server, "ann"), (other, "bob")))
    monkeypatch.setattr("deployments.bench.runner.SETTLE_S", 0.01)
    try:
        end = lookahead(
            "bench", "--url", ours, "--modes", f"target,plain@{theirs}", "--data", str(data), "--out",
            str(tmp_path / "run"), "--json",
        )  # fmt: skip
    finally:
        other.stop()
    assert end.code == 0, end.err
    basic = {who: "Basic " + b64encode(f"{who}:geheim".encode()).decode() for who in ("ann", "bob")}
    assert (server.keys, other.keys) == ({basic["ann"]}, {basic["bob"]})
    assert [row["mode"] for row in end.json["rows"]] == ["target", f"plain@{other.url}"]
    written = [file.read_text() for file in (tmp_path / "run").iterdir()]
    assert len(written) == 5
    assert "geheim" not in "".join([*written, end.out, end.err])


def test_a_row_says_what_its_requests_ask_of_an_engine_that_hears_them():
    from deployments.cli.bench import _token_speculation

    local = load_profile("local")
    ngram = local.speculation.model_copy(update={"token_speculation": "ngram"})
    found = [_token_speculation(one) for one in (local, local.model_copy(update={"speculation": ngram}))]
    assert found == ["hints", "ngram"]
    assert _token_speculation(load_profile("local-tokens")) == "draft_model"


def test_vllms_own_server_is_started_for_its_rows(server, lookahead, data, tmp_path, monkeypatch):
    other = SpeakingServer()
    other.start()
    started = []

    @contextmanager
    def ours(config, url):
        yield server.url

    @contextmanager
    def theirs(wanted):
        started.append(wanted.options.get("speculative_config"))
        yield other.url

    monkeypatch.setattr("deployments.cli.bench.server", ours)
    monkeypatch.setattr("deployments.bench.vllm_server.running", theirs)
    monkeypatch.setattr("deployments.bench.runner.SETTLE_S", 0.01)
    try:
        end = lookahead(
            "bench", "--profile", "local", "--modes", "lookahead,vllm", "--data", str(data), "--out",
            str(tmp_path / "run"), "--json",
        )  # fmt: skip
    finally:
        other.stop()
    assert end.code == 0, end.err
    assert [one["method"] for one in started] == ["draft_model"]
    assert all("speculation" not in body and "cache_salt" in body for body in other.bodies)
    assert (len(server.bodies), len(other.bodies)) == (4, 4)
    assert (end.json["baseline"], end.json["rows"][0]["num_pairs"]) == ("vllm", 3)
    assert end.json["rows"][1]["token_speculation"] == "draft_model"
    own = end.json["environment"]["own"]["vllm"]
    assert (own["cores"], own["options"]["speculative_config"]) == ("0,1", started[0])
    facts = "<dt>vLLM&#x27;s own server</dt><dd>vllm: token speculation draft_model, cores 0,1</dd>"
    assert facts in (tmp_path / "run" / "report.html").read_text()


@pytest.fixture
def on_cards(server, lookahead, data, tmp_path, monkeypatch):
    """Runs rows of profile gpu-one, whose deployment and vLLM's server are others; the outcome and what was started."""
    other = SpeakingServer()
    other.start()
    events = []

    @contextmanager
    def ours(config, url):
        events.append("deployment")
        yield server.url
        events.append("deployment ended")

    @contextmanager
    def theirs(wanted):
        events.append(wanted.options["gpu_memory_utilization"])
        yield other.url

    monkeypatch.setattr("deployments.cli.bench.server", ours)
    monkeypatch.setattr("deployments.bench.vllm_server.running", theirs)
    monkeypatch.setattr("deployments.bench.runner.SETTLE_S", 0.01)

    def run():
        events.clear()
        end = lookahead(
            "bench", "--profile", "gpu-one", "--modes", "target,vllm:none,lookahead", "--data", str(data), "--out",
            str(tmp_path / "run"), "--json",
        )  # fmt: skip
        return end, tuple(events)

    yield run, other
    other.stop()


def test_on_gpus_vllms_server_gets_them_after_the_deployment(server, on_cards):
    run, other = on_cards
    end, events = run()
    assert end.code == 0, end.err
    assert events == ("deployment", "deployment ended", 0.85)
    assert (len(server.bodies), len(other.bodies)) == (2 * 4, 4)
    assert [(row["mode"], row["num_pairs"]) for row in end.json["rows"]] == [
        ("target", 0),
        ("vllm:none", 3),
        ("lookahead", 3),
    ]
    assert end.json["complete"]
    assert any("vllm:none: asked after the other rows had ended" in note for note in end.json["notes"])
    assert list(end.json["environment"]["server"]["others"].values()) == [{"version": "9.9"}]
    assert run()[1] == (), "nothing is started for a run that is complete"


def test_on_gpus_only_what_is_left_is_started(server, on_cards, tmp_path):
    run, _ = on_cards
    assert run()[0].code == 0
    requests = tmp_path / "run" / "requests.jsonl"
    lines = requests.read_text().splitlines(keepends=True)

    requests.write_text("".join(line for line in lines if json.loads(line)["mode"] != "vllm:none"))
    end, events = run()
    assert (end.code, events) == (0, (0.85,)), end.err
    requests.write_text("".join(line for line in lines if json.loads(line)["mode"] != "target"))
    end, events = run()
    assert (end.code, events) == (0, ("deployment", "deployment ended")), end.err


def test_a_row_that_cannot_be_is_refused_before_anything_starts(lookahead, data, tmp_path, monkeypatch):
    monkeypatch.setattr("deployments.cli.bench.server", None)
    end = lookahead(
        "bench", "--profile", "scripted", "--modes", "target,vllm", "--data", str(data), "--out", str(tmp_path / "run")
    )
    assert end.code == 1
    assert "needs a model" in end.err
    assert not (tmp_path / "run").exists()


def test_nothing_is_graded_while_a_request_is_measured(bench, monkeypatch):
    from deployments.bench import review, runner

    ask, grade, in_flight, seen = runner.ask, review.grade, [0], []

    async def counted(*arguments, **options):
        in_flight[0] += 1
        try:
            return await ask(*arguments, **options)
        finally:
            in_flight[0] -= 1

    def watched(*arguments):
        seen.append(in_flight[0])
        return grade(*arguments)

    monkeypatch.setattr(runner, "ask", counted)
    monkeypatch.setattr(review, "grade", watched)
    assert bench("--concurrency", "2", "--rate", "50").code == 0
    assert seen == [0] * 12


def test_functions_are_tried_and_the_report_says_where(bench, tmp_path):
    source = tmp_path / "code.jsonl"
    source.write_text(json.dumps({"prompt": "def f():\n    'One.'\n", "test": "def check(f): 0", "entry_point": "f"}))
    end = bench("--modes", "target", "--json", source=source)
    assert end.json["rows"][0]["accuracy"] == 0.0
    assert end.json["environment"]["sandbox"]
    assert reviews_of(tmp_path / "run")[0]["note"] == "the answer holds no whole program"


CODE = {"prompt": "def f():\n    'Seven.'\n", "test": "def check(f): assert f() == 7", "entry_point": "f"}
PROGRAM = (("target", "```python\ndef f():\n    return 7\n```\n"),)


@pytest.fixture
def programs(server, lookahead, tmp_path, monkeypatch):
    """Runs a row whose answers are programs, where these reach the network; the outcome, and what happened."""
    from deployments.bench import sandbox

    source, events = tmp_path / "code.jsonl", []
    source.write_text(json.dumps(CODE))

    @contextmanager
    def ours(config, url):
        events.append("deployment")
        yield server.url
        events.append("deployment ended")

    def tried(program, bounds=None):
        events.append("program")
        return sandbox.Outcome(True)

    monkeypatch.setattr("deployments.cli.bench.server", ours)
    monkeypatch.setattr(sandbox, "find_place", lambda: sandbox._PLACES_OF_ROOT[-1])
    monkeypatch.setattr(sandbox, "run", tried)
    monkeypatch.setattr(speaking_server, "STEPS", PROGRAM)

    def run():
        events.clear()
        out = str(tmp_path / "run")
        end = lookahead(
            "bench", "--profile", "scripted", "--modes", "target", "--data", str(source), "--out", out, "--json"
        )
        return end, tuple(events)

    return run


def test_a_program_is_not_run_while_a_server_is_there_for_it_to_reach(programs, tmp_path):
    end, events = programs()
    assert end.code == 0, end.err
    assert events == ("deployment", "deployment ended", "program")
    assert end.json["rows"][0]["accuracy"] == 1.0
    assert [(one["correct"], one["waits"]) for one in reviews_of(tmp_path / "run")] == [(None, True), (True, False)]
    assert programs()[1] == ()


def test_a_run_that_was_stopped_before_its_programs_ran_goes_on_with_them(programs, tmp_path):
    assert programs()[0].code == 0
    reviews = tmp_path / "run" / "reviews.jsonl"
    reviews.write_text(reviews.read_text().splitlines(keepends=True)[0])
    end, events = programs()
    assert (events, end.json["rows"][0]["accuracy"]) == (("program",), 1.0)


def test_where_programs_cannot_be_run_that_is_said_and_the_same_command_runs_them_later(programs, monkeypatch):
    from deployments.bench import sandbox

    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "find_place", lambda: None)
        patch.setattr(sandbox, "run", lambda program, bounds=None: sandbox.Outcome(None, sandbox.describe()))
        end, events = programs()
    assert (end.json["rows"][0]["accuracy"], "program" in events) == (None, False)
    assert "The programs of 1 answers were not run: this machine" in end.err
    end, events = programs()
    assert (events, end.json["rows"][0]["accuracy"]) == (("program",), 1.0)


def test_traces_say_where_the_time_went(server, bench, tmp_path):
    server.traces.update({f"req-{number}": made_up.trace(4) for number in range(1, 9)})
    end = bench("--limit", "1", "--json")
    assert all(row["time_use"]["target"] > 0 for row in end.json["rows"])
    assert end.json["rows"][1]["accept_rate_by_position"]
    assert {line["trace"] for line in lines_of(tmp_path / "run")} == {None}
    assert "Where the time went" in (tmp_path / "run" / "report.html").read_text()
