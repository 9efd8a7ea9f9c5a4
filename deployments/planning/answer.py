"""The answer to a question: the best layout, simulated beside its rivals, why, and where more GPUs would go.

Promises: the search is by formula, the choice among its best is by simulation of the production session; where the
traffic is large and the cluster has equal parts, one of them with its part of the users is. Figures of both are kept
apart. A rate is borne, and a wish (`--min-speed`, `--max-latency`) met, as simulated, or there is no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, log
from typing import Any

from actors.errors import ConfigError
from deployments.planning.question import Objective, Question
from deployments.planning.search import Prediction, best_of_each, candidates, predict, rank, with_more
from deployments.planning.trial import num_simulated, simulated
from deployments.simulation.cost_file import read_costs

NUM_FINALISTS = 3
NEAR = 0.95
"""Of the wished speed: what is slower than this by formula is not hoped to meet it on the simulated clock."""
MOST_TRIED = 24
"""About so many more layouts are simulated to meet a wish: of many, a few from the best to the fastest by formula."""
MOST_ROUNDS = 8
"""Simulations of a layout until it has as many users as its own speed keeps there at a rate; most need two or three."""
LEAST_GAIN = 0.2
"""By what power of the users their tokens together grow, at least, as far as a step towards a rate trusts in it."""
BEARS = 0.99
"""Of a rate: less is not borne."""
LOADS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prediction, and what the simulation gave."""

    predicted: Prediction
    simulated_user_tokens_per_s: float
    users: float
    """At once, as simulated: with a rate, those that this speed keeps there."""
    results_per_s: float = 0.0
    """That its coordinators hear, as simulated (`trial.Simulated`)."""

    @property
    def as_simulated(self) -> Prediction:
        """The prediction with the simulation's speed and users."""
        pace = self.simulated_user_tokens_per_s
        return replace(self.predicted, users=self.users, user_tokens_per_s=pace, tokens_per_s=pace * self.users)


