"""A made-up trace that looks like a real one: async lookahead, depth 4, some drafts rejected, one replica lost."""

from __future__ import annotations

import random
from typing import Any

_TEXTS = (
    "First, the baker makes 24 trays with 12 rolls each, which is 24 * 12 = 288 rolls.\n\n",
    "Of these, a quarter is set aside for the school: 288 / 4 = 72 rolls.\n\n",
    "That leaves 288 - 72 = 216 rolls for the shop.\n\n",
    "Each roll is sold for $0.50, so the shop takes 216 * 0.50 = $108.\n\n",
    "Flour and electricity cost $31, so the profit is 108 - 31 = $77.\n\n",
)
_BAD = "Of these, a third is set aside for the school: 288 / 3 = 96 rolls.\n\n"


def trace(num_steps: int = 12, seed: int = 3, draft_s: float = 0.45, target_s: float = 1.2) -> dict[str, Any]:
    """A trace in the form of ``GET /v1/traces/{id}``, with `num_steps` committed steps."""
    chance = random.Random(seed)
    spans: list[dict[str, Any]] = []
    commits: list[dict[str, Any]] = []
    position, now, drafted, head_ready = 0, 0.05, 0.05, 0.0
    for step in range(num_steps):
        text = _TEXTS[step % len(_TEXTS)]
        took, wrote = draft_s * chance.uniform(0.6, 1.5), target_s * chance.uniform(0.7, 1.3)
        start = max(now if step == 0 else drafted, 0.05)
        fate = chance.choices(("accepted", "rejected", "none"), (0.65, 0.25, 0.1))[0]
        target_start, target_end = start, start + wrote
        done = max(target_end, head_ready)
        if fate == "none":
            spans.append(_span("draft", position, None, start, target_end, "cancelled", 9, None))
            spans.append(_span("target", position, step, target_start, target_end, "target", 41, text))
            commits.append(_commit(step, done, "target", 41, text))
            drafted = done
        else:
            ok = fate == "accepted"
            spans.append(_span("draft", position, step, start, start + took, fate, 38, text if ok else _BAD))
            spans.append(
                _span("target", position, step, target_start, target_end, "accepted" if ok else "recovered", 41, text)
            )
            reason = "same numbers, cosine 0.93" if ok else "other numbers: 96, 3"
            detail = {"accepted": ok, "verifier": "balanced", "score": 0.93 if ok else None, "reason": reason}
            spans.append(
                _span("verdict", position, step, done, done + 0.03, "accepted" if ok else "rejected", 0, None, detail)
            )
            done += 0.03
            commits.append(_commit(step, done, "accepted" if ok else "recovered", 38 if ok else 41, text))
            if ok:
                drafted = start + took
            else:
                spans.append(_span("draft", position + 1, None, start + took, done, "cancelled", 21, None))
                spans.append(_span("target", position + 1, None, start + took, done, "cancelled", 17, None))
                drafted = done
        head_ready = done
        position += 2 if fate == "rejected" else 1
    lost = _span("target", position, None, head_ready, head_ready + 0.2, "failed", 0, None, {"error": "replica died"})
    spans.append(lost)
    spans.append(_span("answer", -1, None, head_ready + 0.2, head_ready + 1.4, "target", 12, "The answer is 77."))
    accepted = sum(commit["origin"] == "accepted" for commit in commits)
    recovered = sum(commit["origin"] == "recovered" for commit in commits)
    summary = {
        "mode": "lookahead",
        "num_steps": num_steps,
        "num_accepted_steps": accepted,
        "num_recovered_steps": recovered,
        "num_target_steps": num_steps - accepted - recovered,
        "accept_rate": accepted / max(1, accepted + recovered),
    }
    return {
        "request_id": "chatcmpl-7f3a91c2",
        "mode": "lookahead",
        "started_at": 1_760_000_000.0,
        "duration_s": head_ready + 1.4,
        "spans": spans,
        "commits": commits,
        "summary": summary,
    }


def _span(
    kind: str,
    position: int,
    step: int | None,
    start: float,
    end: float,
    outcome: str,
    num_tokens: int,
    text: str | None,
    detail: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "kind": kind,
        "position": position,
        "step": step,
        "start_s": round(start, 4),
        "end_s": round(end, 4),
        "outcome": outcome,
        "replica": f"{kind}#1",
        "num_tokens": num_tokens,
        "num_cached_tokens": 96,
        "text": text,
        "detail": detail or {},
    }


def _commit(step: int, at_s: float, origin: str, num_tokens: int, text: str) -> dict[str, Any]:
    return {"step": step, "at_s": round(at_s, 4), "origin": origin, "num_tokens": num_tokens, "text": text}
