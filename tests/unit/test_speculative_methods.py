"""The token-level methods that the documentation names, against the installed vLLM's own configuration class.

Read as text, not imported: that takes a quarter of a minute, and a unit test starts no engine.
"""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIGURATION = Path("docs/configuration.md").read_text(encoding="utf-8")
SETTINGS = [
    yaml.safe_load(text) for text in re.findall(r"^\| .* \| `(\{method: .*?\})` \|$", CONFIGURATION, re.MULTILINE)
]


@pytest.fixture(scope="module")
def module() -> ast.Module:
    found = find_spec("vllm")
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).parent / "config" / "speculative.py"
    return ast.parse(source.read_text(encoding="utf-8"))


def test_the_page_names_the_methods() -> None:
    assert {settings["method"] for settings in SETTINGS} == {"ngram", "draft_model", "eagle3", "mtp", "suffix"}


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings["method"])
def test_vllm_knows_the_method_and_each_of_its_settings(module: ast.Module, settings: dict[str, Any]) -> None:
    names = {node.value for node in ast.walk(module) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert settings["method"] in names
    (config,) = [node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "SpeculativeConfig"]
    fields = {n.target.id for n in config.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    assert settings.keys() <= fields
