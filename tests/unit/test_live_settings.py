"""What may change while replicas run, and who reads it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.errors import ConfigError, RoleUnavailable
from actors.messages import Prompt
from deployments.app import CoordinatorReplica
from deployments.config import load_profile, validate_config
from deployments.coordinator.coordinator import Coordinator, settle
from deployments.coordinator.keeper import Keeper
from deployments.coordinator.pipeline import Roles
from deployments.coordinator.pools import TargetPool
from deployments.generation import GenerationRequest, SpeculationOptions
from deployments.link.frames import Address
from deployments.link.members import Members
from deployments.live_settings import changed
from deployments.replicas import VerifierReplica
from deployments.telemetry.audit_reading import explain, find
from deployments.telemetry.auditing import deployed
from tests.unit.clock import run_virtually
from tests.unit.coordinator.bench import DRAFT, Bench
from tests.unit.verifiers.conftest import make_request

STARTED = load_profile("scripted")
SPECREASON = SpeculationOptions(mode="specreason")


def test_depth_fidelity_and_thresholds_change_and_an_empty_change_is_the_way_back() -> None:
    wanted = {
        "speculation": {"max_lookahead": 7, "fidelity": "strict", "controller": {"enabled": False}},
        "verifiers": {"numbers": [{"kind": "exact"}, {"kind": "embedding", "accept": 0.9, "reject": 0.9}]},
    }
    now = changed(STARTED, wanted)
    assert (now.speculation.max_lookahead, now.speculation.fidelity) == (7, "strict")
    assert not now.speculation.controller.enabled
    assert now.speculation.controller.probe_share == STARTED.speculation.controller.probe_share
    assert [check.kind for check in now.verifier.verifiers["numbers"]] == ["exact", "embedding"]
    assert now.verifier.verifiers["always"] == STARTED.verifier.verifiers["always"]
    plan = settle(now, GenerationRequest("one", Prompt(text="?")))
    assert (plan.max_lookahead, plan.is_controlled) == (7, False)
    assert changed(STARTED, {}) == changed(STARTED, None) == STARTED


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({"target": {"model": "other"}}, "target"),
        ({"speculation": {"max_lookahed": 3}}, "max_lookahed"),
        ({"speculation": {"max_lookahead": 0}}, "max_lookahead"),
        (
            {"speculation": {"specreason": {"verifier": "numbers"}}, "verifiers": {"numbers": [{"kind": "judge"}]}},
            "'numbers'",
        ),
        ({"speculation": {"replica_timeout_s": 3}}, "replica_timeout_s"),
        ({"speculation": {"mode": "specreason"}}, "speculation.mode cannot change"),
        ({"speculation": {"fidelities": {"strict": "always"}}}, "speculation.fidelities cannot change"),
        ({"verifiers": {"always": [{"kind": "embedding", "accept": 0.7}]}}, "rejects below 0.85"),
        ({"speculation": 4}, "mappings"),
        ({"verifiers": {"new": [{"kind": "exact"}]}}, "new"),
        ({"verifiers": {"numbers": [{"kind": "exat"}]}}, "exat"),
    ],
)
def test_what_cannot_change_is_refused_by_its_name(wanted: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        changed(STARTED, wanted)


def test_a_scorer_may_change_as_long_as_gateways_offer_the_same_modes() -> None:
    data = STARTED.model_dump()
    data["speculation"]["specreason"]["verifier"] = "always"
    scoring = validate_config(data, "test")
    now = changed(scoring, {"speculation": {"specreason": {"verifier": "never"}}})
    assert settle(now, GenerationRequest("one", Prompt(text="?"), speculation=SPECREASON)).verifier == "never"
    for started, verifier in ((scoring, "nobody"), (STARTED, "always")):
        with pytest.raises(ConfigError, match=rf"specreason\.verifier '{verifier}' .* needs a restart"):
            changed(started, {"speculation": {"specreason": {"verifier": verifier}}})


class LoneCoordinator(CoordinatorReplica):
    """Without connections, which Ray would have to make, so that there are none to end."""

    def __del__(self) -> None:  # type: ignore[override]
        pass


class LoneVerifier(VerifierReplica):
    """The same."""

    def __del__(self) -> None:  # type: ignore[override]
        pass


LISTENS: Any = SimpleNamespace(address=None)
"""In the place of the server of a replica."""


def coordinator_replica(roles: Roles | None = None, audit: Path | None = None) -> CoordinatorReplica:
    data = STARTED.model_dump()
    data["telemetry"]["audit"]["path"] = None if audit is None else str(audit)
    replica = LoneCoordinator.__new__(LoneCoordinator)
    replica._config = validate_config(data, "test")
    replica._coordinator = Coordinator(replica._config, roles or Bench().roles)
    replica._keeper = Keeper(replica._coordinator.generate, 1, 1)
    replica._server = LISTENS
    return replica


async def verifier_replica() -> VerifierReplica:
    """With nobody behind its pool of targets."""

    async def nobody() -> list[Address]:
        return []

    replica = LoneVerifier.__new__(LoneVerifier)
    replica._config = replica._started = STARTED
    replica._server = LISTENS
    replica._asked = [Members("target", nobody)]
    replica._pools = {"target": TargetPool(replica._asked[0], STARTED.speculation.verdict_timeout_s)}
    replica._scorers = dict(replica._pools)
    replica._verifier, replica._rules = await replica._made(STARTED)
    return replica


def is_refused(replica: CoordinatorReplica) -> bool:
    return "lookahead_settings_refused 1.0" in replica.metrics()


def test_a_coordinator_takes_over_what_can_be_and_keeps_what_was_where_it_cannot() -> None:
    replica = coordinator_replica()
    coordinator = replica._coordinator
    controller = coordinator._controller
    replica.reconfigure({"speculation": {"max_lookahead": 2}})
    assert (coordinator._config.speculation.max_lookahead, coordinator._controller) == (2, controller)
    replica.reconfigure({"speculation": {"max_lookahead": 0}})
    assert (coordinator._config.speculation.max_lookahead, is_refused(replica)) == (2, True)
    replica.reconfigure({"speculation": {"controller": {"enabled": False}}})
    assert coordinator._controller is None
    replica.reconfigure({})
    assert (coordinator._config, is_refused(replica)) == (STARTED, False)
    assert coordinator._controller is not None


CANNOT_BE = ({"speculation": {"max_lookahead": 0}}, {"verifiers": {"numbers": [{"kind": "exat"}]}})


@pytest.mark.parametrize("wanted", CANNOT_BE)
def test_no_replica_starts_with_settings_that_cannot_be(wanted: dict[str, Any]) -> None:
    """It would go on with those of its start, which are neither the wanted ones nor the former: Serve is to know."""

    async def start() -> None:
        with pytest.raises(ConfigError, match="user_config"):
            coordinator_replica().reconfigure(wanted)
        with pytest.raises(ConfigError, match="user_config"):
            await (await verifier_replica()).reconfigure(wanted)

    asyncio.run(start())


@pytest.mark.parametrize("wanted", CANNOT_BE)
def test_one_that_was_started_without_settings_is_not_ended_by_those_that_cannot_be(wanted: dict[str, Any]) -> None:
    """`user_config: null` is not handed over at the start."""

    async def change() -> bool:
        coordinator, verifier = coordinator_replica(), await verifier_replica()
        for replica in (coordinator, verifier):
            await replica.link()
        coordinator.reconfigure(wanted)
        await verifier.reconfigure(wanted)
        return is_refused(coordinator) and verifier._config == STARTED

    assert asyncio.run(change())


def test_a_decision_names_the_checks_that_judged_also_where_the_verifier_alone_has_refused(tmp_path: Path) -> None:
    former = deployed(STARTED).rules("numbers")
    changes = {"verifiers": {"numbers": [{"kind": "random", "accept": 0.3}]}}

    async def scene() -> None:
        verifier = await verifier_replica()
        bench = Bench(draft=replace(DRAFT, agree=0.4, paraphrase=0.4))
        coordinator = coordinator_replica(replace(bench.roles, verifier=verifier), tmp_path)
        coordinator.reconfigure(changes)
        await verifier.reconfigure({})
        await verifier.reconfigure(CANNOT_BE[1])
        wishes = SpeculationOptions(verifier="numbers", controller=False, token_speculation="none")
        asked = GenerationRequest("r", Prompt(text="?"), speculation=wishes)
        _ = [output async for output in coordinator.generate(asked)]
        coordinator._coordinator.close()

    run_virtually(scene())
    found = find(tmp_path, "r")
    assert found.begin is not None
    assert found.begin["rules"] == deployed(changed(STARTED, changes)).rules("numbers") != former
    judged = [decision for decision in found.decisions if decision["check"] is not None]
    assert {decision["check"] for decision in judged} >= {"numbers/always"}
    assert {decision["rules"] for decision in judged} == {former}
    assert f"rules {former}: exact; same_numbers; always" in "\n".join(explain(found, None))


def test_what_a_coordinator_counts_has_its_name() -> None:
    assert 'lookahead_num_draft_steps_total{replica="0"} 0.0' in coordinator_replica().metrics()


def test_changed_time_limits_and_checks_count_from_the_next_request_on() -> None:
    replica = coordinator_replica()
    coordinator = replica._coordinator
    started = coordinator._vigilance
    replica.reconfigure({"speculation": {"max_lookahead": 2}})
    assert coordinator._vigilance is started, "what was learnt is kept"
    replica.reconfigure({"speculation": {"verdict_timeout_s": 7.0, "silence": {"target_max_s": 44.0}}})
    timely = coordinator._vigilance
    assert (timely.verdict_s("numbers"), timely.item.limit_s()) == (7.0, 44.0)
    replica.reconfigure({"verifiers": {"numbers": [{"kind": "exact"}, {"kind": "never"}]}})
    assert coordinator._vigilance is not timely, "other checks take other times"


def test_a_request_ends_under_the_settings_that_it_began_with() -> None:
    async def change_meanwhile() -> list[int]:
        replica = coordinator_replica()
        depths = []
        for request_id in ("before", "after"):
            one = GenerationRequest(request_id, Prompt(text="?"), speculation=SpeculationOptions(controller=False))
            async with aclosing(replica.generate(one)) as outputs:
                await anext(outputs)
                replica.reconfigure({"speculation": {"max_lookahead": 1}})
                async for _ in outputs:
                    pass
            trace: Any = replica.trace(request_id)
            drafts = sum(span["kind"] == "draft" for span in trace["spans"])
            depths.append(drafts)
        return depths

    before, after = run_virtually(change_meanwhile())
    assert before > 0
    assert after > 0
    assert before != after


def test_a_verifier_takes_over_thresholds_and_keeps_its_own_where_they_cannot_be() -> None:
    async def judge(replica: VerifierReplica) -> bool:
        asked = make_request("Twelve apples are left.", "12 pears are left.", verifier="always")
        return (await replica.judge(asked)).accepted

    async def change() -> list[bool]:
        replica = await verifier_replica()
        seen = [await judge(replica)]
        for wanted in ({"verifiers": {"always": [{"kind": "never"}]}}, {"verifiers": {"always": [{"kind": "no"}]}}, {}):
            await replica.reconfigure(wanted)
            seen.append(await judge(replica))
        return seen

    assert asyncio.run(change()) == [True, False, False, True]


def test_a_verifier_asks_its_judges_for_as_long_as_the_changed_verdict_timeout_says() -> None:
    async def change() -> list[float]:
        replica = await verifier_replica()
        clock, waits = asyncio.get_running_loop().time, []
        for timeout_s in (None, 7.0, 0.0, None):  # none at all cannot be
            wanted = {} if timeout_s is None else {"speculation": {"verdict_timeout_s": timeout_s}}
            await replica.reconfigure(wanted)
            began_at = clock()
            with pytest.raises(RoleUnavailable):
                await replica._scorers["target"].label_probabilities(Prompt(text="?"), ("A", "B"), "s")
            waits.append(round(clock() - began_at, 3))
        await replica._asked[0].aclose()
        return waits

    usual = STARTED.speculation.verdict_timeout_s
    assert run_virtually(change()) == [usual, 7.0, 7.0, usual]
