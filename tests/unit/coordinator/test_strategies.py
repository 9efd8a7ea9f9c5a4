"""What each strategy starts, and when."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import get_args

import pytest

from actors.engines.scripted import detokenize
from actors.errors import ConfigError, RequestError, StrategyError
from actors.messages import Delta, Ending, Prompt, StepRule, Verdict
from deployments.config import Config, load_profile, modes_of
from deployments.coordinator.coordinator import settle
from deployments.coordinator.events import (
    Cancel,
    DraftEnded,
    DraftStep,
    Judge,
    Judged,
    Outcome,
    Retired,
    StartDraft,
    StartStream,
    StartTarget,
    Streamed,
    TargetStep,
)
from deployments.coordinator.session import Session
from deployments.coordinator.settings import SessionSettings, SpecReasonOptions
from deployments.coordinator.strategies import STRATEGIES, Strategy, WindowView, Wishes
from deployments.generation import GenerationRequest, SpeculationOptions
from deployments.speculation_config import Mode
from tests.unit.coordinator.talk import Talk, step
from tests.unit.coordinator.world import TARGET, THINK, World, settings, target_only

DRAFT = replace(TARGET, role="draft")
STRAYING = replace(TARGET, role="draft", agree=0.0, paraphrase=1.0)


def world(mode: str, draft: object = DRAFT, verdict: bool = False, **changes: object) -> World:
    return World(Session(settings(TARGET, mode=mode, **changes)), TARGET, draft, lambda a, b: verdict)  # type: ignore[arg-type]


def let(w: World, *kinds: type) -> None:
    """Let events of these kinds happen as long as there are any."""
    while True:
        calls = [c for c in w.choices() if isinstance(w.under_way[c][0], kinds)]
        if not calls or w.session.finished:
            return
        w.do(calls[0])


def count(w: World | Talk, kind: type) -> int:
    return sum(isinstance(c, kind) for c in (w.log if isinstance(w, World) else w.said))


@pytest.mark.parametrize("mode", sorted(STRATEGIES))
def test_every_strategy_writes_the_targets_text_when_all_is_rejected(mode: str) -> None:
    w = world(mode, STRAYING)
    w.start()
    while not w.session.finished:
        w.do(w.choices()[0])
    assert w.text == detokenize(target_only(TARGET, 10_000, StepRule()))


def test_sync_drafts_first_and_then_asks_the_target_for_all_at_once() -> None:
    w = world("lookahead_sync", max_lookahead=3)
    w.start()
    for num_steps in (1, 2, 3):
        w.do(w.choices()[0])
        assert (w.session.summary().num_draft_steps, count(w, StartTarget)) == (num_steps, 0)
    let(w, DraftEnded)
    assert count(w, StartTarget) == 4
    let(w, TargetStep)
    assert w.session.summary().num_accepted_steps == 3
    assert w.session.summary().num_target_steps == 1, "the bonus step"
    assert count(w, StartDraft) == 2


def test_sync_writes_nothing_behind_a_mismatch_until_the_round_is_over() -> None:
    w = world("lookahead_sync", STRAYING, max_lookahead=3)
    w.start()
    let(w, DraftStep, DraftEnded)
    calls = [c for c in w.choices() if isinstance(w.under_way[c][0], TargetStep)]
    w.do(calls[1])
    let(w, Judged)
    assert (count(w, StartDraft), count(w, StartTarget)) == (1, 4), "position 1 is recovered, position 0 still open"
    w.do(calls[0])
    let(w, Judged)
    assert (count(w, StartDraft), count(w, StartTarget)) == (2, 4)


def test_sync_goes_on_with_the_target_while_there_is_no_draft() -> None:
    w = world("lookahead_sync", draft_prompt=None)
    w.start()
    let(w, TargetStep)
    assert w.session.finished
    assert w.session.summary().num_target_steps == TARGET.num_steps


def test_a_high_score_costs_no_target_step() -> None:
    w = world("specreason", STRAYING, verdict=True, max_lookahead=1)
    w.start()
    let(w, DraftStep, DraftEnded, Judged)
    assert w.session.finished
    assert count(w, StartTarget) == 0
    assert all(c.request.target is None for c in w.log if isinstance(c, Judge))
    assert w.text == detokenize(target_only(STRAYING, 10_000, StepRule()))
    assert w.session.summary().accept_rate == 1.0


def test_a_low_score_has_the_target_write_the_step_and_the_draft_go_on_behind_it() -> None:
    w = world("specreason", STRAYING, max_lookahead=1)
    w.start()
    let(w, DraftStep, DraftEnded)
    assert (count(w, Judge), count(w, StartTarget)) == (1, 0)
    let(w, Judged)
    (target,) = [c for c in w.log if isinstance(c, StartTarget)]
    assert count(w, StartDraft) == 1, "the draft waits for the target's step"
    assert len(target.request.hints) >= 1, "the rejected step is a hint"
    let(w, TargetStep)
    assert count(w, StartDraft) == 2
    assert w.session.summary().num_recovered_steps == 1


def test_where_the_draft_ends_the_text_inside_the_reasoning_the_target_writes_that_step() -> None:
    talk = Talk(mode="specreason", verifier="v", marks=THINK)
    call = talk.last(StartDraft).call
    for draft in (step(1, 2), step(3, ending=Ending.END)):
        for judge in [c for c in talk.hear(DraftStep(call, draft)) if isinstance(c, Judge)]:
            talk.hear(Judged(judge.call, Verdict(True, "v", "high")))
    assert count(talk, Judge) == 1
    target = talk.last(StartTarget)
    assert target.request.prefix.pieces[-1].token_ids == (1, 2)
    talk.hear(TargetStep(target.call, replace(step(4, 5, ending=Ending.CLOSE), text="w4 </think>")))
    assert talk.session.summary().num_recovered_steps == 1
    (answer,) = [c for c in talk.said if isinstance(c, StartStream)]
    talk.hear(Streamed(answer.call, Delta("w6", (6,), Ending.END)))
    assert talk.session.finished
    assert talk.sent == "w1 w2 w4 w6"


def test_the_next_step_is_drafted_and_scored_while_a_score_runs() -> None:
    for depth in (1, 2, 4):
        w = world("specreason", STRAYING, max_lookahead=depth)
        w.start()
        let(w, DraftStep, DraftEnded)
        assert count(w, Judge) == depth
        let(w, Judged)
        cancelled = [c for c in w.log if isinstance(c, Retired) and c.outcome == "cancelled"]
        assert count(w, StartTarget) == 1
        assert len(cancelled) == depth, "all behind the rejected step, the open one too"


@pytest.mark.parametrize("depth", [1, 4])
def test_first_steps_and_steps_beyond_the_budget_are_the_targets(depth: int) -> None:
    options = SpecReasonOptions(num_target_steps=2, max_draft_tokens=40)
    w = world("specreason", verdict=True, max_lookahead=depth, specreason=options)
    w.start()
    let(w, DraftStep, DraftEnded, Judged, TargetStep)
    placed = [c for c in w.log if isinstance(c, StartDraft)]
    places = [sum(len(p.token_ids) for p in c.request.prefix.pieces) for c in placed]
    starts = [c for c in w.log if isinstance(c, StartTarget)]
    assert [c.position for c in starts[:2]] == [0, 1]
    assert placed
    assert min(c.position for c in placed) == 2
    assert max(places) < 40
    assert starts[-1].position == TARGET.num_steps - 1
    assert not [c for c in w.log if isinstance(c, Cancel)]
    accepted = accepted_at(w)
    assert accepted
    assert max(accepted) < 40


def accepted_at(w: World) -> list[int]:
    """The tokens before each accepted step."""
    places, num_tokens = [], 0
    for retired in (c for c in w.log if isinstance(c, Retired) and c.step is not None):
        assert retired.basis is not None
        is_accepted = retired.outcome is Outcome.ACCEPTED
        step = retired.basis.draft if is_accepted else retired.basis.target
        assert step is not None
        if is_accepted:
            places.append(num_tokens)
        num_tokens += len(step.token_ids)
    return places


def test_near_its_budget_the_draft_is_as_far_ahead_in_shorter_calls() -> None:
    rule = StepRule(max_tokens=12)
    for budget in range(12, 80, 7):
        options = SpecReasonOptions(max_draft_tokens=budget)
        w = world("specreason", verdict=True, max_lookahead=4, specreason=options, rule=rule)
        w.start()
        let(w, DraftStep, DraftEnded)
        depths = [c.depth for c in w.log if isinstance(c, StartDraft)]
        assert depths[0] == min(4, -(-budget // 12)), "far from its end the budget changes nothing"
        let(w, DraftStep, DraftEnded, Judged, TargetStep)
        assert w.session.finished
        assert max(accepted_at(w)) < budget
    w = world("specreason", verdict=True, max_lookahead=4, specreason=SpecReasonOptions(max_draft_tokens=40))
    w.start()
    let(w, DraftStep, DraftEnded)
    assert next(c.depth for c in w.log if isinstance(c, StartDraft)) == 1
    assert count(w, Judge) > 1, "the next step is drafted before the first one has its score"


def test_without_a_draft_specreason_is_the_target_step_by_step() -> None:
    w = world("specreason", draft_prompt=None)
    w.start()
    let(w, TargetStep)
    assert w.session.finished
    assert w.session.summary().num_target_steps == TARGET.num_steps


@pytest.mark.parametrize("most", [None, 1, 2])
def test_the_strategy_in_the_docs_works(monkeypatch: pytest.MonkeyPatch, most: int | None) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "algorithm.md").read_text(encoding="utf-8")
    (code,) = [
        block for block in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) if "class" in block
    ]
    names: dict[str, object] = {}
    exec(code, names)
    monkeypatch.setitem(STRATEGIES, "thrifty", names["Thrifty"])  # type: ignore[arg-type]
    for seed in range(60):
        order = Random(seed)
        w = world("thrifty", replace(TARGET, role="draft", agree=0.5), max_target_steps=most)
        w.start()
        while not w.session.finished:
            w.do(order.choice(w.choices()))
            assert sum(isinstance(events[-1], TargetStep) for events in w.under_way.values()) <= (most or 5)
        assert w.text == detokenize(target_only(TARGET, 10_000, StepRule()))


def test_every_mode_has_a_strategy_and_every_strategy_a_mode() -> None:
    assert set(get_args(Mode)) == set(STRATEGIES)


def test_a_mode_without_a_strategy_is_found_when_the_configuration_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(STRATEGIES, "lookahead_sync")
    with pytest.raises(ConfigError, match="mode 'lookahead_sync' has no strategy; add a line"):
        load_profile("scripted")


@pytest.mark.parametrize("mode", ["lookahead", "lookahead_sync"])
def test_whether_a_mode_scores_is_what_its_strategy_says(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    wanted = GenerationRequest("r", "m", Prompt(text="q"), 9, speculation=SpeculationOptions(mode=mode, verifier="n"))
    data = load_profile("scripted").model_dump()
    data["verifier"]["verifiers"] = {"exact": [{"kind": "exact"}], "n": [{"kind": "same_numbers"}]}
    data["speculation"] |= {"fidelity": "exact", "fidelities": {"exact": "exact"}}
    config = Config.model_validate(data | {"gateway": {}})
    assert settle(config, wanted).verifier == "n"
    assert mode in modes_of(config)
    monkeypatch.setattr(STRATEGIES[mode], "scores_alone", True)
    assert mode not in modes_of(config)
    with pytest.raises(RequestError, match=f"Mode '{mode}' has draft steps judged alone"):
        settle(config, wanted)
    with pytest.raises(RequestError, match=f"Mode '{mode}' keeps no fidelity"):
        settle(config, replace(wanted, speculation=SpeculationOptions(mode=mode, fidelity="exact")))


class Own(Strategy):
    """Lookahead, with what a test does to it."""

    def __init__(self, settings: SessionSettings) -> None:
        self.lookahead = STRATEGIES["lookahead"](settings)
        self.seen: list[WindowView] = []

    def wishes(self, view: WindowView) -> Wishes:
        self.seen.append(view)
        return self.lookahead.wishes(view)


class Silent(Own):
    def wishes(self, view: WindowView) -> Wishes:
        return super().wishes(view) if view.num_committed < 2 else Wishes()


class OnlyDrafts(Own):
    """Wishes for a look-ahead that cannot be started, and for nothing else."""

    def wishes(self, view: WindowView) -> Wishes:
        return Wishes(draft_depth=1)


class Twice(Own):
    def wishes(self, view: WindowView) -> Wishes:
        return Wishes(tuple(view.positions[:1]), 2 if view.can_draft and not view.drafting else 0)


class Broken(Own):
    def wishes(self, view: WindowView) -> Wishes:
        return super().wishes(view.window)  # type: ignore[attr-defined]


class Forgetful(Own):
    def wishes(self, view: WindowView) -> Wishes:
        super().wishes(view)  # and nothing is returned


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        (Silent, "wishes for nothing while nothing is under way"),
        (OnlyDrafts, "wishes for nothing while nothing is under way"),
        (Twice, "wishes for a step of the target that is there or under way"),
        (Broken, r"failed in test_strategies.py, line \d+: AttributeError: .*window"),
        (Forgetful, "answers None, which are no Wishes"),
    ],
)
def test_what_no_strategy_may_do_is_an_error_at_once_that_names_it(
    monkeypatch: pytest.MonkeyPatch, strategy: type[Own], says: str
) -> None:
    monkeypatch.setitem(STRATEGIES, "own", strategy)
    w = world("own", draft_prompt=None) if strategy is OnlyDrafts else world("own")

    def run() -> None:
        w.start()
        while not w.session.finished:
            w.do(w.choices()[-1 if strategy is Twice else 0])

    with pytest.raises(StrategyError, match=f"strategy of mode 'own' {says}"):
        run()


def test_a_strategy_sees_how_many_steps_were_accepted_and_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, "own", Own)
    w = world("own", replace(TARGET, role="draft", agree=0.5), rule=StepRule(max_tokens=5))
    seen: list[WindowView] = w.session._counsel._strategy.seen  # type: ignore[attr-defined]
    w.start()
    while not w.session.finished:
        drafts = [c for c in w.choices() if isinstance(w.under_way[c][0], DraftStep | DraftEnded)]
        w.do((drafts or w.choices())[0])
        if not w.session.finished:
            summary = w.session.summary()
            counts = (summary.num_steps, summary.num_accepted_steps, summary.num_recovered_steps)
            assert (seen[-1].num_committed, seen[-1].num_accepted, seen[-1].num_recovered) == counts
    assert seen[-1].num_accepted > 0
    assert seen[-1].num_recovered > 0
