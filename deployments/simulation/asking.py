"""What the requests of a scenario ask for and write, and which engines they ask, mode by mode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from actors.engines.hint_matching import MatchRules
from actors.errors import ConfigError
from deployments.coordinator.control.controller import Controller
from deployments.coordinator.control.pacer import Manner
from deployments.coordinator.guided import GuidedSession
from deployments.coordinator.pipeline import Observer
from deployments.coordinator.settings import SessionSettings
from deployments.simulation.clock import Clock
from deployments.simulation.cluster import Pool
from deployments.simulation.cost_file import Beside
from deployments.simulation.costs import EngineCost
from deployments.simulation.guided_request import Guiding
from deployments.simulation.guided_texts import GuidedText, RandomText, recorded_texts
from deployments.simulation.recorded import read_scripts
from deployments.simulation.scenario import Scenario
from deployments.simulation.scripts import RandomScript, Script

GUIDED = ("guided", "guided_controlled")
"""Modes of guided requests."""
BESIDE: dict[str, Beside] = {
    "lookahead": "windows",
    "controlled": "windows",
    "guided": "guided",
    "guided_controlled": "guided",
}
"""How the engines work at the same time; in other modes one of them rests."""
AT_TIMES = ("controlled", "guided_controlled")
"""Modes in which the draft rests where it is not worth its work: engines are slower just while both work."""


def script_of(scenario: Scenario) -> Callable[[int], Script]:
    """The text of each request. ConfigError where modes would write other recorded requests than each other."""
    text = scenario.text
    if text.recorded is not None:
        speculating = set(scenario.speculation.modes) - {"target", "target_all_gpus"}
        compares_steps = not speculating <= set(GUIDED)
        if compares_steps and not speculating.isdisjoint(GUIDED):
            raise ConfigError(
                "Guided modes write the recorded requests that were guided, others those that were written step by "
                "step: no figure of the one compares with one of the other. Give each kind a scenario of its own.",
                "speculation.modes",
            )
        if compares_steps:
            recorded = read_scripts(Path(text.recorded))
        else:
            recorded = [one.script() for one in recorded_texts(Path(text.recorded))]
        return lambda number: recorded[number % len(recorded)]
    return lambda number: RandomScript(
        text.seed + number + 1,
        text.num_steps,
        text.alpha,
        text.mean_tokens,
        text.sigma,
        text.equal_share if scenario.has_verifier else 1.0,
        text.length_effect,
    )


def settings_of(scenario: Scenario, mode: str) -> SessionSettings:
    """What every request asks for."""
    speculation = scenario.speculation
    return settings_for(
        {"target_all_gpus": "target"}.get(mode, "lookahead" if mode in ("controlled", *GUIDED) else mode),
        speculation.max_lookahead,
        max_target_steps=speculation.max_target_steps,
        verifier="simulated" if scenario.has_verifier else None,
        takes_hints=speculation.hint_gain > 1.0,
    )


def settings_for(
    mode: str,
    max_lookahead: int,
    *,
    max_target_steps: int | None = None,
    verifier: str | None = "simulated",
    takes_hints: bool = False,
) -> SessionSettings:
    """Settings of simulated requests."""
    return SessionSettings(
        session_id="",
        target_prompt=(),
        draft_prompt=(),
        vocabulary="",
        max_tokens=10**9,
        mode=mode,
        max_lookahead=max_lookahead,
        max_target_steps=max_target_steps,
        verifier=verifier,
        token_speculation="hints" if takes_hints else "none",
    )


def guiding_of(scenario: Scenario, mode: str, controller: Controller, clock: Clock) -> Guiding:
    """How guided requests are led, by `controller` or always."""
    depth = scenario.speculation.max_lookahead

    def opening(settings: SessionSettings) -> tuple[GuidedSession, tuple[Observer, ...]]:
        if mode == "guided":
            return GuidedSession(settings), ()
        manner = Manner(depth, is_guided=True, has_ways=True)
        pacer = controller.open(settings.session_id, manner, lambda: clock.now)
        return GuidedSession(settings, pacer.decide), (pacer,)

    return Guiding(depth, MatchRules(num_hint_tokens=scenario.speculation.hint_tokens), opening)


def guided_texts_of(scenario: Scenario, script: Callable[[int], Script]) -> Callable[[int], GuidedText]:
    """The text of each guided request."""
    text = scenario.text
    if text.recorded is not None:
        recorded = recorded_texts(Path(text.recorded))
        return lambda number: recorded[number % len(recorded)]
    return lambda number: RandomText(script(number), text.seed + number + 1, text.token_alpha)


def pools_of(scenario: Scenario, mode: str, clock: Clock) -> dict[str, Pool]:
    """The replicas of each role. Of a guided stream hints take the place of what the engine proposes to itself."""
    plain = {"tokens_per_pass": 1.0, "proposed_tokens": 0}
    target = scenario.target.model_copy(update=plain) if mode in GUIDED else scenario.target
    beside, verifier = BESIDE.get(mode), scenario.verifier
    disturbed = {"target": target.cost("target", beside), "draft": scenario.draft.cost("draft", beside)}
    usual = disturbed
    if mode in AT_TIMES:
        usual = {"target": target.cost("target"), "draft": scenario.draft.cost("draft")}
    verdict = EngineCost(((1, verifier.latency_s),), max_num_seqs=verifier.at_once)
    pools = {
        "target": Pool(clock, usual["target"], target.replicas),
        "draft": Pool(clock, usual["draft"], scenario.draft.replicas),
        "verifier": Pool(clock, verdict, verifier.replicas),
    }
    for role, other in (("target", "draft"), ("draft", "target")):
        if disturbed[role] != usual[role]:
            pools[role].tempo.share_machine(pools[other].tempo, disturbed[role])
    return pools
