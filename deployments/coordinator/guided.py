"""One request whose text is the target's, token for token, with the draft's words as hints. Pure: events in, commands
out.

Promises, beside those of `Session`: the target writes one stream and is never interrupted, so every token of it is sent
as it comes; nothing that the draft does or fails to do changes a token or ends the request.

Where only equal steps count, comparing whole steps is a detour. The draft writes in small chunks, each goes to the
running stream as a hint at once, and the engine verifies many of its tokens in one pass. Where the target leaves the
draft's words the draft starts anew right there, however far the step is. It needs an engine that takes hints and a
draft with the target's vocabulary.

In counts and traces a chunk is a draft step: accepted if the target wrote the same, recovered if it wrote something
else in its place, cancelled if the draft's path was left before the target came there or the target was faster.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from actors.errors import ContextTooLong
from actors.messages import Ending, Piece, Step, TokenIds
from deployments.coordinator.calls import Calls
from deployments.coordinator.drafting import Drafting
from deployments.coordinator.events import (
    AddHints,
    Basis,
    Command,
    Decision,
    DraftAvailable,
    DraftEnded,
    DraftFailed,
    DraftRefused,
    DraftStep,
    Event,
    Fail,
    Outcome,
    Placed,
    Retired,
    Streamed,
    TargetFailed,
)
from deployments.coordinator.hints import Hints
from deployments.coordinator.settings import SessionSettings
from deployments.coordinator.tally import Tally
from deployments.coordinator.transcript import Transcript
from deployments.coordinator.window import Position
from deployments.generation import Origin, SpeculationSummary

CHUNK_TOKENS = 2
"""A hint is worth most early: the draft hands its words over in chunks of so many tokens."""
CHUNKS_A_STEP = 8
"""`max_lookahead` counts steps; the draft may be ahead by so many chunks for each."""
MAX_BEHIND = 8
"""Where the target is ahead of the draft by more tokens, the draft starts anew at the target's place. It catches up
with a few faster than it reads the text again."""
OVERLAP = 4
"""A hint begins with so many of the running call's last tokens, by which the engine finds its place; with all of them,
and so where the call begins, while there are no more. What stood before the call is no part of it: an engine takes a
hint to begin with the call's first token."""


@dataclass(slots=True)
class Guess:
    """A chunk of the draft's that the target has not come to the end of. `num_met` of its tokens came true."""

    serial: int
    step: Step
    num_met: int = 0

    @property
    def next_token(self) -> int:
        """What the target is expected to write next."""
        return self.step.token_ids[self.num_met]

    def rest(self, num_missed: int = 0) -> Step:
        """What of it is to come, behind the next `num_missed` tokens."""
        return replace(self.step, token_ids=self.step.token_ids[self.num_met + num_missed :])


