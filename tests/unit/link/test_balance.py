"""Sessions stay where their prefix cache is, new ones go where there is room."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.link import balance as balance_module
from deployments.link.balance import MAX_SESSIONS, Balance


@dataclass(frozen=True)
class Candidate:
    replica: str
    load: float
    is_leaving: bool = False
    is_silent: bool = False


def candidates(*loads: float) -> list[Candidate]:
    return [Candidate(f"r{number}", load) for number, load in enumerate(loads)]


def test_a_new_session_goes_where_there_is_most_room() -> None:
    assert Balance().choose("s", candidates(0.5, 0.1, 0.3)) == "r1"


def test_a_session_stays_while_its_replica_has_room() -> None:
    balance = Balance()
    home = balance.choose("s", candidates(0.0, 0.1))
    assert home == "r0"
    assert balance.choose("s", candidates(1.4, 0.0)) == home


def test_a_session_leaves_a_full_replica_for_one_with_half_its_load() -> None:
    balance = Balance()
    assert balance.choose("s", candidates(0.0, 0.1)) == "r0"
    assert balance.choose("s", candidates(2.0, 1.5)) == "r0"
    assert balance.choose("s", candidates(2.0, 0.9)) == "r1"
    assert balance.choose("s", candidates(0.0, 1.0)) == "r1"


def test_only_equals_are_told_apart_and_a_session_that_is_at_home_weighs_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranked, rank = list[str](), balance_module._rank
    monkeypatch.setattr(balance_module, "_rank", lambda session, name: ranked.append(name) or rank(session, name))
    balance, there = Balance(), candidates(*[0.0] * 3, *[0.5] * 997)
    home = balance.choose("s", there)
    assert sorted(ranked) == ["r0", "r1", "r2"]
    assert balance.choose("s", there) == home
    assert len(ranked) == 3


def test_equals_are_told_apart_the_same_way_everywhere() -> None:
    found = {Balance().choose(f"s{n}", candidates(0.2, 0.2, 0.2)) for n in range(50)}
    assert found == {"r0", "r1", "r2"}
    assert all(
        Balance().choose(f"s{n}", candidates(0.2, 0.2, 0.2))
        == Balance().choose(f"s{n}", list(reversed(candidates(0.2, 0.2, 0.2))))
        for n in range(50)
    )


def test_what_is_leaving_or_to_be_avoided_is_the_last_resort() -> None:
    balance = Balance()
    leaving = [Candidate("r0", 0.0, is_leaving=True), Candidate("r1", 0.9)]
    assert balance.choose("s", leaving) == "r1"
    assert balance.choose("t", candidates(0.0, 0.9), frozenset({"r0"})) == "r1"
    assert balance.choose("t", candidates(0.0), frozenset({"r0"})) == "r0"
    assert balance.choose("u", leaving[:1]) == "r0"


def test_a_silent_replica_is_the_last_resort_of_all_sessions_and_one_that_is_leaving_comes_before_it() -> None:
    balance = Balance()
    assert balance.choose("s", candidates(0.0, 0.9)) == "r0"
    there = [Candidate("r0", 0.0, is_silent=True), Candidate("r1", 0.9)]
    assert balance.choose("s", there) == balance.choose("t", there) == balance.choose("", there) == "r1"
    assert balance.choose("t", [there[0], Candidate("r1", 0.9, is_leaving=True)]) == "r1"
    assert balance.choose("u", there[:1]) == "r0"
    assert balance.choose("v", there, frozenset({"r1"})) == "r0", "it may have recovered, the other has just failed"


def test_a_replica_that_failed_a_session_is_left_by_it_alone() -> None:
    balance = Balance()
    there = candidates(0.0, 0.1, 0.2)
    assert balance.choose("s", there) == balance.choose("t", there) == "r0"
    balance.shun("s", "r0")
    assert balance.choose("s", there) == "r1"
    assert balance.choose("t", there) == "r0"
    balance.shun("s", "r1")
    assert balance.choose("s", there) == "r2"
    balance.shun("s", "r2")
    assert balance.choose("s", there) in {"r0", "r2"}, "all have failed it: begin again"
    balance.shun("s", "not its home")
    assert balance.choose("s", there[:1]) == "r0"


def test_nobody_in_particular_is_not_remembered() -> None:
    balance = Balance()
    assert balance.choose("", candidates(0.0, 0.5)) == "r0"
    assert balance.choose("", candidates(0.5, 0.0)) == "r1"


def test_a_session_moves_away_from_a_replica_that_it_shuns_and_the_others_stay() -> None:
    balance = Balance()
    for session in ("s", "t"):
        assert balance.choose(session, candidates(0.0, 0.9)) == "r0"
    balance.shun("s", "r0")
    assert balance.choose("s", candidates(0.0, 0.9)) == "r1"
    assert balance.choose("s", candidates(0.0, 3.0)) == "r1"
    assert balance.choose("t", candidates(0.0, 0.9)) == "r0"
    assert balance.choose("s", candidates(0.0)) == "r0", "where there is no other"
    balance.shun("s", "r0")
    assert balance.choose("s", candidates(0.0, 0.0, 0.9)) in {"r1", "r2"}


def test_no_replica_is_no_choice() -> None:
    with pytest.raises(ValueError, match="no replica"):
        Balance().choose("s", [])


def test_memory_is_bounded() -> None:
    balance = Balance()
    for number in range(MAX_SESSIONS + 10):
        balance.choose(f"s{number}", candidates(0.0))
    assert len(balance._homes) == MAX_SESSIONS


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.lists(st.floats(0, 3), min_size=3, max_size=3)), max_size=60),
    st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_the_choice_is_always_one_of_those_that_are_there(
    calls: list[tuple[str, list[float]]], leaving: list[bool]
) -> None:
    balance = Balance()
    for session, loads in calls:
        there = [Candidate(f"r{n}", load, gone) for n, (load, gone) in enumerate(zip(loads, leaving, strict=True))]
        chosen = balance.choose(session, there)
        assert chosen in {c.replica for c in there}
        if not all(leaving):
            assert not leaving[int(chosen[1])]
