"""One configuration for the whole deployment, from YAML, checked before anything starts.

Promises: an unknown key, a wrong type or an impossible combination is a `ConfigError` that names the key; no setting is
read from the environment; the same object builds one CPU box or eight nodes of GPUs. The gateway's section is in
`deployments.gateway_config`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, field_validator, model_validator

from actors.engines import speculative_model
from actors.errors import ConfigError
from actors.models import SHORT
from deployments.autoscaling_config import AutoscalingConfig as AutoscalingConfig
from deployments.autoscaling_config import RoleScaling as RoleScaling
from deployments.gateway_config import AdmissionConfig as AdmissionConfig
from deployments.gateway_config import ApiKeyConfig as ApiKeyConfig
from deployments.gateway_config import GatewayConfig as GatewayConfig
from deployments.gateway_config import KeyLimits as KeyLimits
from deployments.sections import Fidelity as Fidelity
from deployments.sections import PlacementConfig as PlacementConfig
from deployments.sections import Strict as Strict

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Mode = Literal["target", "lookahead", "lookahead_sync", "specreason"]
EngineName = Literal["target", "draft", "own"]
"""Who is asked: the target's engine, the draft's, or `verifier.judge`."""
Calibration = tuple[tuple[float, Fraction], ...]
"""Points ``[score, probability]``, as `lookahead calibrate` writes them: the measured probability of agreement."""


class EngineConfig(Strict):
    """Which engine runs the model. `options` are handed to the engine unchanged: any `AsyncEngineArgs` field for
    ``vllm`` (but `model`), any field of `actors.engines.scripted.ScriptOptions` for ``scripted``."""

    kind: Literal["vllm", "scripted"] = "vllm"
    options: dict[str, Any] = {}


class WriterConfig(Strict):
    """A role that writes: draft or target."""

    model: str
    """``package:NAME``, ``hf:ORG/NAME`` (or ``ORG/NAME``), a folder, a ``.gguf`` file, or ``dummy:NAME`` (a shape
    without weights); ``int8:`` before any of them makes an int8 copy of it, once; ``short:`` before all of it one that
    writes frequent tokens only, for drafts."""
    engine: EngineConfig = EngineConfig()
    placement: PlacementConfig = PlacementConfig()


class ExactCheck(Strict):
    """Accepts text that is equal but for its markup and white space inside lines; else unsure."""

    kind: Literal["exact"] = "exact"


class SameNumbersCheck(Strict):
    """Rejects steps with different numbers; else unsure."""

    kind: Literal["same_numbers"] = "same_numbers"


class SamePolarityCheck(Strict):
    """Rejects steps whose negations, directions or operations contradict each other; else unsure."""

    kind: Literal["same_polarity"] = "same_polarity"


class EmbeddingCheck(Strict):
    """Cosine similarity of sentence embeddings: accepts at `accept` or more, rejects below `reject`, else unsure."""

    kind: Literal["embedding"] = "embedding"
    model: str = "package:all-minilm-l6-v2"
    accept: Fraction = 0.85
    reject: Fraction = 0.85
    calibration: Calibration = ()


class JudgeCheck(Strict):
    """An LLM asked whether two steps mean the same; decides by the probability of its two labels."""

    kind: Literal["judge"] = "judge"
    engine: EngineName = "target"
    accept: Fraction = 0.7
    reject: Fraction = 0.7
    max_chars: PositiveInt = 6000
    answer_prefix: str = ""
    calibration: Calibration = ()


class ScoreCheck(Strict):
    """SpecReason's: an LLM marks the draft step alone from 0 to 9; the target's step is not needed."""

    kind: Literal["score"] = "score"
    engine: EngineName = "target"
    accept: Annotated[float, Field(ge=0.0, le=9.0)] = 7.0
    reject: Annotated[float, Field(ge=0.0, le=9.0)] = 7.0
    mark: Literal["expected", "greedy"] = "expected"
    max_chars: PositiveInt = 6000
    answer_prefix: str = ""
    calibration: Calibration = ()


class SelfConfidenceCheck(Strict):
    """The mean probability that the draft itself gives the tokens of its step; for models of one vocabulary."""

    kind: Literal["self_confidence"] = "self_confidence"
    engine: Literal["draft"] = "draft"
    accept: Fraction = 0.95
    reject: Fraction = 0.0
    calibration: Calibration = ()


class LikelihoodCheck(Strict):
    """The mean probability that the target gives the tokens of the draft step; the target's step is not needed."""

    kind: Literal["likelihood"] = "likelihood"
    engine: Literal["target"] = "target"
    accept: Fraction = 0.8
    reject: Fraction = 0.8
    floor: Fraction = 0.01
    """A step with a token below it is rejected."""
    calibration: Calibration = ()


