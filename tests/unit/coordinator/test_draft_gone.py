"""A draft that cannot serve a request at all: it is not asked again, and the target streams the rest."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from actors.engines.scripted import ScriptOptions, detokenize
from actors.messages import StepRule
from deployments.coordinator.events import (
    DraftAvailable,
    DraftEnded,
    DraftGone,
    ReviveDraft,
    StartDraft,
    StartStream,
    StartTarget,
)
from tests.unit.coordinator.test_session import MODES, ORDERS, STRAYING, check_books, world
from tests.unit.coordinator.world import PROMPT_IDS, TARGET, World, target_only


def drafts(w: World) -> list[int]:
    """The look-aheads under way."""
    return [call for call in w.choices() if isinstance(w.under_way[call][-1], DraftEnded)]


def run(w: World, order: Random) -> None:
    """The draft refuses at some time; what says later that it is back was on its way."""
    w.start()
    while not w.session.finished:
        is_gone = any(isinstance(command, DraftGone) for command in w.log)
        if is_gone and order.randrange(6) == 0:
            w._take(w.session.handle(DraftAvailable(PROMPT_IDS)))
        elif not is_gone and drafts(w) and order.randrange(4) == 0:
            w.fail(order.choice(drafts(w)), permanent=True)
        else:
            w.do(order.choice(w.choices()))


@given(
    order=ORDERS,
    draft=STRAYING,
    rule=st.sampled_from([StepRule(), StepRule(max_tokens=7)]),
    depth=st.integers(1, 4),
    verdict=st.sampled_from([False, None]),
    branches=st.sampled_from([1, 3]),
    mode=MODES,
)
@hypothesis_settings(max_examples=200, deadline=None)
def test_the_text_stays_the_targets_own(
    order: Random, draft: ScriptOptions, rule: StepRule, depth: int, verdict: bool | None, branches: int, mode: str
) -> None:
    w = world(draft, verdict, rule=rule, max_lookahead=depth, branches=branches, mode=mode)
    run(w, order)
    assert w.text == detokenize(target_only(TARGET, 10_000, rule))
    check_books(w)
    assert not w.under_way
    gone = [place for place, command in enumerate(w.log) if isinstance(command, DraftGone)]
    after = w.log[gone[0] :] if gone else []
    assert not any(isinstance(command, StartDraft | ReviveDraft) for command in after)
    begun = [type(command) for command in after if isinstance(command, StartTarget | StartStream)]
    assert begun.count(StartStream) <= 1
    assert StartTarget not in begun[begun.index(StartStream) :] if StartStream in begun else True


@pytest.mark.parametrize(("mode", "num_steps"), [("lookahead", 1), ("lookahead_sync", 0), ("specreason", 0)])
def test_the_rest_is_streamed_from_the_end_of_what_is_being_written(mode: str, num_steps: int) -> None:
    w = world(TARGET, False, mode=mode)
    w.start()
    (draft,) = drafts(w)
    w.fail(draft, permanent=True)
    while not w.session.finished:
        w.do(w.choices()[0])
    begun = [type(command) for command in w.log if isinstance(command, StartTarget | StartStream)]
    assert begun == [StartTarget] * num_steps + [StartStream]
    assert w.finished.summary.degraded == ("draft_refused",)


@pytest.mark.parametrize("mode", ["lookahead", "lookahead_sync", "specreason"])
def test_all_is_streamed_where_the_draft_refuses_the_prompt(mode: str) -> None:
    w = world(TARGET, False, mode=mode, draft_prompt=None, draft_refuses=True)
    w.start()
    while not w.session.finished:
        w.do(w.choices()[0])
    assert w.text == detokenize(target_only(TARGET, 10_000, StepRule()))
    begun = [command for command in w.log if isinstance(command, DraftGone | StartTarget | StartDraft | StartStream)]
    assert [type(command) for command in begun] == [DraftGone, StartStream]
