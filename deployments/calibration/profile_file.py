"""Writes a threshold into a profile's YAML.

Promises: only the settings of the one check change; every other character of the file, comments included, stays; what
is written is a configuration that can be used, and says otherwise the same as before. `require_measured` says whether a
file that is there already has the check that was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from actors.errors import ConfigError
from deployments.calibration.scoring import Place
from deployments.config import Config, parse_config


def require_measured(text: str, place: Place, measured: Config, source: str) -> None:
    """ConfigError unless the check at `place` in `text` is the one of `measured`, thresholds apart: the same settings
    and models, behind the same checks, since those decide which pairs reach it."""
    if _measured_part(parse_config(text, source), place) != _measured_part(measured, place):
        raise ConfigError(
            f"As number {place.index + 1} of the verifier {place.verifier!r} {source} has not the check "
            f"{place.kind!r} that is to be measured, or other checks before it or other models for them, so the "
            f"threshold would be wrong there: measure with --config {source}.",
            "write_profile",
        )


def _measured_part(config: Config, place: Place) -> list[tuple[dict[str, Any], str | None]]:
    """The cascade up to the check at `place`: of each check its settings, and the model that it asks, if any."""
    writers = {"target": config.target, "draft": config.draft, "own": config.verifier.judge}
    found = []
    for number, check in enumerate(config.verifier.verifiers.get(place.verifier, [])[: place.index + 1]):
        writer = writers.get(getattr(check, "engine", ""))
        thresholds = {"accept", "reject", "calibration"} if number == place.index else set()
        found.append((check.model_dump(exclude=thresholds), writer.model if writer is not None else None))
    return found


def with_check(text: str, place: Place, settings: Mapping[str, Any], source: str) -> str:
    """`text` with `settings` in the check at `place`; ConfigError if there is no such check, or the file is written so
    that only people can change it there."""
    before = parse_config(text, source)
    verifier, index = place.verifier, place.index
    checks = before.verifier.verifiers.get(verifier, [])
    if index >= len(checks) or checks[index].kind != place.kind:
        raise ConfigError(
            f"{source} has no check {place.kind!r} as number {index + 1} of a verifier {verifier!r}.", "write_profile"
        )
    check = _check_node(text, verifier, index)
    edits = [_edit(text, check, name, value) for name, value in settings.items()] if check is not None else []
    for start, end, words in sorted(edits, reverse=True):
        text = text[:start] + words + text[end:]
    if parse_config(text, source) != _changed(before, verifier, index, settings):
        wanted = ", ".join(f"{name}: {json.dumps(value)}" for name, value in settings.items())
        raise ConfigError(
            f"{source} writes the verifier {verifier!r} in a way that cannot be edited in place (an anchor that others "
            f"use?); set {wanted} there yourself.",
            "write_profile",
        )
    return text


def _check_node(text: str, verifier: str, index: int) -> Any:
    """The mapping of that check; None where it is not written out but merged from elsewhere."""
    node: Any = yaml.compose(text)
    for name in ("verifier", "verifiers", verifier):
        node = next((value for key, value in node.value if key.value == name), None)
        if node is None:
            return None
    return node.value[index]


def _edit(text: str, check: Any, name: str, value: object) -> tuple[int, int, str]:
    """Where in `text` what has to stand so that the check's `name` is `value`."""
    words = json.dumps(value)
    for key, node in check.value:
        if key.value == name:
            start, end = node.start_mark.index, node.end_mark.index
            return start, start + len(text[start:end].rstrip()), words
    first, last = check.value[0][0], check.value[-1][1]
    end = last.start_mark.index + len(text[last.start_mark.index : last.end_mark.index].rstrip())
    if check.flow_style:
        return end, end, f", {name}: {words}"
    line_end = text.find("\n", end)
    at = len(text) if line_end < 0 else line_end  # behind a comment
    return at, at, f"\n{' ' * first.start_mark.column}{name}: {words}"


def _changed(config: Config, verifier: str, index: int, settings: Mapping[str, Any]) -> Config:
    data = config.model_dump()
    checks: Sequence[dict[str, Any]] = data["verifier"]["verifiers"][verifier]
    checks[index].update(settings)
    return Config.model_validate(data)
