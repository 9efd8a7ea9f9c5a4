"""One scrape of several coordinators: what adds up, and what may never fall."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from actors.messages import SpeculationStats
from deployments.telemetry.metrics import Metrics, merge, of_replica, token_metrics


def scraped(texts: list[str]) -> dict[tuple[str, str | None], float]:
    """By name and replica."""
    families = text_string_to_metric_families(merge(texts))
    return {(s.name, s.labels.get("replica")): s.value for family in families for s in family.samples}


def coordinator(replica: str, num_steps: int, depth: int) -> str:
    metrics = Metrics()
    metrics.draft_steps.inc(num_steps)
    metrics.first_step_seconds.observe(0.2)
    metrics.in_flight.inc(num_steps)
    metrics.depth.set(depth)
    return of_replica(metrics.text(), replica)


def test_no_counter_falls_where_a_replica_is_missing_from_a_scrape() -> None:
    one, other = coordinator("a", 3, 2), coordinator("b", 40, 5)
    whole, part = scraped([one, other]), scraped([one])
    for name in ("lookahead_num_draft_steps_total", "lookahead_time_to_first_step_seconds_count"):
        assert (name, None) not in whole
        assert part[name, "a"] == whole[name, "a"]
        assert (name, "b") not in part
    assert whole["lookahead_num_draft_steps_total", "b"] == 40


def test_no_count_falls_where_an_engine_is_missing_from_a_scrape() -> None:
    counted = SpeculationStats(10, 40, 20, (10, 6, 3, 1), 30, 18, 10, 2)
    engines = [("target", "a", counted), ("target", "b", counted), ("draft", "c", counted)]
    whole, part = (samples(token_metrics(those)) for those in (engines, engines[1:]))
    assert len(part) == len(whole) * 2 / 3 > 0
    assert part.items() <= whole.items()


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(merge([text]))
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def test_gauges_have_no_replica_and_are_added_up_or_the_largest() -> None:
    found = scraped([coordinator("a", 3, 2), coordinator("b", 40, 5)])
    assert found["lookahead_requests_in_flight", None] == 43
    assert found["lookahead_lookahead_depth", None] == 5


def test_labels_of_their_own_stay() -> None:
    metrics = Metrics()
    metrics.degraded.labels("draft_unavailable").inc()
    text = of_replica(metrics.text(), "a")
    assert 'lookahead_degraded_total{reason="draft_unavailable",replica="a"} 1.0' in text
