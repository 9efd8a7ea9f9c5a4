"""Recorded pairs: a draft step and a target step that were written after the same words, with or without a label.

Promises: one JSON object a line; what was recorded is read back equal, and once however often it stands there, since
copies would pass for evidence; the file of a benchmark run with traces (``requests.jsonl``), of which the answers that
count are taken, and a saved trace are read as well; a line that cannot be read is an error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from actors.errors import RequestError
from actors.messages import Ending, JudgeRequest, Prefix, Step, TokenIds
from deployments.bench.record import read_requests

CONTEXT_CHARS = 4000
"""So many last characters before the step are kept; a session sends as many to the verifier."""


@dataclass(frozen=True, slots=True)
class StepPair:
    """Two versions of one step. `same` is the label, given by `labelled_by`; None where nobody has judged. Where they
    were recorded, the token ids are the draft's own, in `vocabulary`, and the prefix's, in `target_vocabulary`."""

    question: str
    context: str
    draft: str
    target: str
    draft_ending: Ending = Ending.BOUNDARY
    target_ending: Ending = Ending.BOUNDARY
    same: bool | None = None
    labelled_by: str | None = None
    draft_ids: TokenIds = ()
    prefix_ids: TokenIds = ()
    vocabulary: str = ""
    target_vocabulary: str = ""

    def request(self, verifier: str, session_id: str) -> JudgeRequest:
        """The question that a session would ask the verifier."""
        return JudgeRequest(
            session_id=session_id,
            verifier=verifier,
            question=self.question,
            context=self.context,
            draft=Step(self.draft, self.draft_ids, self.vocabulary, self.draft_ending),
            target=Step(self.target, (), "", self.target_ending),
            prefix=Prefix(self.prefix_ids) if self.prefix_ids else None,
            vocabulary=self.target_vocabulary,
        )

    def line(self) -> str:
        """The pair as a line of a file."""
        return json.dumps(asdict(self), ensure_ascii=False)


def read_pairs(path: Path, limit: int | None = None) -> list[StepPair]:
    """The first `limit` pairs of a file whose two texts differ, of copies the first with a label; RequestError if there
    are none."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"The file of pairs {path} cannot be read: {error}.", "pairs") from error
    pairs: dict[tuple[str, ...], StepPair] = {}
    for where, data in _objects(content, path):
        for pair in _pairs_of(data, where):
            key = (pair.question, pair.context, pair.draft, pair.target)
            if pair.draft != pair.target and (key not in pairs or pairs[key].same is None):
                pairs[key] = pair
    if not pairs:
        raise RequestError(
            f"{path} holds no pair of differing steps. It needs lines with 'draft' and 'target', or a benchmark's "
            "requests.jsonl that was made with --traces in a mode that judges steps.",
            "pairs",
        )
    return list(pairs.values())[:limit]


def pairs_of_trace(trace: Mapping[str, Any], question: str) -> Iterator[StepPair]:
    """The pairs that a request's verifier judged, as far as their place in the text is known: not those that were
    discarded with their prefix. A trace without texts has none."""
    texts = {commit["step"]: commit["text"] or "" for commit in trace.get("commits", ())}
    spans = trace.get("spans", ())
    judged = {span["position"] for span in spans if span["kind"] == "verdict"}
    for position in sorted(judged):
        versions = {span["kind"]: span for span in spans if span["position"] == position and span.get("text")}
        draft, target = versions.get("draft"), versions.get("target")
        if draft is None or target is None or target.get("step") is None:
            continue
        context = "".join(text for step, text in sorted(texts.items()) if step < target["step"])
        yield StepPair(question, context[-CONTEXT_CHARS:], draft["text"], target["text"])


def _objects(content: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Each object of the file with its place: one a line, or one that is the whole file; of a benchmark's requests the
    last line of each."""
    lines = [(number, line) for number, line in enumerate(content.split("\n"), start=1) if line.strip()]
    if content.lstrip().startswith("{") and len(lines) > 1 and lines[0][1].strip() == "{":
        lines = [(1, content)]
    objects = []
    for number, line in lines:
        where = f"{path}, line {number}"
        try:
            data = json.loads(line)
        except ValueError as error:
            raise RequestError(f"{where}: not JSON ({error}).", "pairs") from error
        if not isinstance(data, dict):
            raise RequestError(f"{where}: not an object.", "pairs")
        objects.append((where, data))
    if not all({"mode", "index"} <= data.keys() for _, data in objects):
        return objects
    return [(f"{path}, {line['mode']}, prompt {line['index']}", line) for line in read_requests(path)]


def _pairs_of(data: dict[str, Any], where: str) -> list[StepPair]:
    try:
        if "spans" in data:
            return list(pairs_of_trace(data, str(data.get("question", ""))))
        if "draft" in data:
            return [_pair(data)]
        if "trace" in data or "request_id" in data:
            return list(pairs_of_trace(data.get("trace") or {}, str(data.get("question", ""))))
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{where}: no pair of steps ({type(error).__name__}: {error}).", "pairs") from error
    raise RequestError(f"{where}: neither 'draft' and 'target' nor a trace.", "pairs")


def _pair(data: dict[str, Any]) -> StepPair:
    known = {field.name for field in fields(StepPair)}
    if unknown := sorted(set(data) - known):
        raise ValueError(f"unknown key {unknown[0]!r}")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    for name in ("question", "context", "draft", "target"):
        values[name] = values.get(name, "")
        if not isinstance(values[name], str):
            raise ValueError(f"{name!r} is not text")
    for name in ("draft_ending", "target_ending"):
        if name in values:
            values[name] = Ending(values[name])
    if values.get("same") not in (True, False, None):
        raise ValueError("'same' is neither true nor false")
    return StepPair(**values)
