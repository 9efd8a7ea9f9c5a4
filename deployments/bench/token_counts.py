"""What token-level speculation did between two looks at a server's ``/metrics``: ours, or vLLM's own.

Promises: the counts are the engines'; ours are kept by role, vLLM's stand under ``target``; a server without such
metrics is no error, it has no counts; an engine whose counts went backwards (it was replaced), or that was not on the
page at both looks (it did not answer in time, or is new), is left out.

Counts are ``{role: {name: number}}``, with the names of `NAMES` and ``accepted_at_N`` for each place N of a proposal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

NAMES = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")
_PLACES = "num_accepted_tokens_per_pos"
_PREFIXES = ("lookahead_token_", "vllm:spec_decode_")
_TIMEOUT_S = 10.0

Counts = dict[str, dict[str, float]]
EngineCounts = dict[tuple[str, str], dict[str, float]]
"""As `Counts`, by role and replica."""


def read_counts(text: str) -> EngineCounts:
    """The counts in a page of metrics in Prometheus' text format; ValueError if it is none."""
    found: EngineCounts = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        name = next((family.name.removeprefix(p) for p in _PREFIXES if family.name.startswith(p)), "")
        if name not in (*NAMES, _PLACES):
            continue
        for sample in family.samples:
            if sample.name.endswith("_total"):
                key = name if name != _PLACES else f"accepted_at_{sample.labels.get('position', '0')}"
                engine = sample.labels.get("replica", sample.labels.get("engine", ""))
                found[sample.labels.get("role", "target"), engine][key] += sample.value
    return {engine: dict(counts) for engine, counts in found.items()}


def by_role(counted: EngineCounts) -> Counts:
    """The engines of each role together."""
    found: Counts = defaultdict(lambda: defaultdict(float))
    for (role, _), counts in counted.items():
        for name, value in counts.items():
            found[role][name] += value
    return {role: dict(counts) for role, counts in found.items()}


def difference(after: EngineCounts, before: EngineCounts) -> Counts:
    """What was counted between `before` and `after`."""
    found: EngineCounts = {}
    for engine in after.keys() & before.keys():
        grown = {name: value - before[engine].get(name, 0.0) for name, value in after[engine].items()}
        if min(grown.values(), default=0.0) >= 0:
            found[engine] = grown
    return by_role(found)


def acceptance(counted: Iterable[Counts | None]) -> dict[str, dict[str, Any]]:
    """All of `counted` together, by role: the sums, the share of proposed tokens that was accepted (TAR), tokens that a
    verified proposal brought on average, the model's own included, and accepted tokens by place."""
    sums: Counts = defaultdict(lambda: defaultdict(float))
    for counts in counted:
        for role, values in (counts or {}).items():
            for name, value in values.items():
                sums[role][name] += value
    return {role: _row(values) for role, values in sorted(sums.items()) if values.get("num_draft_tokens")}


def _row(values: dict[str, float]) -> dict[str, Any]:
    drafts, proposed, accepted = (int(values.get(name, 0)) for name in NAMES)
    places: list[int] = []
    while f"accepted_at_{len(places)}" in values:
        places.append(int(values[f"accepted_at_{len(places)}"]))
    return {
        "num_drafts": drafts,
        "num_draft_tokens": proposed,
        "num_accepted_tokens": accepted,
        "acceptance_rate": accepted / proposed,
        "tokens_per_draft": 1 + accepted / drafts if drafts else None,
        "accepted_per_position": places,
    }


class TokenCounter:
    """Looks at one server's metrics again and again."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._before: EngineCounts | None = None

    async def since_last(self) -> Counts | None:
        """What was counted since the last call; None at the first, and where the server does not say."""
        try:
            response = await self._http.get("/metrics", timeout=_TIMEOUT_S)
            now = read_counts(response.text) if response.is_success else None
        except (httpx.HTTPError, ValueError):
            now = None
        before, self._before = self._before, now
        return difference(now, before) if now is not None and before is not None else None
