"""A seed decides what happens to whom."""

from __future__ import annotations

import pytest

from actors.errors import RequestError
from deployments.chaos.plan import GARBAGE, KINDS, ROLES, faults


def test_the_same_seed_gives_the_same_faults_and_another_does_not() -> None:
    plan = faults(7, 300.0, 2.0, ROLES, (1.0, 6.0))
    assert plan == faults(7, 300.0, 2.0, ROLES, (1.0, 6.0))
    assert plan != faults(8, 300.0, 2.0, ROLES, (1.0, 6.0))
    assert [fault.at_s for fault in plan] == [2.0 * i for i in range(150)]


def test_every_kind_strikes_every_role_that_it_can() -> None:
    plan = faults(0, 1000.0, 1.0, ROLES, (1.0, 6.0))
    assert {(f.role, f.kind) for f in plan} == {(role, kind) for role, kinds in KINDS.items() for kind in kinds}
    assert {(f.role, f.garbage) for f in plan if f.kind == "garbage"} == {(r, g) for r in GARBAGE for g in GARBAGE[r]}
    assert all(1.0 <= f.lasts_s <= 6.0 and 0.0 <= f.place < 1.0 for f in plan)


def test_only_the_roles_that_are_named_are_struck() -> None:
    assert {fault.role for fault in faults(0, 100.0, 1.0, ("draft",), (1.0, 2.0))} == {"draft"}
    with pytest.raises(RequestError, match="gateway"):
        faults(0, 10.0, 1.0, ("draft", "gateway"), (1.0, 2.0))