@dataclass(frozen=True, slots=True)
class NextGpu:
    """What more GPUs in one place would give. `gain` is that of the objective (speed, or tokens a dollar), a GPU."""

    place: str
    num_gpus: int
    gain: float


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """The best of each kind with so many users."""

    users: float
    ahead: Prediction | None
    alone: Prediction | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer."""

    question: Question
    chosen: Candidate
    rivals: tuple[Candidate, ...]
    frontier: tuple[FrontierPoint, ...]
    alone_from: float | None
    """Users from which the target alone is better; None: nowhere in what was looked at."""
    next_gpus: tuple[NextGpu, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""

        def shown(one: Prediction) -> dict[str, Any]:
            layout = one.layout
            return {
                "target": {"replicas": layout.num_targets, "tensor_parallel": layout.target_gpus},
                "draft": {"replicas": layout.num_drafts, "tensor_parallel": layout.draft_gpus if layout.depth else 0},
                "way": layout.way,
                "max_lookahead": layout.depth,
                "branches": 1,
                "num_speculative_tokens": layout.num_proposed,
                "token_level": layout.token_method,
                "gpus": layout.num_gpus,
                "users": one.users,
                "user_tokens_per_s": one.user_tokens_per_s,
                "tokens_per_s": one.tokens_per_s,
                "latency_s": one.latency_s(self.question),
                "usd_per_million_tokens": one.usd_per_million(self.question) if self.question.price else None,
                "speed_up_by_steps": one.speed_up,
                "cost_ratio": one.c,
            }

        def both(one: Candidate) -> dict[str, Any]:
            return {"predicted": shown(one.predicted), "simulated": shown(one.as_simulated)}

        return {
            "estimated": self.question.costs is None,
            "chosen": both(self.chosen),
            "rivals": [both(one) for one in self.rivals],
            "target_alone_is_better_from_users": self.alone_from,
            "next_gpu": [{"place": n.place, "gpus": n.num_gpus, "gain_per_gpu": n.gain} for n in self.next_gpus],
            "frontier": [
                {
                    "users": point.users,
                    "lookahead": shown(point.ahead) if point.ahead else None,
                    "target": shown(point.alone) if point.alone else None,
                }
                for point in self.frontier
            ],
            "why": why(self),
        }


def plan(question: Question, tell: Callable[[float], None] = lambda part: None) -> Plan:
    """The answer; ConfigError where nothing bears the traffic or meets the wish. `tell` is told which part is done."""
    question.require_room()
    found = candidates(question)
    if not found:
        raise ConfigError(
            f"No layout of {question.num_gpus} GPUs bears this traffic: take more GPUs, fewer users, a smaller model.",
            "gpus",
        )
    tell(0.2)
    best = {one.layout.way: one for one in reversed(found)}
    finalists = list(dict.fromkeys([*found[:NUM_FINALISTS], *best.values()]))
    tried = []
    for done, one in enumerate(finalists):
        tried.append(try_out(question, one))
        tell(0.2 + 0.6 * (done + 1) / len(finalists))
    tried.sort(key=lambda one: (not _bears(question, one), rank(question, one.as_simulated)))
    chosen = tried[0] if _meets(question, tried[0]) else _next_that_meets(question, found, tried)
    rivals = [one for one in tried if one is not chosen and _bears(question, one)]
    points = frontier(question)
    tell(1.0)
    return Plan(question, chosen, tuple(rivals), points, crossing(question, points), next_gpus(question, chosen))


def _bears(question: Question, one: Candidate) -> bool:
    return one.as_simulated.tokens_per_s >= BEARS * question.asked_tokens_per_s


def _meets(question: Question, one: Candidate) -> bool:
    return _bears(question, one) and one.simulated_user_tokens_per_s >= question.wished_speed


def _next_that_meets(question: Question, found: list[Prediction], tried: list[Candidate]) -> Candidate:
    """The first of `found` behind those `tried` that meets the wish as simulated; ConfigError if none does."""
    near = [one for one in found if one.user_tokens_per_s >= NEAR * question.wished_speed]
    fastest = sorted(near, key=lambda one: -one.user_tokens_per_s)[:NUM_FINALISTS]
    known = {one.predicted.layout for one in tried}
    for prediction in dict.fromkeys([*near[:: ceil(len(near) / MOST_TRIED) or 1], *fastest]):
        if prediction.layout in known:
            continue
        one = try_out(question, prediction)
        if _meets(question, one):
            return one
        tried = [*tried, one]
    raise _refusal(question, [one for one in tried if _bears(question, one)])


def _refusal(question: Question, tried: list[Candidate]) -> ConfigError:
    """Why none of `tried`, which bear the traffic, is chosen."""
    gpus, speed = f"No layout of {question.num_gpus} GPUs", question.wished_speed
    if not tried:
        return ConfigError(f"{gpus} that was simulated bears {question.rate:g} requests a second.", "rate")
    best = max(one.simulated_user_tokens_per_s for one in tried)
    if question.max_latency is not None and speed > question.min_speed:
        seconds = question.output_tokens / best
        return ConfigError(
            f"{gpus} answers within {question.max_latency:g} s, as simulated; the fastest takes {seconds:.1f} s.",
            "max_latency",
        )
    return ConfigError(
        f"{gpus} gives each user {speed:g} tokens a second, as simulated; the fastest gives {best:.1f}.", "min_speed"
    )


def try_out(question: Question, prediction: Prediction) -> Candidate:
    """`prediction`'s layout as simulated. With a rate it has as many users as Little's law gives at the simulated
    speed, which are others than at the formula's: sought until they are found, or more users get no more together."""
    one, before = _tried(question, prediction, prediction.users), None
    for _ in range(MOST_ROUNDS - 1 if question.rate is not None else 0):
        short = question.asked_tokens_per_s / one.as_simulated.tokens_per_s
        if abs(1.0 / short - 1.0) <= 1.0 - BEARS:
            break
        gain = _gain_of_users(before, one) if before is not None else 1.0
        if gain <= 0.0 and short > 1.0:
            break
        users = one.users * short ** (1.0 / min(max(gain, LEAST_GAIN), 1.0))
        if predict(question, prediction.layout, users) is None:
            break
        before, one = one, _tried(question, prediction, users)
    return one


def _tried(question: Question, prediction: Prediction, users: float) -> Candidate:
    found = simulated(question, replace(prediction, users=users))
    return Candidate(prediction, found.user_tokens_per_s, users, found.results_per_s)


def _gain_of_users(before: Candidate, one: Candidate) -> float:
    """By what power of their number the tokens of all users grew, as many as were simulated; 1 where those are as many
    in both."""
    layout = one.predicted.layout
    more = log(num_simulated(layout, one.users) / num_simulated(layout, before.users))
    faster = log(one.simulated_user_tokens_per_s / before.simulated_user_tokens_per_s)
    return 1.0 + faster / more if more else 1.0


def frontier(question: Question) -> tuple[FrontierPoint, ...]:
    """The fastest of each kind for a user, with all GPUs, over numbers of users."""
    fastest = replace(question, objective=Objective.LATENCY, min_speed=0.0, max_latency=None)
    points = []
    for users in LOADS:
        ahead, alone = best_of_each(candidates(fastest, float(users)))
        if ahead is None and alone is None:
            break
        points.append(FrontierPoint(users, ahead, alone))
    return tuple(points)


