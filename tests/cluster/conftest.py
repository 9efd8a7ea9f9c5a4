"""One Ray cluster with the scripted profile for the tests of this folder; it ends before another one starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from deployments.config import Config, load_profile, validate_config
from deployments.server.launch import running

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # no token file in the home of whoever runs the tests


@dataclass(frozen=True)
class Served:
    """A running endpoint."""

    url: str
    config: Config
    openai: OpenAI

    def trace(self, request_id: str) -> dict[str, object]:
        answer = httpx.get(f"{self.url}/v1/traces/{request_id}")
        assert answer.status_code == 200, answer.text
        trace: dict[str, object] = answer.json()
        return trace

    def metric(self, name: str) -> float:
        """Sum of a metric's samples over all labels."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def scripted(audit: Path | None = None) -> Config:
    """The scripted profile, on a free port, with two target replicas and two coordinators; with an audit log in the
    folder `audit`."""
    settings = load_profile("scripted").model_dump()
    settings["gateway"]["port"] = 0
    settings["target"]["placement"]["num_replicas"] = 2
    settings["coordinator"]["placement"]["num_replicas"] = 2
    settings["speculation"]["draft_retry_s"] = 0.5
    if audit is not None:
        settings["telemetry"]["audit"]["path"] = str(audit)
    return validate_config(settings, "test")


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = scripted(tmp_path_factory.mktemp("audit")).model_dump()
    control = str(tmp_path_factory.mktemp("control"))  # where the engines keep a log of their work
    for role in ("target", "draft"):
        settings[role]["engine"]["options"]["control"] = control
    config = validate_config(settings, "test")
    with running(config) as url, OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield Served(url, config, client)
