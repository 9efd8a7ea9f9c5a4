"""A check measured in its place: what reaches it, what it gives, and what it never decides."""

from __future__ import annotations

import pytest

from actors.errors import ConfigError, RoleUnavailable, ServiceError
from actors.messages import Verdict
from actors.verifier import create_verifier
from deployments.calibration.curve import Scored
from deployments.calibration.pairs import StepPair
from deployments.calibration.scoring import BEFORE, OPEN, find_place, label, measure, opened
from deployments.config import validate_config


class LengthScorer:
    """Gives "same" the probability that is written at the end of the second version: ``p=0.75``."""

    async def label_probabilities(self, prompt, labels, session_id):
        probability = float(prompt.messages[0].content.rpartition("p=")[2].split("\n")[0])
        return (probability, 1 - probability)


def config_with(**verifiers):
    data = {
        "served_model_name": "m",
        "target": {"model": "t"},
        "draft": {"model": "d"},
        "verifier": {"verifiers": {"exact": [{"kind": "exact"}], **verifiers}},
    }
    return validate_config(data, "test")


CASCADE = [
    {"kind": "exact"},
    {"kind": "same_polarity"},
    {"kind": "judge", "accept": 0.9, "reject": 0.2, "calibration": [[0.5, 0.5]]},
    {"kind": "always"},
]
CONFIG = config_with(careful=CASCADE, plain=[{"kind": "judge"}], blunt=[{"kind": "same_numbers"}])


def pair(draft: str, target: str, same: bool | None = True) -> StepPair:
    return StepPair("Q?", "", draft, target, same=same)


async def judge_of(config, *names):
    cascades = {name: [check.model_dump() for check in config.verifier.verifiers[name]] for name in names}
    return (await create_verifier(cascades, {"target": LengthScorer()})).judge


def test_the_place_is_the_last_check_with_a_score():
    place = find_place(CONFIG, "careful", None)
    assert (place.verifier, place.index, place.kind) == ("careful", 2, "judge")


@pytest.mark.parametrize(
    ("verifier", "kind", "words"),
    [
        ("none", None, "no verifier 'none'; there are: exact, careful, plain, blunt"),
        ("careful", "embedding", "'careful' has no check 'embedding' with a score"),
        ("blunt", None, "'blunt' has no check with a score"),
        (None, None, "'exact' has no check with a score"),
    ],
)
def test_a_place_that_is_not_there_is_one_sentence(verifier, kind, words):
    with pytest.raises(ConfigError, match=words):
        find_place(CONFIG, verifier, kind)


def test_opening_adds_the_checks_before_and_the_check_alone_and_changes_no_verifier():
    changed = opened(CONFIG, find_place(CONFIG, "careful", None))
    kinds = {name: [check.kind for check in checks] for name, checks in changed.verifier.verifiers.items()}
    assert (kinds.pop(BEFORE), kinds.pop(OPEN)) == (["exact", "same_polarity"], ["judge"])
    assert kinds == {name: [check.kind for check in checks] for name, checks in CONFIG.verifier.verifiers.items()}
    zones = changed.verifier.verifiers[OPEN][0].model_dump()
    assert (zones["accept"], zones["reject"], zones["calibration"]) == (1.0, 0.0, ())


async def test_only_what_reaches_the_check_is_scored_and_nothing_is_decided_by_it():
    place = find_place(CONFIG, "careful", None)
    pairs = [
        pair("So 3.", "That is 3. p=0.95"),
        pair("So 3.", "That is 3. p=1.0", same=False),
        pair("So 3.", "That is 3. p=0.0", same=False),
        pair("So 3.\n\n", "So  3.\n\n"),  # exact accepts, rightly
        pair("It is more.", "It is less. p=0.5", same=False),  # polarity rejects, rightly
        pair("It is more.", "It is less? p=0.5"),  # polarity rejects, wrongly
        pair("So 3.", "That is 3. p=0.4", same=None),  # nobody knows
    ]
    ticks = []
    judge = await judge_of(opened(CONFIG, place), BEFORE, OPEN)
    result = await measure(pairs, judge, place, 3, lambda: ticks.append(1))
    assert result.scored == [Scored(0.95, True), Scored(1.0, False), Scored(0.0, False)]
    assert result.decided == {"exact accepted": 1, "same_polarity rejected": 2}
    assert result.decided_right == {"exact accepted": 1, "same_polarity rejected": 1}
    assert (result.num_unscored, result.num_unlabelled) == (0, 1)
    assert len(ticks) == 6


