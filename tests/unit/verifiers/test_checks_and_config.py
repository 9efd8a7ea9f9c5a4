"""The checks that can be configured are the checks that can be built, with the same settings and the same defaults."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest

from actors.verifiers import CHECKS
from deployments.verifier_config import Check

SECTIONS = {section().kind: section for section in get_args(get_args(Check)[0])}


def test_every_check_can_be_configured():
    assert set(SECTIONS) == set(CHECKS)


@pytest.mark.parametrize("kind", sorted(CHECKS))
def test_settings_and_defaults_agree(kind):
    settings = SECTIONS[kind]().model_dump(exclude={"kind", "engine"})
    parameters = inspect.signature(CHECKS[kind]).parameters
    assert {name: p.default for name, p in parameters.items() if name != "scorer"} == settings
    assert ("scorer" in parameters) == ("engine" in SECTIONS[kind].model_fields)
