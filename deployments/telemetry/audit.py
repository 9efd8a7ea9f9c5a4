"""The audit records of one request: what was decided about each draft step, by whom, by which rules, and why. Pure.

Promises: an observer of a pipeline that never raises and never waits; one `begin`, one `decision` for each draft step
that ended (accepted, recovered, cancelled, merged) and for each step that the target wrote with no draft step to judge,
one `end`, however the request ends. No key is in a record, and no text of a prompt or a step unless the operator asked
for texts; a reason may quote the numbers or words in which two steps differ.

Where the target writes one stream and the draft's words are hints (`deployments.coordinator.guided`), nothing is
decided about steps: the records tell of runs of the draft's chunks that came true or did not.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from actors.errors import LookaheadError
from actors.messages import Prompt, Sampling, Step, Verdict
from deployments.coordinator.events import Basis, Command, Event, Fail, Finish, Outcome, Retired
from deployments.generation import GenerationRequest, SpeculationSummary

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Texts = Literal["hash", "full", "none"]

EQUAL = "the target wrote the same"
COVERED = "an earlier step of the target says this as well"
NO_DRAFT = "there was no step of the draft to judge"
ENDS = "one of the two ends the text or the reasoning there, and the other does not"
ONLY_EQUAL = "the target wrote other words, and here only equal steps count"
STOPS = "only one of the two ends the text there with a stop string, or with that one"
LEFT = "what it stood on was left, or the target was faster"
MERGED = "another version of the step says the same"


@dataclass(frozen=True, slots=True)
class Deployed:
    """What is the same for all requests of a deployment: the checks of each verifier, and versions by name."""

    checks: Mapping[str, list[Record]]
    versions: Mapping[str, str | None]

    def head(self) -> Record:
        """The first record of a file: all that the digests in the others stand for."""
        verifiers = {name: {"rules": self.rules(name), "checks": checks} for name, checks in self.checks.items()}
        return {"record": "settings", "verifiers": verifiers, "versions": dict(self.versions)}

    def rules(self, verifier: str) -> str:
        """A digest of the checks of `verifier` and their thresholds."""
        return digest(json.dumps(self.checks.get(verifier, []), sort_keys=True))[:16]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a request got: how it is decided. `verifier` None: only equal steps are accepted."""

    run: str
    """Unique; request ids are the clients' own."""
    mode: str
    verifier: str | None
    max_lookahead: int
    branches: int
    is_guided: bool
    boundary: str
    vocabulary: str
    sampling: Sampling


@dataclass(slots=True)
class Chunks:
    """A run of a guided draft's chunks of one outcome, with no step of the target's own between them."""

    outcome: Outcome
    position: int
    step: int | None
    num: int = 0
    tokens: int = 0
    texts: list[str] = field(default_factory=list)

    @property
    def next_step(self) -> int | None:
        """The step that the next chunk of this run is; None for chunks that are no steps of the output."""
        return None if self.step is None else self.step + self.num


