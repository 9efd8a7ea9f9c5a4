"""The policy as Serve holds it: made from the application, pickled as Serve does, asked with Serve's own contexts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.config import AutoscalingConfig, AutoscalingContext
from ray.serve.deployment import Application

from actors.errors import ConfigError
from deployments import app
from deployments.app import GatewayReplica, compose
from deployments.autoscaling_config import AutoscalingConfig as RolesScaling
from deployments.bench.autoscale import settings
from deployments.config import Config, load_profile, validate_config
from tests.unit.gateway.script import ScriptedBackend, chat, client_of, config, finished, opened

NOW_S = 1_000_000.0


def deployments_of(application: Application) -> dict[str, Any]:
    """The deployments of `application` by name."""
    found: dict[str, Any] = {}
    waiting = [application]
    while waiting:
        bound = waiting.pop()._bound_deployment
        found[bound.name] = bound
        waiting += [argument for argument in bound.init_args if isinstance(argument, Application)]
    return found


class Serve:
    """Serve's controller, as far as it asks policies: each deployment has one of its own, out of a pickle."""

    def __init__(self, config: Config, name: str) -> None:
        self._name = name
        made = deployments_of(compose(config))
        self.configs: dict[str, AutoscalingConfig] = {
            role: one._deployment_config.autoscaling_config
            for role, one in made.items()
            if one._deployment_config.autoscaling_config is not None
        }
        self._policies = {
            role: one.policy.get_policy()(**one.policy.policy_kwargs) for role, one in self.configs.items()
        }
        self.wanted = {role: one.min_replicas for role, one in self.configs.items()}

    def ask(self, now_s: float, stats: dict[str, dict[str, float]], age_s: float = 0.0) -> None:
        """Every policy once."""
        for role, policy in self._policies.items():
            replica = ReplicaID("one", DeploymentID(role, self._name))
            seen = {
                name: {replica: [TimeStampedValue(now_s - 9, 99.0), TimeStampedValue(now_s - age_s, value)]}
                for name, value in stats.get(role, {}).items()
            }
            context = AutoscalingContext(
                deployment_id=replica.deployment_id,
                deployment_name=role,
                app_name=self._name,
                current_num_replicas=self.wanted[role],
                target_num_replicas=self.wanted[role],
                running_replicas=[replica],
                total_num_requests=1e6,  # Serve's own count, which nothing reads
                total_queued_requests=1e6,
                aggregated_metrics=None,
                raw_metrics=seen,
                capacity_adjusted_min_replicas=0,
                capacity_adjusted_max_replicas=100,
                policy_state={},
                last_scale_up_time=None,
                last_scale_down_time=None,
                current_time=now_s,
                config=self.configs[role],
            )
            self.wanted[role], state = policy(context)
            assert state == {}


def busy(requests: float) -> dict[str, dict[str, float]]:
    return {"coordinator": {"requests": requests, "speculating": requests, "target_calls": requests}}


def test_policies_out_of_pickles_decide_together() -> None:
    serve = Serve(settings(), "together")
    for second in range(12):
        serve.ask(NOW_S + second, busy(30))
        if second == 1:
            assert serve.wanted["draft"] == 2  # from nothing at once: as many as go with the targets that are needed
    assert serve.wanted == {"target": 4, "draft": 2, "coordinator": 1, "gateway": 1}
    for second in range(12, 60):
        serve.ask(NOW_S + second, busy(0))
    assert serve.wanted == {"target": 1, "draft": 0, "coordinator": 1, "gateway": 1}


def test_a_deployment_of_a_name_that_was_there_before_inherits_no_load() -> None:
    """Serve's controller outlives applications, and asks the target before the coordinator."""
    before = Serve(settings(), "again")
    for second in range(12):
        before.ask(NOW_S + second, busy(30))
    after = Serve(settings(), "again")
    for second in range(72, 80):
        after.ask(NOW_S + second, busy(0))
        assert after.wanted == {"target": 1, "draft": 0, "coordinator": 1, "gateway": 1}


