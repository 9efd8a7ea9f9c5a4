"""``lookahead trace`` and the picture of time it draws."""

from __future__ import annotations

import json
import re

import pytest
from rich.console import Console

from actors.errors import RequestError
from deployments.telemetry.timeline import arrange, read_trace, shares
from deployments.telemetry.timeline_page import page
from deployments.telemetry.timeline_text import LETTERS, render
from tests.unit.cli import made_up


def span(kind, position, start, end, outcome, **rest):
    return {"kind": kind, "position": position, "start_s": start, "end_s": end, "outcome": outcome, **rest}


SMALL = {
    "request_id": "r",
    "mode": "lookahead",
    "duration_s": 10.0,
    "spans": [
        span("draft", 0, 0.0, 2.0, "accepted", step=0),
        span("draft", 1, 2.0, 4.0, "cancelled"),
        span("target", 0, 0.0, 5.0, "accepted", step=0),
        span("target", 1, 3.0, 7.0, "recovered", step=1),
        span("verdict", 0, 7.0, 8.0, "accepted", step=0, detail={"accepted": True, "score": 0.9, "reason": "alike"}),
    ],
    "commits": [{"step": 0, "at_s": 8.0, "origin": "accepted", "num_tokens": 5, "text": "Hello there"}],
    "decisions": [
        {"at_s": 0.0, "depth": 4, "reason": "pays <b>", "predicted_speed_up": 1.5},
        {"at_s": 6.0, "depth": 0},
    ],
    "summary": {},
}


