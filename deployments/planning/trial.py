"""One layout with its users on the simulated clock: what a user gets, and how much coordinators hear.

Promises: the production session decides; users are spread over their texts, so that contexts are as long as in a
cluster that has run for a while; of a large cluster with equal parts one part stands for the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from deployments.coordinator.theory import tokens_per_pass
from deployments.planning.question import Question
from deployments.planning.search import Layout, Prediction, costs_of
from deployments.simulation.asking import settings_for
from deployments.simulation.clock import Clock
from deployments.simulation.cluster import Cluster, Pool
from deployments.simulation.costs import EngineCost
from deployments.simulation.decisions import Decisions
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
FIRST_SHARE = 0.2
"""Of these: not measured, since all begin with empty windows."""
SPREAD = 0.5
"""Of the lengths of steps: that of their logarithm."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """Tokens a second of one user, and results a second that the coordinators hear of all: of a window its steps and
    verdicts, of a target alone what each of its passes gives."""

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
    mode, most_steps = "lookahead" if layout.depth else "target", question.max_target_steps
    settings = settings_for(mode, max(layout.depth, 1), max_target_steps=most_steps)
    cluster = Cluster(
        clock,
        Decisions(settings),
        Pool(clock, target, layout.num_targets // parts),
        Pool(clock, draft, layout.num_drafts // parts if layout.depth else 0),
        Pool(clock, EngineCost(((1, question.verdict_s),)), 1),
    )
    num_steps = max(round(question.output_tokens / question.step_tokens), 1)

    def script(number: int, num: int) -> RandomScript:
        return RandomScript(number + 1, num, question.alpha, question.step_tokens, SPREAD, 0.2)

    passages = Passages(lambda number: script(number, num_steps))
    begun = 0

    def ask(num_done: int = 0) -> None:
        """The next request, of which so many steps are written and in the caches already."""
        nonlocal begun
        begun += 1
        passage = Passage(script(begun, num_steps - num_done)) if num_done else passages.of(begun)
        num_prompt = question.prompt_tokens + round(num_done * question.step_tokens)
        for engine in (cluster.target.choose(begun), cluster.draft.choose(begun)):
            if engine is not None and num_done:
                engine.remember(begun, num_prompt)
        Request(cluster, begun, passage, num_prompt, lambda _: clock.after(0.0, ask))

    most = max(STEPS_PER_USER, LEAST_STEPS / num_users)
    for place in places(num_users, num_steps, most):
        ask(place)
    counts, read = cluster.counts, []
    for share in (FIRST_SHARE, 1.0):
        while counts.num_committed < share * most * num_users:
            clock.tick()
        read.append((counts.num_committed_tokens, counts.num_executed + counts.num_verdicts, clock.now))
    (tokens, heard, begun_s), (all_tokens, all_heard, ended_s) = read
    tokens_per_s = (all_tokens - tokens) / (ended_s - begun_s)
    results_per_s = (all_heard - heard) / (ended_s - begun_s)
    if not layout.depth:  # a stream is heard pass by pass, which is not simulated
        results_per_s = tokens_per_s / tokens_per_pass(question.token_alpha, layout.num_proposed)
    return Simulated(tokens_per_s / num_users, results_per_s * parts)


def places(num_users: int, num_steps: int, most: float) -> list[int]:
    """How many of `num_steps` steps each user has behind him when `most` more of them begin to be simulated. The
    middles of what is measured are spread evenly over the text, as in a cluster that has run for long: so contexts have
    their mean length, however little of a text that is."""
    before = most * (1.0 + FIRST_SHARE) / 2.0
    return [round((user + 0.5) / num_users * num_steps - before) % num_steps for user in range(num_users)]
