"""The report of a calibration: its numbers, its sentence, and a page that shows text as text."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from actors.errors import RequestError
from deployments.calibration.curve import Scored
from deployments.calibration.page import NUM_ROWS, shown
from deployments.calibration.pairs import StepPair
from deployments.calibration.report import build, conclusion, write
from deployments.calibration.scoring import Place, Result
from deployments.verifier_config import EmbeddingCheck, ScoreCheck

PLACE = Place("balanced", 1, EmbeddingCheck())
GOOD = [Scored(0.9 + i / 1000, True) for i in range(60)]
BAD = [Scored(0.5 + i / 1000, i % 3 == 0) for i in range(60)]
LABELLED = [StepPair("", "", "a", "b", same=True, labelled_by="judge<b>"), StepPair("", "", "a", "b")]


def report_of(*pairs: Scored, wish: float = 0.9, place: Place = PLACE, num_unscored: int = 4):
    decided = Counter({"exact accepted": 3}), Counter({"exact accepted": 2})
    result = Result(list(pairs), *decided, num_unscored, 5, "its labels <have> .1 only" if num_unscored else "")
    return build(place, result, LABELLED, wish)


def test_the_numbers_of_the_pairs():
    report = report_of(*GOOD, *BAD)
    assert (report["num_pairs"], report["num_scored"], report["num_same"]) == (127, 120, 80)
    assert (report["num_unscored"], report["num_unlabelled"]) == (4, 5)
    assert report["decided_before"] == {"exact accepted": {"num": 3, "num_right": 2}}
    assert report["labelled_by"] == ["judge<b>"]
    assert len(report["thresholds"]) == 120
    assert json.loads(json.dumps(report)) == report


def test_the_threshold_and_its_sentence():
    report = report_of(*GOOD, *BAD)
    chosen = report["threshold"]
    assert chosen["low"] >= 0.9
    assert 0.55 < chosen["threshold"] <= 0.9
    words = conclusion(report)
    assert words.startswith(f"balanced/embedding from {chosen['threshold']:.4g}: precision ")
    assert "those of one problem are not" in words
    assert "chosen on the same pairs" in words


def test_no_threshold_says_what_it_would_take():
    text = conclusion(report_of(*GOOD[:10], wish=0.95))
    assert "No threshold of balanced/embedding is shown to reach a precision of 0.95" in text
    assert "10 of 10 right (at least 0.722)" in text
    assert "73 or more accepted pairs" in text


def test_nothing_scored():
    report = report_of(num_unscored=0)
    assert report["threshold"] is None
    assert conclusion(report) == "No labelled pair reached balanced/embedding, so nothing can be said of it."


def test_pairs_that_reached_the_check_without_a_score_are_said_with_their_reason(tmp_path):
    without = "4 pairs reached it without a score; the reason for the first: its labels <have> .1 only."
    assert conclusion(report_of()) == (
        f"balanced/embedding gave no labelled pair a score, so nothing can be said of it. {without}"
    )
    for pairs in (GOOD, GOOD[:10]):
        assert conclusion(report_of(*pairs)).endswith(f" {without}")
    write(tmp_path, report_of(*GOOD))
    page = (tmp_path / "calibration.html").read_text()
    assert "67 pairs, labelled by judge&lt;b&gt;; 60 got a score, 60 of them the same; 4 reached" in page
    assert "the check and got none; 5 more have no label." in page
    assert "its labels &lt;have&gt; .1 only" in page


@pytest.mark.parametrize("num", [0, 1, NUM_ROWS, NUM_ROWS + 1, 500])
def test_the_table_is_short_and_has_both_ends(num):
    found = [{"threshold": i} for i in range(num)]
    rows = shown(found)
    assert len(rows) == min(num, NUM_ROWS)
    assert rows[:1] == found[:1]
    assert rows[-1:] == found[-1:]


@pytest.mark.parametrize(
    ("pairs", "place"),
    [
        ((*GOOD, *BAD), PLACE),
        ((Scored(-0.2, False), Scored(1.0, True)), PLACE),
        ((), PLACE),
        ((Scored(9.0, True), Scored(3.0, False)), Place("score", 0, ScoreCheck())),
    ],
)
def test_the_page_is_whole_and_stays_in_its_picture(tmp_path, pairs, place):
    report = report_of(*pairs, place=place)
    write(tmp_path / "new", report)
    assert json.loads((tmp_path / "new" / "calibration.json").read_text()) == report
    page = (tmp_path / "new" / "calibration.html").read_text()
    assert "{{" not in page
    assert "judge<b>" not in page
    assert "judge&lt;b&gt;" in page
    assert "http" not in page
    for x, y in re.findall(r'(-?[\d.]+),(-?[\d.]+)[ "]', "".join(re.findall(r'points="([^"]*")', page))):
        assert 0 <= float(x) <= 760
        assert 0 <= float(y) <= 260


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="The report cannot be written"):
        write(tmp_path / "file", report_of())
