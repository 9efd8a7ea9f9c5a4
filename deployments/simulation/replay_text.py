"""What the models wrote in one recorded request, as tokens that can be written again at another pace. Pure.

Promises: made of a step trace alone: a text is cut into as many tokens as were counted (`cutting`), so that counts are
exact and equal words are equal tokens. The target writes what it wrote. The draft writes, at a place that it wrote at
in the recording, what it wrote there, behind a rejected step of its own too; at another place it agrees with the
target as often as it did where it was compared, drawn from the place alone, and behind the first token that is another
it writes nothing of use. A verdict is the one that was recorded about these words at this place, and takes as long;
another one is drawn as often as recorded ones accepted, and takes their median. Verdicts that were cancelled tell
neither.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from actors.errors import RequestError
from actors.messages import TokenIds
from deployments.simulation.cutting import Cut, cut_at_words
from deployments.simulation.hinted_writing import END
from deployments.simulation.scripts import uniform
from deployments.telemetry.timeline import Span, Trace

FIRST_JUNK = 10**6
SLACK_S = 0.0006
"""Traces are rounded to milliseconds."""


@dataclass
class Vocabulary:
    """Numbers for pieces of text."""

    ids: dict[str, int] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)

    def id(self, text: str) -> int:
        """The number of `text`, from 1 on."""
        number = self.ids.setdefault(text, len(self.ids) + 1)
        self.texts[number] = text
        return number

    def text(self, token: int) -> str:
        """The text of a number; what nobody wrote is a question mark."""
        return "" if token == END else self.texts.get(token, " ?")


@dataclass(frozen=True)
class Judged:
    """A verdict, and the seconds until it was there."""

    accepted: bool
    seconds: float


@dataclass(frozen=True)
class StepTexts:
    """Both versions of a step, and the verdicts on the draft's: alone, then joined to the steps behind it."""

    target: TokenIds
    draft: TokenIds | None
    verdicts: tuple[Judged, ...] = ()
    beyond: tuple[StepTexts, ...] = ()
    """What was written behind the draft's version, where that was rejected."""
    is_compared: bool = False
    """Whether the target wrote its own version beside the draft's."""

    @property
    def agreed(self) -> list[bool]:
        """Of the tokens up to the first in which both differ: whether they are equal."""
        if self.draft is None or not self.is_compared:
            return []
        same = [mine == other for mine, other in zip(self.draft, self.target, strict=False)]
        return same[: same.index(False) + 1] if False in same else same

    def judged(self, draft: TokenIds) -> Judged | None:
        """The verdict on `draft`, this step's or one that goes on behind it; None: there is none."""
        if self.draft is None or not self.verdicts or draft[: len(self.draft)] != self.draft:
            return None
        return self.verdicts[0 if draft == self.draft else -1]


class ReplayText:
    """One request's words. `truth` is the committed text; `steps` cut it where steps were judged one by one."""

    def __init__(self, vocabulary: Vocabulary, truth: TokenIds, steps: Sequence[StepTexts] = ()) -> None:
        self.vocabulary = vocabulary
        self.truth = truth
        self.steps = tuple(steps)
        self.agrees: dict[int, bool] = {}
        """By place in `truth`: whether the draft, there, wrote the same token."""
        self.strays: dict[int, TokenIds] = {}
        """What it wrote instead, and on from there."""
        self.verdict_s: list[float] = []
        """Of every verdict that was given."""
        self._coming: dict[TokenIds, tuple[StepTexts, ...]] = {(): self.steps}
        """By the text before them, the steps that follow."""

    @property
    def agreement(self) -> float:
        """Share of compared tokens at which the draft agreed."""
        found = [*self.agrees.values(), *(same for step in self.steps for same in step.agreed)]
        return sum(found) / len(found) if found else 0.0

    def target_after(self, written: TokenIds) -> TokenIds:
        """What the target writes behind `written`, to the end of the text; END at last."""
        if not self.steps:
            return (*self.truth[len(written) :], END)
        return self._steps_after(written, is_draft=False)

    def draft_after(self, written: TokenIds) -> TokenIds:
        """What the draft writes behind `written`."""
        if self.steps:
            return self._steps_after(written, is_draft=True)
        at, out = len(written), list[int]()
        if written != self.truth[:at]:
            return tuple(FIRST_JUNK + at + i for i in range(64))
        while at < len(self.truth):
            same = self.agrees.get(at)
            if same is None:
                same = uniform(at, len(self.truth)) < self.agreement
            if not same:
                out += self.strays.get(at, ())
                return (*out, *(FIRST_JUNK + at + i for i in range(64)))
            out.append(self.truth[at])
            at += 1
        return (*out, END)

    def judged(self, before: TokenIds, draft: TokenIds) -> Judged:
        """The verdict on a draft's step, or several joined, behind `before`."""
        draft = tuple(token for token in draft if token != END)
        coming = self._coming.get(before, ())
        known = coming[0].judged(draft) if coming else None
        if known is not None:
            return known
        verdicts = [step.verdicts[0].accepted for step in self.steps if step.verdicts]
        rate = sum(verdicts) / len(verdicts) if verdicts else 0.0
        seconds = statistics.median(self.verdict_s) if self.verdict_s else 0.0
        return Judged(uniform(len(draft), *draft[:3]) < rate, seconds)

    def _steps_after(self, written: TokenIds, is_draft: bool) -> TokenIds:
        """From the step that `written` ends in, or that follows it."""
        num_written = 0
        while written[: len(written) - num_written] not in self._coming:
            num_written += 1
        before, out = written[: len(written) - num_written], list[int]()
        coming = self._coming[before]
        while coming:
            step, coming = coming[0], coming[1:]
            ids = step.target
            if is_draft and step.draft is None:
                ids = self._drawn(len(before), ids)
            elif is_draft and step.draft is not None:
                ids, coming = step.draft, (*step.beyond, *coming[len(step.beyond) :])
            before = (*before, *ids)
            self._coming.setdefault(before, coming)
            out += ids
        return (*out[num_written:], END)

    def _drawn(self, at: int, ids: TokenIds) -> TokenIds:
        """What the draft writes where it wrote nothing: the target's `ids`, at place `at`, up to the first that it
        does not agree with, and on from there nothing of use. The last one ends the step."""
        agreement, num_inside = self.agreement, len(ids[:-1])
        places = range(at, at + num_inside)
        stray = next((place for place in places if uniform(place, len(self.truth)) >= agreement), at + num_inside)
        return (*ids[: stray - at], *(FIRST_JUNK + place for place in places if place >= stray), *ids[-1:])


