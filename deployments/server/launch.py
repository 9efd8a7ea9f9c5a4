"""The application on Ray, from its start until a context ends.

Promises: weights are there before a process is started for them; the address is given when all roles are able to serve;
whatever ends the context ends everything that was started, but for Serve itself on a cluster that was joined, and lets
answers that are under way come to their end first; a deployment that cannot start says why.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from actors.errors import ConfigError, ServiceError
from deployments.server.ending import let_answers_end
from deployments.server.interrupts import uninterrupted
from deployments.server.joining import join

if TYPE_CHECKING:
    from deployments.config import Config

APP_NAME = "lookahead"
SERVE_TRANSPORT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
}
"""Proxy and replicas have Serve's part and ours on one event loop, which costs less than threads for each. The proxy's
calls to the gateways are actor calls with it and without it; all other calls of a request go over links. Replicas
report to the autoscaling policy every two seconds: Serve's ten would be most of a burst's wait for a decision. One
whose health check has failed is ended at once: Serve would ask a process that does not run to leave, and wait an hour
for it, while it holds the GPU that its successor needs."""
ON_EVERY_NODE = SERVE_TRANSPORT | {
    "RAY_worker_niceness": "0",
    "RAY_SERVE_LOG_TO_STDERR": "1",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.server.proxy:middlewares",
}
"""What has to be set where Ray starts. Its default niceness of 15 lets whatever else runs there slow the engines.
Optimised for throughput, Serve would take what a replica writes to its standard output and error, and drop it. And its
proxy takes orders from the headers of clients."""
ON_ONE_MACHINE = {"RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "1"}
"""Where the models compute on the same cores, Serve's controller looks at its replicas once a second, not ten times:
that took 4 % of a core from them, and 1 % more for Ray's store."""
POLL_S = 0.5
LAST_LOGS = "/tmp/ray/session_latest/logs"  # nosec B108 # named, not written
"""Where the processes of the cluster that this machine started last write."""
HEAD = "node:__internal_head__"
"""The resource by which Ray knows the head of a cluster."""


@contextlib.contextmanager
def running(config: Config, *, address: str = "local") -> Iterator[str]:
    """The cluster for `config`, as long as the context lasts; gives the base URL.

    Raises ServiceError with the reason if Ray, Serve or a role does not start, ConfigError for a placement that Ray
    refuses, if the port is taken, if this machine is not the head of the cluster at `address`, if Ray Serve runs there
    already and listens elsewhere or has another application in the way, or, on this machine, if API keys cannot be
    read.
    """
    for name, value in (ON_EVERY_NODE | (ON_ONE_MACHINE if address == "local" else {})).items():
        os.environ.setdefault(name, value)  # read when Ray starts and when Serve is imported, here and in every replica
    import ray

    from deployments.app import compose
    from deployments.gateway.keyring import KeyRing

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    application = compose(config)  # what Ray refuses is said before anything is fetched or started
    gateway = config.gateway
    host, port = gateway.host, gateway.port
    if address == "local":  # elsewhere each node fetches what its roles need, and has its own file of keys
        port = bindable(host, port)
        KeyRing(gateway, frozenset(config.speculation.fidelities), os.environ)
        _fetch_weights(config)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    join(address)
    begun = False
    try:
        if address != "local":
            _refuse_all_but_the_head()
            port = _port_of_instance(host, port) or bindable(host, port)
        begun = True
        _deploy(application, host, port)
        try:
            yield f"http://{_reachable(host)}:{port}"
        finally:
            if address == "local":  # another Ctrl-C may end this wait, and nothing after it
                let_answers_end(APP_NAME)
    finally:
        # Ray's listener prints that the controller it was told to kill is dead, and on stdout.
        with uninterrupted(), contextlib.redirect_stdout(io.StringIO()):
            try:
                if begun:
                    _end(address)
            finally:
                ray.shutdown()


def _refuse_all_but_the_head() -> None:
    """ConfigError on any other machine of the cluster that was joined: Serve's proxy is on the head."""
    import ray

    heads = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"]]
    here = ray.util.get_node_ip_address()
    if heads and here not in heads:
        raise ConfigError(
            f"Ray Serve listens on the head of the cluster, {heads[0]}, and this machine is {here}: run the command "
            "there, or use `serve deploy` (docs/operations.md).",
            "address",
        )


def _deploy(application: Any, host: str, port: int) -> None:
    """Start Serve, if it does not run, and `application` on it; returns when all roles are able to serve."""
    from ray import serve as ray_serve
    from ray.exceptions import RayError
    from ray.serve.config import HTTPOptions
    from ray.serve.exceptions import RayServeException
    from ray.serve.schema import LoggingConfig

    quiet = LoggingConfig(enable_access_log=False, log_level="ERROR")
    # One proxy, as in deploy/serve.yaml: one on every node would take streams that end with a node which the
    # autoscaler removes, and keep that node for as long as anybody reads from it.
    http = HTTPOptions(host=host, port=port)
    try:
        ray_serve.start(proxy_location="HeadOnly", http_options=http, logging_config=quiet)
        with _progress():
            ray_serve.run(application, name=APP_NAME, logging_config=quiet)
    except RayServeException as error:  # what was raised in Serve's controller is the cause of what arrives here
        raise ConfigError(
            f"Ray Serve refuses the application: {getattr(error, 'cause', error)} End what is in its way where it was "
            "started, or with `serve shutdown`, which ends all of Serve on this cluster."
        ) from error
    except (RayError, RuntimeError, TimeoutError) as error:
        raise ServiceError(_why_not_started(error)) from error


