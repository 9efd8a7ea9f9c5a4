"""The proposer inside the engine, over a model runner of our own: what it reads, keeps, counts and survives."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field, fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actors.engines import hint_calls, hints
from actors.engines.hint_calls import HintCalls
from actors.engines.hint_matching import MAX_HINTS, MatchRules, Source
from actors.engines.hint_options import (
    EXTENSION,
    OWN,
    PROPOSER,
    SETTINGS,
    request_arguments,
)
from actors.engines.hint_worker import LookaheadWorker
from actors.engines.hints import COUNTS, HintProposer, first_drafts
from actors.messages import Nearby, SpeculationStats

RULES = MatchRules(num_hint_tokens=4, num_ngram_tokens=2)
MAX_LEN = 64
HINT = [1, 2, 3, 4, 5, 6, 7, 8]
PROMPT = [90, 91, 92, 90, 91]


@dataclass
class Runner:
    """What the proposer reads of vLLM's model runner, and the batch that vLLM hands it."""

    requests: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    input_batch: Any = field(default_factory=lambda: SimpleNamespace(req_ids=[], req_id_to_index={}))

    drafts: dict[str, list[int]] = field(default_factory=dict)

    def begin(self, request_id: str, arguments: dict[str, Any] | None, max_tokens: int = 32, stops: Any = ()) -> None:
        params = SimpleNamespace(extra_args=arguments, max_tokens=max_tokens, stop_token_ids=list(stops))
        self.requests[request_id] = SimpleNamespace(
            sampling_params=params, num_prompt_tokens=len(PROMPT), prev_num_draft_len=0
        )
        self.tokens[request_id] = list(PROMPT)
        self.input_batch.req_ids.append(request_id)

    def end(self, request_id: str) -> None:
        del self.requests[request_id]
        self.input_batch.req_ids.remove(request_id)
        self.input_batch.req_id_to_index.pop(request_id, None)

    def step(self, proposer: HintProposer, sampled: dict[str, list[int]]) -> dict[str, list[int]]:
        """One forward pass in which each request was given `sampled`, and what is proposed then."""
        ids = self.input_batch.req_ids
        for request_id, tokens in sampled.items():
            self.tokens[request_id].extend(tokens)
            if request_id in self.drafts:
                self.requests[request_id].prev_num_draft_len = len(self.drafts[request_id])
        token_ids = np.zeros((8, MAX_LEN), dtype=np.int32)
        for at, request_id in enumerate(ids):
            token_ids[at, : len(self.tokens[request_id])] = self.tokens[request_id]
        lengths = np.array([len(self.tokens[i]) for i in ids] + [0] * (8 - len(ids)))
        self.input_batch.token_ids_cpu, self.input_batch.num_tokens_no_spec = token_ids, lengths
        self.input_batch.req_id_to_index = {request_id: at for at, request_id in enumerate(ids)}
        drafts = proposer.propose([sampled.get(i, []) for i in ids], lengths, token_ids, slot_mappings=None)
        self.drafts = dict(zip(ids, drafts, strict=True))
        return self.drafts


def make(rules: MatchRules = RULES) -> tuple[HintProposer, Runner]:
    model = SimpleNamespace(max_model_len=MAX_LEN)
    config = SimpleNamespace(model_config=model, additional_config={OWN: asdict(rules)})
    proposer, runner = HintProposer(config), Runner()
    proposer.load_model(object())
    assert proposer.attach(runner)
    return proposer, runner


def test_each_request_is_proposed_what_its_own_hints_say() -> None:
    proposer, runner = make()
    runner.begin("a-1", request_arguments("a", [HINT]))
    runner.begin("b-1", request_arguments("b", [[1, 20, 21]]))
    runner.begin("c-1", request_arguments("c", [HINT], "ngram"))
    runner.begin("d-1", request_arguments("d", [HINT], "none"))
    runner.begin("e-1", None)
    found = runner.step(proposer, {"a-1": [1], "b-1": [1], "c-1": [92], "d-1": [92], "e-1": [92]})
    assert found == {"a-1": [2, 3, 4, 5], "b-1": [20, 21], "c-1": [90, 91], "d-1": [], "e-1": [90, 91]}


