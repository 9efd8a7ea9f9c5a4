"""``lookahead chat`` against a server that speaks the real stream."""

from __future__ import annotations

import asyncio
import io
from typing import get_args

import pytest
from fastapi.responses import JSONResponse

from actors.errors import ServiceError
from actors.messages import Message
from deployments.cli.chat import finish_turn
from deployments.cli.terminal import words_console
from deployments.server.client import Question, Reply, ask, connect, served_model
from deployments.speculation_config import Mode
from tests.unit.cli import made_up
from tests.unit.cli.speaking_server import STEPS, SpeakingServer

ANSWER = "".join(text for _, text in STEPS)


def test_answer_and_cost_are_printed(server, lookahead):
    end = lookahead("chat", "What is 6 * 7?", "--url", server.url)
    assert end.code == 0, end.err
    assert ANSWER in end.out
    assert "30 tokens" in end.out
    assert "3 steps: 1 accepted, 1 recovered, 1 target" in end.out
    assert "accept rate 50 %" in end.out
    assert "lookahead trace req-1" in end.out


def test_the_help_names_every_mode(lookahead):
    said = " ".join(lookahead("chat", "--help").out.replace("│", " ").split())
    assert f"{', '.join(get_args(Mode)[:-1])} or {get_args(Mode)[-1]}; else the server's default." in said


def test_options_reach_the_server(server, lookahead):
    options = "--mode target --max-tokens 77 --temperature 0.5 --fidelity exact --verifier judge --max-lookahead 3"
    assert lookahead("chat", "Hi", "--url", server.url, *options.split(), "--system", "Be brief.").code == 0
    body = server.bodies[0]
    assert body["model"] == "made-up"
    assert body["stream"] is True
    assert (body["max_tokens"], body["temperature"]) == (77, 0.5)
    assert body["speculation"] == {"mode": "target", "fidelity": "exact", "verifier": "judge", "max_lookahead": 3}
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("arguments", [("caf\udce9?",), ("Hi", "--system", "Be \udce9.")])
def test_bytes_that_are_no_text_are_refused_with_a_sentence(server, lookahead, arguments):
    end = lookahead("chat", *arguments, "--url", server.url)
    assert (end.code, server.bodies) == (1, [])
    assert "message is not text in UTF-8." in end.err


def test_json_is_the_only_thing_on_stdout(server, lookahead):
    server.reasoning = True
    end = lookahead("chat", "What is 6 * 7?", "--url", server.url, "--json")
    assert end.code == 0
    assert end.json["reasoning"] == STEPS[0][1]
    assert end.json["text"] == STEPS[1][1] + STEPS[2][1]
    assert [step["origin"] for step in end.json["steps"]] == ["accepted", "recovered", "target"]
    assert end.json["output_tokens"] == 30
    assert end.json["speculation"]["num_steps"] == 3
    assert 0 < end.json["ttft_s"] <= end.json["latency_s"]
    assert STEPS[1][1].strip() in end.err


def test_missing_server_is_one_sentence_that_says_what_to_do(lookahead):
    end = lookahead("chat", "Hi", "--url", "http://127.0.0.1:9")
    assert end.code == 1
    assert end.out == ""
    assert end.err.startswith("lookahead: No server answers at http://127.0.0.1:9")
    assert "lookahead serve" in end.err
    end = lookahead("chat", "Hi", "--url", "http://ann:geheim@127.0.0.1:9")
    assert end.err.startswith("lookahead: No server answers at http://127.0.0.1:9")
    assert "Traceback" not in end.err


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("BREAK it", "The target was lost."),
        ("CUT it", "ended before the answer was complete"),
        ("REFUSE it", "HTTP 429"),
    ],
)
def test_failures_are_sentences(server, lookahead, question, words):
    end = lookahead("chat", question, "--url", server.url)
    assert end.code == 1
    assert words in end.err
    assert "Traceback" not in end.err


def test_unknown_mode_is_the_servers_own_sentence(server, lookahead):
    end = lookahead("chat", "Hi", "--url", server.url, "--mode", "psychic")
    assert end.code == 1
    assert "'psychic' does not exist" in end.err


def test_key_is_asked_for_and_sent(server, lookahead):
    server.key = "s3cret"
    refused = lookahead("chat", "Hi", "--url", server.url)
    assert refused.code == 1
    assert "--api-key" in refused.err
    assert lookahead("chat", "Hi", "--url", server.url, "--api-key", "s3cret").code == 0


def test_a_key_may_be_in_any_letters_and_must_be_text(server, lookahead):
    server.key = "schl\u00fcssel\u2713".encode().decode("latin-1")  # as bytes of a header are read
    assert lookahead("chat", "Hi", "--url", server.url, "--api-key", "schl\u00fcssel\u2713").code == 0
    end = lookahead("chat", "Hi", "--url", server.url, "--api-key", "caf\udce9")
    assert (end.code, "The API key is not text in UTF-8." in end.err) == (1, True)


@pytest.mark.parametrize("end_of_it", ["/v1", "/v1/"])
def test_the_address_that_serve_prints_can_be_given(server, lookahead, end_of_it):
    server.traces["req-1"] = made_up.trace(2)
    assert lookahead("chat", "Hi", "--url", server.url + end_of_it).code == 0
    assert lookahead("trace", "req-1", "--url", server.url + end_of_it).code == 0
    assert lookahead("demo", "--url", server.url + end_of_it).code == 0


