"""``lookahead bench`` against a cluster with scripted engines: stopped by Ctrl-C in the middle, and gone on with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.conftest import Served

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


def command(served: Served, out: Path) -> list[str]:
    options = {
        "--url": served.url, "--modes": "lookahead,plain", "--data": "synthetic:easy", "--limit": "4",
        "--concurrency": "2", "--rate": "4", "--objective-s": "60", "--max-tokens": "200", "--out": str(out),
    }  # fmt: skip
    words = [word for pair in options.items() for word in pair]
    return [sys.executable, "-m", "deployments.cli.main", "bench", "--json", *words]


def num_lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def blocks_of(path: Path) -> Counter[float]:
    """How many lines each block has."""
    return Counter(json.loads(line)["block_started_at"] for line in path.read_text().splitlines())


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(served, tmp_path):
    out, requests = tmp_path / "out", tmp_path / "out" / "requests.jsonl"
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    first = subprocess.Popen(
        command(served, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        deadline = time.monotonic() + 120
        while num_lines(requests) < 3 and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        first.send_signal(signal.SIGINT)
        words = first.communicate(timeout=60)[1]
    finally:
        first.kill()
        first.wait(10)
    assert first.returncode == 130, words
    told = re.search(
        r"Stopped; (\d+) of 16 requests are kept(?: \((\d+) more will be asked again.*?\))?\. Go on", words
    )
    assert told, words
    kept, again = int(told[1]), int(told[2] or 0)
    before = blocks_of(requests)
    assert 3 <= kept + again == num_lines(requests) < 16
    assert again < 4  # fewer than one block has
    assert json.loads((out / "report.json").read_text())["complete"] is False
    assert "This run is not finished" in (out / "report.html").read_text()

    second = subprocess.run(
        command(served, out), capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert second.returncode == 0, second.stderr
    assert f"Going on: {kept} of 16 requests are kept" in second.stderr
    report = json.loads(second.stdout)
    # What was answered of the block that was broken off is asked once more, with all of that block; nothing else is.
    assert (num_lines(requests), report["complete"]) == (16 + again, True)
    after = blocks_of(requests)
    assert {block: after[block] for block in before} == before
    assert sum(after[block] for block in after.keys() - before.keys()) == 16 - kept
    rows = {(row["mode"], row["concurrency"], row["rate"]): row for row in report["rows"]}
    assert len(rows) == 4
    assert {row["num_requests"] for row in rows.values()} == {4}
    assert {row["num_failed"] for row in rows.values()} == {0}
    lookahead = rows["lookahead", 2, None]
    assert 0 < lookahead["accept_rate"] < 1
    assert 0 < lookahead["accept_rate_by_tokens"] < 1
    assert lookahead["time_use"]["target"] + lookahead["time_use"]["both"] > 0
    assert lookahead["num_steps_by_position"]
    assert rows["plain", None, 4.0]["goodput_per_s"] > 0
