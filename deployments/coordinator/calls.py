"""The calls of one request: their numbers, whose they are, and their words. Pure.

Promises: a call is live from its start to its end or cancellation, never again; every call that writes carries the seed
of its place in the text, the tokens that are left, the request's own way of token-level speculation, and hints that its
model can read.
"""

from __future__ import annotations

from dataclasses import replace

from actors.messages import SEED_STEP, JudgeRequest, Nearby, Piece, Prefix, Sampling, Step, StepRequest, TokenIds
from deployments.coordinator.events import AddHints, Cancel, Judge, StartDraft, StartStream, StartTarget
from deployments.coordinator.hints import Hints
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.window import Position, Writing, seeded, tail_text

BRANCH_STEP = 11_400_714_819_323_198_485 % 2**63
"""As `SEED_STEP`, Knuth's for 64 bits, for the versions of one step: no small multiple of `SEED_STEP` is near it."""


class Calls:
    """Which calls are live, and for which position (None: for none of them)."""

    def __init__(self, settings: SessionSettings, hints: Hints) -> None:
        self._settings = settings
        self._hints = hints
        close = settings.marks.close if settings.marks.is_open_at_start else None
        self._rule = replace(settings.rule, close=close, stop=settings.stop)
        self._live: dict[int, Position | None] = {}
        self._num_calls = 0

    def __contains__(self, call: int) -> bool:
        return call in self._live

    def __len__(self) -> int:
        return len(self._live)

    @property
    def live(self) -> tuple[int, ...]:
        """All live calls, oldest first."""
        return tuple(self._live)

    def owner(self, call: int) -> Position:
        """The position that `call`, which is live, is for."""
        position = self._live[call]
        if position is None:
            raise AssertionError(f"call {call} belongs to no position")
        return position

    def hand_over(self, call: int, position: Position) -> None:
        """`call`, which is live, is for `position` from now on."""
        self._live[call] = position

    def end(self, call: int) -> Position | None:
        """`call`, which is live, is over; the position it was for."""
        return self._live.pop(call)

    def cancel(self, call: int, reason: str) -> list[Cancel]:
        """End `call` where it runs, if it is live."""
        if call not in self._live:
            return []
        del self._live[call]
        return [Cancel(call, reason)]

    # --- their words -------------------------------------------------------------------------------------------------

    def target(self, position: Position, index: int) -> StartTarget:
        """The target's step for `position`, which is number `index` of the window. What was sent of it stands."""
        call, sent = self._begin(position), position.sent
        path = position.path.extended(sent) if sent.token_ids else position.path
        place = position.num_tokens_before + len(sent.token_ids)
        vocabulary = self._settings.vocabulary
        hints, near = self._draft_hint(position.draft or position.drafted, sent), self._hints.near(place, vocabulary)
        request = self._request(call, self._settings.target_prompt, path, place, vocabulary, near, hints)
        if sent.token_ids:
            rule = replace(request.rule, max_tokens=max(1, request.rule.max_tokens - len(sent.token_ids)))
            request = replace(request, rule=rule)
        position.writing = Writing(call, sent, sent.without(sent))
        # A deeper step is soon the head at most; but where a draft may be cut short, every depth is worth watching.
        seldom = 1.0 if self._settings.cuts_steps else 2.0**index
        progress_s = min(self._settings.progress_s * seldom, self._settings.max_progress_s)
        return StartTarget(call, position.serial, replace(request, priority=index), position.attempts, progress_s)

    def draft(
        self, tail: Position, prompt: TokenIds, vocabulary: str | None, depth: int, branch: int = 0
    ) -> StartDraft:
        """A look-ahead from `tail`, by a draft that writes in `vocabulary` (None: not known yet). `branch` counts the
        other versions of a step: they are sampled, each with a seed of its own, where the first is greedy.

        Where its words may be the target's hints, the first one's seed is not the target's either: the random number
        that drew a hint's token would draw the token behind the hint as well, and not from the target's distribution.
        """
        call, place = self._begin(None), tail.num_tokens_before
        near = self._hints.near(place, vocabulary) if vocabulary is not None else ()
        request = self._request(call, prompt, tail.path, place, vocabulary or "", near)
        is_read = self._settings.token_speculation == "hints" and vocabulary in (None, self._settings.vocabulary)
        if branch or request.sampling.temperature > 0:
            version = branch + 1 if is_read and self._settings.takes_hints else branch
            request = replace(request, sampling=self._of_version(request.sampling, place, version))
        tail.drafted = None
        return StartDraft(call, tail.serial, request, depth, self._settings.draft_part_tokens if is_read else 0)

    def stream(self, path: Prefix, place: int, attempt: int) -> StartStream:
        """The target's text after `path`, to its end."""
        call = self._begin(None)
        vocabulary = self._settings.vocabulary
        near = self._hints.near(place, vocabulary)
        request = self._request(call, self._settings.target_prompt, path, place, vocabulary, near)
        return StartStream(call, request, attempt)

    def hints_for(self, position: Position, draft: Step | Piece) -> AddHints | None:
        """A `draft` step, or what there is of it, for the target's call that writes `position` already."""
        writing = position.writing
        if writing is None or not (hints := self._draft_hint(draft, writing.before)):
            return None
        hint = writing.ahead.token_ids + hints[0]
        return AddHints(self._call_id(writing.call), self._settings.session_id, (hint,))

    def judge(self, position: Position, verifier: str, draft: Step, target: Step | None) -> Judge:
        """Do both say the same? Without a target's step: may the draft's stand?"""
        settings = self._settings
        call = position.judge_call = self._begin(position)
        context = tail_text(position.path.pieces, settings.context_chars)
        prefix = seeded(position.path, settings.target_prompt, settings.cache_salt)
        request = JudgeRequest(
            settings.session_id, verifier, settings.question, context, draft, target, prefix, settings.vocabulary
        )
        return Judge(call, position.serial, request)

    def _of_version(self, sampling: Sampling, place: int, version: int) -> Sampling:
        """As `sampling`, for version number `version` of the step at `place`; 0 has the seed of the target's own."""
        if sampling.temperature <= 0:
            seed = SEED_STEP * place if sampling.seed is None else sampling.seed
            sampling = replace(sampling, temperature=self._settings.branch_temperature, seed=seed)
        if sampling.seed is None:
            return sampling  # the engine draws, each time anew
        return replace(sampling, seed=(sampling.seed + BRANCH_STEP * version) % 2**63)

    def _draft_hint(self, draft: Step | Piece | None, before: Piece) -> tuple[TokenIds, ...]:
        """A `draft` step behind what is written `before`, if the target can read it."""
        if self._settings.token_speculation != "hints" or draft is None or draft.vocabulary != before.vocabulary:
            return ()
        hint = draft.token_ids[len(before.token_ids) :]
        return (hint,) if hint else ()

    def _begin(self, position: Position | None) -> int:
        call = self._num_calls
        self._num_calls += 1
        self._live[call] = position
        return call

    def _call_id(self, call: int) -> str:
        return f"{self._settings.session_id}-{call}"

    def _request(
        self,
        call: int,
        prompt: TokenIds,
        path: Prefix,
        place: int,
        vocabulary: str,
        near: tuple[Nearby, ...],
        hints: tuple[TokenIds, ...] = (),
    ) -> StepRequest:
        """Go on after `path`, which holds `place` tokens, in the words of a role's `prompt`, of `vocabulary`. What is
        `near` and begins right here is a hint like `hints`."""
        settings = self._settings
        return StepRequest(
            call_id=self._call_id(call),
            session_id=settings.session_id,
            prefix=seeded(path, prompt, settings.cache_salt),
            rule=self._rule,
            max_tokens=settings.max_tokens - place,
            sampling=settings.sampling.after(place),
            hints=hints + tuple(one.token_ids for one in near if not one.num_before),
            nearby=tuple(one for one in near if one.num_before),
            token_speculation=settings.token_speculation,
            vocabulary=vocabulary,
        )