def test_address_that_is_none(lookahead):
    for url in ("not an address", "http://127.0.0.1:65536"):
        end = lookahead("chat", "Hi", "--url", url)
        assert end.code == 1
        assert f"'{url}' is not an address" in end.err


@pytest.mark.parametrize(
    "url", ["ftp://ann:geheim@host", "ann:geheim@host", "http://ann:geheim#@host", "http://ann:geheim/@host"]
)
def test_an_address_that_is_none_is_not_repeated_with_its_password(lookahead, url):
    end = lookahead("chat", "Hi", "--url", url)
    assert (end.code, "is not an address" in end.err, "geheim" in end.err) == (1, True, False)


def test_something_else_listens_there(server, lookahead):
    end = lookahead("chat", "Hi", "--url", server.url + "/elsewhere")
    assert end.code == 1
    assert "HTTP 404" in end.err


def test_conversation_keeps_what_was_said(server, lookahead, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 6 * 7?\nAnd why?\n\n"))
    end = lookahead("chat", "--url", server.url)
    assert end.code == 0, end.err
    assert [message["role"] for message in server.bodies[1]["messages"]] == ["user", "assistant", "user"]
    assert server.bodies[1]["messages"][1]["content"] == ANSWER


def test_a_turn_that_fails_ends_no_conversation_and_is_no_part_of_it(server, lookahead, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 6 * 7?\nREFUSE it\nBREAK it\nAnd why?\n"))
    end = lookahead("chat", "--url", server.url)
    assert end.code == 0, end.err
    assert "HTTP 429" in end.out
    assert "The target was lost." in end.out
    said = [message["content"] for message in server.bodies[3]["messages"]]
    assert said == ["What is 6 * 7?", ANSWER, "And why?"]


def test_conversation_ends_with_the_input(server, lookahead, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 6 * 7?\n"))
    assert lookahead("chat", "--url", server.url).code == 0
    assert len(server.bodies) == 1


def test_terminal_codes_of_a_model_do_not_pass(server, lookahead, monkeypatch):
    monkeypatch.setattr("tests.unit.cli.speaking_server.STEPS", (("target", "wipe \x1b[2J\rit\x9b"),))
    end = lookahead("chat", "Hi", "--url", server.url)
    assert "wipe [2Jit" in end.out
    assert not {"\x1b", "\r", "\x9b"} & set(end.out)


def test_terminal_codes_of_a_server_do_not_pass(server, lookahead, monkeypatch):
    def refusal(status, message):
        return JSONResponse({"error": {"message": f"wipe \x1b[2J\rit\x9b: {message}"}}, status)

    monkeypatch.setattr("tests.unit.cli.speaking_server._error", refusal)
    end = lookahead("chat", "REFUSE it", "--url", server.url)
    assert "wipe [2Jit: Too much work" in end.err
    assert not {"\x1b", "\r", "\x9b"} & set(end.err)


def test_terminal_codes_in_the_line_under_an_answer_do_not_pass(capsys):
    wipe = "wipe \x1b[2J\rit\x9b"
    finish_turn(words_console(False), Reply(wipe, finish_reason="length", speculation={"degraded": [wipe]}))
    out = capsys.readouterr().out
    assert "Not at its best: wipe [2Jit." in out
    assert "lookahead trace wipe [2Jit" in out
    assert not {"\x1b", "\r", "\x9b"} & set(out)


def test_terminal_codes_do_not_pass_in_json_and_can_be_read_there(server, lookahead, monkeypatch):
    monkeypatch.setattr("tests.unit.cli.speaking_server.STEPS", (("target", "wipe \x1b[2J\rit\x9b\x7f"),))
    end = lookahead("chat", "Hi", "--json", "--url", server.url)
    assert end.json["text"] == "wipe \x1b[2J\rit\x9b\x7f"
    assert not {"\x1b", "\r", "\x9b", "\x7f"} & set(end.out + end.err)


def test_ctrl_c_stops_the_command_with_130(server, lookahead, monkeypatch):
    async def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("deployments.cli.chat.served_model", interrupted)
    end = lookahead("chat", "Hi", "--url", server.url)
    assert end.code == 130
    assert "stopped" in end.err


async def test_cancelled_question_closes_its_stream(server: SpeakingServer):
    server.delays["lookahead"] = 5.0
    async with connect(server.url) as http:
        question = Question((Message("user", "Hi"),), await served_model(http))
        asking = asyncio.create_task(ask(http, question))
        await server.has_open(1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await server.has_open(0)
    assert server.num_closed_early == 1


async def test_slow_answer_is_given_up(server: SpeakingServer):
    server.delays["lookahead"] = 5.0
    async with connect(server.url) as http:
        reply = await ask(http, Question((Message("user", "Hi"),), "made-up"), timeout_s=0.1)
        assert reply.error == "The answer was not complete after 0.1 s."
        await server.has_open(0)


async def test_line_separators_inside_json_do_not_cut_an_event(server: SpeakingServer, monkeypatch):
    strange = "one\u2028two\x85three\x0bfour "
    monkeypatch.setattr("tests.unit.cli.speaking_server.STEPS", (("target", strange),))
    async with connect(server.url) as http:
        reply = await ask(http, Question((Message("user", "Hi"),), "made-up"))
    assert reply.error is None
    assert reply.text == strange


async def test_server_that_goes_away_raises(server: SpeakingServer):
    async with connect(server.url) as http:
        await served_model(http)
        server.stop()
        with pytest.raises(ServiceError, match="No server answers"):
            await served_model(http)
