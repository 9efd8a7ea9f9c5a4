"""The proposer inside vLLM: hints and n-gram look-up as drafts of the model's own tokens. Knows vLLM 0.32's insides.

Promises: the text is never changed, only the speed (vLLM verifies every proposed token); nothing is kept of requests
that have ended; where vLLM's insides are others than expected it says so once and goes on with less: n-gram look-up
without the requests' wishes, or nothing.

How it gets in: `speculative_config={"method": "custom_class", "model": PROPOSER}` makes vLLM build a `HintProposer` in
each worker, and `actors.engines.hint_worker` hands it the model runner, which knows the requests by their place in the
batch, and further hints. A request's own come in the `extra_args` of its sampling parameters. This file imports nothing
of vLLM: it only touches what vLLM hands it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from actors.engines.hint_matching import MAX_HINTS, HintedSequence, MatchRules, Proposal, Source, Tokens, cut_after
from actors.engines.hint_options import METHOD, OWN

MAX_EARLY = 256
"""Hints are kept for so many requests that the model runner does not know yet. Most of them come within a moment; those
that were aborted before never come."""
Note = tuple[str, list[list[int]]]
"""The key of a request, and further hints for it; none: those that it has count no more."""
COUNTS = tuple(f"num_{source}{kind}_tokens" for source in (Source.HINT, Source.NGRAM) for kind in ("", "_accepted"))

logger = logging.getLogger(__name__)


def rules_of(vllm_config: Any) -> MatchRules:
    """The rules that `engine_options` put into vLLM's configuration."""
    return MatchRules(**vllm_config.additional_config[OWN])


def sequence_of(params: Any, rules: MatchRules) -> HintedSequence:
    """What a request's sampling parameters say of its hints; without a word of ours, it looks up n-grams."""
    wishes = _wishes(params)
    speculation = wishes.get("speculation", "ngram")
    sequence = HintedSequence(rules, uses_hints=speculation == METHOD, uses_ngrams=speculation in (METHOD, "ngram"))
    sequence.add(wishes.get("hints", ()), wishes.get("nearby", ()))
    return sequence


def first_drafts(params: Any, prompt: Tokens, room: int, rules: MatchRules) -> Proposal:
    """What to propose after `prompt`, before the request has written anything."""
    room = min(room, (params.max_tokens or room + 1) - 1)
    found = sequence_of(params, rules).propose(prompt, _wishes(params).get("num_written", 0), room)
    return Proposal(cut_after(found.tokens, frozenset(params.stop_token_ids or ())), found.source)


def key_of(request_id: str, params: Any) -> str:
    """What hints for the request call it. `params`: None where it samples nothing."""
    key: str = _wishes(params).get("key", request_id) if params is not None else request_id
    return key


def _wishes(params: Any) -> Mapping[str, Any]:
    return (params.extra_args or {}).get(OWN) or {}


@dataclass(slots=True)
class _Running:
    """A request that the model runner knows."""

    sequence: HintedSequence
    key: str
    start: int
    """Index of the first token that counts as written."""
    last_index: int
    """No token after this one can become part of the request."""
    stops: frozenset[int]
    last: Source = Source.NOTHING
    """Where the drafts come from that are verified in the next pass."""


