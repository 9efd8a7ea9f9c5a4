"""A replica that takes calls and answers none is tried more and more seldom, and trusted again with its first item."""

from __future__ import annotations

from deployments.link.silence import FIRST_PAUSE_S, MAX_PAUSE_S, Silence


def test_a_call_that_waits_alone_makes_no_silence() -> None:
    silence = Silence()
    silence.heard(11.0)
    assert not silence.given_up(10.0, 40.0), "others have heard meanwhile"
    assert not silence.lasts(40.0)


def test_it_lasts_until_anything_is_heard() -> None:
    silence = Silence()
    silence.heard(10.0)
    assert silence.given_up(10.0, 40.0)
    assert not silence.given_up(10.5, 41.0), "it has begun already"
    assert silence.lasts(41.0)
    silence.heard(42.0)
    assert not silence.lasts(42.0)
    silence.tried(43.0)
    assert not silence.lasts(43.0)


def test_one_call_a_pause_tries_it_and_the_pauses_double() -> None:
    silence = Silence()
    now, tries = 30.0, []
    silence.given_up(0.0, now)
    for second in range(30, 3000):
        now = float(second)
        if not silence.lasts(now):
            silence.tried(now)
            assert silence.lasts(now), "the next call does not try it as well"
            tries.append(now)
            silence.given_up(now, now + 20.0)
    pauses = [later - earlier for earlier, later in zip([10.0, *tries], tries, strict=False)]
    assert pauses[0] == FIRST_PAUSE_S + 20.0
    assert pauses[1] == 2 * FIRST_PAUSE_S + 20.0
    assert max(pauses) == MAX_PAUSE_S + 20.0
    assert pauses == sorted(pauses)


def test_where_there_is_no_other_it_is_called_without_end_and_the_pause_does_not_grow() -> None:
    silence = Silence()
    silence.given_up(0.0, 30.0)
    for _ in range(100):
        silence.tried(31.0)
    assert not silence.lasts(30.0 + FIRST_PAUSE_S)