def crossing(question: Question, points: tuple[FrontierPoint, ...]) -> float | None:
    """Users from which the target alone is faster for each of them, up to the largest load that was looked at."""
    better = None
    for point in reversed(points):
        ahead, alone = point.ahead, point.alone
        if alone is None or (ahead is not None and ahead.user_tokens_per_s > alone.user_tokens_per_s):
            break
        better = point.users
    return better


def next_gpus(question: Question, chosen: Candidate) -> tuple[NextGpu, ...]:
    """What one more replica of each role gives by formula, a GPU; and verdicts that take half the time. Best first."""
    base, layout = chosen.predicted, chosen.predicted.layout
    places = ["target", "wider target", *(["draft"] if layout.depth else [])]
    gains = []
    for place in places:
        more = with_more(layout, place)
        found = predict(question, more, base.users)
        if found is not None and more.num_gpus > layout.num_gpus:
            added = more.num_gpus - layout.num_gpus
            gains.append(NextGpu(place, added, _gain(question, found, base) / added))
    if layout.depth and not layout.is_guided:
        quick = predict(replace(question, verdict_s=question.verdict_s / 2.0), layout, base.users)
        if quick is not None:
            gains.append(NextGpu("verifier", 1, _gain(question, quick, base)))
    return tuple(sorted(gains, key=lambda one: -one.gain))


def _gain(question: Question, more: Prediction, base: Prediction) -> float:
    gain = more.user_tokens_per_s / base.user_tokens_per_s
    if question.objective is Objective.COST:
        gain *= base.layout.num_gpus / more.layout.num_gpus
    return gain - 1.0


def why(answer: Plan) -> list[str]:
    """Three sentences."""
    one, question = answer.chosen.as_simulated, answer.question
    layout = one.layout
    if layout.is_guided:
        first = (
            f"With {one.users:.0f} users at once a token of the draft costs {one.c:.2f} of a pass of the target and "
            f"{question.draft_token_alpha:.0%} of the tokens are the same, so the draft's words as hints make each "
            f"request {one.speed_up:.2f} times as fast as the same target streaming, by formula; the text stays the "
            "target's own."
        )
    elif layout.depth:
        first = (
            f"With {one.users:.0f} users at once a draft step costs {one.c:.2f} of a target step and "
            f"{question.alpha:.0%} of them are accepted, so looking {layout.depth} steps ahead makes each request "
            f"{one.speed_up:.2f} times as fast as the same target streaming, by formula."
        )
    else:
        first = (
            f"With {one.users:.0f} users at once the GPUs that drafts would take, and the batches that windows would "
            "fill, are worth more to the target alone."
        )
    others = [other for other in answer.rivals if bool(other.predicted.layout.depth) != bool(layout.depth)]
    second = "Nothing of the other kind bears this traffic."
    if others:
        rival = others[0].as_simulated
        kind = {"target": "the target alone", "windows": "lookahead", "guided": "lookahead with hints"}[
            rival.layout.way
        ]
        second = (
            f"With {rival.layout.num_gpus} GPUs the best of {kind} ({rival.layout.words}) gives each user "
            f"{rival.user_tokens_per_s:.0f} tokens a second, against {one.user_tokens_per_s:.0f} with "
            f"{layout.num_gpus}, as simulated."
        )
    if answer.alone_from is None:
        third = "By formula, the target alone on all GPUs is nowhere faster in what was looked at."
    else:
        third = (
            f"By formula, from about {answer.alone_from:.0f} users on the target alone on all GPUs is faster for each."
        )
    return [first, second, third]


def token_level(answer: Plan) -> list[str]:
    """A sentence where a draft model inside the target's engine is planned: what is assumed of it."""
    layout, question = answer.chosen.predicted.layout, answer.question
    if not layout.by_draft:
        return []
    return [
        f"A copy of the draft model inside each target's engine writes {layout.num_proposed} tokens for each pass "
        f"(vLLM's draft model method), of which {question.draft_token_alpha:.0%} are assumed to be accepted "
        "(--draft-token-alpha)."
    ]


def beyond_timed(answer: Plan) -> list[str]:
    """A sentence of each role whose batches are larger than those that were timed."""
    costs = answer.question.costs
    if costs is None:
        return []
    timed, chosen = read_costs(costs), answer.chosen.predicted
    words = []
    for role, batch, times in (
        ("target", chosen.target_batch, timed.target.passes),
        ("draft", chosen.draft_batch, timed.draft.passes),
    ):
        most = max(size for passes in times for size, _ in passes.pass_s)
        if batch > most:
            words.append(
                f"The {role} would write {batch:.0f} sequences at a time, and was timed with {most} at most: what more "
                "of them take is reckoned, not measured."
            )
    return words
