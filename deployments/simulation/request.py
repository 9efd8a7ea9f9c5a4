"""One request in a simulated cluster, led by the session's decisions: its calls to the replicas, and what it got.

Promises: what is started, kept, cancelled and retried is what the production session decides (`decisions.py`); a
look-ahead and a stream write on while the news of a step is on its way; a request stays on its replicas while they
live, and goes on from its committed steps on others when they die; without a draft it goes on alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from deployments.coordinator.pipeline import FIRST_BACKOFF_S, MAX_BACKOFF_S, MAX_DRAFT_RETRY_S
from deployments.simulation.cluster import DRAFT_RETRY_S, ROLES, Cluster, Crossing, Ended, Pool
from deployments.simulation.engine import Engine
from deployments.simulation.led import NOTHING_KNOWN, Facts, Happening, Reaction
from deployments.simulation.passages import Passage
from deployments.simulation.scripts import Agreement


class Call:
    """One call of a request to a role; its engine's `Work`."""

    __slots__ = ("engine", "has_begun", "key", "left", "place", "request", "same", "since", "word")

    def __init__(self, request: Request, word: str, place: int, left: int = 1) -> None:
        self.request = request
        self.word = word
        self.key = (word, place)
        """Its word, and the first place that it is for."""
        self.place = place
        """For which it works now."""
        self.left = left
        """Steps that are still to be written."""
        self.same = False
        self.since = request.cluster.clock.now
        self.engine: Engine | None = None
        self.has_begun = False

    def done(self) -> None:
        """As `Work.done`."""
        self.request.wrote(self)

    def lost(self) -> None:
        """As `Work.lost`."""
        self.request.cluster.counts.num_lost_calls += 1
        self.request.broken(self)


