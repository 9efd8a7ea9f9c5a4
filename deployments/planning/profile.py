"""A plan as a profile that `lookahead serve --config` takes as it is.

Promises: what is written has been checked by the server's own configuration.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import yaml

from deployments.config import CoordinatorPlacement, validate_config
from deployments.gateway_config import ROOM, AdmissionConfig, GatewayPlacement
from deployments.planning.answer import Candidate, Plan
from deployments.planning.question import Question
from deployments.planning.search import Layout
from deployments.simulation.cost_file import read_costs
from deployments.simulation.hardware import MODELS

EXACT = "exact"
"""The fidelity whose text is the target's own; it is the configuration's default."""
LEAST_BATCHED_TOKENS = 8192
"""In one pass, so that prompts are read in few of them beside the sequences that write."""
RESULT_S = 0.0008
"""Of a coordinator's core for each result that it hears (docs/scaling.md)."""
FULL = 2.0 / 3.0
"""Of that core, so that results do not wait for each other."""


def profile_text(plan: Plan) -> str:
    """The YAML of the chosen layout."""
    layout, question = plan.chosen.predicted.layout, plan.question
    data = profile(question, layout) | front(plan.chosen)
    validate_config(data, "the planned profile")
    pace = plan.chosen.simulated_user_tokens_per_s
    source = "estimated engines" if question.costs is None else f"engines as measured in {question.costs.name}"
    head = (
        f"# Planned by lookahead plan ({source}): {layout.words} GPUs, {plan.chosen.users:.0f} users;\n"
        f"# simulated: {pace:.1f} tokens/s a user. Judge and accept rate are assumed: measure with lookahead bench.\n"
    )
    if (level := data["speculation"].get("fidelity", EXACT)) != EXACT:
        head += (
            f"# Predicted at fidelity {level}, which keeps steps that a verifier finds equal. Measure the\n"
            "# accuracy on your questions first (lookahead bench), or set `speculation.fidelity: exact`.\n"
        )
    elif layout.way == "windows":
        head += (
            "# Predicted of windows whose steps a verifier judges. This profile is at fidelity exact, at which the\n"
            "# draft guides the target's own text: another speed, to be measured (lookahead bench).\n"
        )
    for role in ("target", "draft"):
        placement = data.get(role, {}).get("placement", {})
        if placement.get("cpu_cores") is not None and placement["num_replicas"] > 1:
            head += (
                f"# Each {role} is bound to the cores {placement['cpu_cores']} of its host: give every replica a host\n"
                "# of its own, or they share these cores and are slower than predicted.\n"
            )
    if question.costs is not None and not read_costs(question.costs).settings:
        head += (
            "# The cost file says nothing of reasoning, steps and checks: add `reasoning`, `speculation.scope` and\n"
            "# the judges' `answer_prefix` for models that reason (docs/configuration.md).\n"
        )
    return head + yaml.safe_dump(data, sort_keys=False)


def profile(question: Question, layout: Layout) -> dict[str, Any]:
    """The configuration of `layout`; what a measured one says of its models' texts and checks is kept."""
    data: dict[str, Any] = {
        "name": "planned",
        "served_model_name": _name(question),
        "target": _writer(question, "target", layout),
    }
    kept: dict[str, Any] = {} if question.costs is None else read_costs(question.costs).settings
    marks = MODELS[question.target].marks if question.costs is None else None
    if marks is not None:
        data["reasoning"] = {"open": marks.open, "close": marks.close, "starts_open": True}
    elif "reasoning" in kept:
        data["reasoning"] = kept["reasoning"]
    if not layout.depth:
        if layout.by_draft:
            return data | {"speculation": {"mode": "target"}}
        # An engine that hears requests would look n-grams up where none were planned with.
        looked_up = "ngram" if layout.num_proposed else "none"
        return data | {"speculation": {"mode": "target", "token_speculation": looked_up}}
    data["draft"] = _writer(question, "draft", layout)
    ahead = {"mode": "lookahead", "max_lookahead": layout.depth, "branches": 1}
    if {"verifier", "speculation"} <= kept.keys():
        return data | {"verifier": kept["verifier"], "speculation": kept["speculation"] | ahead}
    data["verifier"] = {"verifiers": _verifiers(marks.answer_prefix if marks is not None else "")}
    fidelities = {name: name for name in data["verifier"]["verifiers"]}
    data["speculation"] = ahead | {"fidelity": EXACT if layout.is_guided else "balanced", "fidelities": fidelities}
    if marks is not None:
        data["speculation"]["scope"] = "think"
    return data