def test_a_prompt_that_is_not_read_to_its_end_gets_no_proposal() -> None:
    proposer, runner = make()
    runner.begin("a-1", request_arguments("a", [HINT]))
    assert runner.step(proposer, {"a-1": []}) == {"a-1": []}


def test_places_in_the_batch_may_change() -> None:
    proposer, runner = make()
    runner.begin("a-1", request_arguments("a", [HINT]))
    runner.begin("b-1", request_arguments("b", [[11, 12, 13, 14, 15, 16]]))
    runner.step(proposer, {"a-1": [1], "b-1": [11]})
    runner.input_batch.req_ids.reverse()
    assert runner.step(proposer, {"a-1": [2], "b-1": [12]}) == {"b-1": [13, 14, 15, 16], "a-1": [3, 4, 5, 6]}


def test_hints_reach_a_request_before_it_begins_and_while_it_runs() -> None:
    proposer, runner = make()
    proposer.add_hints([("a", [HINT])])
    runner.begin("a-1", request_arguments("a"))
    assert runner.step(proposer, {"a-1": [1]})["a-1"] == [2, 3, 4, 5]
    proposer.add_hints([("a", [[1, 2, 30, 31]])])
    assert runner.step(proposer, {"a-1": [2]})["a-1"] == [30, 31]


def test_no_hints_mean_that_those_before_count_no_more() -> None:
    proposer, runner = make()
    proposer.add_hints([("a", [HINT])])
    proposer.add_hints([("a", [])])
    runner.begin("a-1", request_arguments("a", [HINT]))
    assert runner.step(proposer, {"a-1": [1]})["a-1"] == [2, 3, 4, 5], "only those that came early"
    assert proposer.add_hints([("a", [])]) == [("a-1", [])]
    assert runner.step(proposer, {"a-1": [2]})["a-1"] == []
    proposer.add_hints([("a", [HINT])])
    assert runner.step(proposer, {"a-1": [3]})["a-1"] == [4, 5, 6, 7]


def test_what_an_earlier_attempt_wrote_counts_as_written() -> None:
    proposer, runner = make()
    runner.begin("a-1", request_arguments("a:1", [[90, 91, 1, 2, 3]], num_written=2))
    assert runner.step(proposer, {"a-1": [1]})["a-1"] == [2, 3]


def test_nothing_is_proposed_beyond_what_the_request_may_write() -> None:
    proposer, runner = make()
    runner.begin("short", request_arguments("short", [HINT]), max_tokens=3)
    runner.begin("stops", request_arguments("stops", [HINT]), stops=(4,))
    assert runner.step(proposer, {"short": [1], "stops": [1]}) == {"short": [2], "stops": [2, 3, 4]}
    assert runner.step(proposer, {"short": [2, 3]})["short"] == []


def test_nothing_is_proposed_beyond_the_context() -> None:
    proposer, runner = make()
    runner.begin("a-1", request_arguments("a", [list(range(100))]), max_tokens=500)
    written = list(range(MAX_LEN - len(PROMPT) - 3))
    assert runner.step(proposer, {"a-1": written})["a-1"] == [len(written), len(written) + 1]


def test_accepted_tokens_are_counted_by_source() -> None:
    proposer, runner = make()
    runner.begin("a-1", request_arguments("a", [HINT]))
    runner.step(proposer, {"a-1": [1]})  # proposes 2 3 4 5
    runner.step(proposer, {"a-1": [2, 91, 92]})  # two places accepted; looks up 90 91
    runner.step(proposer, {"a-1": [90, 91, 92]})  # both accepted
    expected = {"num_hint_tokens": 4, "num_hint_accepted_tokens": 2}
    assert proposer.counts() == {**expected, "num_ngram_tokens": 2, "num_ngram_accepted_tokens": 2}
    assert set(COUNTS) <= {f.name for f in fields(SpeculationStats)}