def drawn(data, width=80):
    console = Console(width=width, no_color=True, highlight=False, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(render(read_trace(data), width))
        return console.export_text()


def test_decisions_are_shown_with_their_reasons():
    text, html = drawn(SMALL), page(read_trace(SMALL))
    assert "0.00 s depth 4: pays <b>" in text
    assert "6.00 s depth 0:" in text
    assert "<li>0.00 s, depth 4: pays &lt;b&gt;</li>" in html


def test_shares_are_of_the_wall_time():
    part = shares(read_trace(SMALL))
    assert part.draft == pytest.approx(0.4)
    assert part.target == pytest.approx(0.7)
    assert part.both == pytest.approx(0.4)
    assert part.verifier_alone == pytest.approx(0.1)
    assert part.nobody == pytest.approx(0.2)


def test_rows_never_overlap_and_hold_every_span():
    trace = read_trace(made_up.trace(30))
    rows = arrange(trace)
    assert sum(len(row.spans) for row in rows) == len(trace.spans)
    for row in rows:
        for before, after in zip(row.spans, row.spans[1:], strict=False):
            assert after.start_s >= before.end_s - 1e-6
    assert [row.lane for row in arrange(read_trace(SMALL))] == ["draft", "target", "target", "verifier"]


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("num_steps", [1, 12, 80])
def test_lines_fit_and_every_outcome_has_its_letter(width, num_steps):
    data = made_up.trace(num_steps)
    text = drawn(data, width)
    assert max(map(len, text.splitlines())) <= width
    heads = ("draft", "target  ", "verifier", "    ")
    lanes = "".join(line[9:] for line in text.splitlines() if line.startswith(heads))
    if num_steps == 12:
        assert {LETTERS[item["outcome"]] for item in data["spans"]} <= set(lanes)


def test_table_has_each_step_with_times_and_verdict():
    text = drawn(SMALL)
    row = next(line for line in text.splitlines() if "Hello" in line)
    assert re.match(r"\s*0\s+5\s+2\.00\s+5\.00 A accepted\s+0\.90 alike\s+Hello there", row)
    assert (
        "Of 10.00 s: draft ran 40%, target ran 70%, both at once 40%, only the verifier 10%, nobody 20%."
        in " ".join(text.split())
    )


def test_steps_that_were_equal_needed_no_verdict():
    data = {**SMALL, "spans": SMALL["spans"][:-1]}
    assert "A accepted  equal" in drawn(data)


def test_trace_without_calls_or_texts():
    assert "No calls" in drawn({"spans": []})
    data = made_up.trace(3)
    for item in data["spans"] + data["commits"]:
        item["text"] = None
    assert "accepted" in drawn(data)
    assert "</html>" in page(read_trace(data))


def test_request_that_runs_or_failed_says_so():
    data = {**SMALL, "spans": [span("draft", 0, 0.0, 2.0, ""), span("answer", -1, 2.0, 9.0, "failed")]}
    data["error"] = "The target was lost."
    text = drawn(data)
    assert "?? not decided yet" in text
    assert "The request failed: The target was lost." in text
    assert "The target was lost." in page(read_trace(data))


@pytest.mark.parametrize(
    "broken",
    [
        [],
        {"request_id": "x"},
        {"spans": [{"kind": "draft"}]},
        {"spans": [span("dream", 0, 0, 1, "accepted")]},
        {"spans": [span("draft", 0, "soon", 1, "accepted")]},
        {"spans": [3]},
        {"spans": [], "commits": [{"step": 1}]},
    ],
)
def test_what_is_no_trace_is_said_to_be_none(broken):
    with pytest.raises(RequestError, match="not a"):
        read_trace(broken)


def test_page_needs_nothing_and_keeps_text_as_text():
    data = made_up.trace()
    evil = "</script><script>alert(1)</script>{{data}}<!--"
    data["commits"][0]["text"] = data["spans"][0]["text"] = evil
    html = page(read_trace(data))
    assert html.count("<script") == 2
    assert html.count("</script>") == 2
    assert "<!--" not in html
    found = json.loads(re.search(r'id="data">(.*?)</script>', html, re.S).group(1))
    assert evil in {item["text"] for row in found["rows"] for item in row["spans"]}
    assert not re.search(r"""(src|href)=|url\((?!#)|@import|http://(?!www\.w3\.org/2000/svg)|https://""", html)


def test_terminal_codes_in_a_trace_do_not_pass(lookahead, tmp_path):
    wipe = "wipe \x1b[2J\x9bit"
    data = SMALL | {
        "request_id": wipe,
        "mode": wipe,
        "error": wipe,
        "commits": [SMALL["commits"][0] | {"origin": wipe}],
    }
    path = tmp_path / "t.json"
    path.write_text(json.dumps(data))
    end = lookahead("trace", str(path))
    assert end.code == 0, end.err
    assert end.out.startswith("wipe [2Jit  mode wipe [2Jit\n")
    assert "The request failed: wipe [2Jit" in end.out
    assert not {"\x1b", "\x9b"} & set(end.out)


def test_trace_of_the_server(server, lookahead, tmp_path):
    server.traces["req-1"] = made_up.trace()
    end = lookahead("trace", "req-1", "--url", server.url)
    assert end.code == 0, end.err
    assert "verifier" in end.out
    target = tmp_path / "t.html"
    end = lookahead("trace", "req-1", "--url", server.url, "--html", str(target))
    assert (end.code, "t.html" in end.out) == (0, True)
    assert target.read_text().startswith("<!doctype html>")


def test_saved_json_can_be_read_again(server, lookahead, tmp_path):
    server.traces["req-1"] = made_up.trace()
    end = lookahead("trace", "req-1", "--url", server.url, "--json")
    assert end.json["shares"]["target"] > 0.5
    saved = tmp_path / "trace.json"
    saved.write_text(end.out)
    assert lookahead("trace", str(saved)).code == 0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("unknown", "There is no trace of unknown"),
        ("a" * 300, "There is no trace of aaa"),
        ("gone.json", "There is no file gone.json"),
    ],
)
def test_what_is_not_there(server, lookahead, source, words):
    end = lookahead("trace", source, "--url", server.url)
    assert (end.code, words in end.err) == (1, True)


def test_file_that_is_no_json(lookahead, tmp_path):
    path = tmp_path / "t.json"
    for text in ("hello", "[" * 100_000):
        path.write_text(text)
        end = lookahead("trace", str(path))
        assert (end.code, "cannot be read as a trace" in end.err) == (1, True)


def test_page_that_cannot_be_written(lookahead, tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(SMALL))
    end = lookahead("trace", str(path), "--html", str(tmp_path / "no" / "t.html"))
    assert (end.code, "cannot be written" in end.err) == (1, True)
