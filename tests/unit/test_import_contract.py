"""The arrows between rooms: `deployments` imports `actors`, never back; the pure rooms import nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PURE = [
    "actors.messages",
    "actors.errors",
    "deployments.gateway.limits",
    "deployments.gateway.fair_queue",
    "deployments.gateway.drain",
    "deployments.gateway.concurrency",
    "deployments.gateway.lateness",
    "deployments.gateway.admission",
    "deployments.coordinator.transitions",
    "deployments.coordinator.window",
    "deployments.coordinator.output",
    "deployments.coordinator.paths",
    "deployments.coordinator.events",
    "deployments.coordinator.settings",
    "deployments.coordinator.tally",
    "deployments.coordinator.theory",
    "deployments.coordinator.transcript",
    "deployments.coordinator.calls",
    "deployments.coordinator.guided",
    "deployments.coordinator.hints",
    "deployments.coordinator.counsel",
    "deployments.coordinator.drafting",
    "deployments.coordinator.strategies",
    "deployments.coordinator.stream",
    "deployments.coordinator.latency",
    "deployments.coordinator.breaker",
    "deployments.coordinator.vigilance",
    "deployments.generation",
    "deployments.ledger",
    "deployments.coordinator.session",
    "deployments.coordinator.control",
    "deployments.coordinator.control.batch_cost",
    "deployments.coordinator.control.choice",
    "deployments.coordinator.control.controller",
    "deployments.coordinator.control.estimates",
    "deployments.coordinator.control.guidance",
    "deployments.coordinator.control.means",
    "deployments.coordinator.control.pacer",
    "deployments.coordinator.control.ways",
    "deployments.simulation.costs",
    "deployments.simulation.batch",
    "deployments.simulation.scripts",
    "deployments.simulation.texts",
    "deployments.simulation.decisions",
    "deployments.simulation.led",
    "deployments.simulation.own_session",
    "deployments.simulation.passages",
    "deployments.simulation.hardware",
]
HEAVY = ["ray", "torch", "vllm", "fastapi", "pydantic", "numpy", "yaml"]


@pytest.mark.parametrize("module", PURE)
def test_pure_rooms_import_nothing_heavy(module: str) -> None:
    """In a bare interpreter, since this one has imported everything already."""
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", [m for m in PURE if m.startswith("deployments")])
def test_pure_rooms_have_no_clock_and_no_loop(module: str) -> None:
    path = ROOT / module.replace(".", "/")
    files = [path.with_suffix(".py")] if path.with_suffix(".py").exists() else list(path.glob("*.py"))
    for file in files:
        assert not {"asyncio", "time", "random", "logging"} & imports(file), file


def imports(file: Path) -> set[str]:
    """Top-level names of what `file` imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("file", sorted((ROOT / "actors").rglob("*.py")), ids=lambda p: p.stem)
def test_actors_never_import_deployments(file: Path) -> None:
    found = imports(file)
    assert "deployments" not in found
    assert "ray" not in found
    own = ("vllm.py", "vllm_terms.py", "hint_scheduler.py", "short_head.py", "waiting.py", "int8_kernel.py")
    if file.name not in own:
        assert "vllm" not in found


@pytest.mark.parametrize("file", sorted((ROOT / "deployments" / "gateway").rglob("*.py")), ids=lambda p: p.stem)
def test_the_gateway_knows_nothing_of_speculation(file: Path) -> None:
    text = file.read_text()
    assert "deployments.coordinator" not in text
    assert "import ray" not in text
