"""The configuration's section of autoscaling: what each role may have, and what one of its replicas carries.

Promises: roles that requests cannot do without keep a replica; what is written becomes `Rules` unchanged.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from deployments.sections import Strict


class RoleScaling(Strict):
    """One role."""

    min_replicas: Annotated[int, Field(ge=0)] = 1
    max_replicas: PositiveInt
    load: PositiveFloat
    """What a replica carries at its objective: sequences at once for draft and target, verdicts at once for the
    verifier, requests for coordinator and gateway."""
    tokens_per_s: PositiveFloat | None = None
    """Tokens of prompts that a replica reads in a second."""
    per_target: NonNegativeFloat = 0.0
    """While anybody speculates: at least so many replicas for each that the target needs."""

    @model_validator(mode="after")
    def _in_order(self) -> RoleScaling:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is above max_replicas")
        return self


class AutoscalingConfig(Strict):
    """Which roles grow and shrink with demand, and how soon. A role that is not named keeps its `num_replicas`."""

    target: RoleScaling | None = None
    draft: RoleScaling | None = None
    verifier: RoleScaling | None = None
    coordinator: RoleScaling | None = None
    gateway: RoleScaling | None = None
    objective_s: PositiveFloat = 5.0
    """Prompts that wait are to be read within this time."""
    up_delay_s: NonNegativeFloat = 5.0
    """A greater demand must last so long before replicas are added; a role without any waits for nothing."""
    down_delay_s: NonNegativeFloat = 300.0
    """A smaller demand must last so long before replicas are taken away."""
    max_cache_use: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of an engine's cache that may be in use."""

    @model_validator(mode="after")
    def _never_without(self) -> AutoscalingConfig:
        for name in ("target", "coordinator", "gateway"):
            role = getattr(self, name)
            if role is not None and role.min_replicas < 1:
                raise ValueError(f"{name}.min_replicas is 0, but no request is served without; draft and verifier may")
        return self

    @model_validator(mode="after")
    def _beside_a_target(self) -> AutoscalingConfig:
        for name in ("draft", "verifier"):
            role = getattr(self, name)
            if role is not None and role.per_target and self.target is None:
                raise ValueError(
                    f"{name}.per_target counts the targets that are needed, so there must be a section `target` "
                    f"beside it; where targets are fixed, give {name}.min_replicas"
                )
        return self

    def role(self, name: str) -> RoleScaling | None:
        """The section of role `name`."""
        role: RoleScaling | None = getattr(self, name)
        return role

    def may_be_absent(self) -> set[str]:
        """The roles that may be scaled to zero, without which the deployment is still ready."""
        roles = {"draft": self.draft, "verifier": self.verifier}
        return {name for name, role in roles.items() if role is not None and role.min_replicas == 0}

    def rules(self) -> dict[str, Any]:
        """`deployments.autoscaling.policy.Rules` as plain data."""
        data = self.model_dump()
        names = ("target", "draft", "verifier", "coordinator", "gateway")
        roles = {name: data.pop(name) for name in names}
        return {**data, "roles": {name: role for name, role in roles.items() if role is not None}}
