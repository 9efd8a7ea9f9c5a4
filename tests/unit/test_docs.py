"""The documents say what the code says: diagram, modules, settings, links, examples."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from deployments import autoscaling_config, config, gateway_config, sections, speculation_config, verifier_config
from deployments.coordinator.transitions import mermaid
from deployments.gateway.translate import ask_chat

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
SHELL = "(?:ba)?sh"
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())

SECTIONS: dict[type[BaseModel], str] = {
    config.Config: "",
    sections.WriterConfig: "target.",
    sections.EngineConfig: "engine.",
    sections.PlacementConfig: "placement.",
    verifier_config.VerifierConfig: "verifier.",
    verifier_config.VerifierPlacement: "verifier.placement.",
    verifier_config.ExactCheck: "exact.",
    verifier_config.SameNumbersCheck: "same_numbers.",
    verifier_config.SamePolarityCheck: "same_polarity.",
    verifier_config.EmbeddingCheck: "embedding.",
    verifier_config.JudgeCheck: "judge.",
    verifier_config.ScoreCheck: "score.",
    verifier_config.LikelihoodCheck: "likelihood.",
    verifier_config.SelfConfidenceCheck: "self_confidence.",
    verifier_config.AlwaysCheck: "always.",
    verifier_config.NeverCheck: "never.",
    verifier_config.RandomCheck: "random.",
    verifier_config.ScriptedCheck: "scripted.",
    speculation_config.SpeculationConfig: "speculation.",
    speculation_config.StepConfig: "step.",
    speculation_config.SilenceConfig: "silence.",
    speculation_config.SpecReasonConfig: "specreason.",
    speculation_config.ControllerConfig: "controller.",
    config.ReasoningConfig: "reasoning.",
    config.CoordinatorConfig: "coordinator.",
    config.CoordinatorPlacement: "coordinator.placement.",
    gateway_config.GatewayConfig: "gateway.",
    gateway_config.GatewayPlacement: "gateway.placement.",
    gateway_config.ApiKeyConfig: "api_keys.",
    gateway_config.KeyLimits: "key_limits.",
    gateway_config.AdmissionConfig: "admission.",
    config.TelemetryConfig: "telemetry.",
    autoscaling_config.AutoscalingConfig: "autoscaling.",
    autoscaling_config.RoleScaling: "scaling.",
    config.AuditConfig: "audit.",
}
"""How the configuration page writes the settings of each model."""


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of `text` in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """`text` without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def test_the_state_diagram_is_the_transition_table() -> None:
    page = read("docs/architecture.md")
    shown = page.split("<!-- states:begin -->")[1].split("<!-- states:end -->")[0]
    assert shown.strip() == f"```mermaid\n{mermaid()}\n```"


def modules() -> set[str]:
    """Every module with something in it."""
    files = [file for folder in ("actors", "deployments") for file in (ROOT / folder).rglob("*.py")]
    return {file.relative_to(ROOT).as_posix() for file in files if file.stat().st_size}


def test_the_architecture_has_a_line_for_every_module() -> None:
    rows = re.findall(r"^\| `((?:actors|deployments)/\S+\.py)` \| \S", read("docs/architecture.md"), re.MULTILINE)
    compare("docs/architecture.md", rows, modules())


