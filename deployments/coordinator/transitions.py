"""The one transition table: what a position of the window may become, and why.

Promises: a signal that the table does not list raises `IllegalTransition` and changes nothing. The state diagram in
the docs is drawn from `POSITION` by `mermaid()`.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """What is known of one position. The path through a position is its draft step while that may still be accepted,
    and the target's step as soon as that is sure to stand."""

    OPEN = "open"
    """Its prefix exists; the target writes; there is no draft step yet."""
    DRAFTED = "drafted"
    """The draft step is there; the target still writes."""
    JUDGING = "judging"
    """Both are there, they differ, the verifier is asked."""
    SCORING = "scoring"
    """The draft step is there, the verifier is asked about it alone; the target does not write."""
    REJECTED = "rejected"
    """The draft step was rejected alone; the target writes the one that stands."""
    ACCEPTED = "accepted"
    """The draft step stands, if all positions before it end as they are now."""
    RECOVERED = "recovered"
    """The draft step was rejected; the target's stands in its place, under the same condition."""
    OWN = "own"
    """The target was done before the draft; its step stands, under the same condition."""
    COMMITTED = "committed"
    """It was the head when it was decided: its step belongs to the output for ever."""
    DISCARDED = "discarded"
    """An earlier position ended otherwise, or the request ended."""


class Signal(StrEnum):
    """What may happen to a position."""

    DRAFT = "draft step arrives"
    TARGET = "target step arrives, no draft step to compare"
    EQUAL = "target step arrives, equal to the draft step"
    UNLIKE = "target step arrives, cannot be the same"
    DIFFERENT = "target step arrives, differs"
    SCORE = "draft step is scored alone"
    ACCEPT = "verdict: same"
    REJECT = "verdict: not the same, unsure, late or failed"
    COVER = "verdict: an earlier target step says this as well"
    COMMIT = "is the head"
    DISCARD = "prefix lost"


POSITION: dict[tuple[State, Signal], State] = {
    (State.OPEN, Signal.DRAFT): State.DRAFTED,
    (State.OPEN, Signal.TARGET): State.OWN,
    (State.DRAFTED, Signal.EQUAL): State.ACCEPTED,
    (State.DRAFTED, Signal.UNLIKE): State.RECOVERED,
    (State.DRAFTED, Signal.DIFFERENT): State.JUDGING,
    (State.DRAFTED, Signal.SCORE): State.SCORING,
    (State.SCORING, Signal.ACCEPT): State.ACCEPTED,
    (State.SCORING, Signal.REJECT): State.REJECTED,
    (State.REJECTED, Signal.TARGET): State.RECOVERED,
    (State.JUDGING, Signal.ACCEPT): State.ACCEPTED,
    (State.JUDGING, Signal.REJECT): State.RECOVERED,
    (State.DRAFTED, Signal.COVER): State.ACCEPTED,
    (State.JUDGING, Signal.COVER): State.ACCEPTED,
    (State.ACCEPTED, Signal.COMMIT): State.COMMITTED,
    (State.RECOVERED, Signal.COMMIT): State.COMMITTED,
    (State.OWN, Signal.COMMIT): State.COMMITTED,
    **{(state, Signal.DISCARD): State.DISCARDED for state in State if state not in (State.COMMITTED, State.DISCARDED)},
}

DECIDED = frozenset({State.ACCEPTED, State.RECOVERED, State.OWN})
"""States in which a position knows its step, and waits only to become the head."""


class IllegalTransition(RuntimeError):
    """A signal that makes no sense in this state: a defect of ours, never of the input."""


def follow(state: State, signal: Signal) -> State:
    """The state after `signal`; IllegalTransition if the table has none."""
    try:
        return POSITION[state, signal]
    except KeyError:
        raise IllegalTransition(f"a position that is {state.value} cannot take: {signal.value}") from None


def mermaid() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> open: prefix exists"]
    lines += [
        f"    {before.value} --> {after.value}: {signal.value.replace(':', ',')}"
        for (before, signal), after in POSITION.items()
        if signal is not Signal.DISCARD
    ]
    discarded = [before.value for (before, signal) in POSITION if signal is Signal.DISCARD]
    lines += [f"    {name} --> discarded: {Signal.DISCARD.value}" for name in discarded]
    lines += ["    committed --> [*]", "    discarded --> [*]"]
    return "\n".join(lines)
