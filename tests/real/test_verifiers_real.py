"""The embedding check on the real MiniLM: what it tells apart, what it cannot, and that `same_numbers` covers that."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from actors.errors import WeightsError
from actors.messages import Ending, JudgeRequest, Step, Verdict
from actors.verifier import StepVerifier, create_verifier
from actors.verifiers.embedding import SentenceEncoder, load_encoder

pytestmark = pytest.mark.real

MODEL = "package:all-minilm-l6-v2"
EMBEDDING = {"kind": "embedding", "model": MODEL, "accept": 0.85, "reject": 0.85}

PARAPHRASES = [
    ("So the total cost is 3 * 4 = 12 dollars.", "The total cost is therefore 3 * 4 = 12 dollars."),
    ("Each bag has 5 apples, so 6 bags have 6 * 5 = 30.", "A bag has 5 apples; for 6 bags that is 6 * 5 = 30 apples."),
    (
        "First, we find how many eggs she sells: 16 - 3 - 4 = 9 eggs.",
        "First, let us work out the number of eggs she sells: 16 - 3 - 4 = 9.",
    ),
    (
        "To find the speed, divide the distance of 120 km by 3 hours, which gives 40 km/h.",
        "The speed is the distance of 120 km divided by 3 hours: 120 / 3 = 40 km/h.",
    ),
    ("Since 7 is not even, it cannot be the sum we look for.", "As 7 isn't even, it can't be the sum that we need."),
    (
        "Next, multiply the number of boxes, 12, by 6 to get 72 pencils.",
        "Now we multiply: 12 boxes times 6 gives 72 pencils.",
    ),
    ("We know that the triangle has a right angle at C.", "The angle at C is known to be a right angle."),
    ("Let x be the number of red marbles.", "Denote the number of red marbles by x."),
]
OTHER_NUMBERS = [
    ("The sum of both is 317 + 477 = 794", "The sum of both is 317 + 477 = 694"),
    ("So the train needs 12 hours in all.", "So the train needs 13 hours in all."),
    ("Tom pays $35 and Ann pays $53.", "Tom pays $53 and Ann pays $35."),
    ("So A implies B.", "So B implies A."),
]
BLIND = [
    ("The number 91 is prime.", "The number 91 is not prime."),
    ("Tom can reach the station in time.", "Tom can't reach the station in time."),
    ("So the triangle has a right angle at C.", "So the triangle has no right angle at C."),
    ("Next, we add the 12 apples to the total.", "Next, we subtract the 12 apples from the total."),
    ("Now multiply the result by 4.", "Now divide the result by 4."),
    ("Tom has 5 more marbles than Ann.", "Tom has 5 fewer marbles than Ann."),
    ("Hence x is greater than 7.", "Hence x is less than 7."),
    ("The car is faster than the bus.", "The car is slower than the bus."),
    ("There are at least 10 of them.", "There are at most 10 of them."),
    ("So we need x > 4.", "So we need x < 4."),
    ("She buys 4 eggs at the market.", "She sells 4 eggs at the market."),
    ("The train leaves before noon.", "The train leaves after noon."),
    ("So n is an even number.", "So n is an odd number."),
    ("The trip takes 12 hours.", "The trip takes 12 minutes."),
]
"""The embedding accepts each of these at .85; docs/algorithm.md has their cosines."""
NOT_SEEN = [
    ("Tom pays Ann 5 dollars.", "Ann pays Tom 5 dollars."),
    ("The red box holds 6 pens.", "The blue box holds 6 pens."),
]
"""Wrong, and accepted: what the cascade is known not to see."""
UNRELATED = [
    ("So the total cost is 3 * 4 = 12 dollars.", "Let x be the age of the father; 3, 4 and 12 divide it."),
    ("Therefore the answer is 12.", "Now we have to convert the 12 hours into minutes."),
]


@pytest.fixture(scope="module")
def verifier() -> StepVerifier:
    balanced = [{"kind": "exact"}, {"kind": "same_numbers"}, {"kind": "same_polarity"}, EMBEDDING]
    return asyncio.run(create_verifier({"alone": [EMBEDDING], "balanced": balanced}, {}))


async def judge(verifier: StepVerifier, name: str, draft: str, target: str) -> Verdict:
    steps = [Step(text, (number,), "v", Ending.BOUNDARY) for number, text in enumerate((draft, target))]
    return await verifier.judge(JudgeRequest("session", name, "", "", *steps))


@pytest.mark.parametrize(("draft", "target"), PARAPHRASES)
async def test_paraphrases_are_accepted(verifier, draft, target):
    verdict = await judge(verifier, "balanced", draft, target)
    assert verdict.accepted, verdict
    assert verdict.verifier == "balanced/embedding"


@pytest.mark.parametrize(
    ("draft", "target"),
    [
        ("```bash\nrm -r $DIR /$NAME\n```", "```bash\nrm -r $DIR/$NAME\n```"),
        (
            "```python\nfor x in xs:\n    add(x)\n    show(xs)\n```",
            "```python\nfor x in xs:\n    add(x)\nshow(xs)\n```",
        ),
    ],
)
async def test_programs_that_differ_in_blanks_are_rejected(verifier, draft, target):
    """Alone the embedding knows them as programs; in a cascade an earlier check may reject them first."""
    verdict = await judge(verifier, "alone", draft, target)
    assert not verdict.accepted
    assert "programs" in verdict.reason
    assert not (await judge(verifier, "balanced", draft, target)).accepted


@pytest.mark.parametrize(("draft", "target"), UNRELATED)
async def test_other_statements_with_the_same_numbers_are_rejected(verifier, draft, target):
    verdict = await judge(verifier, "alone", draft, target)
    assert not verdict.accepted, verdict


@pytest.mark.parametrize(("draft", "target"), OTHER_NUMBERS)
async def test_other_numbers_fool_the_embedding_but_not_the_cascade(verifier, draft, target):
    assert (await judge(verifier, "alone", draft, target)).accepted
    verdict = await judge(verifier, "balanced", draft, target)
    assert not verdict.accepted
    assert verdict.verifier == "balanced/same_numbers"


@pytest.mark.parametrize(("draft", "target"), BLIND)
async def test_what_embeddings_are_blind_to_is_rejected_by_the_cascade(verifier, draft, target):
    assert (await judge(verifier, "alone", draft, target)).accepted
    verdict = await judge(verifier, "balanced", draft, target)
    assert not verdict.accepted
    assert verdict.verifier == "balanced/same_polarity"


@pytest.mark.parametrize(("draft", "target"), NOT_SEEN)
async def test_what_the_documents_say_is_not_seen_is_not_seen(verifier, draft, target):
    assert (await judge(verifier, "balanced", draft, target)).accepted


async def test_a_step_longer_than_the_model_reads_is_not_judged_by_its_beginning(verifier):
    long = "We go on and add the apples of the next bag. " * 40
    verdict = await judge(verifier, "alone", long + "So they are red.", long + "So they are not red.")
    assert not verdict.accepted
    assert "too long" in verdict.reason


async def test_a_text_of_many_tokens_that_still_fits_is_read_to_its_end():
    encoder = load_encoder(MODEL)
    long = "We add the apples of the next bag. " * 20
    # About 180 tokens: fewer than the model reads, more than the 128 at which the tokenizer's own file cuts.
    cosine = await encoder.similarity(long + "Ann is happy.", long + "The train leaves at night.")
    assert cosine is not None
    assert cosine < 0.9999


async def test_similarity_is_symmetric_and_one_for_equal_texts():
    encoder = load_encoder(MODEL)
    for one, other in itertools.chain(PARAPHRASES, UNRELATED):
        forth, back = await encoder.similarity(one, other), await encoder.similarity(other, one)
        assert forth == pytest.approx(back, abs=1e-4)
        assert await encoder.similarity(one, one) == pytest.approx(1.0, abs=1e-4)


async def test_the_event_loop_goes_on_while_the_model_works():
    encoder = load_encoder(MODEL)
    running = [asyncio.create_task(encoder.similarity(*PARAPHRASES[0])) for _ in range(8)]
    num_turns = 0
    while not all(task.done() for task in running):
        await asyncio.sleep(0)
        num_turns += 1
    cosines = {round(task.result() or 0.0, 5) for task in running}
    assert len(cosines) == 1
    assert num_turns > 100  # a model on the loop's own thread would leave it a turn or two


async def test_one_model_serves_all_verifiers():
    assert load_encoder(MODEL) is load_encoder(MODEL)


def test_a_folder_without_a_model_is_an_error_in_words(tmp_path):
    with pytest.raises(WeightsError, match="embedding model"):
        SentenceEncoder(tmp_path)
