"""Where a cluster listens, and what is said where it cannot or does not start, without Ray."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import serve
from ray.exceptions import AuthenticationError, RayActorError, RayTaskError
from ray.serve import context
from ray.serve.exceptions import RayServeException

from actors.errors import ConfigError, ServiceError
from deployments import app
from deployments.config import Config, load_profile
from deployments.server import launch
from deployments.server.launch import (
    APP_NAME,
    ON_EVERY_NODE,
    ON_ONE_MACHINE,
    _innermost,
    _reachable,
    _why_it_waits,
    _why_not_started,
    bindable,
    logs,
    running,
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ON_EVERY_NODE, *ON_ONE_MACHINE, "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "1")  # so that it is as before when the test has ended
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # no token file in the home of whoever runs the tests


@pytest.fixture
def taken() -> Any:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


class Cluster:
    """What `running` does to a Ray cluster with a Serve instance at `at`, on which `applications` are."""

    def __init__(self, at: tuple[str, int] | None, applications: tuple[str, ...], on_delete: Exception | None) -> None:
        self.calls: list[str] = []
        self._at = at
        self._applications = {name: SimpleNamespace(status=SimpleNamespace(value="RUNNING")) for name in applications}
        self._on_delete = on_delete
        self.here = "10.0.0.1"

    def client(self, **_: Any) -> Any:
        return self._at and SimpleNamespace(http_config=SimpleNamespace(host=self._at[0], port=self._at[1]))

    def status(self) -> Any:
        return SimpleNamespace(applications=self._applications)

    def nodes(self) -> list[dict[str, Any]]:
        node = {"Alive": True, "Resources": {"CPU": 4.0}}
        head = {"NodeManagerAddress": "10.0.0.1", "Resources": {"node:__internal_head__": 1.0}}
        return [node | {"NodeManagerAddress": "10.0.0.2"}, node | head]

    def delete(self, name: str, _blocking: bool = True) -> None:
        self.calls.append(f"delete {name}")
        if self._on_delete is not None:
            raise self._on_delete

    def does(self, call: str) -> Callable[..., None]:
        return lambda *_, **__: self.calls.append(call)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cluster]:
    def made(
        at: tuple[str, int] | None, applications: tuple[str, ...] = (), on_delete: Exception | None = None
    ) -> Cluster:
        found = Cluster(at, applications, on_delete)
        monkeypatch.setattr(ray, "init", found.does("init"))
        monkeypatch.setattr(ray, "shutdown", found.does("leave"))
        monkeypatch.setattr(serve, "start", found.does("start"))
        monkeypatch.setattr(serve, "run", found.does("run"))
        monkeypatch.setattr(serve, "delete", found.delete)
        monkeypatch.setattr(serve, "status", found.status)
        monkeypatch.setattr(context, "_get_global_client", found.client)
        monkeypatch.setattr(ray, "nodes", found.nodes)
        monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: found.here)
        monkeypatch.setattr(app, "compose", lambda _: None)
        return found

    return made


def at(host: str, port: int) -> Config:
    config = load_profile("scripted")
    return config.model_copy(update={"gateway": config.gateway.model_copy(update={"host": host, "port": port})})


ALL = ["init", "start", "run", f"delete {APP_NAME}", "leave"]


@pytest.mark.parametrize("same", [True, False])
def test_a_serve_instance_that_was_left_on_a_cluster_is_used_again(
    cluster: Callable[..., Cluster], taken: int, same: bool
) -> None:
    found = cluster(("127.0.0.1", taken))
    with running(at("127.0.0.1", taken if same else 0), address="auto") as url:
        assert url == f"http://127.0.0.1:{taken}"
    assert found.calls == ALL


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 8123), ("0.0.0.0", 8000)])
def test_one_that_listens_elsewhere_is_named_and_left_alone(
    cluster: Callable[..., Cluster], host: str, port: int
) -> None:
    found = cluster(("127.0.0.1", 8000), (APP_NAME,))
    wanted = rf"listens on 127\.0\.0\.1:8000, not on {host}:{port}\. Give --host 127\.0\.0\.1 --port 8000"
    with pytest.raises(ConfigError, match=wanted), running(at(host, port), address="auto"):
        raise AssertionError("it would listen elsewhere")
    assert found.calls == ["init", "leave"]


def test_an_application_that_is_there_is_not_replaced(cluster: Callable[..., Cluster]) -> None:
    found = cluster(("127.0.0.1", 8000), ("other", APP_NAME))
    with pytest.raises(ConfigError, match=r"already \(running\)"), running(at("127.0.0.1", 8000), address="auto"):
        raise AssertionError("it is somebody else's")
    assert found.calls == ["init", "leave"]


def test_a_new_instance_needs_a_free_port(cluster: Callable[..., Cluster], taken: int) -> None:
    found = cluster(None)
    with (
        pytest.raises(ConfigError, match="Address already in use"),
        running(at("127.0.0.1", taken), address="auto"),
    ):
        raise AssertionError("the port is taken")
    assert found.calls == ["init", "leave"]
    with running(at("127.0.0.1", 0), address="auto") as url:
        assert int(url.rpartition(":")[2]) > 0


def test_a_stream_that_goes_on_does_not_keep_the_command(
    cluster: Callable[..., Cluster], capsys: pytest.CaptureFixture[str]
) -> None:
    found = cluster(("127.0.0.1", 8000), on_delete=TimeoutError("not deleted after 60s"))
    with running(at("127.0.0.1", 8000), address="auto"):
        pass
    assert found.calls == ALL
    assert "Requests are still being answered" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ConnectionError("Could not find any running Ray instance."), ValueError("no port")])
def test_a_cluster_that_is_not_there_is_told_in_words(
    cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    found = cluster(None)

    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(ConfigError, match=f"at 'auto': {str(error).rstrip('.')}. `ray status` .* RAY_AUTH_TOKEN"),
        running(at("127.0.0.1", 0), address="auto"),
    ):
        raise AssertionError("there is none")
    assert found.calls == []


def test_on_another_machine_than_the_head_nothing_listens(cluster: Callable[..., Cluster]) -> None:
    found = cluster(None)
    found.here = "10.0.0.2"
    wanted = r"the head of the cluster, 10\.0\.0\.1, and this machine is 10\.0\.0\.2: run the command there"
    with pytest.raises(ConfigError, match=wanted), running(at("127.0.0.1", 0), address="auto"):
        raise AssertionError("the proxy is elsewhere")
    assert found.calls == ["init", "leave"]


TAKEN = RayServeException('Prefix / is being used by application "other".')


def remote(error: Exception) -> Exception:
    """`error` as Ray hands it on from another process."""
    trace = f'ray::Actor.method() (pid=7)\n  File "/site-packages/serve.py", line 5, in method\n    raise it\n{error!r}'
    return RayTaskError("method", trace, error, "python", 7, "10.0.0.1").as_instanceof_cause()


@pytest.mark.parametrize(
    ("step", "error", "kind", "says"),
    [
        ("init", PermissionError(13, "Permission denied", "/.ray/auth_token"), ServiceError, r"this machine: .*denied"),
        ("init", AuthenticationError("No token\nwas found."), ServiceError, "this machine: No token was found"),
        ("init", Exception("The current node timed out."), ServiceError, r"timed out\. .* busy RAY_raylet_start_wait"),
        ("start", TimeoutError("HTTP proxies not available after 60s."), ServiceError, "start. HTTP proxies not avail"),
        ("start", RayActorError(), ServiceError, r"start\. The actor experienced an error .*worker-"),
        ("start", remote(OSError("port taken")), ServiceError, r"start\. OSError\('port taken'\)"),
        (
            "run",
            remote(TAKEN),
            ConfigError,
            r'^Ray Serve refuses the application: Prefix / is being used by application "other"\. End what is in',
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_ray_and_serve_raise_is_a_sentence(
    cluster: Callable[..., Cluster],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: Exception,
    kind: type[Exception],
    says: str,
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    cluster(None)
    monkeypatch.setattr(serve, "shutdown", lambda: None)
    monkeypatch.setattr(ray if step == "init" else serve, step, fails)
    with pytest.raises(kind, match=says) as told, running(at("127.0.0.1", 0)):
        raise AssertionError("it has failed")
    assert "\n" not in str(told.value)


def test_keys_may_be_in_the_environment_that_ray_starts_in(
    cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster(None)
    monkeypatch.setattr(serve, "shutdown", lambda: None)
    config = at("127.0.0.1", 0)
    config = config.model_copy(update={"gateway": config.gateway.model_copy(update={"api_keys_env": "KEYS_OF_OURS"})})
    monkeypatch.setenv("KEYS_OF_OURS", "sk-0123456789abcdef")
    with running(config):
        pass
    monkeypatch.delenv("KEYS_OF_OURS")
    with pytest.raises(ConfigError, match=r"KEYS_OF_OURS.*set it where Ray starts"), running(config):
        raise AssertionError("there are no keys")


def test_what_serve_is_told_is_what_it_makes_of_it() -> None:
    """Its settings depend on one another, and on their order in its code."""
    names = "RAY_SERVE_PROXY_USE_GRPC", "RAY_SERVE_LOG_TO_STDERR", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"
    code = f"from ray.serve._private import constants as c; print({', '.join(f'c.{name}' for name in names)})"
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=others | ON_EVERY_NODE, capture_output=True, text=True, timeout=60
    )
    assert run.stdout == "False True False\n", run.stderr


def test_the_cluster_is_left_whatever_the_end_was(cluster: Callable[..., Cluster]) -> None:
    found = cluster(("127.0.0.1", 8000), on_delete=RuntimeError("no controller"))
    with pytest.raises(RuntimeError), running(at("127.0.0.1", 8000), address="auto"):
        pass
    assert found.calls == ALL


def test_a_port_is_bound_in_the_family_of_its_host(taken: int) -> None:
    assert bindable("127.0.0.1", 0) > 0
    assert bindable("localhost", 0) > 0
    if socket.has_ipv6:
        assert bindable("::", 0) > 0
    with pytest.raises(ConfigError, match=r"Choose another --port\.") as error:
        bindable("127.0.0.1", taken)
    assert error.value.param == "port"


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "a..b", "a" * 70])
@pytest.mark.parametrize("port", [0, 8123])
def test_an_address_that_is_not_ours_is_the_host_s_fault(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match=rf"Cannot listen on .*{host}.*Choose another --host\.") as error:
        bindable(host, port)
    assert error.value.param == "host"


def test_clients_on_this_machine_have_an_address() -> None:
    hosts = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]", "10.0.0.7": "10.0.0.7", "here": "here"}
    assert {host: _reachable(host) for host in hosts} == hosts


def test_a_placement_that_cannot_be_is_told_before_anything_is_fetched_or_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def begins(*_: Any, **__: Any) -> None:
        raise AssertionError("it is too early")

    monkeypatch.setattr(ray, "init", begins)
    monkeypatch.setattr(launch, "_fetch_weights", begins)
    config = at("127.0.0.1", 0)
    wrong = config.target.placement.model_copy(update={"placement_group_bundles": [{"GPU": 1}]})
    target = config.target.model_copy(update={"placement": wrong})
    with (
        pytest.raises(ConfigError, match=r"target\.placement cannot be used: .*first bundle") as error,
        running(config.model_copy(update={"target": target})),
    ):
        raise AssertionError("Serve cannot place it")
    assert error.value.param == "target.placement"


SERVE_S = "The deployment failed to start 3 times in a row. See controller logs for details. Error:\n"
FRAMES = """\
ray::ServeReplica:lookahead:target.initialize_and_get_metadata() (pid=7, ip=10.0.0.1)
  File "/site-packages/ray/serve/_private/replica.py", line 1984, in initialize
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
  File "/site-packages/vllm/config/model.py", line 700, in __post_init__
    raise ValueError(
    ^^^^^^^^^^^^^^^^^
"""
PYDANTIC_S = """\
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (65536) is greater than the derived one (32768).

    For further information visit https://errors.pydantic.dev/2/v/value_error
"""
OURS = """
The above exception was the direct cause of the following exception:

ray::ServeReplica:lookahead:target.initialize_and_get_metadata() (pid=7, ip=10.0.0.1)
  File "/site-packages/actors/engines/vllm.py", line 120, in create
    raise start_failure(model_name, error) from error
actors.errors.RoleUnavailable: The card is taken.
"""


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (
            SERVE_S + FRAMES + PYDANTIC_S,
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig Value error, "
            "User-specified max_model_len (65536) is greater than the derived one (32768). For further information "
            "visit https://errors.pydantic.dev/2/v/value_error",
        ),
        (SERVE_S + FRAMES + PYDANTIC_S + OURS, "actors.errors.RoleUnavailable: The card is taken."),
        (SERVE_S + "ActorDiedError('The actor died.')", "ActorDiedError('The actor died.')"),
        ("2 replicas have taken more than 30s to initialize.\nThis may be a slow __init__.", None),
        (SERVE_S + FRAMES, "raise ValueError( ^^^^^^^^^^^^^^^^^"),
    ],
)
def test_of_a_traceback_the_last_error_is_told_with_all_of_its_lines(message: str, says: str | None) -> None:
    assert _innermost(message) == (says or message.replace("\n", " "))


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        (
            {"target": ("DEPLOY_FAILED", SERVE_S + FRAMES + OURS), "draft": ("UPDATING", "Takes more than 30s.")},
            "target: actors.errors.RoleUnavailable: The card is taken.",
        ),
        (
            {"target": ("UPDATING", "Takes more\nthan 30s"), "draft": ("HEALTHY", ""), "verifier": ("UPDATING", "")},
            "target: Takes more than 30s.",
        ),
        ({}, "Serve says no more."),
    ],
)
def test_roles_that_still_start_are_no_reason_where_one_has_failed(
    monkeypatch: pytest.MonkeyPatch, roles: dict[str, tuple[str, str]], says: str
) -> None:
    found = {name: SimpleNamespace(status=SimpleNamespace(value=s), message=m) for name, (s, m) in roles.items()}
    monkeypatch.setattr(launch, "_deployments", lambda: found)
    why = _why_not_started(RuntimeError("Serve says no more."))
    assert why.startswith(f"The deployment did not start. {says} What ")
    assert "logs/worker-*.out and worker-*.err" in why


def test_the_logs_that_are_named_are_of_the_cluster_that_was_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = SimpleNamespace(get_logs_dir_path=lambda: "/tmp/ray/session_ours/logs")
    monkeypatch.setattr(ray._private.worker, "_global_node", ours)
    monkeypatch.setattr(launch, "_deployments", dict)
    assert logs() == "/tmp/ray/session_ours/logs/worker-*.out and worker-*.err"
    assert logs() in _why_not_started(RuntimeError("Serve says no more."))


SCHEDULED = (
    "Deployment 'draft' in application 'lookahead' has 1 replicas that have taken more than 30s to be scheduled. "
    "Resources required for each replica: {needed}, total resources available: {free}. Use `ray status`."
)


@pytest.mark.parametrize(
    ("needed", "free", "is_room"),
    [
        ('{"CPU": 0.1}', '{"CPU": 1.5, "memory": 7}', True),
        ('{"CPU": 0.1, "GPU": 1.0}', '{"CPU": 1.5}', False),
        ('{"CPU": 2.0}', '{"CPU": 1.5}', False),
        ('{"CPU": 0.1}', "{}", False),
        ("{'CPU': 0.1}", "{'CPU': 1.5}", False),
        ("", "", False),
    ],
)
def test_a_replica_with_room_that_has_not_begun_is_not_told_to_lack_any(needed: str, free: str, is_room: bool) -> None:
    message = SCHEDULED.format(needed=needed, free=free)
    said = _why_it_waits("draft", message)
    assert ("is busy" in said) == is_room
    assert is_room or said == message