def test_drafts_that_were_verified_with_the_prompt_count_too() -> None:
    proposer, runner = make()
    arguments = request_arguments("a", [HINT])
    runner.begin("a-1", arguments)
    params = runner.requests["a-1"].sampling_params
    first = first_drafts(params, np.array(PROMPT), 3, RULES)
    assert (first.tokens, first.source) == ([1, 2, 3], Source.HINT)
    runner.requests["a-1"].prev_num_draft_len = 3
    assert runner.step(proposer, {"a-1": [1, 2, 50]})["a-1"] == []
    assert (proposer.counts()["num_hint_tokens"], proposer.counts()["num_hint_accepted_tokens"]) == (3, 2)


def test_first_drafts_are_within_what_the_request_may_write() -> None:
    params = SimpleNamespace(extra_args=request_arguments("a", [HINT]), max_tokens=3, stop_token_ids=[])
    assert first_drafts(params, np.array(PROMPT), 8, RULES).tokens == [1, 2]
    params.max_tokens, params.stop_token_ids = 20, [3]
    assert first_drafts(params, np.array(PROMPT), 8, RULES).tokens == [1, 2, 3]
    params.extra_args = request_arguments("a", [HINT], "none")
    assert first_drafts(params, np.array(PROMPT), 8, RULES).tokens == []
    params.extra_args = None
    assert first_drafts(params, np.array([*PROMPT, 92]), 8, RULES).tokens == [90, 91]


def test_what_was_written_nearby_is_verified_with_the_prompt_from_where_that_ends() -> None:
    near = Nearby((80, 81, 90, 91, 1, 2, 3, 4), 3)
    params = SimpleNamespace(extra_args=request_arguments("a", nearby=[near]), max_tokens=20, stop_token_ids=[])
    first = first_drafts(params, np.array(PROMPT), 8, RULES)
    assert (first.tokens, first.source) == ([1, 2, 3, 4], Source.HINT)
    params.extra_args = request_arguments("a", nearby=[Nearby((80, 81, 82, 1, 2, 3), 3)])
    assert first_drafts(params, np.array(PROMPT), 8, RULES).source is Source.NGRAM, "nothing says where it would go on"
    proposer, runner = make()
    runner.begin("a-1", request_arguments("a", nearby=[near]))
    assert runner.step(proposer, {"a-1": [1]})["a-1"] == [2, 3, 4]


def test_nothing_is_kept_of_requests_that_ended_or_never_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "MAX_EARLY", 10)
    proposer, runner = make()
    for number in range(50):
        runner.begin(f"r{number}-x", request_arguments(f"r{number}", [HINT]))
        runner.step(proposer, {f"r{number}-x": [1]})
        runner.end(f"r{number}-x")
        proposer.add_hints([(f"never{number}", [HINT])])
    runner.begin("last", request_arguments("last", [HINT]))
    runner.step(proposer, {"last": [1]})
    assert list(proposer._running) == ["last"]
    assert list(proposer._id_of) == ["last"]
    assert list(proposer._early) == [f"never{number}" for number in range(40, 50)]


def test_few_hints_are_kept_for_one_that_never_comes_and_none_by_a_proposer_that_is_off() -> None:
    """With several engines side by side each hears the hints of all requests."""
    proposer, _ = make()
    hints_of = [[[number, 1, 2]] for number in range(3 * MAX_HINTS)]
    for hints_then in hints_of:
        proposer.add_hints([("elsewhere", hints_then)])
    assert proposer._early == {"elsewhere": [hint for (hint,) in reversed(hints_of[-MAX_HINTS:])]}
    assert not proposer.attach(None)
    proposer.add_hints([("elsewhere", [HINT])])
    assert not proposer._early


