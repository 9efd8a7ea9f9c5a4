"""Load rises tenfold and falls again: whether nodes and replicas of all roles follow, and what the users notice.

Promises: Ray's own autoscaler adds nodes with made-up GPUs, replicas start there, and scripted engines take as long as
written below; the load comes from another process; what is claimed is checked, and the run fails if it is not so.

Run: ``python -m deployments.bench.autoscale --out DIR`` (about six minutes on two cores)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from deployments.bench.autoscale_load import Phase, arrivals, phases_of
from deployments.bench.autoscale_plot import plot
from deployments.bench.fake_nodes import fake_cluster
from deployments.bench.figures import quantile
from deployments.config import Config, load_profile, validate_config
from deployments.server.launch import ON_EVERY_NODE, running

PHASES = "0.1:40,1.0:130,0.1:60"
OBJECTIVE_S = 12.0
"""95 of 100 requests are to be answered within this time; alone one takes about half of it."""
RECOVERY_S = 60.0
"""After the last replica of a burst is there, so long until no request ends late any more."""
IDLE_S = 15.0
"""A node without work goes after this time."""
SETTLE_S = 110.0
"""After the load: until the nodes are gone."""
HEAD = {"CPU": 8.0, "front": 100.0}
NODE_TYPES = {
    "target": ({"CPU": 1.0, "GPU": 1.0, "target": 1.0}, 4),
    "draft": ({"CPU": 1.0, "GPU": 1.0, "draft": 1.0}, 2),
}
ROLES = ("target", "draft", "verifier", "coordinator", "gateway")
Sample = dict[str, Any]


def settings() -> Config:
    """The scripted profile with slow engines on nodes of their own; target and draft grow, the draft from nothing."""
    data = load_profile("scripted").model_dump()
    data["target"]["engine"]["options"] |= {"token_s": 0.03, "sequence_s": 0.008}
    data["draft"]["engine"]["options"] |= {"token_s": 0.006, "sequence_s": 0.0005}
    for role in ("target", "draft"):
        data[role]["placement"] |= {"num_cpus": 0.1, "num_gpus": 1, "resources": {role: 1}}
    for role in ("verifier", "coordinator", "gateway"):
        data[role]["placement"] |= {"resources": {"front": 1}}
    data["gateway"]["port"] = 0
    data["autoscaling"] = {
        "target": {"min_replicas": 1, "max_replicas": 4, "load": 8},
        "draft": {"min_replicas": 0, "max_replicas": 2, "load": 16, "per_target": 0.5},
        "up_delay_s": 4,
        "down_delay_s": 20,
    }
    return validate_config(data, "autoscale")


def watch(samples: list[Sample], begin: float) -> None:
    """One more sample of replicas and nodes."""
    import ray
    from ray import serve

    application = serve.status().applications["lookahead"]
    states = {name: Counter(one.replica_states) for name, one in application.deployments.items()}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    samples.append(
        {
            "at_s": time.time() - begin,
            "ready": {name: int(states[name]["RUNNING"]) for name in ROLES},
            "starting": {name: int(states[name]["STARTING"]) for name in ROLES},
            "stopping": {name: int(states[name]["STOPPING"]) for name in ROLES},
            "nodes": {name: sum(name in node for node in nodes) for name in NODE_TYPES},
        }
    )


def run(phases: str, folder: Path) -> dict[str, Any]:
    """The whole run; its record."""
    os.environ.update(ON_EVERY_NODE, RAY_AUTH_MODE="disabled", RAY_SCHEDULER_EVENTS="0")
    samples: list[Sample] = []
    config = settings()
    requests = folder / "requests.jsonl"
    with fake_cluster(HEAD, NODE_TYPES, IDLE_S) as address, running(config, address=address) as url:
        begin = time.time()
        with requests.open("w") as lines:
            load = [sys.executable, "-m", "deployments.bench.autoscale_load", url, config.served_model_name, phases]
            client = subprocess.Popen(load, stdout=lines)  # nosec B603 # this package's own module
            try:
                until = float("inf")
                while time.time() < until:
                    watch(samples, begin)
                    time.sleep(1.0)
                    if client.poll() is not None and until == float("inf"):
                        until = time.time() + SETTLE_S
            finally:
                client.kill()
                client.wait()
    sent = [json.loads(line) for line in requests.read_text(encoding="utf-8").splitlines()]
    for one in sent:
        for name in ("start_s", "end_s", "first_s"):
            one[name] = one[name] and one[name] - begin
    return {"phases": phases, "objective_s": OBJECTIVE_S, "samples": samples, "requests": sent}


def latency(requests: list[dict[str, Any]], since_s: float, until_s: float, share: float) -> float | None:
    """A quantile of the latency of requests that came in this time."""
    return quantile([r["end_s"] - r["start_s"] for r in requests if since_s <= r["start_s"] < until_s], share)


def findings(record: dict[str, Any]) -> dict[str, Any]:
    """What the record says of the claims."""
    phases = phases_of(record["phases"])
    rise = phases[0].seconds
    samples, requests = record["samples"], record["requests"]
    most = max(sample["ready"]["target"] for sample in samples)
    arrived = next(s["at_s"] for s in samples if s["at_s"] > rise and s["ready"]["target"] == most)
    late = [r["end_s"] for r in requests if r["end_s"] - r["start_s"] > OBJECTIVE_S]
    end = samples[-1]
    return {
        "num_requests": len(requests),
        "num_expected": len(arrivals(phases)),
        "num_failed": sum(r["problem"] is not None for r in requests),
        "first_decision_s": next(s["at_s"] for s in samples if s["at_s"] > rise and s["starting"]["target"]) - rise,
        "capacity_arrived_s": arrived - rise,
        "recovered_after_capacity_s": max(max(late, default=arrived) - arrived, 0.0),
        "most": {name: max(s["ready"][name] for s in samples) for name in ROLES},
        "most_nodes": {name: max(s["nodes"][name] for s in samples) for name in NODE_TYPES},
        "last": {"ready": end["ready"], "nodes": end["nodes"]},
        "p50_s": {name: latency(requests, *span, 0.5) for name, span in _spans(phases, arrived).items()},
        "p95_s": {name: latency(requests, *span, 0.95) for name, span in _spans(phases, arrived).items()},
    }


def _spans(phases: list[Phase], arrived_s: float) -> dict[str, tuple[float, float]]:
    rise = phases[0].seconds
    fall = rise + phases[1].seconds
    recovered = min(arrived_s + RECOVERY_S, fall)
    return {
        "before": (0.0, rise),
        "waiting for capacity": (rise, arrived_s),
        "recovering": (arrived_s, recovered),
        "with capacity": (recovered, fall),
        "after": (fall, float("inf")),
    }


def failures(found: dict[str, Any]) -> list[str]:
    """The claims that do not hold."""
    checks = {
        "every request was answered whole": found["num_failed"] == 0 and found["num_requests"] == found["num_expected"],
        "nodes were added for both roles": all(found["most_nodes"][role] > 1 for role in ("target", "draft")),
        "replicas of both roles started there": found["most"]["target"] >= 3 and found["most"]["draft"] >= 2,
        "the objective was met again in time": found["recovered_after_capacity_s"] <= RECOVERY_S,
        "the load fell, and replicas went": found["last"]["ready"]["target"] == 1,
        "without load there is no draft": found["last"]["ready"]["draft"] == 0,
        "nodes went": found["last"]["nodes"] == {"target": 1, "draft": 0},
    }
    return [claim for claim, holds in checks.items() if not holds]


def main() -> None:
    """The run, its record, its plot and its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phases", default=PHASES, help="RATE:SECONDS,RATE:SECONDS,RATE:SECONDS")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    record = run(options.phases, options.out)
    (options.out / "samples.json").write_text(json.dumps(record), encoding="utf-8")
    record["findings"] = findings(record)
    (options.out / "autoscale.json").write_text(json.dumps(record), encoding="utf-8")
    (options.out / "autoscale.svg").write_text(plot(record), encoding="utf-8")
    print(json.dumps(record["findings"], indent=2))
    wrong = failures(record["findings"])
    if wrong:
        raise SystemExit("Not so: " + "; ".join(wrong) + ".")


if __name__ == "__main__":
    main()
