"""What a calibration found, as one JSON object and in words.

Promises: pure but for `write`; a threshold that was asked for and is not shown to reach its precision is said to be
missing, with what it would take.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors.errors import RequestError
from deployments.calibration.curve import calibration, choose, num_for, thresholds
from deployments.calibration.page import num_of, page
from deployments.calibration.pairs import StepPair
from deployments.calibration.scoring import TOPS, Place, Result


def build(place: Place, result: Result, pairs: Sequence[StepPair], precision: float) -> dict[str, Any]:
    """The content of ``calibration.json``. `pairs` are those that `result` is of, with their labels."""
    found = thresholds(result.scored)
    chosen = choose(found, precision)
    num = len(result.scored)
    return {
        "verifier": place.verifier,
        "check": place.kind,
        "labelled_by": sorted({pair.labelled_by or "the file" for pair in pairs if pair.same is not None}),
        "num_pairs": num + result.num_unscored + result.decided.total(),
        "num_scored": num,
        "num_same": sum(pair.same for pair in result.scored),
        "num_unscored": result.num_unscored,
        "unscored_reason": result.unscored_reason,
        "num_unlabelled": result.num_unlabelled,
        "decided_before": {
            ended: {"num": count, "num_right": result.decided_right[ended]} for ended, count in result.decided.items()
        },
        "wished_precision": precision,
        "threshold": asdict(chosen) if chosen is not None else None,
        "thresholds": [asdict(one) for one in found],
        "calibration": [list(point) for point in calibration(result.scored)],
        "scores": [[pair.score, pair.same] for pair in sorted(result.scored, key=lambda pair: pair.score)],
    }


def conclusion(report: Mapping[str, Any]) -> str:
    """In words: the threshold, or why there is none, and what the check had no score for."""
    words = _finding(report)
    if report["num_unscored"]:
        words += f" {num_of(report['num_unscored'], 'pair')} reached it without a score"
        words += f"; the reason for the first: {report['unscored_reason']}."
    return words


def _finding(report: Mapping[str, Any]) -> str:
    name, wish = f"{report['verifier']}/{report['check']}", report["wished_precision"]
    one = report["threshold"]
    if one is not None:
        return (
            f"{name} from {one['threshold']:.4g}: precision {one['precision']:.3f} (95 % interval {one['low']:.3f} to "
            f"{one['high']:.3f}, {one['num_accepted']} pairs), and {one['recall']:.0%} of the same pairs accepted. The "
            "interval takes pairs for independent, which those of one problem are not, and the threshold was chosen on "
            "the same pairs: it is narrower than it should be. Look at it again on pairs of other problems."
        )
    if not report["num_scored"] and report["num_unscored"]:
        return f"{name} gave no labelled pair a score, so nothing can be said of it."
    if not report["num_scored"]:
        return f"No labelled pair reached {name}, so nothing can be said of it."
    best = max(report["thresholds"], key=lambda t: t["low"])
    return (
        f"No threshold of {name} is shown to reach a precision of {wish:g}: the best, {best['threshold']:.4g}, has "
        f"{best['num_right']} of {best['num_accepted']} right (at least {best['low']:.3f}). To show {wish:g} takes "
        f"{num_for(wish)} or more accepted pairs, nearly all right: record more pairs, or wish for less."
    )


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``calibration.json`` and ``calibration.html``; RequestError if the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (folder / "calibration.json").write_text(text, encoding="utf-8")
        (folder / "calibration.html").write_text(
            page(report, conclusion(report), TOPS[report["check"]]), encoding="utf-8"
        )
    except OSError as error:
        raise RequestError(f"The report cannot be written to {folder}: {error.strerror}.", "out") from error
