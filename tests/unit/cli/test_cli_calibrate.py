"""``lookahead calibrate`` from the command line to the profile, on pairs with set cosines; no model, no cluster."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
import yaml

from actors.errors import ConfigError, ServiceError
from actors.messages import Verdict
from actors.verifiers import embedding
from deployments.config import load_config, profile_text
from deployments.simulation.cost_file import read_costs
from tests.unit.simulation.test_validation import costs


class SetCosines:
    """The cosine of a pair is that of its second text, or what is raised."""

    def __init__(self, cosines: dict[str, float | Exception | None]) -> None:
        self._cosines = cosines

    async def similarity(self, one: str, other: str) -> float | None:
        cosine = self._cosines[other.strip()]
        if isinstance(cosine, Exception):
            raise cosine
        return cosine


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """Sixty right ones from .9, and forty from .7 of which every other one is right; three more for other checks."""
    right = {f"We go on{' and on' * i}.": (0.9 + i / 1000, True) for i in range(60)}
    mixed = {f"We wait{' and wait' * i}.": (0.7 + i / 1000, i % 2 == 0) for i in range(40)}
    known = right | mixed
    lines = [{"draft": "So we go on.", "target": text, "same": same} for text, (_, same) in known.items()]
    lines += [
        {"draft": "It is red.\n\n", "target": "It is  red.\n\n", "same": True},
        {"draft": "It is 3.", "target": "It is 4.", "same": True},
        {"draft": "It is red.", "target": "Red it is."},
    ]
    cosines = {text: cosine for text, (cosine, _) in known.items()} | {"Red it is.": 0.8}
    monkeypatch.setattr(embedding, "load_encoder", lambda model: SetCosines(cosines))
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def calibrate(lookahead, pairs, tmp_path):
    def run(*arguments, source=pairs):
        return lookahead("calibrate", "--pairs", str(source), "--out", str(tmp_path / "out"), *arguments)

    return run


def test_finds_the_threshold_and_writes_the_report(calibrate, tmp_path):
    done = calibrate("--precision", "0.9", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert (found["verifier"], found["check"], found["labelled_by"]) == ("balanced", "embedding", ["the file"])
    assert (found["num_scored"], found["num_unlabelled"]) == (100, 1)
    assert found["decided_before"] == {
        "exact accepted": {"num": 1, "num_right": 1},
        "same_numbers rejected": {"num": 1, "num_right": 0},
    }
    assert found["threshold"]["low"] >= 0.9
    assert 0.73 < found["threshold"]["threshold"] <= 0.9
    saved = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert saved.items() <= found.items()
    assert "balanced/embedding from" in (tmp_path / "out" / "calibration.html").read_text()
    assert "balanced/embedding from" in done.err
    assert found["wrote"] is None


def test_words_go_to_stdout_without_json(calibrate):
    done = calibrate("--precision", "0.9")
    assert done.code == 0
    assert "exact accepted: 1 pairs, 1 of them rightly" in done.out
    assert "recall" in done.out
    assert "Report: " in done.out


def test_writes_the_threshold_into_a_new_profile_that_differs_in_nothing_else(calibrate, tmp_path):
    mine = tmp_path / "mine.yaml"
    done = calibrate("--precision", "0.9", "--json", "--write-profile", str(mine))
    assert done.code == 0, done.err
    check = load_config(mine).verifier.verifiers["balanced"][-1]
    assert check.accept == done.json["threshold"]["threshold"]
    assert check.reject == check.accept
    assert [list(point) for point in check.calibration] == done.json["calibration"]
    changed = [
        (one, other)
        for one, other in zip(profile_text("local").splitlines(), mine.read_text().splitlines(), strict=True)
        if one != other
    ]
    assert [other.split(":")[0].strip() for _, other in changed] == ["accept", "reject", "calibration"]


@pytest.mark.parametrize(("wrong", "right", "written"), [(0.99993, 0.99998, 0.99998), (0.99993, 1.0000001, 1.0)])
def test_the_written_threshold_accepts_what_was_shown_and_no_more(
    lookahead, tmp_path, monkeypatch, wrong, right, written
):
    cosines = {f"We wait{' and wait' * i}.": wrong for i in range(60)}
    cosines |= {f"We go on{' and on' * i}.": right for i in range(60)}
    monkeypatch.setattr(embedding, "load_encoder", lambda model: SetCosines(cosines))
    source, mine = tmp_path / "pairs.jsonl", tmp_path / "mine.yaml"
    source.write_text(
        "\n".join(json.dumps({"draft": "So.", "target": t, "same": c == right}) for t, c in cosines.items())
    )
    options = ("--pairs", str(source), "--out", str(tmp_path / "out"), "--write-profile", str(mine))
    assert lookahead("calibrate", *options, "--precision", "0.9").code == 0
    check = load_config(mine).verifier.verifiers["balanced"][-1]
    assert check.accept == written
    assert [score for score, _ in check.calibration] == [wrong, written]


def test_an_existing_profile_is_edited_and_the_rest_of_it_kept(calibrate, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(profile_text("local").replace("served_model_name: lookahead-local", "served_model_name: mine # !"))
    assert calibrate("--precision", "0.9", "--write-profile", str(mine)).code == 0
    assert "served_model_name: mine # !" in mine.read_text()
    assert load_config(mine).verifier.verifiers["balanced"][-1].accept != 0.85


def test_a_threshold_of_another_model_is_not_written(calibrate, tmp_path):
    """The profile's embedding was to be measured, and the file is of another one."""
    mine = tmp_path / "mine.yaml"
    mine.write_text(profile_text("local").replace("package:all-minilm-l6-v2", "package:another"))
    text = mine.read_text()
    done = calibrate("--precision", "0.9", "--write-profile", str(mine))
    assert (done.code, mine.read_text()) == (1, text)
    assert f"measure with --config {mine}" in done.err