class HintProposer:
    """vLLM's `custom_class` proposer. One a worker; used by the worker's one thread."""

    def __init__(self, vllm_config: Any, guesses_anew: bool = True) -> None:
        """`guesses_anew`: whether `add_hints` may guess again for a sequence whose drafts are not verified yet."""
        self._guesses_anew = guesses_anew
        self._rules = rules_of(vllm_config)
        self._max_model_len = int(vllm_config.model_config.max_model_len)
        self._runner: Any = None
        self._is_off = False
        self._running: dict[str, _Running] = {}
        self._id_of: dict[str, str] = {}
        self._early: OrderedDict[str, list[list[int]]] = OrderedDict()
        self._counts = dict.fromkeys(COUNTS, 0)

    def load_model(self, *_: Any, **__: Any) -> None:
        """There is none; vLLM calls this of every proposer."""

    def attach(self, runner: Any) -> bool:
        """Take the model runner, from which requests are read. False, and a warning, if it is another than expected."""
        try:
            _ = (runner.input_batch.req_ids, runner.requests.keys())
        except AttributeError as error:
            self._degrade(f"the model runner is another ({error})", is_off=False)
            return False
        self._runner = runner
        return True

    def add_hints(self, notes: Iterable[Note]) -> list[tuple[str, list[int]]]:
        """Further hints for requests, or for when they come, in the order of their coming. Called between two passes:
        requests by their ids, and what to verify for each in the next one instead of what was proposed last."""
        if self._runner is None:
            return []  # nobody would ask for them
        told = dict.fromkeys(self._id_of[key] for key, hints in notes if self._take(key, hints))
        guesses = [self._guess_anew(request_id, self._running[request_id]) for request_id in told]
        return [guess for guess in guesses if guess is not None]

    def _take(self, key: str, hints: list[list[int]]) -> bool:
        """Whether `hints` are for a request that runs."""
        running = self._running.get(self._id_of.get(key, ""))
        if running is not None and hints:
            running.sequence.add(hints)
        elif running is not None:
            running.sequence.forget()
        else:
            early = self._early.pop(key, [])
            if hints:
                self._early[key] = [*hints, *early][:MAX_HINTS]
            while len(self._early) > MAX_EARLY:
                self._early.popitem(last=False)
        return running is not None

    def counts(self) -> dict[str, int]:
        """Tokens proposed and accepted, by source, of proposals that have been verified."""
        return dict(self._counts)

    def propose(
        self, sampled_token_ids: list[list[int]], num_tokens_no_spec: Any, token_ids_cpu: Any, *_: Any, **__: Any
    ) -> list[list[int]]:
        """Draft tokens for each sequence of the batch.

        Args, by place in the batch: the tokens just sampled (none where the prompt is not read to its end yet); how
        many tokens the sequence has, shape ``(num_seqs,)``; its token ids, shape ``(num_seqs, max_model_len)``.
        """
        if self._is_off:
            return [[] for _ in sampled_token_ids]
        try:
            return [
                self.propose_after(at, len(sampled), token_ids_cpu[at, : int(num_tokens_no_spec[at])]).tokens
                if sampled
                else []
                for at, sampled in enumerate(sampled_token_ids)
            ]
        except Exception as error:  # a failure here would end the engine, and all that is at stake is speed
            self._degrade(f"a proposal failed ({type(error).__name__}: {error})", is_off=self._runner is None)
            return [[] for _ in sampled_token_ids]
        finally:
            self.forget_ended()

    def propose_after(self, at: int, num_sampled: int, context: Tokens) -> Proposal:
        """What to propose after `context`, all tokens of the sequence at place `at`, the last `num_sampled` new."""
        if self._runner is None:
            room = self._max_model_len - len(context) - 1
            return HintedSequence(self._rules, uses_hints=False).propose(context, 0, room)
        request_id = self._runner.input_batch.req_ids[at]
        request = self._runner.requests[request_id]
        running = self._running.get(request_id) or self._begin(request_id, request, context)
        self._count(running.last, request.prev_num_draft_len, num_sampled - 1)
        return self._guess(running, context)

    def _guess(self, running: _Running, context: Tokens) -> Proposal:
        num_tokens = len(context)
        room = min(self._max_model_len - num_tokens - 1, running.last_index - num_tokens)
        found = running.sequence.propose(context, num_tokens - running.start, max(0, room))
        running.last = found.source
        return Proposal(cut_after(found.tokens, running.stops), found.source)

    def _guess_anew(self, request_id: str, running: _Running) -> tuple[str, list[int]] | None:
        if not self._guesses_anew:
            return None
        try:
            batch = self._runner.input_batch
            at = batch.req_id_to_index.get(request_id)
            if at is None:
                return None
            guess = self._guess(running, batch.token_ids_cpu[at, : int(batch.num_tokens_no_spec[at])])
        except Exception as error:  # only speed is at stake: what was proposed last is verified
            self._guesses_anew = False
            logger.warning("Hints are verified a pass later in this engine (%s: %s).", type(error).__name__, error)
            return None
        return request_id, guess.tokens

    def _begin(self, request_id: str, request: Any, context: Tokens) -> _Running:
        params, num_prompt_tokens = request.sampling_params, int(request.num_prompt_tokens)
        wishes = _wishes(params)
        running = _Running(
            sequence_of(params, self._rules),
            key=key_of(request_id, params),
            start=num_prompt_tokens - wishes.get("num_written", 0),
            last_index=num_prompt_tokens + (params.max_tokens or self._max_model_len) - 1,
            stops=frozenset(params.stop_token_ids or ()),
        )
        if request.prev_num_draft_len:  # the scheduler had some verified with the prompt
            room = request.prev_num_draft_len
            running.last = first_drafts(params, context[:num_prompt_tokens], room, self._rules).source
        running.sequence.add(self._early.pop(running.key, ()))
        self._running[request_id] = running
        self._id_of[running.key] = request_id
        return running

    def _count(self, source: Source, num_drafts: int, num_accepted: int) -> None:
        if source in (Source.HINT, Source.NGRAM):
            self._counts[f"num_{source}_tokens"] += num_drafts
            self._counts[f"num_{source}_accepted_tokens"] += num_accepted

    def forget_ended(self) -> None:
        """Drop what is kept of requests that the model runner does not know any more."""
        if self._runner is None or len(self._running) <= len(self._runner.requests):
            return
        for request_id in self._running.keys() - self._runner.requests.keys():
            key = self._running.pop(request_id).key
            if self._id_of.get(key) == request_id:
                del self._id_of[key]

    def _degrade(self, why: str, is_off: bool) -> None:
        self._is_off = is_off
        self._runner = None
        self._running.clear()
        self._id_of.clear()
        self._early.clear()
        left = "nothing is proposed any more" if is_off else "n-gram look-up goes on for all requests"
        logger.warning("Hinted decoding is switched off in this engine: %s; %s. Texts do not change.", why, left)
