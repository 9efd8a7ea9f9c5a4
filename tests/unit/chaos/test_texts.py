"""What a stream must say, and every way in which it may not."""

from __future__ import annotations

import pytest

from actors.engines.scripted import NONSENSE, ScriptOptions, detokenize, prompt_ids
from actors.messages import Message, Prompt, StepRule
from deployments.chaos.texts import complaint, expected
from tests.unit.coordinator.world import write

TARGET = ScriptOptions(num_steps=6)
DRAFT = ScriptOptions(role="draft", agree=0.3, paraphrase=0.3, num_steps=6)
QUESTION = "Sum 7?"
EXACT = expected(QUESTION, TARGET, DRAFT, judged=False)
JUDGED = expected(QUESTION, TARGET, DRAFT, judged=True)


def test_the_text_is_what_the_engine_alone_writes() -> None:
    prompt = prompt_ids(Prompt(messages=(Message("user", QUESTION),)))
    written = detokenize(tuple(i for d in write(TARGET, prompt, 10_000, StepRule(), None) for i in d.token_ids))
    assert EXACT.text == JUDGED.text == written
    assert complaint(written, EXACT) is complaint(written, JUDGED) is None


def test_where_a_verifier_judges_either_version_of_a_step_may_stand() -> None:
    others = "".join(versions[-1] if i == 2 else versions[1] for i, versions in enumerate(JUDGED.steps[:-1]))
    text = others + JUDGED.steps[-1][0]
    assert NONSENSE in text
    assert complaint(text, JUDGED) is None
    assert complaint(text, EXACT) is not None


@pytest.mark.parametrize("wanted", [EXACT, JUDGED])
@pytest.mark.parametrize(
    ("order", "words"),
    [
        ((0, 1, 2, 3), "lost: ends after"),
        ((0, 1, 2, 3, 4, 4, 5), "duplicated: step 4"),
        ((0, 1, 1, 2, 3, 4, 5), "duplicated: step 1"),
        ((0, 1, 3, 4, 5), "lost: step 3 comes where step 2"),
        ((0, 2, 1, 3, 4, 5), "lost: step 2 comes where step 1"),
        ((0, 1, 2, 3, 4, 5, 5), "went on behind the end"),
        ((), "lost: ends after 0"),
    ],
)
def test_what_is_lost_duplicated_or_reordered_is_found(wanted, order, words) -> None:
    found = complaint("".join(wanted.steps[i][0] for i in order), wanted)
    assert found is not None
    assert words in found


def test_a_single_other_character_is_found() -> None:
    for at in range(len(EXACT.text)):
        assert complaint(EXACT.text[:at] + "#" + EXACT.text[at + 1 :], EXACT) is not None