def require_texts(trace: Trace, source: str) -> None:
    """RequestError where `trace`, of `source`, counts tokens and does not hold their words."""
    if any(commit.num_tokens and commit.text is None for commit in trace.commits):
        raise RequestError(
            f"{source} has traces without texts, so what was written cannot be written again. Ask a server that keeps "
            "them (telemetry.trace_texts: true).",
            "trace_texts",
        )


def is_guided(trace: Trace) -> bool:
    """Whether words went from one engine to the other as they were written: the target writes one stream from the
    beginning on, no step, and is guided by the draft."""
    drafts = [span.start_s for span in trace.spans if span.kind == "draft"]
    streams = [span.start_s for span in trace.spans if span.kind == "answer"]
    writes_steps = any(span.kind == "target" for span in trace.spans)
    return bool(drafts and streams) and not writes_steps and streams[0] <= drafts[0] + SLACK_S


def replay_text(
    trace: Trace, vocabulary: Vocabulary, cut: Cut = cut_at_words, *, is_cut_short: bool = False
) -> ReplayText:
    """What `trace` holds, its texts cut by `cut`. The last of an answer's counted tokens is its end, which has no text,
    if it is not `is_cut_short`: ended by a number of tokens."""
    drafts = [span for span in trace.spans if span.kind == "draft"]
    pieces = [cut(commit.text or "", commit.num_tokens) for commit in trace.commits]
    for last in trace.commits[-1:] if not is_cut_short else ():
        pieces[-1] = cut(last.text or "", max(last.num_tokens - 1, 0))
    truth = _ids(vocabulary, [piece for some in pieces for piece in some])
    if not drafts or is_guided(trace):
        text = ReplayText(vocabulary, truth)
        _read_chains(text, trace, drafts, cut)
        return text
    by_step, left = _by_place(trace)
    steps = []
    for commit, some in zip(trace.commits, pieces, strict=True):
        spans = by_step.get(commit.step, [])
        step = _step(vocabulary, spans, _ids(vocabulary, some), commit.origin, cut)
        steps.append(replace(step, beyond=_beyond(vocabulary, spans, left, cut)))
    text = ReplayText(vocabulary, truth, steps)
    text.verdict_s = [span.elapsed_s for span in trace.spans if _is_verdict(span)]
    return text


def _by_place(trace: Trace) -> tuple[dict[int, list[Span]], dict[int, list[Span]]]:
    """What was written and judged: by step, of those that were committed, and by position, of the others in the row."""
    by_step, left = dict[int, list[Span]](), dict[int, list[Span]]()
    for span in trace.spans:
        if not span.num_tokens and not _is_verdict(span):
            continue
        if span.step is not None:
            by_step.setdefault(span.step, []).append(span)
        elif "beside" not in span.detail:
            left.setdefault(span.position, []).append(span)
    return by_step, left