class AlwaysCheck(Strict):
    """Control: accepts everything."""

    kind: Literal["always"] = "always"


class NeverCheck(Strict):
    """Control: rejects everything that is not equal token for token."""

    kind: Literal["never"] = "never"


class RandomCheck(Strict):
    """Control: accepts with probability `accept`, by a hash of the two texts and `seed`."""

    kind: Literal["random"] = "random"
    accept: Fraction = 0.5
    seed: int = 0


class ScriptedCheck(Strict):
    """Control: unsure, until somebody orders it to misbehave; for chaos runs."""

    kind: Literal["scripted"] = "scripted"
    control: str | None = None
    """The folder of orders (`actors.engines.control_folder`); none: unsure for ever."""


Check = Annotated[
    ExactCheck
    | SameNumbersCheck
    | SamePolarityCheck
    | EmbeddingCheck
    | JudgeCheck
    | ScoreCheck
    | LikelihoodCheck
    | SelfConfidenceCheck
    | AlwaysCheck
    | NeverCheck
    | RandomCheck
    | ScriptedCheck,
    Field(discriminator="kind"),
]


class VerifierConfig(Strict):
    """The verifier role: named verifiers, each a cascade of checks; what no check decides is rejected."""

    verifiers: dict[str, list[Check]] = {"exact": [ExactCheck()]}
    judge: WriterConfig | None = None
    """The judge's own model, for checks with ``engine: own``."""
    placement: PlacementConfig = PlacementConfig(num_cpus=0.5)

    @model_validator(mode="after")
    def _judge_lives_here(self) -> VerifierConfig:
        if self.judge is not None:
            placement = self.judge.placement
            if placement != PlacementConfig(cpu_cores=placement.cpu_cores):
                raise ValueError("judge.placement: only cpu_cores counts; the judge runs in the verifier's replica")
        return self


TokenSpeculation = Literal["hints", "ngram", "none"]
Boundary = Literal["blank_line", "line", "sentence", "tokens"]


class StepConfig(Strict):
    """What a step is."""

    boundary: Boundary = "blank_line"
    """Where a step ends; a rule of `actors.boundaries`. Requests may wish for another."""
    max_tokens: PositiveInt = 256
    """The cap on a step; with ``tokens`` its length."""


class ReasoningConfig(Strict):
    """The marks around the reasoning, where the target has them. Without `close` all text is content."""

    open: str | None = None
    close: str | None = None
    starts_open: bool = True
    """Whether the model's output begins inside the reasoning (its chat template opens it, or it opens it itself)."""


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


class CoordinatorConfig(Strict):
    """The coordinator's own placement."""

    placement: PlacementConfig = PlacementConfig(num_cpus=0.5, max_ongoing_requests=1000)
    max_kept_requests: PositiveInt = 1000
    """Resumable streams that one replica keeps, those that are being read included."""
    max_kept_bytes: PositiveInt = 64 * 1024 * 1024
    """About so much memory for them; the ones that were left longest go first."""


class AuditConfig(Strict):
    """A file of every decision about a draft step; off without a `path`."""

    path: str | None = None
    """The whole path of a folder on the coordinators' nodes; each replica of the coordinator has files of its own."""
    texts: Literal["hash", "full", "none"] = "hash"
    """What stands for prompts and steps: their SHA-256, their text, or nothing."""
    max_bytes: Annotated[int, Field(ge=4096)] = 64 * 1024 * 1024
    """A file that would grow beyond this is put aside, and another one begun."""
    keep: Annotated[int, Field(ge=0, le=10_000)] = 16
    """So many files that were put aside are kept of each replica; the oldest goes first."""

    @field_validator("path")
    @classmethod
    def _is_whole(cls, path: str | None) -> str | None:
        if path is not None and not Path(path).is_absolute():
            raise ValueError("must be a whole path, since replicas start in folders of their own")
        return path


class TelemetryConfig(Strict):
    """Step traces, metrics and the audit log."""

    max_traces: PositiveInt = 512
    """Traces of so many recent requests are kept."""
    trace_texts: bool = True
    """Whether traces hold the text of steps; off where prompts must not be stored."""
    audit: AuditConfig = AuditConfig()


