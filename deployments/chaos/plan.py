"""Which fault strikes which role when. Pure: a seed decides everything.

Promises: the same seed and settings give the same plan; whom a fault strikes is a share of whoever is there then, since
replicas come and go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from actors.errors import RequestError

ROLES = ("draft", "target", "verifier", "coordinator")
KINDS: Mapping[str, tuple[str, ...]] = {
    "draft": ("kill", "freeze", "slow", "garbage"),
    "target": ("kill", "freeze", "slow", "garbage"),
    "verifier": ("kill", "freeze", "slow", "garbage"),
    "coordinator": ("kill", "freeze", "slow"),
}
"""What can be done to whom. A coordinator that makes up text cannot be told from one that does not, so none is made to;
nor is a target made to write what it claims as its own, nor a verifier with the last word to be believed."""
GARBAGE: Mapping[str, tuple[str, ...]] = {
    "draft": ("wrong", "nonsense", "broken"),
    "target": ("broken", "refusing"),
    "verifier": ("random", "broken", "malformed"),
}
"""Orders of `actors.engines.scripted` and of the check `scripted`."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `at_s` seconds after the start, to the replica of `role` at `place` (0 to 1) of those there."""

    number: int
    at_s: float
    role: str
    kind: str
    place: float
    lasts_s: float
    """How long it is kept up; a killed process stays dead."""
    garbage: str = ""

    @property
    def name(self) -> str:
        """The kind, and of garbage which."""
        return f"{self.kind}:{self.garbage}" if self.garbage else self.kind


def faults(
    seed: int, duration_s: float, every_s: float, roles: Sequence[str], lasts_s: tuple[float, float]
) -> list[Fault]:
    """The faults of a run, in their order, one every `every_s` seconds; `lasts_s` are the shortest and the longest.

    RequestError names a role that does not exist.
    """
    if not roles or (unknown := sorted(set(roles) - set(ROLES))):
        said = f"There is no role {unknown[0]!r}" if roles else "No role is named"
        raise RequestError(f"{said}; there are: {', '.join(ROLES)}.", "roles")
    random = Random(seed)
    plan = []
    for number in range(int(duration_s / every_s)):
        role = random.choice(list(roles))
        kind = random.choice(KINDS[role])
        garbage = random.choice(GARBAGE[role]) if kind == "garbage" else ""
        plan.append(Fault(number, number * every_s, role, kind, random.random(), random.uniform(*lasts_s), garbage))
    return plan
