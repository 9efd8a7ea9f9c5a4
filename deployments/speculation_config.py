"""The configuration's section of speculation: mode and depth, what a step is, how long a role may be silent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from deployments.sections import Fidelity, Strict

Mode = Literal["target", "lookahead", "lookahead_sync", "specreason"]
TokenSpeculation = Literal["hints", "ngram", "none"]
Boundary = Literal["blank_line", "line", "sentence", "tokens"]


class StepConfig(Strict):
    """What a step is."""

    boundary: Boundary = "blank_line"
    """Where a step ends; a rule of `actors.boundaries`. Requests may wish for another."""
    max_tokens: PositiveInt = 256
    """The cap on a step; with ``tokens`` its length."""


class SpecReasonConfig(Strict):
    """Mode ``specreason``: draft steps that a verifier scores alone."""

    verifier: str = "score"
    """The verifier that scores, where the request names none. If it is not configured, the mode is not offered."""
    num_target_steps: Annotated[int, Field(ge=0)] = 0
    """So many first steps are the target's own."""
    max_draft_tokens: PositiveInt | None = None
    """After so many tokens of output the target goes on alone."""


class ControllerConfig(Strict):
    """Who chooses how deep each request looks ahead, and whether at all, from what is measured."""

    enabled: bool = True
    """Off: every request looks ahead as deep as it asks for, throughout."""
    probe_share: Annotated[float, Field(ge=0, le=0.2)] = 0.007
    """Share of the target's steps that may be lost to trying out what is not chosen."""


class SilenceConfig(Strict):
    """How long a role may be silent. Each limit is `factor` times what all but the slowest twentieth of its recent
    calls took, within bounds; until enough calls are known it is the upper one."""

    factor: Annotated[float, Field(ge=1)] = 5.0
    target_min_s: PositiveFloat = 10.0
    """Three times as much for a call's first item and for whole steps, which may wait in the engine's queue."""
    target_max_s: PositiveFloat = 120.0
    """Then the call is given up, and another one goes on behind what was sent."""
    draft_min_s: PositiveFloat = 1.0
    draft_max_s: PositiveFloat = 30.0
    """Then the target goes on alone."""
    verdict_min_s: PositiveFloat = 0.25
    """Then the step is rejected. The upper bound is `speculation.verdict_timeout_s`."""
    max_failures: PositiveInt = 3
    """After so many failures in a row draft or verifier is not asked, for `draft_retry_s`, doubled up to 30 s; then one
    call tries."""


class SpeculationConfig(Strict):
    """How to speculate, and how far, where the request does not say."""

    mode: Mode = "lookahead"
    max_lookahead: Annotated[int, Field(ge=1, le=64)] = 4
    controller: ControllerConfig = ControllerConfig()
    branches: Annotated[int, Field(ge=1, le=8)] = 1
    """Versions of a step that the draft writes, in mode ``lookahead``: the first that is the target's stands."""
    max_nodes: Annotated[int, Field(ge=1, le=1024)] = 16
    """With branches: at most so many prefixes of a request that the target writes a step behind, at once."""
    branch_temperature: Annotated[float, Field(gt=0, le=2)] = 0.8
    """At which further versions are sampled where the request is greedy."""
    max_target_steps: Annotated[int, Field(ge=1)] | None = None
    """The target writes at most so many steps of a request at once; none: all that are drafted. Where more tokens in a
    pass cost time, as on a CPU, few are better."""
    fidelity: Fidelity = "exact"
    fidelities: dict[Fidelity, str] = {"exact": "exact"}
    """Which verifier stands for which fidelity."""
    scope: Literal["think", "all"] = "all"
    """``think``: only reasoning is speculated; ``all``: the text of a model without reasoning marks too."""
    step: StepConfig = StepConfig()
    spans: bool = True
    """Whether a rejected draft step is judged once more together with the steps behind it, if that fits the length."""
    specreason: SpecReasonConfig = SpecReasonConfig()
    progress_s: Annotated[float, Field(ge=0)] = 0.2
    """How often the target tells what it has written, so that what is certain is sent at once; 0: whole steps only."""
    restart_in_step: bool = True
    """Where only equal steps count: the draft starts anew as soon as the target leaves its words, not at the step's
    end."""
    token_speculation: TokenSpeculation = "hints"
    """What engines with our proposer guess inside a step: hints, n-gram look-up only, or nothing."""
    draft_part_tokens: Annotated[int, Field(ge=0, le=1024)] = 4
    """Where the target takes hints: the draft hands its words to the target's running step in parts of at least so many
    tokens; 0: in whole steps."""
    num_nearby_hints: Annotated[int, Field(ge=0, le=16)] = 4
    """So many sequences from rejected steps go with a call as hints, beside the draft's step for its own position."""
    verdict_timeout_s: PositiveFloat = 2.0
    """A verdict that takes longer is a rejection."""
    replica_timeout_s: PositiveFloat = 60.0
    """How long a call may wait for a replica to be there."""
    max_attempts: PositiveInt = 8
    """How often one target step is tried on replicas that die."""
    silence: SilenceConfig = SilenceConfig()
    draft_retry_s: PositiveFloat = 2.0
    """After the draft failed: seconds until it is tried again, doubled up to 30 s while it fails."""