@pytest.mark.parametrize("missing", ["input_batch", "requests"])
def test_another_model_runner_leaves_ngrams_and_one_warning(missing: str, caplog: pytest.LogCaptureFixture) -> None:
    proposer, runner = make()
    other = SimpleNamespace(input_batch=runner.input_batch, requests=runner.requests)
    delattr(other, missing)
    proposer, _ = make()
    proposer._runner = None
    with caplog.at_level(logging.WARNING):
        assert not proposer.attach(other)
        runner.begin("a-1", request_arguments("a", [HINT]))
        assert runner.step(proposer, {"a-1": [92]}) == {"a-1": [90, 91]}
        proposer.add_hints([("a", [HINT])])
        runner.step(proposer, {"a-1": [1]})
    assert len(caplog.records) == 1
    assert missing in caplog.text
    assert "n-gram look-up goes on" in caplog.text


def test_a_runner_that_turns_out_to_be_another_is_left_at_the_first_failure(caplog: pytest.LogCaptureFixture) -> None:
    proposer, runner = make()
    runner.begin("a-1", request_arguments("a", [HINT]))
    del runner.requests["a-1"].num_prompt_tokens
    assert runner.step(proposer, {"a-1": [1]}) == {"a-1": []}
    assert runner.step(proposer, {"a-1": [91, 92]}) == {"a-1": [90, 91]}
    assert len(caplog.records) == 1


def test_a_hint_between_two_passes_is_for_the_next_one() -> None:
    proposer, runner = make()
    runner.begin("a-1", request_arguments("a"))
    assert runner.step(proposer, {"a-1": [1]})["a-1"] == []
    assert proposer.add_hints([("a", [HINT])]) == [("a-1", [2, 3, 4, 5])]
    runner.drafts["a-1"] = [2, 3, 4, 5]
    assert runner.step(proposer, {"a-1": [2, 3, 4, 5, 6]})["a-1"] == [7, 8]
    assert proposer.counts()["num_hint_accepted_tokens"] == 4
    runner.end("a-1")
    assert proposer.add_hints([("a", [HINT])]) == [], "it is not in the batch any more"


def test_hints_of_all_requests_come_together_and_each_is_guessed_for_once() -> None:
    proposer, runner = make()
    for name in ("a", "b", "c"):
        runner.begin(f"{name}-1", request_arguments(name))
    runner.step(proposer, {"a-1": [1], "b-1": [11], "c-1": [1]})
    notes = [("a", [[1, 9]]), ("b", [[11, 12, 13]]), ("gone", [HINT]), ("a", [HINT]), ("b", [])]
    assert proposer.add_hints(notes) == [("a-1", [2, 3, 4, 5]), ("b-1", [])]


def test_a_batch_that_cannot_be_read_between_passes_costs_a_pass_and_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    proposer, runner = make()
    runner.begin("a-1", request_arguments("a"))
    runner.step(proposer, {"a-1": [1]})
    del runner.input_batch.req_id_to_index
    for hint in (HINT, [1, 2, 9]):
        assert proposer.add_hints([("a", [hint])]) == []
    assert runner.step(proposer, {"a-1": [2]})["a-1"] == [9]
    assert len(caplog.records) == 1


def test_another_call_than_expected_ends_all_proposals(caplog: pytest.LogCaptureFixture) -> None:
    proposer, _ = make()
    for _ in range(3):
        assert proposer.propose([[1], [2]], None, None, 5) == [[], []]
    assert len(caplog.records) == 2, "hints are off, then n-grams"
    assert "nothing is proposed" in caplog.text


def test_a_worker_hands_its_runner_to_its_proposer() -> None:
    proposer, runner = make()
    worker = LookaheadWorker()
    runner.drafter = proposer  # type: ignore[attr-defined]
    worker.model_runner = runner
    assert worker.lookahead_attach()
    worker.lookahead_add_hints(("a", [HINT]))
    runner.begin("a-1", request_arguments("a"))
    assert runner.step(proposer, {"a-1": [1]})["a-1"] == [2, 3, 4, 5]
    assert worker.lookahead_counts() == dict.fromkeys(COUNTS, 0)


