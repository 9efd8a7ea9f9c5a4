"""The draft's words as hints while it writes them, in windows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.draft import Draft
from actors.engines import scripted
from actors.engines.scripted import ScriptedEngine, prompt_ids
from actors.messages import Piece, Prefix, Prompt, Step, StepRequest, StepRule, TokenIds
from deployments.config import validate_config
from deployments.coordinator.events import (
    AddHints,
    DraftEnded,
    DraftProgress,
    DraftStep,
    StartDraft,
    StartTarget,
    TargetStep,
)
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import TARGET, Answer, Bench, config
from tests.unit.coordinator.talk import Talk, V, step, words
from tests.unit.coordinator.test_restart_in_step import Straying


def piece(*ids: int, vocabulary: str = V) -> Piece:
    return Piece(words(*ids), ids, vocabulary)


def hints_in(said: list[object]) -> list[tuple[TokenIds, ...]]:
    return [c.hints for c in said if isinstance(c, AddHints)]


def test_parts_reach_the_running_step_of_the_same_position_as_they_come() -> None:
    talk = Talk(verifier="v", draft_part_tokens=2)
    draft = talk.last(StartDraft)
    assert isinstance(draft, StartDraft)
    assert draft.part_tokens == 2
    assert hints_in(talk.hear(DraftProgress(draft.call, piece(1, 2)))) == [((1, 2),)]
    assert hints_in(talk.hear(DraftProgress(draft.call, piece(3, 4)))) == [((1, 2, 3, 4),)]
    assert talk.sent == ""
    said = talk.hear(DraftStep(draft.call, step(1, 2, 3, 4, 5)))
    assert hints_in(said) == [((1, 2, 3, 4, 5),)]
    assert hints_in(talk.hear(DraftProgress(draft.call, piece(6, 7)))) == [((6, 7),)], "the next position's"
    assert talk.session.summary().num_draft_steps == 1


def test_a_step_that_starts_later_gets_what_is_there_with_its_call() -> None:
    talk = Talk(verifier="v", draft_part_tokens=2, max_target_steps=1)
    draft, head = talk.last(StartDraft), talk.last(StartTarget)
    talk.hear(DraftStep(draft.call, step(1, 2)))
    assert talk.last(StartTarget) is head
    assert hints_in(talk.hear(DraftProgress(draft.call, piece(6, 7)))) == []
    talk.hear(TargetStep(head.call, step(1, 2)))
    assert talk.last(StartTarget).request.hints[0] == (6, 7)


def test_words_of_a_look_ahead_that_ended_are_forgotten_with_it() -> None:
    talk = Talk(verifier="v", draft_part_tokens=2, max_lookahead=1)
    draft = talk.last(StartDraft)
    talk.hear(DraftProgress(draft.call, piece(1, 2)))
    talk.hear(DraftEnded(draft.call))
    again = talk.last(StartDraft)
    assert again.call != draft.call
    assert hints_in(talk.hear(DraftProgress(again.call, piece(3, 4)))) == [((3, 4),)]
    assert hints_in(talk.hear(DraftProgress(draft.call, piece(5, 6)))) == []


@pytest.mark.parametrize("changes", [{"token_speculation": "ngram"}, {"token_speculation": "none"}])
def test_without_hints_no_parts_are_asked_for(changes: dict[str, str]) -> None:
    talk = Talk(verifier="v", draft_part_tokens=2, **changes)
    assert talk.last(StartDraft).part_tokens == 0


def test_a_draft_that_the_target_cannot_read_is_not_asked_for_parts_again() -> None:
    talk = Talk(verifier="v", draft_part_tokens=2, max_lookahead=1)
    draft, target = talk.last(StartDraft), talk.last(StartTarget)
    assert hints_in(talk.hear(DraftProgress(draft.call, piece(1, 2, vocabulary="other")))) == []
    talk.hear(DraftStep(draft.call, step(1, 2, 3, vocabulary="other")))
    talk.hear(DraftEnded(draft.call))
    talk.hear(TargetStep(target.call, step(1, 2, 3)))
    assert talk.last(StartDraft).call != draft.call
    assert talk.last(StartDraft).part_tokens == 0


def test_the_draft_tells_parts_and_then_the_whole_step() -> None:
    async def scene() -> list[Piece | Step]:
        engine = ScriptedEngine(replace(TARGET, role="draft"))
        request = StepRequest("c", "s", Prefix(prompt_ids(Prompt(text="How many?"))), StepRule(), 1000)
        return [item async for item in Draft(engine).look_ahead_in_parts(request, 2, 4)]

    items = run_virtually(scene())
    steps = [item for item in items if isinstance(item, Step)]
    assert len(steps) == 2
    for at, end in ((0, items.index(steps[0])), (items.index(steps[0]) + 1, items.index(steps[1]))):
        parts = items[at:end]
        told = "".join(part.text for part in parts)
        assert items[end].text.startswith(told)
        assert len(told) > len(items[end].text) / 2
        assert {len(part.token_ids) for part in parts} == {4}


def test_hints_in_parts_save_time_and_change_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a virtual clock: a target that reads hints three times as fast, and a draft at a third of its time that leaves
    the target's words at a token, by which its step is lost."""
    monkeypatch.setattr(scripted, "Script", Straying)

    def ask(part_tokens: int, seed: int) -> Answer:
        target = replace(TARGET, num_steps=12, words=20, token_s=0.1, hint_gain=3.0, seed=seed)
        draft = replace(target, role="draft", token_s=0.03, hint_gain=1.0)
        settings = config(draft_part_tokens=part_tokens, progress_s=0.0).model_dump()
        settings["verifier"]["verifiers"]["unsure"] = [{"kind": "same_numbers"}]
        bench = Bench(target, draft, validate_config(settings, "test"))
        return run_virtually(bench.ask(mode="lookahead", verifier="unsure"))

    whole, parts = ([ask(part_tokens, seed) for seed in range(3)] for part_tokens in (0, 4))
    assert [a.text for a in parts] == [a.text for a in whole]
    assert whole[0].finished.summary.num_recovered_steps > 0
    assert sum(a.elapsed_s for a in parts) < 0.95 * sum(a.elapsed_s for a in whole)