def test_what_waits_at_a_gateway_that_keeps_its_number_makes_the_others_grow() -> None:
    """Serve collects the reports of a gateway without rules of its own as well."""
    assert settings().autoscaling.role("gateway") is None  # type: ignore[union-attr]
    serve = Serve(settings(), "held back")
    for second in range(12):
        serve.ask(NOW_S + second, busy(8) | {"gateway": {"waiting_generations": 14, "refused_generations": 8}})
    assert serve.wanted == {"target": 4, "draft": 2, "coordinator": 1, "gateway": 1}


class LoneGateway(GatewayReplica):
    """Without connections, which Ray would have to make, so that there are none to end."""

    def __del__(self) -> None:  # type: ignore[override]
        pass


async def test_a_gateway_reports_what_its_own_application_holds_back(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ScriptedBackend(lambda request: [opened(request), 0.2, finished()])
    monkeypatch.setattr(app, "CoordinatorBackend", lambda *_: backend)
    gateway = LoneGateway(config(admission={"max_concurrent": 1, "max_waiting": 1}), *[None] * 3)  # type: ignore[arg-type]
    async with client_of(gateway.__serve_build_asgi_app__()) as client:
        tasks = []
        for _ in range(3):
            tasks.append(asyncio.create_task(client.post("/v1/chat/completions", json=chat())))
            await asyncio.sleep(0.02)
        await tasks[2]
        assert gateway.record_autoscaling_stats() == {"waiting_generations": 1, "refused_generations": 1}
        assert sorted(answer.status_code for answer in await asyncio.gather(*tasks)) == [200, 200, 429]


def test_what_nobody_renewed_counts_no_more() -> None:
    serve = Serve(settings(), "stale")
    for second in range(12):
        serve.ask(NOW_S + second, busy(30), age_s=60.0)
    assert serve.wanted == {"target": 1, "draft": 0, "coordinator": 1, "gateway": 1}


def test_rules_that_change_count_at_once() -> None:
    before, after = Serve(settings(), "changed"), settings().model_dump()
    for second in range(12):
        before.ask(NOW_S + second, busy(30))
    after["autoscaling"]["target"]["load"] = 30
    now = Serve(validate_config(after, "test"), "changed")
    now.wanted = before.wanted
    for second in range(12, 60):
        now.ask(NOW_S + second, busy(30))
    assert now.wanted["target"] == 2


def test_the_shipped_cluster_profile_grows_and_serve_takes_its_settings() -> None:
    serve = Serve(load_profile("gpu-cluster"), "gpu")
    assert set(serve.configs) == {"target", "draft", "verifier", "coordinator", "gateway"}
    for second in range(20):
        serve.ask(NOW_S + second, busy(300))
    assert (serve.wanted["target"], serve.wanted["draft"], serve.wanted["coordinator"]) == (4, 2, 2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"target": {"min_replicas": 0, "max_replicas": 2, "load": 8}}, "target.min_replicas"),
        ({"draft": {"min_replicas": 3, "max_replicas": 2, "load": 8}}, "min_replicas"),
        ({"draft": {"max_replicas": 2}}, "load"),
        ({"drafts": {}}, "drafts"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        validate_config(load_profile("scripted").model_dump() | {"autoscaling": change}, "test")


def test_two_who_scale_one_role_are_refused() -> None:
    data = load_profile("scripted").model_dump() | {"autoscaling": {}}
    data["target"]["placement"]["autoscaling"] = {"max_replicas": 3}
    with pytest.raises(ConfigError, match=r"target\.placement\.autoscaling"):
        validate_config(data, "test")


def test_drafts_for_each_target_that_is_needed_need_a_target_that_is_scaled() -> None:
    """How many are needed is known of no other."""
    draft = {"max_replicas": 4, "load": 128, "per_target": 0.5}
    with pytest.raises(ValueError, match=r"draft\.per_target counts the targets that are needed"):
        RolesScaling.model_validate({"draft": draft})
    RolesScaling.model_validate({"draft": draft, "target": {"max_replicas": 8, "load": 16}})
