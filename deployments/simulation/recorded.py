"""Steps as they were recorded: the lengths of draft and target steps and what became of them, from a benchmark run.

Promises: reads ``requests.jsonl`` of `lookahead bench --traces`; of each request in a mode that judges steps, the
committed steps in order, with the draft's version where one was judged. A step without a draft's version is one that
the target wrote alone; it counts as one that the draft does not agree with when it is drafted here. Requests that were
guided have chunks and no steps, so they are left out (`guided_texts` reads them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from actors.errors import RequestError
from deployments.bench.record import read_requests
from deployments.simulation.replay_text import is_guided
from deployments.simulation.scripts import Agreement, StepPair
from deployments.telemetry.timeline import Trace, read_trace


@dataclass(frozen=True, slots=True)
class RecordedScript:
    """One recorded request. The draft repeats itself when it writes a step again: there is no other record."""

    pairs: tuple[StepPair, ...]

    @property
    def num_steps(self) -> int:
        """As `Script.num_steps`."""
        return len(self.pairs)

    def pair(self, index: int, attempt: int) -> StepPair:
        """As `Script.pair`."""
        return self.pairs[index]


def read_traces(path: Path) -> list[Trace]:
    """The traces of a run's requests that have one; `path` is its folder or file. RequestError if it cannot be read."""
    try:
        lines = read_requests(path)
    except (OSError, ValueError) as error:
        raise RequestError(f"The recorded run {path} cannot be read: {error}.", "recorded") from error
    return [read_trace(line["trace"]) for line in lines if line["trace"] is not None]


def read_scripts(path: Path) -> list[RecordedScript]:
    """All requests of a run that hold judged steps, none that were guided; RequestError if there are none."""
    scripts = [script_of(trace) for trace in read_traces(path) if not is_guided(trace)]
    found = [script for script in scripts if any(pair.agreement is not Agreement.DIFFERENT for pair in script.pairs)]
    if not found:
        raise RequestError(
            f"{path} holds no request with steps of a draft: make it with lookahead bench --traces in a mode that "
            "speculates step by step, such as lookahead:balanced:controller=off.",
            "recorded",
        )
    return found


def script_of(trace: Trace) -> RecordedScript:
    """The committed steps of one request that was not guided."""
    versions: dict[int, dict[str, Any]] = {}
    for span in trace.spans:
        if span.step is not None and span.kind in ("draft", "target") and span.num_tokens:
            versions.setdefault(span.step, {})[span.kind] = span
    pairs = [_pair(versions.get(commit.step, {}), commit.origin, commit.num_tokens) for commit in trace.commits]
    return RecordedScript(tuple(pair for pair in pairs if pair.num_target_tokens))


def _pair(versions: Mapping[str, Any], origin: str, num_tokens: int) -> StepPair:
    draft, target = versions.get("draft"), versions.get("target")
    num_target = target.num_tokens if target is not None else num_tokens
    num_draft = draft.num_tokens if draft is not None else num_target
    num_common = _num_common(draft, target)
    if origin != "accepted" or draft is None:
        return StepPair(num_target, num_draft, Agreement.DIFFERENT, num_common)
    if target is not None and target.text is not None and target.text == draft.text:
        return StepPair(num_target or num_draft, num_draft, Agreement.EQUAL)
    return StepPair(num_target or num_draft, num_draft, Agreement.SAME, num_common)


def _num_common(draft: Any, target: Any) -> int:
    """With how many tokens both begin, by the share of the draft's letters."""
    if draft is None or target is None or not draft.text or not target.text:
        return 0
    num_letters = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(draft.text, target.text, strict=False)))
    return int(draft.num_tokens * num_letters / len(draft.text))