def _port_of_instance(host: str, port: int) -> int | None:
    """The port of the Serve instance on the cluster that was joined, if there is one: it outlives applications, and
    keeps the address that it was started with. ConfigError if that is another than the one asked for, or if the
    application is there already: it would be replaced."""
    from ray import serve as ray_serve
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return None
    there = client.http_config
    if there.host != host or port not in (0, there.port):
        raise ConfigError(
            f"Ray Serve runs on this cluster already and listens on {there.host}:{there.port}, not on {host}:{port}. "
            f"Give --host {there.host} --port {there.port}, or end it with `serve shutdown`, which cuts "
            "all requests on this cluster.",
            "port",
        )
    application = ray_serve.status().applications.get(APP_NAME)
    if application is not None:
        raise ConfigError(
            f"The application {APP_NAME!r} is on this cluster already ({application.status.value.lower()}). End it "
            "where it was started: `serve deploy` a file with `applications: []` lets answers end; `serve shutdown` "
            "cuts all requests on this cluster."
        )
    return int(there.port)


def _end(address: str) -> None:
    """All of Serve on this machine; elsewhere the application alone."""
    from ray import serve as ray_serve

    if address == "local":
        ray_serve.shutdown()
        return
    try:
        ray_serve.delete(APP_NAME)
    except TimeoutError:
        print("Requests are still being answered; Ray Serve ends the application when they are.", file=sys.stderr)


def _fetch_weights(config: Config) -> None:
    """Here, with a progress bar, rather than in a replica that nobody sees."""
    from actors.models import is_cached, resolve
    from deployments.config import models_of
    from deployments.server.fetching import progress_bar

    for model in models_of(config):
        if not is_cached(model):
            with progress_bar(model) as report:
                resolve(model, progress=report)


@contextlib.contextmanager
def _progress() -> Iterator[None]:
    """Shows on the terminal which roles are up, while the body runs, and says what a role that does not come up waits
    for: Serve waits for resources without end."""
    from rich.console import Console

    console = Console(stderr=True, emoji=False)
    done = threading.Event()

    def watch() -> None:
        told: set[str] = set()
        with console.status("Starting ...") if console.is_terminal else contextlib.nullcontext() as status:
            while not done.wait(POLL_S):
                deployments = _deployments()
                if status is not None:
                    status.update(_states(deployments))
                for name, deployment in deployments.items():
                    if name not in told and "to be scheduled" in deployment.message:
                        told.add(name)
                        console.print(_why_it_waits(name, deployment.message.strip()), markup=False, style="yellow")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _why_it_waits(role: str, message: str) -> str:
    """Serve's own words, but where it says itself that there is room: then nothing is missing but time."""
    needed, free = ([*re.findall(r"\{[^{}]*\}", message), "{}", "{}"])[:2]
    with contextlib.suppress(ValueError):
        has = json.loads(free)
        if has and all(has.get(name, 0) >= amount for name, amount in json.loads(needed).items()):
            return f"{role}: not begun after 30 s, though there is room for it: this machine is busy, and it goes on."
    return message


def _deployments() -> dict[str, Any]:
    """What Serve says of each role; nothing while Serve itself starts."""
    from ray import serve as ray_serve

    try:
        application = ray_serve.status().applications.get(APP_NAME)
    except Exception:
        return {}
    return dict(application.deployments) if application is not None else {}


def _states(deployments: dict[str, Any]) -> str:
    if not deployments:
        return "Starting Ray Serve ..."
    return "Starting: " + ", ".join(f"{name} {d.status.value.lower()}" for name, d in deployments.items())


def logs() -> str:
    """Where the processes of the cluster that this process is part of write, one pair of files each."""
    from ray._private import worker

    node = worker._global_node
    folder = LAST_LOGS if node is None else node.get_logs_dir_path()
    return f"{folder}/worker-*.out and worker-*.err"


def _why_not_started(error: Exception) -> str:
    """The deployments' own words, and where more is written. Roles that are still starting are named only where none
    has failed."""
    told = {name: said for name, said in _deployments().items() if said.status.value != "HEALTHY" and said.message}
    failed = {name: said for name, said in told.items() if said.status.value != "UPDATING"}
    reasons = [f"{name}: {_innermost(said.message).rstrip('.')}." for name, said in (failed or told).items()]
    return (
        f"The deployment did not start. {' '.join(reasons) or _innermost(str(error))} What the roles' processes wrote "
        f"themselves is on their nodes, in {logs()}."
    )


def _innermost(message: str) -> str:
    """What the last error of the tracebacks in `message` says, in one line; without one all of `message`."""
    lines = (message.partition(" Error:\n")[2] or message).splitlines()  # Serve's own words stand before that
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    after = lines[frames[-1] + 1 :] if frames else lines
    said = list(itertools.dropwhile(lambda line: not line or line[0].isspace(), after))  # the frame's code
    return " ".join(" ".join(said or after).split())


def bindable(host: str, port: int) -> int:
    """`port`, or a free one for 0, after it was bound once; ConfigError if it cannot be."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # the second: a name that no network can have
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"Cannot listen on {host!r}: {why}. Choose another --host.", "host") from error
    # Serve listens on IPv6 for addresses that are written so alone.
    family, _, _, _, where = min(found, key=lambda one: one[0] != socket.AF_INET)
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as error:
            other = "port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "host"
            raise ConfigError(
                f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --{other}.", other
            ) from error
        return int(probe.getsockname()[1])


def _reachable(host: str) -> str:
    """`host` as a client on this machine writes it."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # nosec B104 # compared, not bound
    return f"[{local}]" if ":" in local else local