def _is_verdict(span: Span) -> bool:
    """One that was given: others were cut short, or are a failure's."""
    return span.kind == "verdict" and span.outcome in ("accepted", "rejected")


def _step(vocabulary: Vocabulary, spans: Sequence[Span], committed: TokenIds, origin: str, cut: Cut) -> StepTexts:
    target, draft = _last(spans, "target"), _last(spans, "draft")
    own = committed
    if target is not None and target.text and origin == "accepted":
        own = _ids(vocabulary, cut(target.text, target.num_tokens))
    drafted = None
    if draft is not None and draft.text:
        drafted = committed if origin == "accepted" else _ids(vocabulary, cut(draft.text, draft.num_tokens))
        if target is not None and target.text == draft.text:
            own = drafted
    verdicts = tuple(Judged(s.outcome == "accepted", s.elapsed_s) for s in spans if _is_verdict(s))
    is_compared = origin != "accepted" or (target is not None and bool(target.text))
    return StepTexts(own, drafted, verdicts, is_compared=is_compared)


def _beyond(
    vocabulary: Vocabulary, spans: Sequence[Span], left: Mapping[int, Sequence[Span]], cut: Cut
) -> tuple[StepTexts, ...]:
    """What was written at the positions behind a rejected draft step, of whose `spans` it is; where the target did not
    come to an end, it would have said the same."""
    rejected, steps = _last(spans, "draft"), list[StepTexts]()
    if rejected is None or rejected.outcome != "rejected":
        return ()
    while (draft := _last(found := left.get(rejected.position + len(steps) + 1, ()), "draft")) is not None:
        drafted = _ids(vocabulary, cut(draft.text or "", draft.num_tokens))
        steps.append(_step(vocabulary, found, drafted, "accepted", cut))
    return tuple(steps)


def _last(spans: Sequence[Span], kind: str) -> Span | None:
    return next((span for span in reversed(spans) if span.kind == kind), None)


def _read_chains(text: ReplayText, trace: Trace, drafts: Sequence[Span], cut: Cut) -> None:
    """Where the draft of a guided request agreed: its chunks are one text from one new start to the next."""
    is_placed = any("place" in span.detail for span in drafts)
    for at, spans in _chains_by_place(drafts) if is_placed else _chains_by_time(text, trace, drafts):
        chain = "".join(span.text or "" for span in spans)
        _read_chain(text, at, chain, sum(span.num_tokens for span in spans), cut)


def _chains_by_place(drafts: Sequence[Span]) -> list[tuple[int, list[Span]]]:
    """Chunks that go on one behind the other, and the place of the first. A look-ahead that begins behind words of the
    draft's own goes on behind the one before; else it begins behind the target's."""
    chains = list[tuple[int, list[Span]]]()
    for span in drafts:
        place = span.detail.get("place")
        if isinstance(place, int) and not span.detail.get("ahead"):
            chains.append((place, []))
        if chains:
            chains[-1][1].append(span)
    return chains


def _chains_by_time(text: ReplayText, trace: Trace, drafts: Sequence[Span]) -> list[tuple[int, list[Span]]]:
    """The same of an old trace, which does not tell places: the draft was cancelled where a chunk has no token, and
    began anew behind what was sent by then."""
    starts = _token_starts(text)
    chains = list[tuple[int, list[Span]]]()
    at, spans = starts.get(0), list[Span]()
    for span in drafts:
        spans.append(span)
        if not span.num_tokens or span is drafts[-1]:
            if at is not None:
                chains.append((at, spans))
            done = [commit for commit in trace.commits if commit.at_s <= span.end_s + SLACK_S]
            at, spans = starts.get(sum(len(commit.text or "") for commit in done)), []
    return chains


def _read_chain(text: ReplayText, at: int, chain: str, size: int, cut: Cut) -> None:
    """`chain`, of `size` tokens, was written at place `at` of the target's text."""
    truth, rest, first = text.truth, chain, at
    while at < len(truth) and (piece := text.vocabulary.text(truth[at])) and rest.startswith(piece):
        rest = rest[len(piece) :]
        text.agrees[at] = True
        at += 1
    if rest and at < len(truth) and not text.vocabulary.text(truth[at]).startswith(rest):
        text.agrees[at] = False
        text.strays[at] = _ids(text.vocabulary, cut(rest, max(size - (at - first), 1)))


def _token_starts(text: ReplayText) -> dict[int, int]:
    """By number of characters before it, each token of the truth."""
    starts, length = dict[int, int](), 0
    for at, token in enumerate(text.truth):
        starts.setdefault(length, at)
        length += len(text.vocabulary.text(token))
    return starts


def _ids(vocabulary: Vocabulary, pieces: Sequence[str]) -> TokenIds:
    return tuple(vocabulary.id(piece) for piece in pieces)