def front(chosen: Candidate) -> dict[str, Any]:
    """So many coordinators that they hear all that was simulated, and gateways that they let all users in."""
    places = CoordinatorPlacement().max_ongoing_requests
    entrance = GatewayPlacement().max_ongoing_requests - AdmissionConfig().max_waiting - ROOM
    num_coordinators = max(ceil(chosen.results_per_s * RESULT_S / FULL), ceil(chosen.users / places), 1)
    num_gateways = max(ceil(chosen.users / entrance), 1)
    return {
        "coordinator": {"placement": {"num_replicas": num_coordinators}},
        "gateway": {"placement": {"num_replicas": num_gateways}},
    }


def _verifiers(answer_prefix: str) -> dict[str, Any]:
    """Checks of texts, then the target as judge, whose answers begin with `answer_prefix`."""

    def cascade(limit: float) -> list[dict[str, Any]]:
        judge = {"kind": "judge", "engine": "target", "accept": limit, "reject": limit, "answer_prefix": answer_prefix}
        return [{"kind": "exact"}, {"kind": "same_numbers"}, {"kind": "same_polarity"}, judge]

    return {"exact": [{"kind": "exact"}], "strict": cascade(0.9), "balanced": cascade(0.7)}


def _name(question: Question) -> str:
    """What requests call the target."""
    if question.costs is None:
        return question.target
    return read_costs(question.costs).target.model.rsplit(":", 1)[-1].rsplit("/", 1)[-1]


def _writer(question: Question, role: str, layout: Layout) -> dict[str, Any]:
    is_target = role == "target"
    gpus = layout.target_gpus if is_target else layout.draft_gpus
    options: dict[str, Any] = {
        "max_model_len": question.max_context,
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",
    }
    level = _token_level(question, role, layout)
    if level is not None:
        options["speculative_config"] = level
    placement: dict[str, Any] = {
        "num_replicas": layout.num_targets if is_target else layout.num_drafts,
        "max_ongoing_requests": 1024,
    }
    if question.costs is not None:
        costs = read_costs(question.costs)
        measured = costs.target if is_target else costs.draft
        # What was measured is served: its engine, its options, its cores. A model inside it was not measured there.
        writer = measured.writer or {"model": measured.model}
        if is_target and layout.by_draft:
            engine = writer.get("engine", {})
            writer = {
                **writer,
                "engine": {**engine, "options": {**engine.get("options", {}), "speculative_config": level}},
            }
        return {**writer, "placement": {**writer.get("placement", {}), **placement}}
    cost = question.cost(role, gpus, layout.num_proposed, by_draft=is_target and layout.by_draft)
    if cost is None:
        raise AssertionError("a planned layout fits")
    # As many as the plan was made with: vLLM's own default is far fewer. A pass holds all of them with their guesses.
    options["max_num_seqs"] = cost.max_num_seqs
    options["max_num_batched_tokens"] = max(cost.max_num_seqs * (1 + layout.num_proposed), LEAST_BATCHED_TOKENS)
    model = MODELS[question.target if is_target else question.draft].hub
    if gpus == 1:
        placement["num_gpus"] = 1
    else:
        options |= {"tensor_parallel_size": gpus, "distributed_executor_backend": "ray"}
        # The workers take the GPUs of the bundles; the first bundle also holds the replica.
        placement |= {
            "num_gpus": 0,
            "placement_group_bundles": [{"CPU": 2, "GPU": 1}, *[{"CPU": 1, "GPU": 1} for _ in range(gpus - 1)]],
            "placement_group_strategy": "STRICT_PACK",
        }
    return {"model": f"hf:{model}", "engine": {"options": options}, "placement": placement}


def _token_level(question: Question, role: str, layout: Layout) -> dict[str, Any] | None:
    """The engine's `speculative_config`; None for none."""
    method, number = layout.token_method, layout.num_proposed
    if role == "draft":  # which looks n-grams up, whatever the target's engine does
        method, number = "ngram", question.looked_up if layout.is_guided else number
    if not number:
        return None
    config: dict[str, Any] = {"method": method, "num_speculative_tokens": number}
    if method == "ngram":
        return config | {"prompt_lookup_max": 4}
    if method == "hints":
        return config
    if question.costs is not None:
        return config | {"model": read_costs(question.costs).draft.model}
    target, draft = MODELS[question.target], MODELS[question.draft]
    config |= {"model": draft.hub}
    # vLLM refuses another number of rows, even where the tokens are the same.
    return config | ({"use_heterogeneous_vocab": True} if draft.vocab_size != target.vocab_size else {})
