"""YAML that people write for us."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from actors.errors import ConfigError
from deployments.config import load_config, parse_config
from deployments.simulation.scenario import parse_scenario
from deployments.yaml_text import read_yaml


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("gateway: {host: 0.0.0.0}\ntarget: {}\ngateway: {api_keys_file: keys.yaml}\n", "gateway", 3),
        ("gateway:\n  port: 1\n  host: ::1\n  port: 2\n", "port", 4),
        ("{a: 1, a: 1}", "a", 1),
        ("'a': 1\na: 2\n", "a", 2),
    ],
)
def test_a_key_that_stands_there_twice_is_named_with_its_line(text: str, key: str, line: int) -> None:
    for read in (read_yaml, parse_config, parse_scenario):
        with pytest.raises(
            ConfigError, match=rf"^the file is not valid YAML: (?s:.*)'{key}' stands there twice"
        ) as told:
            read(text, "the file")
        assert f"line {line}, column" in str(told.value)


def test_what_is_merged_in_may_be_said_anew() -> None:
    text = "one: &one {<<: &base {a: 1, b: 2}, b: 3}\ntwo: {<<: *one, a: 4}\nthree: {<<: *base, b: 5}\n"
    assert read_yaml(text, "the file") == yaml.safe_load(text)


NESTED = "".join(f"{' ' * depth}a:\n" for depth in range(1500))


@pytest.mark.parametrize(
    "text",
    ["a: [", "a: 2025-02-30", "a: 0x_", "a: \0", "a: !!bool b", "a: !!int ''", "a: !!timestamp b", "[" * 9999, NESTED],
    ids=lambda text: text[:16],
)
def test_what_cannot_be_read_is_an_error_of_the_file(text: str) -> None:
    with pytest.raises(ConfigError, match="the file is not valid YAML") as told:
        read_yaml(text, "the file")
    assert "unicode string" not in str(told.value), "the file has a name"


def test_a_file_that_is_no_configuration_is_not_read_for_minutes(tmp_path: Path) -> None:
    long = tmp_path / "weights.yaml"
    long.write_text("# nothing\n" * 200_000)
    with pytest.raises(ConfigError, match=r"weights\.yaml is longer than 1000000 characters: it is another file\."):
        load_config(long)
