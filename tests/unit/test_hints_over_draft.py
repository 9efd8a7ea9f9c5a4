"""Hints before a draft model, over a model runner of our own: who is asked for which sequence, and what survives."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actors.engines.hint_matching import MatchRules
from actors.engines.hint_options import OWN, request_arguments
from actors.engines.hint_worker import LookaheadWorker
from actors.engines.hints import HintProposer
from actors.engines.hints_over_draft import stand_before

MAX_LEN = 64
VOCABULARY_SIZE = 1000
PROMPT = [90, 91, 92, 90, 91]
HINT = [1, 2, 3, 4, 5, 6, 7, 8]
MODEL_SAYS = 500
"""The draft model writes this token, and the next ones after it."""
REFUSED = -1


class Runner:
    """What stands in the place of vLLM's model runner; one token of the first pass of each sequence was sampled."""

    def __init__(self, wishes: list[dict[str, Any] | None]) -> None:
        rules = MatchRules(num_hint_tokens=4, num_draft_tokens=3)
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=MAX_LEN), additional_config={OWN: asdict(rules)}
        )
        self.speculative_config = SimpleNamespace(uses_draft_model=lambda: True)
        self.use_async_scheduling = False
        self.discard_request_mask = SimpleNamespace(np=np.zeros(8, dtype=bool))
        self.drafter = object()
        self.requests = {f"r{at}": self._request(wish) for at, wish in enumerate(wishes)}
        token_ids = np.zeros((8, MAX_LEN), dtype=np.int32)
        token_ids[:, : len(PROMPT)] = PROMPT
        self.input_batch = SimpleNamespace(
            req_ids=list(self.requests),
            token_ids_cpu=token_ids,
            num_tokens_no_spec=np.full(8, len(PROMPT)),
            vocab_size=VOCABULARY_SIZE,
        )
        self.asked: list[int] = []

    @staticmethod
    def _request(wish: dict[str, Any] | None) -> Any:
        params = SimpleNamespace(extra_args=wish, max_tokens=32, stop_token_ids=[])
        return SimpleNamespace(sampling_params=params, num_prompt_tokens=len(PROMPT), prev_num_draft_len=0)

    def propose_draft_token_ids(self, scheduler_output: Any, sampled_token_ids: Any, *_: Any, **__: Any) -> Any:
        """vLLM's own: the draft model's tokens, as many as the scheduler says."""
        self.asked.append(scheduler_output.num_spec_tokens_to_schedule)
        return np.tile(MODEL_SAYS + np.arange(self.asked[-1]), (len(sampled_token_ids), 1))

    def step(self, *sampled: list[int]) -> list[list[int]]:
        """A pass in which each sequence was given `sampled`; what is proposed then. vLLM books the tokens after it."""
        rows = np.array([[*row, *[REFUSED] * (5 - len(row))] for row in sampled])
        output = SimpleNamespace(num_spec_tokens_to_schedule=7)
        drafts: list[list[int]] = self.propose_draft_token_ids(output, rows, "metadata", slot_mappings=None)
        for at, row in enumerate(sampled):
            start = int(self.input_batch.num_tokens_no_spec[at])
            self.input_batch.token_ids_cpu[at, start : start + len(row)] = row
            self.input_batch.num_tokens_no_spec[at] = start + len(row)
            self.requests[f"r{at}"].prev_num_draft_len = len(drafts[at])
        return drafts


def attached(*wishes: dict[str, Any] | None) -> tuple[Runner, LookaheadWorker]:
    worker = LookaheadWorker()
    worker.model_runner = runner = Runner(list(wishes))
    assert worker.lookahead_attach()
    return runner, worker


def test_a_hint_goes_first_and_the_model_only_reads_then() -> None:
    runner, worker = attached(request_arguments("a", [HINT]))
    assert runner.step([1]) == [[2, 3, 4, 5]]
    assert runner.step([2, 3, 4, 5, 6]) == [[7, 8]]
    assert runner.asked == [0, 0]
    assert worker.lookahead_counts()["num_hint_accepted_tokens"] == 4


def test_where_the_hint_ends_or_is_wrong_the_model_goes_on() -> None:
    runner, _ = attached(request_arguments("a", [HINT]))
    runner.step([1])
    assert runner.step([2, 3, 77]) == [[500, 501, 502]]
    assert runner.step([500, 501]) == [[500, 501, 502]]
    assert runner.asked == [0, 3, 3]


def test_each_sequence_gets_its_own_and_the_model_is_asked_if_one_needs_it() -> None:
    runner, _ = attached(
        request_arguments("a", [HINT]),
        request_arguments("b"),
        request_arguments("c", [HINT], speculation="none"),
        request_arguments("d", speculation="ngram"),
    )
    assert runner.step([1], [5], [1], [92]) == [[2, 3, 4, 5], [500, 501, 502], [], [90, 91, 92]]
    assert runner.asked == [3]


def test_hints_reach_a_running_sequence() -> None:
    runner, worker = attached(request_arguments("a"))
    assert runner.step([1]) == [[500, 501, 502]]
    worker.lookahead_add_hints(("a", [HINT]))
    assert runner.step([2]) == [[3, 4, 5, 6]]
    assert worker.lookahead_counts()["num_hint_tokens"] == 0, "nothing of the hint has been verified yet"


def test_a_prompt_that_is_not_read_to_its_end_gets_no_proposal() -> None:
    runner, _ = attached(request_arguments("a", [HINT]), request_arguments("b"))
    runner.discard_request_mask.np[0] = True
    assert runner.step([1], []) == [[], []]
    assert runner.asked == [0]


def test_a_failure_leaves_the_model_alone_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    runner, _ = attached(request_arguments("a", [HINT]))
    del runner.requests["r0"]
    runner.requests["other"] = runner._request(None)
    output = SimpleNamespace(num_spec_tokens_to_schedule=7)
    for _ in range(2):
        assert runner.propose_draft_token_ids(output, np.array([[1]])) == [[500, 501, 502]]
    assert caplog.text.count("its draft model goes on") == 1


@pytest.mark.parametrize(
    "missing", ["propose_draft_token_ids", "discard_request_mask", "use_async_scheduling", "input_batch"]
)
def test_another_model_runner_keeps_its_draft_model(missing: str, caplog: pytest.LogCaptureFixture) -> None:
    runner = Runner([None])
    worker = LookaheadWorker()
    worker.model_runner = SimpleNamespace(
        propose_draft_token_ids=runner.propose_draft_token_ids,
        **{name: value for name, value in vars(runner).items() if name != missing},
    )
    if missing == "propose_draft_token_ids":
        del worker.model_runner.propose_draft_token_ids
    assert not worker.lookahead_attach()
    assert "the model runner is another" in caplog.text
    assert worker.lookahead_counts() == {}


def test_a_draft_model_that_is_vllms_alone_is_left_alone() -> None:
    runner = Runner([None])
    runner.vllm_config.additional_config = {}
    own = runner.propose_draft_token_ids
    assert stand_before(runner) is None
    assert runner.propose_draft_token_ids == own
    runner = Runner([None])
    runner.use_async_scheduling = True
    assert stand_before(runner) is None
    assert isinstance(HintProposer(runner.vllm_config), HintProposer)