class Config(Strict):
    """A deployment."""

    name: str = "lookahead"
    served_model_name: str
    target: WriterConfig
    draft: WriterConfig | None = None
    verifier: VerifierConfig = VerifierConfig()
    speculation: SpeculationConfig = SpeculationConfig()
    reasoning: ReasoningConfig = ReasoningConfig()
    coordinator: CoordinatorConfig = CoordinatorConfig()
    gateway: GatewayConfig = GatewayConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    autoscaling: AutoscalingConfig | None = None

    @model_validator(mode="after")
    def _one_who_scales(self) -> Config:
        if self.autoscaling is None:
            return self
        if self.autoscaling.draft is not None and self.draft is None:
            raise ValueError("autoscaling.draft is set, but there is no draft")
        for name in ("target", "draft", "verifier", "coordinator", "gateway"):
            section = getattr(self, name)
            if section is not None and section.placement.autoscaling is not None:
                raise ValueError(f"{name}.placement.autoscaling is Serve's own and cannot stand beside autoscaling")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        for role, writer in (("target", self.target), ("verifier.judge", self.verifier.judge)):
            if writer is not None and writer.model.startswith(SHORT):
                raise ValueError(f"{role}.model: {SHORT} is for drafts; a {role} must be able to write every token")
        for level, verifier in self.speculation.fidelities.items():
            if verifier not in self.verifier.verifiers:
                raise ValueError(
                    f"speculation.fidelities.{level} names the verifier {verifier!r}, which is not configured"
                )
        if self.speculation.fidelity not in self.speculation.fidelities:
            raise ValueError(f"speculation.fidelity is {self.speculation.fidelity!r}, which no fidelity stands for")
        for entry in self.gateway.api_keys:
            wanted = entry.fidelity if isinstance(entry, ApiKeyConfig) else None
            if wanted is not None and wanted not in self.speculation.fidelities:
                raise ValueError(f"gateway.api_keys: fidelity {wanted!r} of a key is not in speculation.fidelities")
        if self.speculation.mode != "target" and self.draft is None:
            raise ValueError(f"speculation.mode is {self.speculation.mode!r}, which needs a draft model")
        if self.speculation.branches > 1 and self.speculation.mode != "lookahead":
            raise ValueError(f"speculation.branches needs mode 'lookahead', not {self.speculation.mode!r}")
        if self.speculation.mode not in modes_of(self):
            name = self.speculation.specreason.verifier
            raise ValueError(f"speculation.mode is 'specreason', which needs the verifier {name!r}; configure it")
        for name, checks in self.verifier.verifiers.items():
            for check in checks:
                engine = getattr(check, "engine", None)
                if engine == "own" and self.verifier.judge is None:
                    raise ValueError(f"verifier {name!r} has a judge of its own, but verifier.judge is not set")
                if engine == "draft" and self.draft is None:
                    raise ValueError(f"verifier {name!r} judges on the draft's engine, but there is no draft")
        return self


def modes_of(config: Config) -> list[str]:
    """The modes that requests may ask for: all but the target's own need a draft, and ``specreason`` a verifier."""
    modes = ["target"] if config.draft is None else list(get_args(Mode))
    if config.speculation.specreason.verifier not in config.verifier.verifiers and "specreason" in modes:
        modes.remove("specreason")
    return modes


def models_of(config: Config) -> list[str]:
    """Every model that the deployment loads, as the configuration names it, once each: target, draft, the judge's own,
    those that draft inside an engine, and the verifiers' embeddings. Scripted engines load none."""
    writers = [w for w in (config.target, config.draft, config.verifier.judge) if w is not None]
    loading = [writer for writer in writers if writer.engine.kind == "vllm"]
    models = [writer.model for writer in loading]
    models += [draft for writer in loading if (draft := speculative_model(writer.engine.options)) is not None]
    checks = [check for cascade in config.verifier.verifiers.values() for check in cascade]
    models += [check.model for check in checks if isinstance(check, EmbeddingCheck)]
    return list(dict.fromkeys(models))


def profile_names() -> list[str]:
    """The profiles that come with the package."""
    folder = resources.files("deployments.profiles")
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_profile(name: str) -> Config:
    """The shipped profile `name`; ConfigError names those that exist."""
    return parse_config(profile_text(name), f"profile {name}")


def profile_text(name: str) -> str:
    """The YAML of the shipped profile `name`; ConfigError names those that exist."""
    if name not in profile_names():
        raise ConfigError(f"There is no profile {name!r}; there are: {', '.join(profile_names())}.", "profile")
    return (resources.files("deployments.profiles") / f"{name}.yaml").read_text(encoding="utf-8")


def load_config(path: str | Path) -> Config:
    """The configuration in a YAML file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The config file {path} cannot be read: {error}.", "config") from error
    return parse_config(text, str(path))


def parse_config(text: str, source: str) -> Config:
    """A configuration from YAML text; `source` is named in errors."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{source} must hold a mapping of settings, not {type(data).__name__}.")
    return validate_config(data, source)


def validate_config(data: dict[str, Any], source: str) -> Config:
    """A configuration from a mapping; ConfigError lists every wrong key."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(_describe(problem) for problem in error.errors())
        raise ConfigError(f"{source} cannot be used: {problems}.") from error


def _describe(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"]) or "the config"
    if problem["type"] == "extra_forbidden":
        return f"{where} is not a setting that exists (a typo?)"
    return f"{where}: {problem['msg']}"
