"""Settings written into YAML: one check changes, everything else stays, character for character."""

from __future__ import annotations

import pytest

from actors.errors import ConfigError
from deployments.calibration.profile_file import require_measured, with_check
from deployments.calibration.scoring import find_place
from deployments.config import parse_config, profile_names, profile_text

NEW = {"accept": 0.91, "reject": 0.91, "calibration": [[0.5, 0.25], [0.9, 0.9]]}

BLOCK = """\
# Mine.
served_model_name: m   # a name
target: {model: t}
draft: {model: d}
verifier:
  verifiers:
    exact: [{kind: exact}]
    other: [{kind: embedding, accept: 0.7, reject: 0.5}]
    mine:
      - kind: exact
      - kind: embedding
        accept: 0.8 # too low
        reject: 0.3   # for now
      - kind: judge

# The end.
speculation: {fidelity: exact}
"""


def place_in(text, verifier="mine"):
    return find_place(parse_config(text, "t"), verifier, "embedding")


def test_block_style_keeps_comments_and_order():
    changed = with_check(BLOCK, place_in(BLOCK), NEW, "t")
    expected = BLOCK.replace("accept: 0.8 #", "accept: 0.91 #").replace(
        "reject: 0.3   # for now\n", "reject: 0.91   # for now\n        calibration: [[0.5, 0.25], [0.9, 0.9]]\n"
    )
    assert changed == expected


def test_flow_style():
    changed = with_check(BLOCK, place_in(BLOCK, "other"), NEW, "t")
    line = "{kind: embedding, accept: 0.91, reject: 0.91, calibration: [[0.5, 0.25], [0.9, 0.9]]}"
    assert changed == BLOCK.replace("{kind: embedding, accept: 0.7, reject: 0.5}", line)


def test_written_twice_is_written_once():
    once = with_check(BLOCK, place_in(BLOCK), NEW, "t")
    assert with_check(once, place_in(once), NEW, "t") == once
    again = with_check(once, place_in(once), {"accept": 0.95, "calibration": [[0.1, 0.1]]}, "t")
    assert again == once.replace("accept: 0.91", "accept: 0.95").replace("[[0.5, 0.25], [0.9, 0.9]]", "[[0.1, 0.1]]")


@pytest.mark.parametrize("name", profile_names())
def test_every_scored_check_of_the_shipped_profiles_can_be_written(name):
    text = profile_text(name)
    config = parse_config(text, name)
    for verifier, checks in config.verifier.verifiers.items():
        for check in checks:
            if "calibration" in type(check).model_fields:
                place = find_place(config, verifier, check.kind)
                after = parse_config(with_check(text, place, NEW, name), name)
                changed = after.verifier.verifiers[verifier][place.index]
                assert (changed.accept, changed.reject, changed.calibration) == (0.91, 0.91, ((0.5, 0.25), (0.9, 0.9)))


def test_a_last_line_without_its_end():
    text = BLOCK.split("      - kind: judge")[0].rstrip("\n").replace(" # for now", "").rstrip()
    assert with_check(text, place_in(text), NEW, "t").endswith("\n        calibration: [[0.5, 0.25], [0.9, 0.9]]")


def test_another_check_at_that_place_is_refused():
    other = BLOCK.replace("kind: embedding\n", "kind: likelihood\n")
    with pytest.raises(ConfigError, match="no check 'embedding' as number 2 of a verifier 'mine'"):
        with_check(other, place_in(BLOCK), NEW, "FILE")


@pytest.mark.parametrize(
    "text",
    [
        BLOCK.replace("[{kind: embedding, ", "[&e {kind: embedding, ").replace("      - kind: judge\n", "      - *e\n"),
        BLOCK.replace("verifier:\n", "verifier: &v\n").replace("verifier: &v", "x: &v"),
    ],
)
def test_what_cannot_be_edited_in_place_is_refused(text):
    if "x: &v" in text:
        text = text.replace("# The end.", "verifier: *v")
        with pytest.raises(ConfigError, match="x is not a setting"):
            with_check(text, place_in(BLOCK), NEW, "FILE")
    else:
        with pytest.raises(ConfigError, match="cannot be edited in place"):
            with_check(text, place_in(BLOCK, "other"), NEW, "FILE")


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="less than or equal to 1"):
        with_check(BLOCK, place_in(BLOCK), {"accept": 7.0}, "t")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("accept: 0.8 # too low", "accept: 0.8\n        model: mine"),
        ("      - kind: exact\n", "      - kind: same_numbers\n"),
        ("      - kind: judge", "      - kind: judge\n        max_chars: 9"),
        ("target: {model: t}", "target: {model: larger}"),
    ],
)
def test_a_threshold_is_for_the_check_that_was_measured(one, other):
    """Of the judge, behind an embedding: what decides before it counts, and the model that it asks."""
    measured = parse_config(BLOCK, "t")
    place = find_place(measured, "mine", "judge")
    others = BLOCK.replace("- kind: judge", "- kind: judge\n        accept: 0.9\n        reject: 0.9")
    require_measured(others.replace("{model: d}", "{model: e}"), place, measured, "FILE")
    with pytest.raises(ConfigError, match="measure with --config FILE"):
        require_measured(BLOCK.replace(one, other), place, measured, "FILE")
