"""The search over layouts by formula: which replicas, tensor parallelism, depth and token level are best. Pure.

Promises: what a layout gives is the fixed point of the formulas of `theory.py` and the engines' costs: the deeper the
window, the larger the batches, the slower their passes, the other the ratio of draft to target. Formulas know no
chance: what they choose is simulated before it is recommended (`planning.answer`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from deployments.coordinator.theory import Load, guided_speed_up, window_load, window_speed_up
from deployments.planning.question import Objective, Question
from deployments.simulation.cost_file import Beside
from deployments.simulation.costs import EngineCost

DEPTHS = (1, 2, 3, 4, 6, 8, 12)
WIDTHS = (1, 2, 4, 8)
"""GPUs of one engine: within a node."""
COARSE_DEPTHS = (2, 4, 8)
GUIDED_DEPTH = 4
"""Steps that a guiding draft may be ahead: that of the shipped profiles."""
ROUNDS = 16
MOST_CLIMBS = 30
MOST_BUSY = 0.95
"""More of an engine's slots than this are not planned with."""


@dataclass(frozen=True, slots=True)
class Layout:
    """So many replicas of so many GPUs each. `depth`: steps that the draft is ahead at most; 0: the target alone,
    without a draft on GPUs of its own. The target's engine checks `num_proposed` tokens a pass, which it looks up; or a
    draft model inside it writes them (`by_draft`); or the draft does, as hints for one stream of the target
    (`is_guided`)."""

    num_targets: int
    target_gpus: int
    num_drafts: int
    draft_gpus: int
    depth: int
    num_proposed: int
    by_draft: bool = False
    is_guided: bool = False

    @property
    def way(self) -> str:
        """How it speculates: ``target`` (by tokens at most), ``windows`` or ``guided``."""
        return "guided" if self.is_guided else "windows" if self.depth else "target"

    @property
    def token_method(self) -> str | None:
        """Where what the target's engine checks in a pass comes from, by its name in a profile; None: it checks
        nothing."""
        if not self.num_proposed:
            return None
        return "hints" if self.is_guided else "draft_model" if self.by_draft else "ngram"

    @property
    def num_gpus(self) -> int:
        """All GPUs that are used."""
        return self.num_targets * self.target_gpus + self.num_drafts * self.draft_gpus

    @property
    def words(self) -> str:
        """For a table."""
        target = f"{self.num_targets} x {self.target_gpus}" + (" with a draft model inside" if self.by_draft else "")
        return target if not self.depth else f"{target} + {self.num_drafts} x {self.draft_gpus}"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a layout gives at a number of users."""

    layout: Layout
    users: float
    user_tokens_per_s: float
    tokens_per_s: float
    speed_up: float
    """Over the same target's plain stream at the same load of users."""
    c: float
    verdict: float
    """A verdict's time in target steps."""
    target_batch: float
    draft_batch: float

    def usd_per_million(self, question: Question) -> float:
        """Of output tokens, for the GPUs that are used."""
        return question.price * self.layout.num_gpus / 3600.0 / self.tokens_per_s * 1e6

    def latency_s(self, question: Question) -> float:
        """Of a whole request."""
        return question.output_tokens / self.user_tokens_per_s


def predict(question: Question, layout: Layout, users: float) -> Prediction | None:
    """What `layout` gives with `users` at once; None where a model does not fit or the sequences do not."""
    found = _guided(question, layout, users) if layout.is_guided else _by_steps(question, layout, users)
    if found is None or users / layout.num_targets > MOST_BUSY * question.max_users(
        layout.target_gpus, by_draft=layout.by_draft
    ):
        return None
    return found