def compare(page: str, rows: Iterable[str], things: Iterable[str]) -> None:
    """Fails unless `page` has one line for each of `things` and for nothing else; says for which."""
    found = Counter(rows)
    missing = sorted(set(things) - found.keys())
    assert not missing, f"{page} has no line for {', '.join(missing)}"
    strange = sorted(found.keys() - set(things))
    assert not strange, f"{page} has a line for {', '.join(strange)}, which there is not"
    twice = sorted(name for name, number in found.items() if number > 1)
    assert not twice, f"{page} has more than one line for {', '.join(twice)}"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["a.py"], "page.md has no line for b.py\n"),
        (["a.py", "b.py", "c.py"], "page.md has a line for c.py, which there is not\n"),
        (["a.py", "b.py", "a.py"], "page.md has more than one line for a.py\n"),
    ],
)
def test_what_a_page_lacks_is_named(rows: list[str], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        compare("page.md", rows, ["a.py", "b.py"])


@EACH_PAGE
def test_files_and_tests_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`((?:actors|deployments|tests)/[\w/.]*?)(?:::\w+)?`", page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name
    for file, test in re.findall(r"`(tests/\S+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
        assert re.search(rf"^(async )?def {test}\(", read(file), re.MULTILINE), f"{file} has no {test}"


def shown_default(field: FieldInfo) -> str:
    """A default as the configuration page writes it."""
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        return "see below"
    return f"`{json.dumps(to_jsonable_python(field.default))}`"


def own_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The settings of `model`; where it is a kind of another section, those whose default is another there."""
    known = [base.model_fields for base in model.__mro__[1:] if base in SECTIONS]
    fields = model.model_fields.items()
    return {
        name: field
        for name, field in fields
        if all(shown_default(base[name]) != shown_default(field) for base in known)
    }


def test_the_configuration_page_has_every_setting_with_its_default() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \| \S", read("docs/configuration.md"), re.MULTILINE)
    fields = {name: shown_default(field) for name, field in settings()}
    compare("docs/configuration.md", [name for name, _ in rows], fields)
    for name, default in rows:
        assert default == fields[name], f"docs/configuration.md: the default of {name} is {fields[name]}, not {default}"


def settings() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting as the configuration page names it."""
    for model, prefix in SECTIONS.items():
        for name, field in own_fields(model).items():
            yield prefix + name, field


def choices_of(annotation: Any) -> set[tuple[str, ...]]:
    """The sets of words that a value of this type, or a part of it, is one of."""
    if get_origin(annotation) is Literal:
        return {get_args(annotation)}
    return set().union(*map(choices_of, get_args(annotation)))


def test_the_configuration_page_names_every_word_that_a_setting_may_be() -> None:
    """In the line of one of the settings that take these words, as code."""
    meanings = dict(re.findall(r"^\| `([\w.]+)` \| .+? \| (\S.*)$", read("docs/configuration.md"), re.MULTILINE))
    said: dict[tuple[str, ...], str] = {}
    for name, field in settings():
        for words in choices_of(field.annotation):
            said[words] = said.get(words, "") + meanings.get(name, "")
    assert {
        get_args(speculation_config.Mode),
        get_args(speculation_config.Boundary),
        ("vllm", "scripted"),
    } < said.keys()
    for words, text in said.items():
        missing = [word for word in words if len(words) > 1 and f"`{word}`" not in text]
        assert not missing, f"docs/configuration.md does not say what {missing[0]!r} (of {', '.join(words)}) is"


def models_of(annotation: Any) -> set[type[BaseModel]]:
    """The models that a value of this type is made of, theirs included."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}.union(*(models_of(field.annotation) for field in annotation.model_fields.values()))
    return set().union(*map(models_of, get_args(annotation)))


def test_no_section_of_the_configuration_is_forgotten() -> None:
    missing = sorted(model.__name__ for model in models_of(config.Config) - SECTIONS.keys())
    assert not missing, f"SECTIONS in tests/unit/test_docs.py has no line for {', '.join(missing)}"
    strange = sorted(model.__name__ for model in SECTIONS.keys() - models_of(config.Config))
    assert not strange, f"SECTIONS has a line for {', '.join(strange)}, which is no section of the configuration"


def test_the_readme_gives_the_two_commands() -> None:
    (commands, *_) = blocks(read("README.md"), "bash")
    assert re.findall(r"^make \w+", commands, re.MULTILINE) == ["make demo", "make test"]


@EACH_PAGE
def test_make_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):(?!=)", read("Makefile"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`make (?:[A-Z]\S* )*([a-z]+)", text))
    for block in blocks(text, SHELL):
        named |= set(re.findall(r"^make (?:[A-Z]\S* )*([a-z]+)", block, re.MULTILINE))
    assert named <= targets


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@EACH_PAGE
def test_links_inside_the_project_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in slugs(target), f"{page.name} links to {link}"


@EACH_PAGE
def test_examples_can_be_read_by_what_they_are_for(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in blocks(text, "python"):
        ast.parse(block)
    for block in blocks(text, SHELL):
        checked = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
        assert checked.returncode == 0, f"{checked.stderr}\n{block}"
    for block in blocks(text, "json"):
        json.loads(block)
    for block in blocks(text, "yaml"):
        yaml.safe_load(block)


def test_the_requests_in_the_readme_are_valid() -> None:
    readme = read("README.md")
    (curl,) = re.findall(r"-d '(\{.*?\})'$", readme, re.DOTALL | re.MULTILINE)
    (snippet,) = blocks(readme, "python")
    calls = [node for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Call)]
    (create,) = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "create"]
    body = {word.arg: ast.literal_eval(word.value) for word in create.keywords}
    for data in (json.loads(curl), {**body, **body["extra_body"]}):
        data.pop("extra_body", None)
        (request,) = ask_chat(data, config.load_profile("local"), "r").requests
        assert request.speculation.mode == "lookahead"


def test_the_configurations_that_are_shown_can_be_used() -> None:
    shown: list[Any] = [config.parse_config(b, "example") for b in blocks(read("docs/configuration.md"), "yaml")]
    assert [each.served_model_name for each in shown] == ["r1-32b", "pair"]
    assert shown[0].draft is not None
    assert [check.kind for check in shown[1].verifier.verifiers["numbers_and_meaning"]] == [
        "exact",
        "same_numbers",
        "embedding",
        "judge",
    ]


def test_decisions_are_numbered_without_a_gap() -> None:
    files = sorted((DOCS / "decisions").glob("*.md"))
    assert [file.name[:4] for file in files] == [f"{number:04}" for number in range(1, len(files) + 1)]
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert text.startswith(f"# {file.name[:4]}: ")
        assert all(f"**{part}.**" in text for part in ("Decision", "Why", "Alternatives", "Cost")), file.name


def test_the_licence_is_the_one_that_is_declared() -> None:
    assert "Apache License\n                           Version 2.0, January 2004" in read("LICENSE")
    assert 'license = "Apache-2.0"' in read("pyproject.toml")