def digest(text: str) -> str:
    """The SHA-256 of a text in UTF-8, in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def prompt_text(prompt: Prompt) -> str:
    """What is hashed or kept of a prompt: its text, or JSON of its messages ([[role, content], ...]) or token ids."""
    if prompt.text is not None:
        return prompt.text
    if prompt.token_ids is not None:
        return json.dumps(prompt.token_ids, separators=(",", ":"))
    messages = [[message.role, message.content] for message in prompt.messages]
    return json.dumps(messages, ensure_ascii=False, separators=(",", ":"))


class AuditRecorder:
    """Tells `write` the records of one request; `now` is the wall clock in seconds."""

    def __init__(
        self,
        request: GenerationRequest,
        deployed: Deployed,
        texts: Texts,
        now: Callable[[], float],
        write: Callable[[Record], None],
    ) -> None:
        self._request = request
        self._deployed = deployed
        self._texts = texts
        self._now = now
        self._write = write
        self._began_at = now()
        self._terms: Terms | None = None
        self._rules = ""
        self._verifier = "equal"
        self._num_covered = 0
        self._span_verdict: Verdict | None = None
        self._chunks: Chunks | None = None
        self._end: tuple[str, str] | None = None

    def begin(self, terms: Terms) -> None:
        """The request runs on these terms."""
        self._terms = terms
        if terms.verifier is not None:
            self._verifier, self._rules = terms.verifier, self._deployed.rules(terms.verifier)
        wishes = asdict(terms) | {"verifier": self._verifier, "rules": self._rules}
        checks = self._deployed.checks.get(self._verifier, []) if terms.verifier is not None else []
        prompt = self._of_text(prompt_text(self._request.prompt))
        self._put("begin", **wishes, checks=checks, prompt=prompt, resumed_at=self._resumed_at())

    def on_command(self, command: Command) -> None:
        """As `Observer.on_command`."""
        try:
            if isinstance(command, Retired):
                self._retired(command)
            elif isinstance(command, Finish):
                self._end = ("finished", command.output.finish_reason)
            elif isinstance(command, Fail):
                self._end = ("failed", _code(command.error))
        except Exception:  # a record less must not cost the request
            logger.exception("A decision of request %s is not in the audit log", self._request.request_id)

    def on_event(self, event: Event) -> None:
        """As `Observer.on_event`; what is decided comes as commands."""

    def close(self, summary: SpeculationSummary | None, error: Exception | None = None) -> None:
        """The request is over. Without an end of its own and without `error`, whoever asked has left."""
        self._flush_chunks()
        outcome, reason = self._end or ("left", "nobody read on")
        if error is not None:
            outcome, reason = "failed" if self._terms is not None else "refused", _code(error)
        counts = asdict(summary) if summary is not None else None
        self._put(
            "end", outcome=outcome, reason=reason, duration_s=round(self._now() - self._began_at, 6), counts=counts
        )

    # --- decisions ---------------------------------------------------------------------------------------------------

    def _retired(self, command: Retired) -> None:
        basis = command.basis
        if basis is None:
            return
        if self._terms is not None and self._terms.is_guided:
            self._chunk(command, basis)
            return
        if basis.draft is None and command.outcome is not Outcome.TARGET:
            return  # a place that nobody had written for
        reason, verdict = self._why(command.outcome, basis)
        self._put(
            "decision",
            position=command.position,
            step=command.step,
            outcome=command.outcome.value,
            reason=reason,
            verifier=self._verifier,
            rules=(verdict and verdict.rules) or self._rules,
            **_of_verdict(verdict),
            draft=self._of_step(basis.draft),
            target=self._of_step(basis.target),
        )

    def _why(self, outcome: Outcome, basis: Basis) -> tuple[str, Verdict | None]:
        """The reason in words, and the verdict that counted."""
        draft, target, verdict = basis.draft, basis.target, basis.verdict
        covered, self._num_covered = self._num_covered > 0, max(0, self._num_covered - 1)
        if outcome is Outcome.TARGET or draft is None:
            return NO_DRAFT, None
        if outcome is Outcome.ACCEPTED:
            if verdict is not None and verdict.accepted:
                if basis.num_spanned:
                    self._num_covered, self._span_verdict = basis.num_spanned, verdict
                return verdict.reason, verdict
            if covered and (target is None or not draft.equals(target)):
                return COVERED, self._span_verdict
            return EQUAL, None
        if outcome is Outcome.MERGED:
            return MERGED, verdict
        if outcome is Outcome.CANCELLED:
            return LEFT, verdict
        if verdict is not None and not verdict.accepted:
            return verdict.reason, verdict
        if target is not None and not draft.ends_like(target):
            return ENDS, None
        return (ONLY_EQUAL if self._terms is None or self._terms.verifier is None else STOPS), None

    def _chunk(self, command: Retired, basis: Basis) -> None:
        chunks = self._chunks
        if chunks is None or (chunks.outcome, chunks.next_step) != (command.outcome, command.step):
            self._flush_chunks()
            chunks = self._chunks = Chunks(command.outcome, command.position, command.step)
        if basis.draft is not None:
            chunks.num += 1
            chunks.tokens += len(basis.draft.token_ids)
            chunks.texts.append(basis.draft.text)

    def _flush_chunks(self) -> None:
        chunks, self._chunks = self._chunks, None
        if chunks is None:
            return
        reasons = {Outcome.ACCEPTED: EQUAL, Outcome.RECOVERED: ONLY_EQUAL}
        self._put(
            "decision",
            position=chunks.position,
            step=chunks.step,
            num_steps=chunks.num,
            outcome=chunks.outcome.value,
            reason=reasons.get(chunks.outcome, LEFT),
            verifier=self._verifier,
            rules=self._rules,
            **_of_verdict(None),
            draft={"num_tokens": chunks.tokens} | self._of_text("".join(chunks.texts)),
            target=None,
        )

    # --- words -------------------------------------------------------------------------------------------------------

    def _resumed_at(self) -> int | None:
        """The number of the first step that this run decides; None where no other run is before it."""
        resume = self._request.resume
        if resume is None:
            return None
        return resume.counts.num_steps if resume.counts is not None else 0

    def _put(self, kind: str, **values: Any) -> None:
        run = self._terms.run if self._terms is not None else None
        self._write(
            {
                "record": kind,
                "time": round(self._now(), 6),
                "request_id": self._request.request_id,
                "run": run,
                "key": self._request.holder,
                **values,
                "versions": self._deployed.versions,
            }
        )

    def _of_step(self, step: Step | None) -> Record | None:
        if step is None:
            return None
        known = {"num_tokens": len(step.token_ids), "ending": step.ending.value, "vocabulary": step.vocabulary}
        return known | self._of_text(step.text)

    def _of_text(self, text: str) -> Record:
        if self._texts == "none":
            return {}
        return {"text": text} if self._texts == "full" else {"sha256": digest(text)}


def _of_verdict(verdict: Verdict | None) -> Record:
    """`check` is the verifier and its check that decided."""
    if verdict is None:
        return {"check": None, "score": None, "probability": None}
    return {"check": verdict.verifier, "score": verdict.score, "probability": verdict.probability}


def _code(error: Exception) -> str:
    """What an error is called; its message may hold a client's words."""
    return error.code if isinstance(error, LookaheadError) else type(error).__name__