def _by_steps(question: Question, layout: Layout, users: float) -> Prediction | None:
    """Windows of steps, or the target alone."""
    target, draft = costs_of(question, layout)
    alone = question.cost("target", layout.target_gpus, layout.num_proposed, by_draft=layout.by_draft)
    if target is None or alone is None or (layout.depth and draft is None):
        return None
    load, c, verdict, speed_up = Load(1.0, 0.0), 0.0, 0.0, 1.0
    step_s = 1.0
    for _ in range(ROUNDS):
        batch = users / layout.num_targets * load.target
        step_s = _step_s(question, target, batch)
        if draft is None:
            break
        draft_s = _step_s(question, draft, users / max(layout.num_drafts, 1) * load.draft)
        c, verdict = (c + draft_s / step_s) / 2.0 if c else draft_s / step_s, question.verdict_s / step_s
        speed_up = window_speed_up(question.alpha, c, layout.depth, verdict)
        wanted = window_load(question.alpha, c, layout.depth, verdict)
        load = Load((load.target + wanted.target) / 2.0, (load.draft + wanted.draft) / 2.0)
    target_batch, draft_batch = users / layout.num_targets * load.target, 0.0
    if draft is not None:
        draft_batch = users / layout.num_drafts * load.draft
    if target_batch > MOST_BUSY * target.max_num_seqs or (draft and draft_batch > MOST_BUSY * draft.max_num_seqs):
        return None
    pace = speed_up * question.step_tokens / step_s
    plain = question.step_tokens / _step_s(question, alone, users / layout.num_targets)
    return Prediction(layout, users, pace, pace * users, pace / plain, c, verdict, target_batch, draft_batch)


def _guided(question: Question, layout: Layout, users: float) -> Prediction | None:
    """One stream of the target for each user, for which the draft writes hints all the time."""
    target, draft = costs_of(question, layout)
    alone = question.cost("target", layout.target_gpus)
    target_batch, draft_batch = users / layout.num_targets, users / max(layout.num_drafts, 1)
    if target is None or draft is None or alone is None:
        return None
    if target_batch > MOST_BUSY * target.max_num_seqs or draft_batch > MOST_BUSY * draft.max_num_seqs:
        return None
    draft_s, guesses, pass_s = _pass_s(question, draft, draft_batch), 0.0, 0.0
    for _ in range(
        2
    ):  # how many hints there are follows from the time of a pass, which follows from how many there are
        pass_s = _pass_s(question, target, target_batch, guesses)
        guesses = min(float(layout.num_proposed), pass_s / draft_s)
    c, restart = draft_s / pass_s, (2.0 * draft.call_s + draft.prefill_passes * draft_s) / pass_s
    pace = guided_speed_up(question.draft_token_alpha, c, layout.num_proposed, restart) / pass_s
    plain = 1.0 / _pass_s(question, alone, target_batch)
    return Prediction(layout, users, pace, pace * users, pace / plain, c, 0.0, target_batch, draft_batch)


def costs_of(question: Question, layout: Layout) -> tuple[EngineCost | None, EngineCost | None]:
    """Of target and draft, which work at the same time; None for one that does not fit, or a draft where none is."""
    if layout.is_guided:
        return (
            question.cost("target", layout.target_gpus, beside="guided"),
            question.cost("draft", layout.draft_gpus, question.looked_up, beside="guided"),
        )
    beside: Beside | None = "windows" if layout.depth else None
    num_proposed = layout.num_proposed
    target = question.cost("target", layout.target_gpus, num_proposed, by_draft=layout.by_draft, beside=beside)
    return target, question.cost("draft", layout.draft_gpus, num_proposed, beside=beside) if beside else None


def _pass_s(question: Question, cost: EngineCost, batch: float, guesses: float = 0.0) -> float:
    """A pass over a batch of so many, each with so many guesses; a fraction of a sequence lies between the two whole
    numbers."""
    size = max(batch, 1.0)
    low = int(size)
    ends = [cost.seconds(number, number * question.mean_context, round(number * guesses)) for number in (low, low + 1)]
    return ends[0] + (size - low) * (ends[1] - ends[0])


def _step_s(question: Question, cost: EngineCost, batch: float) -> float:
    """A step in a batch of so many."""
    return (question.step_tokens + cost.prefill_passes) * _pass_s(question, cost, batch) + cost.call_s


