"""One configuration for the whole deployment, from YAML, checked before anything starts.

Promises: an unknown key, a wrong type or an impossible combination is a `ConfigError` that names the key; no setting is
read from the environment; the same object builds one CPU box or eight nodes of GPUs. Sections of some size have files
of their own: `gateway_config`, `speculation_config`, `verifier_config`, `autoscaling_config`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PositiveInt, ValidationError, field_validator, model_validator

from actors.engines import speculative_model
from actors.engines.generation_config import OVERRIDE
from actors.errors import ConfigError
from actors.models import SHORT
from deployments.autoscaling_config import AutoscalingConfig
from deployments.coordinator.strategies import STRATEGIES
from deployments.gateway_config import ApiKeyConfig, GatewayConfig
from deployments.sections import PlacementConfig, Strict, WriterConfig
from deployments.speculation_config import Mode, SpeculationConfig
from deployments.verifier_config import EmbeddingCheck, JudgeCheck, ScoreCheck, VerifierConfig, suits_specreason
from deployments.yaml_text import read_yaml

MAX_CHARS = 1_000_000
"""Of a config file. Reading a longer one as YAML takes seconds to minutes, in which nothing is said."""


class ReasoningConfig(Strict):
    """The marks around the reasoning, where the target has them. Without `close` all text is content."""

    open: str | None = None
    close: str | None = None
    starts_open: bool = True
    """Whether the model's output begins inside the reasoning (its chat template opens it, or it opens it itself)."""


class CoordinatorPlacement(PlacementConfig):
    """Where coordinators run; what a section does not say is right for one."""

    num_cpus: Annotated[float, Field(ge=0)] = 0.5
    max_ongoing_requests: PositiveInt = 1000


class CoordinatorConfig(Strict):
    """Where coordinators run, and how much they keep."""

    placement: CoordinatorPlacement = CoordinatorPlacement()
    max_kept_requests: PositiveInt = 1000
    """Resumable streams that one replica keeps, those that are being read included."""
    max_kept_bytes: PositiveInt = 64 * 1024 * 1024
    """About so much memory for them, their prompts included; the ones that were left longest go first."""


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
    """Whether traces hold the text of steps; off where it must not be stored."""
    audit: AuditConfig = AuditConfig()


class Config(Strict):
    """A deployment."""

    name: str = "lookahead"
    served_model_name: Annotated[str, Field(min_length=1)]
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
        if self.autoscaling is not None and self.autoscaling.draft is not None and self.draft is None:
            raise ValueError("autoscaling.draft is set, but there is no draft")
        for name in ("target", "draft", "verifier", "coordinator", "gateway"):
            section = getattr(self, name)
            if section is None or section.placement.autoscaling is None:
                continue
            if self.autoscaling is not None:
                raise ValueError(f"{name}.placement.autoscaling is Serve's own and cannot stand beside autoscaling")
            if name != "gateway" and not section.placement.names_policy:
                raise ValueError(
                    f"{name}.placement.autoscaling: Serve's default policy counts calls through Serve's handles, and "
                    f"{name} is called past them, so it would never grow. Use autoscaling.{name}, or name a "
                    "policy_function of your own in its policy"
                )
        return self

    @model_validator(mode="after")
    def _no_keys_where_ray_logs(self) -> Config:
        name = self.gateway.api_keys_env
        judge = self.verifier.judge
        placements = {
            "target": self.target.placement,
            "draft": None if self.draft is None else self.draft.placement,
            "verifier": self.verifier.placement,
            "verifier.judge": None if judge is None else judge.placement,
            "coordinator": self.coordinator.placement,
            "gateway": self.gateway.placement,
        }
        for role, placement in placements.items():
            if name is not None and placement is not None and name in placement.env:
                raise ValueError(
                    f"{role}.placement.env holds {name}, where gateway.api_keys_env looks for API keys, and Ray writes "
                    "placement.env into logs that every user of a node can read. Set it in the environment in which "
                    "Ray starts on the gateways' nodes, or use gateway.api_keys_file, and replace keys that ran so"
                )
        return self

    @model_validator(mode="after")
    def _scores_steps_alone(self) -> Config:
        name = self.speculation.specreason.verifier
        if name in self.verifier.verifiers and not suits_specreason(self.verifier.verifiers[name]):
            raise ValueError(
                f"speculation.specreason.verifier is {name!r}, none of whose checks can judge a draft step alone"
            )
        return self

    @model_validator(mode="after")
    def _reasoning_is_where_it_is_looked_for(self) -> Config:
        close = self.reasoning.close
        if close is None and self.speculation.scope == "think":
            raise ValueError("speculation.scope is 'think', but nothing says what reasoning is; set reasoning.close")
        if close is None or not self.reasoning.starts_open:
            return self
        for name, cascade in self.verifier.verifiers.items():
            for check in cascade:
                if (
                    isinstance(check, JudgeCheck | ScoreCheck)
                    and check.engine == "target"
                    and close not in check.answer_prefix
                ):
                    raise ValueError(
                        f"verifier {name!r} asks the target, which would begin to reason and give no label: let the "
                        f"answer_prefix of its {check.kind} close that, with {close!r} and what the model writes behind"
                    )
        return self

    @model_validator(mode="after")
    def _only_the_target_sets_sampling(self) -> Config:
        for role, writer in (("draft", self.draft), ("verifier.judge", self.verifier.judge)):
            if writer is not None and writer.engine.options.get(OVERRIDE):
                raise ValueError(
                    f"{role}.engine.options.{OVERRIDE} would have no effect: a draft samples as the target does, and a "
                    "judge samples nothing; set it in target.engine.options, or leave it out"
                )
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
            mode = self.speculation.mode
            raise ValueError(f"speculation.mode is {mode!r}, which needs the verifier {name!r}; configure it")
        for name, checks in self.verifier.verifiers.items():
            for check in checks:
                engine = getattr(check, "engine", None)
                if engine == "own" and self.verifier.judge is None:
                    raise ValueError(f"verifier {name!r} has a judge of its own, but verifier.judge is not set")
                if engine == "draft" and self.draft is None:
                    raise ValueError(f"verifier {name!r} judges on the draft's engine, but there is no draft")
        return self


def modes_of(config: Config) -> list[str]:
    """The modes that requests may ask for: all but the target's own need a draft, and those that score a verifier."""
    can_score = config.speculation.specreason.verifier in config.verifier.verifiers
    modes = ["target"] if config.draft is None else list(get_args(Mode))
    return [mode for mode in modes if can_score or not scores_alone(mode)]


def scores_alone(mode: str) -> bool:
    """Whether `mode` has draft steps scored alone, by the verifier `speculation.specreason.verifier`, and so keeps no
    fidelity. ConfigError for a mode without a strategy."""
    if mode not in STRATEGIES:
        table = "STRATEGIES of deployments/coordinator/strategies/__init__.py"
        raise ConfigError(f"The mode {mode!r} has no strategy; add a line for it to {table}.", "speculation.mode")
    return STRATEGIES[mode].scores_alone


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
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(MAX_CHARS + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The config file {path} cannot be read: {error}.", "config") from error
    if len(text) > MAX_CHARS:
        raise ConfigError(
            f"The config file {path} is longer than {MAX_CHARS} characters: it is another file.", "config"
        )
    return parse_config(text, str(path))


def parse_config(text: str, source: str) -> Config:
    """A configuration from YAML text; `source` is named in errors."""
    data = read_yaml(text, source)
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
    where, what = ".".join(str(part) for part in problem["loc"]), problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"{where} is not a setting that exists (a typo?)"
    return f"{where}: {what}" if where else what
