"""One layout with its users on the simulated clock: what a user gets, and how much coordinators hear.

Promises: the production session decides; users are spread over their texts, so that contexts are as long as in a
cluster that has run for a while; of a large cluster with equal parts one part stands for the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd

from actors.engines.hint_matching import MatchRules
from deployments.coordinator.guided import GuidedSession
from deployments.planning.question import Question
from deployments.planning.search import Layout, Prediction, costs_of
from deployments.simulation.asking import settings_for
from deployments.simulation.clock import Clock
from deployments.simulation.cluster import Cluster, Ended, Pool
from deployments.simulation.costs import EngineCost
from deployments.simulation.decisions import Decisions
from deployments.simulation.guided_request import GuidedRequest, Guiding
from deployments.simulation.guided_texts import RandomText
from deployments.simulation.passages import Passage, Passages
from deployments.simulation.request import Request
from deployments.simulation.scripts import RandomScript

MOST_USERS = 64
"""With more a part of the cluster is simulated, if there is one."""
EVEN = 0.02
"""A part has so nearly its share of the users: they are whole."""
STEPS_PER_USER, LEAST_STEPS = 60, 480
"""Simulated of each user on average, and of all together at least: fewer are a matter of luck. A text may have more:
where users begin is spread over it (`places`)."""
GUIDED_STEPS_PER_USER, LEAST_GUIDED_STEPS = 4, 120
"""The same of guided requests, whose chance is that of single tokens."""
FIRST_SHARE = 0.2
"""Of what is simulated: not measured, since all begin with empty windows."""
SPREAD = 0.5
"""Of the lengths of steps: that of their logarithm."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """Tokens a second of one user, and results a second that the coordinators hear of all: of a window its steps and
    verdicts, of a stream of the target, alone or guided, what each of its passes gives."""

    user_tokens_per_s: float
    results_per_s: float = 0.0


def equal_parts(layout: Layout, users: float) -> int:
    """Into how many equal parts the layout and its users go: so that at most `MOST_USERS` are in each, or as near to
    that as whole replicas and users allow."""
    most = gcd(layout.num_targets, layout.num_drafts if layout.depth else 0)
    found = [1]
    for parts in range(2, most + 1):
        is_even = abs(max(round(users / parts), 1) * parts - users) <= EVEN * users
        if most % parts == 0 and is_even and users / found[-1] > MOST_USERS:
            found.append(parts)
    return found[-1]


def num_simulated(layout: Layout, users: float) -> int:
    """Whole users of all the equal parts."""
    parts = equal_parts(layout, users)
    return max(round(users / parts), 1) * parts


def simulated(question: Question, prediction: Prediction) -> Simulated:
    """What `prediction`'s layout gives, by the production session on a simulated clock."""
    layout = prediction.layout
    parts = equal_parts(layout, prediction.users)
    target, draft = costs_of(question, layout)
    draft = draft if layout.depth else target
    if target is None or draft is None:
        raise AssertionError("a predicted layout fits")
    clock, num_users = Clock(), num_simulated(layout, prediction.users) // parts
    most_steps = question.max_target_steps
    settings = settings_for(
        "lookahead" if layout.depth else "target", max(layout.depth, 1), max_target_steps=most_steps
    )
    cluster = Cluster(
        clock,
        Decisions(settings),
        Pool(clock, target, layout.num_targets // parts),
        Pool(clock, draft, layout.num_drafts // parts if layout.depth else 0),
        Pool(clock, EngineCost(((1, question.verdict_s),)), 1),
    )
    num_steps = max(round(question.output_tokens / question.step_tokens), 1)
    start = _guided(question, layout, cluster) if layout.is_guided else _by_steps(question, cluster, num_steps)
    begun = 0

    def ask(num_done: int = 0) -> None:
        """The next request, of which so many steps are written and in the caches already."""
        nonlocal begun
        begun += 1
        num_prompt = question.prompt_tokens + round(num_done * question.step_tokens)
        for engine in (cluster.target.choose(begun), cluster.draft.choose(begun)):
            if engine is not None and num_done:
                engine.remember(begun, num_prompt)
        start(begun, num_prompt, num_steps - num_done, lambda _: clock.after(0.0, ask))

    per_user, least = (GUIDED_STEPS_PER_USER, LEAST_GUIDED_STEPS) if layout.is_guided else (STEPS_PER_USER, LEAST_STEPS)
    most = max(per_user, least / num_users)
    for place in places(num_users, num_steps, most):
        ask(place)
    counts, read = cluster.counts, []
    for share in (FIRST_SHARE, 1.0):
        while counts.num_committed < share * most * num_users:
            clock.tick()
        read.append((counts.num_committed_tokens, counts.num_heard, clock.now))
    (tokens, heard, begun_s), (all_tokens, all_heard, ended_s) = read
    tokens_per_s = (all_tokens - tokens) / (ended_s - begun_s)
    results_per_s = (all_heard - heard) / (ended_s - begun_s)
    if not layout.depth:  # a stream is heard pass by pass, which is not simulated
        results_per_s = tokens_per_s / question.tokens_per_pass(layout.num_proposed, layout.by_draft)
    return Simulated(tokens_per_s / num_users, results_per_s * parts)


Start = Callable[[int, int, int, Callable[[Ended], None]], object]
"""Begins a request: its number, the tokens before what it writes, the steps that it writes, and who is told its end."""


def _script(question: Question, number: int, num_steps: int) -> RandomScript:
    return RandomScript(number + 1, num_steps, question.alpha, question.step_tokens, SPREAD, 0.2)


def _by_steps(question: Question, cluster: Cluster, num_steps: int) -> Start:
    """Requests in windows of steps, or of the target alone; those of `num_steps` are made once."""
    passages = Passages(lambda number: _script(question, number, num_steps))

    def start(number: int, num_prompt: int, num: int, ended: Callable[[Ended], None]) -> Request:
        passage = passages.of(number) if num == num_steps else Passage(_script(question, number, num))
        return Request(cluster, number, passage, num_prompt, ended)

    return start


def _guided(question: Question, layout: Layout, cluster: Cluster) -> Start:
    """Requests that the draft guides all the time."""
    rules = MatchRules(num_hint_tokens=layout.num_proposed)
    guiding = Guiding(layout.depth, rules, lambda settings: (GuidedSession(settings), ()))

    def start(number: int, num_prompt: int, num: int, ended: Callable[[Ended], None]) -> GuidedRequest:
        text = RandomText(_script(question, number, num), number + 1, question.draft_token_alpha)
        return GuidedRequest(cluster, guiding, number, text, num_prompt, ended)

    return start


def places(num_users: int, num_steps: int, most: float) -> list[int]:
    """How many of `num_steps` steps each user has behind him when `most` more of them begin to be simulated. The
    middles of what is measured are spread evenly over the text, as in a cluster that has run for long: so contexts have
    their mean length, however little of a text that is."""
    before = most * (1.0 + FIRST_SHARE) / 2.0
    return [round((user + 0.5) / num_users * num_steps - before) % num_steps for user in range(num_users)]