def test_a_wish_that_is_not_shown_is_not_written(calibrate, tmp_path):
    mine = tmp_path / "mine.yaml"
    done = calibrate("--precision", "0.99", "--write-profile", str(mine))
    assert done.code == 1
    assert "No threshold of balanced/embedding is shown to reach a precision of 0.99" in done.out
    assert done.err.strip().splitlines()[-1].endswith("was not written: no threshold is shown to reach the wish.")
    assert not mine.exists()


def test_labels_by_a_stronger_verifier_are_kept(calibrate, tmp_path):
    done = calibrate("--verifier", "fast", "--label-by", "balanced", "--precision", "0.5", "--json")
    assert done.code == 0, done.err
    assert done.json["labelled_by"] == ["balanced"]
    assert done.json["num_same"] == 60
    assert done.json["num_unlabelled"] == 0
    again = calibrate("--verifier", "fast", "--precision", "0.5", "--json", source=tmp_path / "out" / "labelled.jsonl")
    assert again.json["labelled_by"] == ["balanced"]
    assert again.json["thresholds"] == done.json["thresholds"]


UNSURE = [{"kind": "same_numbers"}, {"kind": "embedding", "model": "made-up", "accept": 0.9, "reject": 0.5}]


@pytest.fixture
def label_by(lookahead, tmp_path, monkeypatch):
    """`calibrate --label-by unsure` on pairs with these cosines; what is kept of it."""

    def run(cosines):
        monkeypatch.setattr(embedding, "load_encoder", lambda model: SetCosines(cosines))
        source, mine = tmp_path / "pairs.jsonl", tmp_path / "mine.yaml"
        source.write_text("\n".join(json.dumps({"draft": "So.", "target": text}) for text in cosines))
        settings = yaml.safe_load(profile_text("local"))
        settings.setdefault("verifier", {}).setdefault("verifiers", {})["unsure"] = UNSURE
        mine.write_text(yaml.safe_dump(settings))
        options = ("--pairs", str(source), "--out", str(tmp_path / "out"), "--config", str(mine), "--concurrency", "1")
        done = lookahead("calibrate", *options, "--verifier", "unsure", "--label-by", "unsure", "--precision", "0.5")
        file = tmp_path / "out" / "labelled.jsonl"
        kept = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return done, {pair["target"]: pair["same"] for pair in kept}

    return run


def test_a_verdict_that_fails_costs_its_own_label(label_by):
    done, kept = label_by({"Right.": 0.95, "Wrong.": 0.2, "Gone.": ValueError("the encoder is away")})
    assert kept == {"Right.": True, "Wrong.": False, "Gone.": None}
    assert "Labels: unsure gave none to 1 of 3; the reason for the first: A pair could not be judged" in done.out
    assert "the encoder is away" in done.out
    assert "unlabelled: 1 pair" in done.out


def test_labels_are_kept_however_it_ends(label_by, monkeypatch):
    async def local_judge(config, verifiers):
        async def judge(request):
            if request.target.text == "Gone.":
                raise ConfigError("The verifier cannot go on.", "verifier")
            return Verdict(True, f"{request.verifier}/embedding", "the same")

        return judge

    monkeypatch.setattr("deployments.calibration.roles.local_judge", local_judge)
    done, kept = label_by({"Right.": 0.95, "So it is.": 0.96, "Gone.": 0.97})
    assert done.code == 1
    assert "The verifier cannot go on." in done.err
    assert kept == {"Right.": True, "So it is.": True}