class Request:
    """One request, from its start to `ended`."""

    def __init__(
        self, cluster: Cluster, number: int, passage: Passage, num_prompt: int, ended: Callable[[Ended], None]
    ) -> None:
        self.cluster = cluster
        self.number = number
        self._passage = passage
        self._num_prompt = num_prompt
        self._crossing = Crossing(num_prompt)
        self._told_end = ended
        self._head = 0
        self._calls: dict[tuple[str, int], Call] = {}
        self._agreements: dict[int, Agreement] = {}
        self._attempts: dict[int, int] = {}
        self._engines: dict[str, Engine | None] = {}
        self._num_draft_failures = 0
        self._over = False
        self._facts = NOTHING_KNOWN
        now = cluster.clock.now
        self._result = Ended(number, now, now, now, 0, 0, 0, 0)
        self._state = 0
        self._mind = cluster.mind(number)
        self._follow(self._mind.start)

    @property
    def is_waiting(self) -> bool:
        """Whether nothing of it is committed yet."""
        return self._head == 0

    @property
    def roles_asked(self) -> list[str]:
        """The roles of its calls under way."""
        return [ROLES[word] for word, _ in self._calls]

    # --- what engines say --------------------------------------------------------------------------------------------

    def wrote(self, call: Call) -> None:
        """`call` has its step, or its verdict, and goes on with the next one where it is to; the news travels."""
        cluster, place = self.cluster, call.place
        facts = self._facts_of(call) if self._mind.takes_facts else NOTHING_KNOWN
        if call.word != "judge":
            cluster.counts.num_executed += 1
            self._remember(call)
        call.place, call.left = place + 1, call.left - 1
        cluster.hear(self.number, partial(self._written, call, place, facts, not call.left))
        if call.left and self._calls.get(call.key) is call:
            self._write(call)

    def _written(self, call: Call, place: int, facts: Facts, is_over: bool) -> None:
        """It is heard that `call` has its step for `place`, or its verdict; `is_over`: it writes no more."""
        if self._calls.get(call.key) is not call:
            return
        self._facts = facts
        last = place == self._passage.num_steps - 1
        if call.word == "draft":
            self._drafted(call, place, is_over, last)
        elif call.word == "stream":
            self._hear("stream", self._head, False, last)
        else:
            del self._calls[call.key]
            if call.word == "target":
                self._hear("target", place, self._agreements.get(place) is Agreement.EQUAL, last)
            else:
                self.cluster.counts.num_verdicts += 1
                self._hear("verdict", place, call.same, False)

    def broken(self, call: Call) -> None:
        """The engine of `call` died with it."""
        if self._calls.get(call.key) is not call:
            return
        del self._calls[call.key]
        if call.word == "judge":
            self._hear("verdict", call.place, False, False)
        else:
            place = self._head if call.word in ("draft", "stream") else call.place
            self._hear(f"{call.word}_lost", place, False, False)

    def _drafted(self, call: Call, place: int, is_over: bool, last: bool) -> None:
        attempts = self._attempts
        attempt = attempts[place] = attempts.get(place, -1) + 1
        self._agreements[place] = self._passage.agreement(place, attempt)
        self._num_draft_failures = 0
        self.cluster.counts.num_draft_steps += 1
        self._hear("draft", self._head, False, last)
        if is_over and self._calls.get(call.key) is call:
            del self._calls[call.key]
            self._hear("draft_over", self._head, False, False)

    def _facts_of(self, call: Call) -> Facts:
        """What a real engine would tell of the step that `call` has just written."""
        now, since = self.cluster.clock.now, call.since
        call.since = now
        if call.word == "judge" or call.engine is None:
            return Facts(elapsed_s=now - since)
        lengths = self._passage.num_drafted if call.word == "draft" else self._passage.lengths
        return Facts(lengths[call.place], now - since, str(id(call.engine)), call.engine.num_works + 1)

    def _remember(self, call: Call) -> None:
        if call.engine is not None:
            call.engine.remember(self.number, self._num_prompt + self._passage.ends[call.place + 1])

    # --- what the session says ---------------------------------------------------------------------------------------

    def _hear(self, word: str, place: int, yes: bool, last: bool) -> None:
        if not self._over:
            happening: Happening = (word, place - self._head, yes, last)
            self._follow(self._mind.react(self._state, happening, self._facts))

    def _follow(self, reaction: Reaction) -> None:
        head, self._state = self._head, reaction.state
        if reaction.num_committed:
            self._commit(reaction)
        for word, place, number in reaction.orders:
            self._obey(word, head + place, number)
        if reaction.finished:
            self._end()

    def _commit(self, reaction: Reaction) -> None:
        counts, result, num = self.cluster.counts, self._result, reaction.num_committed
        if self._head == 0:
            result.first_step_s = self.cluster.clock.now
        ends = self._passage.ends
        counts.num_committed += num
        counts.num_committed_tokens += ends[self._head + num] - ends[self._head]
        result.num_accepted += reaction.num_accepted
        result.num_recovered += reaction.num_recovered
        result.num_own += reaction.num_own
        self._head += num
        if self.cluster.wrote is not None:
            self.cluster.wrote(self.number, ends[self._head] - ends[self._head - num])

    def _obey(self, word: str, place: int, number: int) -> None:
        if word == "target":
            self._begin(Call(self, word, place), number)
        elif word == "draft":
            self._begin(Call(self, word, place, min(number, self._passage.num_steps - place)))
        elif word == "judge":
            call = Call(self, word, place)
            call.same = self._agreements[place] is not Agreement.DIFFERENT
            self._begin(call)
        elif word == "stream":
            self._begin(Call(self, word, place, self._passage.num_steps - place), number)
        elif word == "hint":
            self._hint(place)
        elif word == "revive":
            self._revive()
        elif word.startswith("end "):
            self._cancel(word[4:], place)

    def _begin(self, call: Call, attempt: int = 0) -> None:
        cluster = self.cluster
        self._calls[call.key] = call
        back_off_s = min(FIRST_BACKOFF_S * 2.0**attempt, MAX_BACKOFF_S) if attempt else 0.0
        delay_s = back_off_s + cluster.network_s + self._pool(call).cost.call_s
        num_written = self._passage.ends[call.place]
        cluster.counts.num_sent_tokens += self._crossing.of_call(ROLES[call.word], num_written)
        if delay_s:
            cluster.clock.after(delay_s, lambda: self._reach(call))
        else:
            self._reach(call)

    def _reach(self, call: Call) -> None:
        """`call` is at its engine."""
        if self._calls.get(call.key) is not call:
            return
        pool, role = self._pool(call), "target" if call.word == "stream" else call.word
        engine = self._engines.get(role)
        if engine is None or not engine.alive or not engine.is_open:
            engine = self._engines[role] = pool.choose(self.number)
        if engine is not None:
            call.engine = engine
            self._write(call)
        elif call.word == "target" or call.word == "stream":
            pool.when_there(lambda: self._reach(call))
        else:
            self.broken(call)

    def _write(self, call: Call) -> None:
        engine, place, passage = call.engine, call.place, self._passage
        if engine is None:
            raise AssertionError("a call that writes has an engine")
        if not engine.alive:
            self.broken(call)
        elif call.word == "judge":
            engine.write(call, 1.0)
        else:
            context = self._num_prompt + passage.ends[place]
            engine.read(self.number, context)
            is_draft = call.word == "draft"
            tokens = passage.num_drafted[place] if is_draft else passage.lengths[place]
            speed = self._gain(place) if call.word == "target" and self.cluster.takes_hints else 1.0
            # As the session's calls: the nearer to the head, the earlier; drafts and streams are always first.
            priority = place - self._head if call.word == "target" else 0
            engine.write(call, tokens, speed=speed, priority=priority, context=context, goes_on=call.has_begun)
            call.has_begun = True

    def _gain(self, place: int) -> float:
        gain = self.cluster.hint_gain
        gains = {Agreement.EQUAL: gain.equal, Agreement.SAME: gain.same, Agreement.DIFFERENT: gain.different}
        known = self._agreements.get(place)
        return gains[known] if known is not None else 1.0

    def _hint(self, place: int) -> None:
        call = self._calls.get(("target", place))
        if call is not None and call.engine is not None and self.cluster.takes_hints:
            call.engine.set_speed(call, self._gain(place))

    def _cancel(self, word: str, place: int) -> None:
        moves = word in ("draft", "stream")
        for key in [key for key in self._calls if key[0] == word] if moves else [(word, place)]:
            call = self._calls.pop(key, None)
            if call is not None and call.engine is not None:
                call.engine.cancel(call)

    def _revive(self) -> None:
        """As the pipeline: ask again, at longer and longer intervals."""
        delay_s = min(DRAFT_RETRY_S * 2.0 ** min(self._num_draft_failures, 10), MAX_DRAFT_RETRY_S)
        self._num_draft_failures += 1
        self.cluster.clock.after(delay_s, self._ask_draft)

    def _ask_draft(self) -> None:
        if self._over:
            return
        if self.cluster.draft.is_there:
            self._hear("draft_back", self._head, False, False)
        else:
            self._revive()

    def _end(self) -> None:
        self._over = True
        self._mind.close()
        self._result.ended_s = self.cluster.clock.now
        self._result.num_tokens = self._passage.ends[self._head]
        self._result.failed = self._head < self._passage.num_steps
        for engine in self._engines.values():
            if engine is not None:
                engine.forget(self.number)
        self._told_end(self._result)

    def _pool(self, call: Call) -> Pool:
        cluster = self.cluster
        return cluster.draft if call.word == "draft" else cluster.verifier if call.word == "judge" else cluster.target