@pytest.mark.parametrize("model_runner", [SimpleNamespace(), SimpleNamespace(drafter=object())])
def test_a_worker_without_our_proposer_says_so(model_runner: Any) -> None:
    worker = LookaheadWorker()
    worker.model_runner = model_runner
    assert not worker.lookahead_attach()
    worker.lookahead_add_hints(("a", [HINT]))
    assert worker.lookahead_counts() == {}


def test_the_names_that_vllm_is_given_are_those_of_the_classes() -> None:
    for name, found in ((PROPOSER, HintProposer), (EXTENSION, LookaheadWorker)):
        assert name == f"{found.__module__}.{found.__name__}"
    assert set(SETTINGS.values()) == {f.name for f in fields(MatchRules)}


# --- the calls' hints ------------------------------------------------------------------------------------------------


def test_a_call_has_the_hints_that_came_before_with_and_during_it() -> None:
    calls = HintCalls(vocabulary_size=100)
    assert calls.add("a", ((1,),)) is None
    with calls.running("a", ((2,),)) as call:
        assert call.hints == ((1,), (2,))
        call.request_id = "a:1"
        assert calls.add("a", ((3,),)) == ("a:1", ((3,),))
        assert call.hints == ((3,), (1,), (2,))
    with calls.running("a", ()) as again:
        assert again.hints == ()


def test_no_hints_take_those_of_a_call_away() -> None:
    calls = HintCalls(vocabulary_size=100)
    assert calls.add("a", ()) is None
    calls.add("a", ((1,),))
    calls.add("a", ())
    with calls.running("a", ()) as call:
        assert call.hints == ()
        assert calls.add("a", ()) is None, "the engine has none"
        calls.add("a", ((1,),))
        assert calls.add("a", ()) == ("a", ())
        assert call.hints == ()


def test_what_was_written_near_a_call_goes_with_it_until_its_hints_are_taken_away() -> None:
    calls = HintCalls(vocabulary_size=100)
    near = Nearby((1, 2, 3), 1)
    with calls.running("a", (), (near, Nearby((1, 100), 1), Nearby((), 2))) as call:
        assert call.arguments("hints", 0) == request_arguments("a", nearby=[near])
        assert calls.add("a", ()) == ("a", ())
        assert call.arguments("hints", 0) == request_arguments("a")


def test_tokens_that_the_model_does_not_have_are_no_hint() -> None:
    calls = HintCalls(vocabulary_size=100)
    with calls.running("a", ((1, 100), (), (-1, 2), (99,))) as call:
        assert call.hints == ((99,),)
        assert calls.add("a", ((100,),)) is None


def test_a_call_keeps_the_newest_hints_only() -> None:
    calls, many = HintCalls(100), range(3 * MAX_HINTS)
    for number in many:
        calls.add("early", ((number, 1),))
    with calls.running("early", ((1, 2),)) as call:
        assert call.hints == tuple((number, 1) for number in reversed(many))[:MAX_HINTS]
        for number in many:
            calls.add("early", ((number, 2),))
        assert call.hints == tuple((number, 2) for number in reversed(many))[:MAX_HINTS]
    with calls.running("whole", tuple((number, 3) for number in many)) as call:
        assert call.hints == tuple((number, 3) for number in many[:MAX_HINTS])


def test_hints_for_calls_that_never_come_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hint_calls, "MAX_EARLY", 3)
    calls = HintCalls(vocabulary_size=100)
    for number in range(10):
        calls.add(f"call-{number}", ((number,),))
    assert list(calls._early) == ["call-7", "call-8", "call-9"]
    with calls.running("call-9", ()) as call:
        assert call.hints == ((9,),)
    assert list(calls._early) == ["call-7", "call-8"]
    assert not calls._calls
