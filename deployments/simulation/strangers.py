"""Whether a recorded run, the costs of engines and a configuration belong together, and can be replayed as they were.

Promises: what does not fit is said in sentences, of a role or of the whole run. A run of a server that was started
elsewhere does not say which it was, nor does each cost file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from actors.engines.hint_matching import MatchRules
from actors.engines.hint_options import METHOD, SETTINGS
from actors.messages import Prompt
from deployments.bench.plan import fingerprint
from deployments.bench.variants import asked
from deployments.config import Config
from deployments.coordinator.coordinator import Plan, settle
from deployments.generation import GenerationRequest, SpeculationOptions
from deployments.sections import WriterConfig
from deployments.simulation.cost_file import CostFile
from deployments.simulation.replay_text import is_guided
from deployments.telemetry.timeline import read_trace


def settled(config: Config, mode: str, plan: Mapping[str, Any]) -> Plan:
    """How `config` answers a request of the row `mode` in a run with the settings `plan`."""
    wishes = SpeculationOptions(**asked(mode, plan))
    return settle(config, GenerationRequest("", Prompt(text=""), speculation=wishes))


def match_rules(writer: WriterConfig) -> MatchRules | None:
    """The rules of the proposer that `writer` configures; None without ours."""
    wanted = writer.engine.options.get("speculative_config")
    if not isinstance(wanted, Mapping) or wanted.get("method") != METHOD:
        return None
    return MatchRules(**{SETTINGS[name]: int(value) for name, value in wanted.items() if name in SETTINGS})


def unknown_guesses(writer: WriterConfig) -> str | None:
    """How the engine of `writer` guesses tokens, where that is not replayed; None where it guesses by our own method
    without a model, or not at all."""
    wanted = writer.engine.options.get("speculative_config")
    if not wanted or (match_rules(writer) is not None and not wanted.get("model")):
        return None
    if match_rules(writer) is not None:
        return f"method {METHOD} with a draft model"
    named = wanted.get("method") if isinstance(wanted, Mapping) else wanted
    return f"vLLM's own method {named}" if named else "a method of vLLM's own"


def gave_hints(config: Config, plan: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the target of the run of `lines`, each with its trace, took the draft's words as hints. It did not where
    a draft wrote for requests that are guided if they can be, and none of them was."""
    guided = list[bool]()
    for line in lines:
        trace = read_trace(line["trace"])
        if any(span.kind == "draft" for span in trace.spans) and settled(config, str(line["mode"]), plan).may_guide:
            guided.append(is_guided(trace))
    return any(guided) or not guided


def strangers(
    config: Config, costs: CostFile, plan: Mapping[str, Any], lines: Iterable[Mapping[str, Any]] = ()
) -> list[str]:
    """Sentences that say of which other server the run of `plan` and `lines`, and of which other engines `costs`, may
    be, and what of them is not replayed."""
    words = list[str]()
    server, own = str(plan.get("server") or ""), fingerprint(config.model_dump(mode="json"))
    _, mark, ran = server.rpartition(" #")
    if mark and ran != own:
        words.append(
            f"The run is of {server}, and is answered by {config.name} #{own}: another configuration, or the same one "
            "of another version. What differs is not foretold."
        )
    for role, writer, timed in (("target", config.target, costs.target), ("draft", config.draft, costs.draft)):
        if writer is None:
            continue
        if timed.model != writer.model:
            words.append(f"The costs are of another {role}: {timed.model}, not {writer.model}.")
        elif timed.writer and (changed := _differing(writer.model_dump(mode="json"), timed.writer)):
            words.append(f"The costs of the {role} were measured with other settings: {', '.join(changed)}.")
        if (method := unknown_guesses(writer)) is not None:
            instead = "of n-gram look-up" if match_rules(writer) is not None else "without guesses"
            words.append(
                f"The {role} guesses tokens by {method}, which is not replayed: what is foretold is {instead}, another "
                "speed."
            )
    if match_rules(config.target) is not None and not gave_hints(config, plan, lines):
        words.append(
            "No request of the run was guided, though some could be: draft and target have two vocabularies, the "
            "target's engine took no hints, or the server had learnt before that windows are faster. All are replayed "
            "in windows, without hints."
        )
    return words


def _differing(one: Mapping[str, Any], other: Mapping[str, Any], inside: str = "") -> list[str]:
    """The keys, with the sections that they are in, whose values differ."""
    found = list[str]()
    for key in dict.fromkeys((*one, *other)):
        mine, its, name = one.get(key), other.get(key), f"{inside}{key}"
        if isinstance(mine, Mapping) and isinstance(its, Mapping):
            found += _differing(mine, its, f"{name}.")
        elif mine != its:
            found.append(name)
    return found
