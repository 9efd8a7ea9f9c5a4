"""Nobody's code but ours runs: no model's Python, and nothing of a client's is unpickled or evaluated."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [file for folder in ("actors", "deployments") for file in sorted((ROOT / folder).rglob("*.py"))]
LAUNCH = [
    ROOT / "cluster.yaml",
    ROOT / "Dockerfile",
    *(ROOT / "deploy").rglob("*.yaml"),
    *ROOT.rglob("profiles/*.yaml"),
]
RUNS_WHAT_IT_READS = {"pickle", "cloudpickle", "marshal", "shelve", "dill", "eval", "exec", "compile", "__import__"}


def names(file: Path) -> set[str]:
    """All names, attributes, keywords and modules in a source, without its comments and texts."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.keyword) and node.arg is not None:
            found.add(node.arg)
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.split(".")[0])
    return found


def test_no_model_s_python_is_asked_for() -> None:
    """An operator may, in `engine.options`; nothing that is shipped does."""
    assert [file for file in SOURCES if "trust_remote_code" in names(file)] == []
    assert [file for file in LAUNCH if "trust_remote_code" in file.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("file", [f for f in SOURCES if "gateway" in f.parts], ids=lambda file: file.name)
def test_the_gateway_runs_nothing_that_it_reads(file: Path) -> None:
    assert names(file) & RUNS_WHAT_IT_READS == set()
