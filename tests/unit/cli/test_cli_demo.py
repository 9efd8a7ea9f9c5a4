"""``lookahead demo`` against a server that runs already."""

from __future__ import annotations

import pytest

from deployments.cli.demo import verdict
from deployments.server.client import Reply


def reply(latency_s, accepted=0, recovered=0, **rest):
    steps = {"num_accepted_steps": accepted, "num_recovered_steps": recovered}
    return Reply(latency_s=latency_s, usage={"completion_tokens": 100}, speculation=steps, **rest)


def test_both_answers_and_the_comparison(server, lookahead):
    end = lookahead("demo", "--url", server.url)
    assert end.code == 0, end.err
    assert end.out.count("The answer is 42.") == 2
    measured = [body for body in server.bodies if "pens" in body["messages"][0]["content"]]
    assert [body["speculation"]["mode"] for body in measured] == ["target", "lookahead"]
    assert "recovered" in end.out
    assert "anecdote" in end.out
    assert "lookahead bench" in end.out


def test_each_mode_is_warm_and_reads_the_question_itself(server, lookahead):
    for _ in range(2):
        assert lookahead("demo", "--url", server.url).code == 0
    asked = [(body["max_tokens"], body["speculation"]["mode"]) for body in server.bodies]
    assert asked == [(8, "target"), (8, "lookahead"), (128, "target"), (128, "lookahead")] * 2
    salts = [body["cache_salt"] for body in server.bodies]
    assert (salts[:2], salts[4:6]) == (salts[2:4], salts[6:])
    assert len(set(salts)) == 4


def test_json(server, lookahead):
    end = lookahead("demo", "--url", server.url, "--json")
    assert end.code == 0
    assert end.json["speedup"] > 0
    assert end.json["answers"]["lookahead"]["speculation"]["num_accepted_steps"] == 1


@pytest.mark.parametrize("question", ["BREAK", "CUT", "REFUSE"])
def test_an_answer_that_is_not_whole_fails(server, lookahead, question):
    end = lookahead("demo", "--url", server.url, "--question", question)
    assert end.code == 1
    assert "Not every answer arrived whole" in end.err


@pytest.mark.parametrize(("ahead", "words"), [(8.0, "SLOWER"), (4.0, "1.25 times as fast"), (5.05, "about as fast")])
def test_verdict_is_honest(ahead, words):
    assert words in verdict({"target": reply(5.0), "lookahead": reply(ahead, 1, 1)})[0]


def test_verdict_names_an_easy_question_and_a_cut():
    words = " ".join(verdict({"target": reply(5.0), "lookahead": reply(2.0, 9, 1, finish_reason="length")}))
    assert "easy for the draft" in words
    assert "cut at its token limit" in words


def test_no_tokens_no_comparison():
    assert "cannot be compared" in verdict({"target": Reply(), "lookahead": Reply()})[0]


def test_unknown_profile(lookahead):
    end = lookahead("demo", "--profile", "nope")
    assert (end.code, "There is no profile 'nope'" in end.err) == (1, True)