def serve(question: Question, layout: Layout, users: float | None = None) -> Prediction | None:
    """What `layout` gives for the question's traffic, or for `users` at once; None where it cannot bear it."""
    if users is not None or question.users is not None:
        return predict(question, layout, users if users is not None else question.users or 1.0)
    wanted = question.asked_tokens_per_s
    # Little's law: so many users as the rate keeps in the system. More users are slower each, so this climbs to them.
    found = predict(question, layout, 1.0)
    for climbs in range(MOST_CLIMBS):
        if found is None or (climbs and found.tokens_per_s >= 0.995 * wanted):
            return found
        found = predict(question, layout, wanted / found.user_tokens_per_s)
    return None


def layouts(question: Question, num_gpus: int, depths: tuple[int, ...] = DEPTHS) -> Iterator[Layout]:
    """All that use at most `num_gpus`, as many of them as go."""
    for width in WIDTHS:
        for num_proposed, by_draft in question.token_levels:
            if num_gpus // width:
                yield Layout(num_gpus // width, width, 0, 1, 0, num_proposed, by_draft)
            for num_drafts in _counts(num_gpus // 2):
                num_targets = (num_gpus - num_drafts) // width
                if num_targets:
                    for depth in depths:
                        yield Layout(num_targets, width, num_drafts, 1, depth, num_proposed, by_draft)
        for num_drafts in _counts(num_gpus // 2) if question.hint_tokens else []:
            if num_targets := (num_gpus - num_drafts) // width:
                yield Layout(num_targets, width, num_drafts, 1, GUIDED_DEPTH, question.hint_tokens, is_guided=True)


def _counts(most: int) -> list[int]:
    """Every number up to 4, then fewer and fewer."""
    counts, number = [], 1
    while number <= most:
        counts.append(number)
        number += 1 if number < 4 else max(number // 2, 1)
    return counts


def candidates(question: Question, users: float | None = None) -> list[Prediction]:
    """Everything that bears the traffic, or `users` at once, best first by the objective."""
    totals, depths = [question.num_gpus], DEPTHS if users is None else COARSE_DEPTHS
    if question.objective is Objective.COST:
        depths = COARSE_DEPTHS
        halves = [question.num_gpus // 2**n for n in range(12)]
        totals = sorted({total for half in halves for total in (half, half * 3 // 4) if total})
    found: dict[Layout, Prediction] = {}
    for total in totals:
        for layout in layouts(question, total, depths):
            if layout not in found and (prediction := serve(question, layout, users)) is not None:
                found[layout] = prediction
    return sorted(found.values(), key=lambda prediction: rank(question, prediction))


def rank(question: Question, prediction: Prediction) -> tuple[float, ...]:
    """Lower is better. Who is too slow comes last, the fastest of them first."""
    if prediction.user_tokens_per_s < question.wished_speed:
        return (1.0, -prediction.user_tokens_per_s)
    if question.objective is Objective.COST:
        written = question.asked_tokens_per_s or prediction.tokens_per_s  # at a rate all that bear it write as much
        return (0.0, prediction.layout.num_gpus / written, -prediction.user_tokens_per_s)
    layout = prediction.layout
    return (0.0, -round(prediction.user_tokens_per_s, 3), layout.num_gpus, layout.depth, layout.num_proposed)


def best_of_each(found: list[Prediction]) -> tuple[Prediction | None, Prediction | None]:
    """The best that speculates by steps, and the best target alone."""
    ahead = next((one for one in found if one.layout.depth), None)
    alone = next((one for one in found if not one.layout.depth), None)
    return ahead, alone


def with_more(layout: Layout, role: str) -> Layout:
    """`layout` with one more replica of `role`, or with engines of twice the GPUs (``wider target``)."""
    if role == "draft":
        return replace(layout, num_drafts=layout.num_drafts + 1)
    if role == "target":
        return replace(layout, num_targets=layout.num_targets + 1)
    return replace(layout, target_gpus=layout.target_gpus * 2)