class GuidedSession:
    """The state machine of one request. `start()` once, then `handle(event)` for every event."""

    def __init__(self, settings: SessionSettings, decide: Callable[[], Decision] | None = None) -> None:
        """`decide` says from how many steps ahead the draft guides; 0: it does not. Else `settings.max_lookahead`."""
        self._settings = settings
        self._decide = decide
        self._decision = Decision(settings.max_lookahead, "as asked for")
        self._tally = Tally(settings.mode, settings.resume, settings.num_takeovers)
        self._transcript = Transcript(settings, self._tally)
        self._hints = Hints(settings.num_nearby_hints)
        self._calls = Calls(settings, self._hints)
        self._drafting = Drafting(settings, self._calls)
        self._guesses: deque[Guess] = deque()
        self._behind: list[int] = []
        """Tokens of the target from the place of the running look-ahead's next token on."""
        self._recent: TokenIds = ()
        """The last tokens that the running stream wrote."""
        self._stream: tuple[int, str] | None = None
        self._is_told = False
        """Whether the running stream was given guesses that count still."""
        self._num_failures = 0
        self._num_placed = 0
        self._end_of_draft: int | None = None
        """Where the draft ended the text; it would do so again."""
        self._num_own = int(self._transcript.is_in_step)
        """Tokens that the target has written without a guess since the last counted step; one for all that was written
        of it elsewhere."""
        self._may_draft = settings.may_hint
        self._out: list[Command] = []
        self.finished = False

    # --- what the driver calls ---------------------------------------------------------------------------------------

    def start(self) -> list[Command]:
        """The first commands."""
        self._out += self._transcript.start()
        if self._transcript.finish_reason is not None:
            self._finish(self._transcript.finish_reason)
            return self._flush()
        if self._may_draft and not self._drafting.is_possible:
            self._lose_draft(*self._drafting.absence)
        self._start_stream()
        self._start_draft()
        return self._flush()

    def handle(self, event: Event) -> list[Command]:
        """The commands that `event` leads to; an event of a call that has ended is ignored."""
        if self.finished:
            return []
        if isinstance(event, DraftAvailable):
            self._drafting.revive(event)
        elif isinstance(event, DraftRefused):
            self._lose_draft("draft_refused", permanent=True)
        elif event.call not in self._calls:
            return []
        elif isinstance(event, DraftStep):
            self._on_draft(event)
        elif isinstance(event, DraftEnded):
            self._drafting.end()
            self._behind.clear()
        elif isinstance(event, DraftFailed):
            self._drafting.end()
            self._lose_draft(event.reason, event.permanent)
            self._behind.clear()
        elif isinstance(event, TargetFailed):
            self._on_target_failed(event)
        elif isinstance(event, Streamed):
            self._on_streamed(event)
        if not self.finished:
            self._start_draft()
        return self._flush()

    @property
    def num_live_calls(self) -> int:
        """Calls that were started and have neither ended nor been cancelled."""
        return len(self._calls)

    def summary(self) -> SpeculationSummary:
        """The counts so far."""
        return self._tally.summary(self._transcript.num_tokens)

    # --- events ------------------------------------------------------------------------------------------------------

    def _on_draft(self, event: DraftStep) -> None:
        step = event.step
        guess = Guess(self._num_placed, step)
        self._num_placed += 1
        self._drafting.take(event)
        self._tally.drafted(step)
        self._out.append(Placed(guess.serial, event.call, step))
        if step.vocabulary != self._settings.vocabulary:
            self._drop(guess, Outcome.CANCELLED)
            self._out += self._drafting.cancel("the draft has another vocabulary")
            self._lose_draft("draft_vocabulary", permanent=True)
            return
        if step.ending.is_last:
            self._end_of_draft = self._transcript.num_tokens - len(self._behind) + len(step.token_ids)
            self._end_of_draft += sum(len(g.step.token_ids) - g.num_met for g in self._guesses)
        known = self._behind[: len(step.token_ids)]
        if tuple(known) != step.token_ids[: len(known)]:
            self._drop(guess, Outcome.CANCELLED)
            self._leave("the target had left these words")
        elif len(known) == len(step.token_ids):
            self._drop(guess, Outcome.CANCELLED)  # the target was there first
            del self._behind[: len(known)]
        else:
            guess.num_met = len(known)
            if known:  # they are the chunk's now, and a step of the target's own ends before them
                self._num_own = max(0, self._num_own - len(known))
                self._count_own()
            self._behind.clear()
            self._guesses.append(guess)
            self._tell()

    def _on_streamed(self, event: Streamed) -> None:
        delta, transcript = event.delta, self._transcript
        self._num_failures = 0
        over = delta.ends_stream or transcript.num_tokens + len(delta.token_ids) >= self._settings.max_tokens
        if over:
            self._calls.end(event.call)
            self._stream = None
        if delta.token_ids or delta.text:
            piece = Piece(delta.text, delta.token_ids, self._settings.vocabulary)
            is_met = bool(self._guesses and delta.token_ids and self._guesses[0].next_token == delta.token_ids[0])
            origin = Origin.ACCEPTED if is_met else Origin.TARGET
            self._out += transcript.commit(piece, piece.without(piece), origin, self._tally.num_steps, delta.ending)
            self._recent = (self._recent + delta.token_ids)[-OVERLAP:]
            self._compare(delta.token_ids)
        if delta.ending is not None and self._num_own > len(self._behind):  # else all of it may be the next chunk's
            self._count_own()
        if transcript.stopped is not None or over:
            ended = transcript.stopped is not None or delta.ending is Ending.END
            self._finish("stop" if ended else "length")
        elif delta.ending is Ending.CLOSE:
            self._may_draft = False
            self._leave("the reasoning is closed")

    def _on_target_failed(self, event: TargetFailed) -> None:
        self._calls.end(event.call)
        self._num_failures += 1
        if isinstance(event.error, ContextTooLong) and self._transcript.num_tokens:
            self._finish("length")
            return
        if not event.retryable or self._num_failures >= self._settings.max_attempts:
            self._end()
            self._out.append(Fail(event.error))
            return
        self._tally.degraded("target_retried")
        self._start_stream()
        self._tell()

    # --- the target's words against the draft's ----------------------------------------------------------------------

    def _compare(self, token_ids: TokenIds) -> None:
        """The target wrote `token_ids`: what of the guesses came true, and where they end."""
        for at, token in enumerate(token_ids):
            if not self._guesses:
                if self._drafting.is_running:
                    self._behind += token_ids[at:]
                self._num_own += len(token_ids) - at
                break
            guess = self._guesses[0]
            if guess.next_token != token:
                num_since = len(token_ids) - at - 1
                self._guesses.popleft()
                self._count_own()
                self._drop(guess, Outcome.RECOVERED)
                self._leave("the target has left these words", guess.rest(num_missed=1), num_since)
                self._num_own = num_since
                break
            if not guess.num_met:
                self._count_own()
            guess.num_met += 1
            if guess.num_met == len(guess.step.token_ids):
                self._guesses.popleft()
                self._drop(guess, Outcome.ACCEPTED)
        if len(self._behind) > MAX_BEHIND:
            self._leave("the target is faster")

    def _drop(self, guess: Guess, outcome: Outcome) -> None:
        """What became of a chunk."""
        is_counted = outcome is not Outcome.CANCELLED
        step = self._tally.num_steps if is_counted else None
        self._out.append(Retired(guess.serial, outcome, step, Basis(guess.step)))
        if is_counted:
            self._tally.committed(outcome, guess.step)
        else:
            self._tally.cancelled(guess.step)

    def _count_own(self) -> None:
        """What the target wrote without a guess is a step of its own, up to here."""
        if self._num_own:
            self._tally.committed(Outcome.TARGET)
        self._num_own = 0

    def _leave(self, reason: str, missed: Step | None = None, num_since: int = 0) -> None:
        """The draft's path does not lead on: whatever is left of it is a hint at most. `missed`: what stood in a chunk
        behind a token that the target wrote otherwise, `num_since` tokens ago."""
        if self._guesses:
            self._num_own += self._guesses[0].num_met
        steps = [guess.rest() for guess in self._guesses]
        self._hints.leave(self._transcript.num_tokens - num_since, [missed, *steps] if missed is not None else steps)
        for guess in self._guesses:
            self._drop(guess, Outcome.CANCELLED)
        self._guesses.clear()
        self._behind.clear()
        if self._drafting.is_running:
            # The chunk that was being written has a number, by which observers know it.
            self._out.append(Retired(self._num_placed, Outcome.CANCELLED, None))
            self._num_placed += 1
            self._out += self._drafting.cancel(reason)

    # --- starting and ending -----------------------------------------------------------------------------------------

    def _start_stream(self) -> None:
        start = self._calls.stream(self._transcript.path, self._transcript.num_tokens, self._num_failures)
        self._stream = (start.call, start.request.call_id)
        self._recent = ()
        self._out.append(start)

    def _start_draft(self) -> None:
        """Keep the draft ahead: a look-ahead from the end of what is known or guessed, where there is room for one."""
        if self._decide is not None and (decision := self._decide()) != self._decision:
            self._decision = decision
            self._out.append(decision)
        if self._decision.depth == 0:
            self._leave("the target is faster alone")
            self._withdraw()
            return
        most = self._decision.depth * CHUNKS_A_STEP
        room = most - len(self._guesses)
        if not self._may_draft or not self._drafting.is_possible or self._drafting.is_running or room * 2 < most:
            return
        path, place = self._transcript.path, self._transcript.num_tokens
        for guess in self._guesses:
            if guess.step.ending.is_last:
                return
            rest = guess.rest().token_ids
            path = path.extended(Piece("", rest, self._settings.vocabulary))  # of one vocabulary only the ids count
            place += len(rest)
        if place >= self._settings.max_tokens or place == self._end_of_draft:
            return
        tail = Position(self._num_placed, path, place, Piece("", (), self._settings.vocabulary))
        start = self._drafting.start(tail, room)
        rule = replace(start.request.rule, max_tokens=min(CHUNK_TOKENS, start.request.rule.max_tokens))
        self._out.append(replace(start, request=replace(start.request, rule=rule)))

    def _tell(self) -> None:
        """Hand the guesses to the running stream."""
        if self._stream is None or not self._guesses:
            return
        ahead = tuple(token for guess in self._guesses for token in guess.rest().token_ids)
        self._out.append(AddHints(self._stream[1], self._settings.session_id, (self._recent + ahead,)))
        self._is_told = True

    def _withdraw(self) -> None:
        """The running stream is to go on without guesses: checking the words that it was given takes time as well."""
        if self._is_told and self._stream is not None:
            self._out.append(AddHints(self._stream[1], self._settings.session_id, ()))
        self._is_told = False

    def _lose_draft(self, reason: str, permanent: bool) -> None:
        self._tally.degraded(reason)
        self._out.append(self._drafting.lose(permanent))

    def _finish(self, reason: str) -> None:
        self._count_own()
        self._end()
        self._out += self._transcript.finish(reason, self.summary())

    def _end(self) -> None:
        """Nothing runs any more after this."""
        self._leave("the request ended")
        self._count_own()
        for call in self._calls.live:
            self._out += self._calls.cancel(call, "the request ended")
        self.finished = True

    def _flush(self) -> list[Command]:
        out, self._out = self._out, []
        return out
