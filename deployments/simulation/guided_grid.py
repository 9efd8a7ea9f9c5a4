"""Does the controller know when the draft's hints pay? A grid of simulated machines and texts for guided requests.

Promises: all runs of a cell write the same texts on the same machine; speed-ups are over streams of the target alone
with as many users; the controller starts knowing nothing, and what it loses until it knows is in its figure.

Run: ``python -m deployments.simulation.controller_grid --guided``
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from actors.engines.hint_matching import MatchRules
from deployments.coordinator.control.controller import Controller
from deployments.coordinator.control.pacer import Manner
from deployments.coordinator.events import Decision
from deployments.coordinator.guided import GuidedSession
from deployments.coordinator.pipeline import Observer
from deployments.coordinator.settings import SessionSettings
from deployments.simulation.clock import Clock
from deployments.simulation.cluster import Cluster, Ended, Pool
from deployments.simulation.costs import EngineCost
from deployments.simulation.decisions import Decisions
from deployments.simulation.guided_request import GuidedOpening, GuidedRequest, Guiding
from deployments.simulation.guided_texts import GuidedText, RandomText
from deployments.simulation.scripts import RandomScript

TOKEN_S = 0.1
DEPTH = 4
"""That of the shipped profiles: the draft is ahead by so many steps at most."""
ALONE, ALWAYS, CONTROLLED = "target", "guided", "controller"


@dataclass(frozen=True, slots=True)
class GuidedCell:
    """One machine, one kind of text, so many users. `alpha` is the share of places at which the draft writes the
    target's token, `c` its token over the target's, `share` what one more sequence or checked token adds to a pass."""

    alpha: float
    c: float
    share: float
    users: int = 1
    mean_tokens: float = 10.0
    steps_per_request: int = 40
    call_s: float = 0.003
    hint_tokens: int = 8
    first_text: int = 0
    """Requests write the texts from this number on."""

    def cost(self, token_s: float) -> EngineCost:
        """An engine whose token takes so long."""
        return EngineCost(((1, token_s), (2, token_s * (1.0 + self.share))), call_s=self.call_s)

    def text(self, number: int) -> GuidedText:
        """What request `number` writes."""
        seed = self.first_text + number + 1
        script = RandomScript(seed, self.steps_per_request, 1.0, self.mean_tokens, 0.5)
        return RandomText(script, seed, self.alpha)


@dataclass(frozen=True, slots=True)
class GuidedRow:
    """Speed-ups over the target alone: of hints always, and as the controller decides."""

    cell: GuidedCell
    guided: float
    controlled: float

    @property
    def best(self) -> float:
        """Of hints and none."""
        return max(1.0, self.guided)


def opening_of(way: str, clock: Clock) -> GuidedOpening:
    """How the sessions of a `way` are opened: `ALONE`, `ALWAYS` or `CONTROLLED`."""
    controller = Controller()

    def opening(settings: SessionSettings) -> tuple[GuidedSession, tuple[Observer, ...]]:
        if way == ALWAYS:
            return GuidedSession(settings), ()
        if way == ALONE:
            return GuidedSession(settings, lambda: Decision(0, "alone")), ()
        pacer = controller.open(settings.session_id, Manner(DEPTH, is_guided=True), lambda: clock.now)
        return GuidedSession(settings, pacer.decide), (pacer,)

    return opening


def tokens_per_s(cell: GuidedCell, way: str, num_steps: int) -> float:
    """Of all users together, until `num_steps` steps are written."""
    clock = Clock()
    plain = SessionSettings("", (), (), "", 10**9, mode="target")
    target, draft = (Pool(clock, cell.cost(TOKEN_S * factor), 1) for factor in (1.0, cell.c))
    cluster = Cluster(clock, Decisions(plain), target, draft, Pool(clock, cell.cost(TOKEN_S), 0))
    guiding = Guiding(DEPTH, MatchRules(num_hint_tokens=cell.hint_tokens), opening_of(way, clock))
    num_begun = 0

    def ask(_: Ended | None = None) -> None:
        nonlocal num_begun
        number, num_begun = num_begun, num_begun + 1
        again = partial(clock.after, 0.0, ask)
        GuidedRequest(cluster, guiding, number, cell.text(number), 1, lambda ended: again())

    for _ in range(cell.users):
        ask()
    while cluster.counts.num_committed < num_steps:
        clock.tick()
    return cluster.counts.num_committed_tokens / clock.now


def compare(cell: GuidedCell, num_steps: int) -> GuidedRow:
    """Both ways and the controller on `cell`, for `num_steps` steps of each user."""
    alone, guided, controlled = (tokens_per_s(cell, way, num_steps * cell.users) for way in (ALONE, ALWAYS, CONTROLLED))
    return GuidedRow(cell, guided / alone, controlled / alone)