async def test_a_check_that_stands_first_is_asked_at_once():
    place = find_place(CONFIG, "plain", None)
    judge = await judge_of(opened(CONFIG, place), OPEN)
    result = await measure([pair("a", "b p=0.3")], judge, place, 1, lambda: None)
    assert result.scored == [Scored(0.3, True)]
    assert not result.decided


@pytest.mark.parametrize(
    ("verdict", "scored", "decided", "num_unscored"),
    [
        (Verdict(False, OPEN, "unsure"), [], {}, 1),
        (Verdict(False, f"{OPEN}/judge", "below the floor", 0.7), [], {"judge rejected": 1}, 0),
        (Verdict(False, f"{OPEN}/embedding", "below zero", -0.2), [Scored(-0.2, True)], {}, 0),
        (Verdict(True, f"{OPEN}/judge", "at the top", 1.0), [Scored(1.0, True)], {}, 0),
    ],
)
async def test_verdicts_of_every_kind_are_counted_once(verdict, scored, decided, num_unscored):
    async def judge(request):
        return verdict

    result = await measure([pair("a", "b")], judge, find_place(CONFIG, "plain", None), 1, lambda: None)
    assert (result.scored, result.decided, result.num_unscored) == (scored, decided, num_unscored)


async def test_labels_are_the_verdicts_of_the_stronger_verifier():
    judge = await judge_of(CONFIG, "plain")
    pairs = [pair("a", "b p=0.9", same=None), pair("a", "b p=0.1")]
    labelled = await label(pairs, judge, "plain", 2, lambda: None)
    assert [(one.same, one.labelled_by) for one in labelled] == [(True, "plain"), (False, "plain")]


async def test_what_no_check_was_sure_of_has_no_label():
    verdicts = {
        "a": Verdict(False, "judge", "no check was sure (judge: its labels have .1 only)"),
        "b": Verdict(False, "judge/judge", "below"),
        "c": Verdict(True, "judge/judge", "above"),
    }
    kept = {}

    async def judge(request):
        return verdicts[request.draft.text]

    pairs = [pair(text, "x", same=None) for text in verdicts]
    labelled = await label(pairs, judge, "judge", 1, lambda: None, lambda one, why: kept.update({one.draft: why}))
    assert [(one.same, one.labelled_by) for one in labelled] == [(None, None), (False, "judge"), (True, "judge")]
    assert kept == {"a": verdicts["a"].reason, "b": None, "c": None}
    unsure = await label(pairs[:1], judge, "judge", 1, lambda: None)
    assert [one.same for one in unsure] == [None], "that all are so is for the caller to say"


async def test_a_verdict_that_failed_costs_one_label_and_no_other():
    async def judge(request):
        if request.draft.text == "gone":
            raise RoleUnavailable("the verifier is away")
        return Verdict(True, "v/judge", "", has_failed=request.draft.text == "broken")

    pairs = [pair(text, "x", same=False) for text in ("gone", "broken", "right")]
    labelled = await label(pairs, judge, "v", 3, lambda: None)
    assert [(one.same, one.labelled_by) for one in labelled] == [(None, None), (None, None), (True, "v")]


async def test_what_got_no_score_is_counted_with_the_first_reason():
    async def judge(request):
        return Verdict(False, OPEN, f"no check was sure ({request.draft.text})")

    pairs = [pair("one", "x"), pair("two", "x")]
    result = await measure(pairs, judge, find_place(CONFIG, "plain", None), 1, lambda: None)
    assert (result.num_unscored, result.unscored_reason) == (2, "no check was sure (one)")


async def test_if_all_verdicts_fail_it_ends_in_words():
    async def judge(request):
        return Verdict(False, "v", "the check judge failed: the target is away", has_failed=True)

    with pytest.raises(ServiceError, match="could not be judged: the check judge failed: the target is away"):
        await label([pair("a", "b")], judge, "v", 1, lambda: None)