def test_unsure_verdicts_are_no_labels(label_by):
    done, kept = label_by({"Red it is.": 0.7, "It is so.": 0.6})
    assert done.code == 1
    assert not kept
    assert "No pair has a label (unsure gave none to 2 of 2; the reason for the first: no check was sure" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--record",), "Give --pairs FILE or --record: one of the two."),
        (("--verifier", "none"), "There is no verifier 'none'"),
        (("--verifier", "exact"), "'exact' has no check with a score"),
        (("--check", "judge"), "'balanced' has no check 'judge' with a score"),
        (("--label-by", "none"), "There is no verifier 'none' to label by"),
        (("--label-by", "answer"), "use --record"),
        (("--profile", "none"), "There is no profile 'none'"),
    ],
)
def test_failures_are_one_sentence(calibrate, arguments, words):
    done = calibrate(*arguments)
    assert done.code == 1
    [sentence] = done.err.strip().splitlines()
    assert sentence.startswith("lookahead: ")
    assert words in sentence


def test_each_pair_counts_once_however_often_it_is_given(calibrate, pairs):
    once = calibrate("--json")
    pairs.write_text(f"{pairs.read_text()}\n" * 4)
    often = calibrate("--json")
    assert often.json["num_scored"] == once.json["num_scored"] == 100
    assert often.json["thresholds"] == once.json["thresholds"]


def test_problems_that_are_made_up_here_are_none_of_a_benchmark_s():
    from deployments.bench.problems import synthetic
    from deployments.cli.calibrate import _problems

    ours = {problem.question for problem in _problems("synthetic", 300)}
    assert len(ours) == 300
    assert not ours & {problem.question for problem in synthetic(300)}


def test_pairs_without_labels_say_how_to_get_some(calibrate, tmp_path):
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"draft": "It is red.", "target": "Red it is."}\n')
    done = calibrate(source=bare)
    assert done.code == 1
    assert "No pair has a label" in done.err


def test_recorded_pairs_are_not_overwritten(lookahead, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("")
    done = lookahead("calibrate", "--record", "--profile", "scripted", "--verifier", "exact", "--out", str(tmp_path))
    assert done.code == 1
    assert "'exact' has no check with a score" in done.err
    done = lookahead("calibrate", "--record", "--out", str(tmp_path))
    assert done.code == 1
    assert "is there already" in done.err


@pytest.fixture
def started(monkeypatch):
    """What servers were started with, by a calibration whose engines take `costs`."""
    found = []

    async def time_engines(config, bar):
        return costs()

    @contextmanager
    def server(config, url):
        found.append(config)
        yield "http://made-up"

    monkeypatch.setattr("deployments.calibration.engine_run.time_engines", time_engines)
    monkeypatch.setattr("deployments.cli.cluster.server", server)
    return found


def test_engines_are_measured_in_a_server_that_keeps_words(lookahead, tmp_path, monkeypatch, started):
    """Its answers are written again from their traces, whatever the profile keeps of others."""
    silent = tmp_path / "silent.yaml"
    silent.write_text(profile_text("scripted") + "\ntelemetry: {trace_texts: false}\n")
    monkeypatch.setattr("deployments.calibration.served.measure_served", lambda url, config, found, tell: found)
    done = lookahead("calibrate", "--engine", "--config", str(silent), "--out", str(tmp_path / "costs"), "--json")
    assert done.code == 0, done.err
    assert [config.telemetry.trace_texts for config in started] == [True]
    assert read_costs(tmp_path / "costs" / "costs.yaml") == costs()


def test_engines_that_were_timed_are_kept_where_their_server_fails(lookahead, tmp_path, monkeypatch, started):
    def measure_served(url, config, found, tell):
        raise ServiceError("The server did not answer as it was timed: 503.")

    monkeypatch.setattr("deployments.calibration.served.measure_served", measure_served)
    done = lookahead("calibrate", "--engine", "--profile", "scripted", "--out", str(tmp_path / "costs"), "--json")
    assert (done.code, len(started)) == (1, 1)
    file = tmp_path / "costs" / "costs.yaml"
    lines = done.err.strip().splitlines()
    assert f"{file} has what was timed of the engines alone, without what a server adds to it." in lines
    assert lines[-1].endswith("The server did not answer as it was timed: 503.")
    assert read_costs(file) == costs().model_copy(update={"source": "test, engines alone"})


def test_where_costs_cannot_be_written_nothing_is_timed(lookahead, tmp_path, started):
    (tmp_path / "costs").write_text("a file")
    done = lookahead("calibrate", "--engine", "--profile", "scripted", "--out", str(tmp_path / "costs"))
    assert (done.code, started) == (1, [])
    assert "cannot be made" in done.err


def test_help_has_an_example(lookahead):
    done = lookahead("calibrate", "--help")
    assert done.code == 0
    assert "Example: lookahead calibrate" in done.out
