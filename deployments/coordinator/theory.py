"""What speculation can gain: the formulas of the papers, and ours for the session as it is. Pure.

Sources: Lookahead Reasoning, arXiv 2506.19830 (step level, both levels, budget); speculative decoding of tokens, arXiv
2211.17192 (draft tokens). What is called "ours" is derived here and tested against the real session.

Words of all functions: `alpha` is the acceptance rate (0 to 1), `c` the time of a draft step (or token) over that of a
target step (or token), 0 or more (above 0 in `async_speed_up`, `hinted_speed_up` and for the steps of `best_split`),
`k` how many of them the target works on at once (1 or more); `verdict`, `restart` and `spread` are 0 or more, `gain` is
1 or more. Times are in target steps. A speed-up is over the target alone. Anything outside of these bounds, and what is
no finite number, is a ValueError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ROUNDING = 1e-9
LONGEST_RUN, SMALLEST_SHARE = 1000, 1e-6
"""Of tokens on which draft and target agree: what is longer counts as so long, what is rarer not at all."""

# --- step level ------------------------------------------------------------------------------------------------------


def sync_speed_up(alpha: float, c: float, k: int) -> float:
    """Synchronous lookahead (arXiv 2506.19830, section 4): `k` - 1 draft steps, then `k` target steps at once."""
    _check(alpha, c, k)
    return geometric_sum(alpha, k) / (1.0 - c + c * k)


def async_speed_up(alpha: float, c: float, k: int) -> float:
    """Asynchronous lookahead (arXiv 2506.19830, section 4): `k` target steps in flight, the draft never waits.

    The form S1 where `k` is at least 1 / `c`, so that the draft bounds the pipeline, else S2.
    """
    _check(alpha, c, k)
    if c == 0.0:
        raise ValueError("no speed-up is defined for a draft that takes no time")
    if k >= math.ceil(1.0 / c):
        return 1.0 / (c + (1.0 - c) * (1.0 - alpha))
    if alpha == 1.0:
        return float(k)
    lost = c * (alpha - alpha ** (k + 1) - k * (1.0 - alpha) * alpha**k)
    return (1.0 - alpha**k) / ((1.0 - alpha) + lost)


def window_speed_up(alpha: float, c: float, depth: float, verdict: float = 0.0) -> float:
    """Our session with `max_lookahead` = `depth` and a verdict that takes `verdict` target steps.

    Ours. A run of accepted steps ends with the first rejected one, n steps in, and takes start(n) + 1 + verdict: a
    target step starts when its prefix is drafted, and the draft starts anew with the verdict. The target's step of
    place r < depth + 1 starts at r c; that of place r + depth + 1 a draft step after place r is committed, since the
    draft waits for room. So a round takes max(1 + verdict + c, (depth + 1) c); what is returned is the mean over n,
    which is geometric. S1 is the same from `depth` + 1 = (1 + c) / c on; S2 counts a round as 1, which needs a draft
    step kept ready. Two things are better than in the papers' forms. A draft that is not faster than the target costs
    nothing: the target's steps stand as they are. And a verdict longer than (`depth` - 1) c costs less than this says:
    the target's step of the last place ends before there is room for a draft step there, and stands.
    """
    _check(alpha, c, depth)
    _check_least("verdict", verdict)
    if c >= 1.0:
        return 1.0
    k = depth + 1
    rounds = math.pow(alpha, k) / geometric_sum(alpha, k)
    within = alpha - k * rounds
    return 1.0 / ((1.0 - alpha) * (1.0 + verdict) + rounds * _round_time(c, k, verdict) + c * within)


@dataclass(frozen=True, slots=True)
class Load:
    """How many sequences one request keeps running on average."""

    target: float
    draft: float


def uneven_window(alpha: float, c: float, depth: int, verdict: float, spread: float) -> tuple[float, Load]:
    """Speed-up and load of our session where steps are log-normally long, `spread` being the standard deviation of the
    logarithm of their lengths.

    Ours, by fit: a long step holds up the window's head, so that a window gives what one of depth^exp(-0.8 spread)
    gives with equal steps, and is as full as one of depth^exp(-0.5 spread). Within 10 % of the session for spreads up
    to 1, closer for those up to 0.5 that texts have.
    """
    _check(alpha, c, depth)
    _check_least("spread", spread)
    fullness = depth ** math.exp(-0.5 * spread)
    low = int(fullness)
    part = fullness - low
    below, above = window_load(alpha, c, low, verdict), window_load(alpha, c, low + 1, verdict)
    target, draft = (a + part * (b - a) for a, b in ((below.target, above.target), (below.draft, above.draft)))
    return window_speed_up(alpha, c, depth ** math.exp(-0.8 * spread), verdict), Load(target, draft)


def window_load(alpha: float, c: float, depth: int, verdict: float = 0.0) -> Load:
    """Mean sequences of one request in the target's and in the draft's batch, under `window_speed_up`'s assumptions.

    Ours: the work of a run (the steps committed, and what was begun after the rejected one and is cancelled) over its
    time. Between one and `depth` + 1 for the target, at most one for the draft.
    """
    speed_up = window_speed_up(alpha, c, depth, verdict)
    if c >= 1.0:
        return Load(1.0, 1.0)
    k = depth + 1
    weight = [alpha**r / geometric_sum(alpha, k) for r in range(k)]
    begin = [_start(place, c, k, verdict) for place in range(2 * k + 1)]
    target = draft = 0.0
    for r in range(k):
        end = begin[r] + 1.0 + verdict
        lost = [min(max(end - begin[r + i], 0.0), 1.0) for i in range(1, k)]
        target += weight[r] * (1.0 + sum(lost))
        drafted = [min(max(end - begin[r + i] + c, 0.0), c) for i in range(1, k)]
        draft += weight[r] * sum(drafted)
    runs = (1.0 - alpha) * speed_up
    return Load(alpha * speed_up + runs * target, alpha * speed_up * c + runs * draft)


# --- token level and both --------------------------------------------------------------------------------------------


def token_speed_up(alpha: float, c: float, k: int) -> float:
    """Speculative decoding inside a step (arXiv 2506.19830, section 4): `k` - 1 draft tokens, `k` in one pass."""
    return sync_speed_up(alpha, c, k)


def combined_speed_up(step_speed_up: float, token_speed_up: float) -> float:
    """Both levels (arXiv 2506.19830, section 4): they multiply, `c` of the step level being measured at that speed."""
    return step_speed_up * token_speed_up


@dataclass(frozen=True, slots=True)
class Split:
    """How a budget of parallel tokens is spent best."""

    num_steps: int
    """k1: target steps in flight."""
    num_tokens: int
    """k2: tokens of each in one pass."""
    speed_up: float


def best_split(
    budget: int, alpha_steps: float, c_steps: float, alpha_tokens: float, c_tokens: float, *, sync: bool = False
) -> Split:
    """The best (k1, k2) with k1 * k2 <= `budget` tokens in one pass (arXiv 2506.19830, section 4.3).

    Asynchronously at most ceil(1 / c1) steps are ever in flight, so a larger k1 is none. Ties go to fewer tokens.
    """
    _check(alpha_steps, c_steps, budget)
    _check(alpha_tokens, c_tokens, budget)
    if c_steps == 0.0:
        raise ValueError("no speed-up is defined for a draft that takes no time")
    most = budget if sync else min(budget, math.ceil(1.0 / c_steps))
    step_level = sync_speed_up if sync else async_speed_up
    choices = [
        Split(k1, k2, step_level(alpha_steps, c_steps, k1) * token_speed_up(alpha_tokens, c_tokens, k2))
        for k1 in range(1, most + 1)
        for k2 in range(1, budget // k1 + 1)
    ]
    return max(choices, key=lambda choice: (choice.speed_up, -choice.num_steps * choice.num_tokens))


def tokens_per_pass(alpha: float, num_draft_tokens: int) -> float:
    """Expected tokens of one run of the target with so many draft tokens (arXiv 2211.17192, equation 1)."""
    _check(alpha, 0.0, num_draft_tokens + 1)
    return geometric_sum(alpha, num_draft_tokens + 1)


def wall_time_factor(alpha: float, c: float, num_draft_tokens: int) -> float:
    """Speed-up by draft tokens (arXiv 2211.17192, theorem 3.8)."""
    _check(alpha, c, num_draft_tokens + 1)
    return tokens_per_pass(alpha, num_draft_tokens) / (num_draft_tokens * c + 1.0)


def draft_tokens_pay(alpha: float, c: float) -> bool:
    """Whether some number of draft tokens is faster than none (arXiv 2211.17192, corollary 3.9)."""
    _check(alpha, c, 1)
    return alpha > c


def token_acceptance_rate(alpha: float, num_draft_tokens: int) -> float:
    """TAR: accepted over proposed draft tokens, where nothing after the first rejected one counts."""
    _check(alpha, 0.0, num_draft_tokens)
    return alpha * geometric_sum(alpha, num_draft_tokens) / num_draft_tokens


# --- hints -----------------------------------------------------------------------------------------------------------


def hinted_speed_up(alpha: float, c: float, gain: float, k: int) -> float:
    """Hints that are there when the target's step starts: S(alpha, c gain) * gain.

    Ours: the draft's step makes the target write `gain` (1 or more) times as fast, so that the same draft costs a
    larger part of a target step. `c` is that without hints.
    """
    _check_least("gain", gain, 1.0)
    return async_speed_up(alpha, c * gain, k) * gain


def late_hint_gain(c: float, gain: float) -> float:
    """What `gain` is worth when the hint comes one draft step after the target's step began.

    Ours. That is the case for every step of a window that starts the target as soon as the prefix is there: during `c`
    the target writes at its own pace, the rest goes `gain` times as fast. Waiting for the hint would end later.
    """
    _check(0.0, c, 1)
    _check_least("gain", gain, 1.0)
    return 1.0 if c >= 1.0 else 1.0 / (c + (1.0 - c) / gain)


def guided_speed_up(alpha: float, c: float, num_hint_tokens: int, restart: float = 0.0) -> float:
    """Tokens in a pass of a target that goes on without waiting while the draft writes hints for it; never below 1.

    Ours. `alpha` is the share of places at which the draft would write the target's token, `c` a draft's token over a
    pass, `num_hint_tokens` how many a pass checks, `restart` the passes until a new call of the draft has its first
    hint at the target, without the time of writing it. Between two places at which the draft strays lie L tokens, with
    probability (1 - alpha) alpha^L. The pass behind such a place has no hint yet; of the L + 1 tokens it gives the
    first, and the rest, if there is any, comes when the draft has written it (on average half a token of the draft's
    late), at most `num_hint_tokens` + 1 a pass. Tokens that the engine looks up itself are not in it.
    """
    _check(alpha, c, num_hint_tokens)
    _check_least("restart", restart)

    def num_passes(length: int) -> float:
        """For `length` tokens on which both agree, and the one behind them."""
        later = math.ceil(max(c * (length + 0.5) + restart, length / (num_hint_tokens + 1)) - ROUNDING)
        return 1.0 + min(max(later, 1), length)

    length = next((n for n in range(1, LONGEST_RUN) if alpha**n < SMALLEST_SHARE), LONGEST_RUN)
    passes = sum((1.0 - alpha) * alpha**n * num_passes(n) for n in range(length))
    return geometric_sum(alpha, length) / (passes + alpha**length * num_passes(length))


# --- arithmetic ------------------------------------------------------------------------------------------------------


def geometric_sum(alpha: float, k: float) -> float:
    """1 + alpha + ... + alpha^(k-1), also where alpha is 1."""
    return float(k) if alpha == 1.0 else (1.0 - alpha**k) / (1.0 - alpha)


def _round_time(c: float, k: float, verdict: float) -> float:
    return max(1.0 + verdict + c, k * c)


def _start(place: int, c: float, k: int, verdict: float) -> float:
    """When the target's step of `place` starts, if none before it is rejected."""
    rounds, r = divmod(place, k)
    return rounds * _round_time(c, k, verdict) + r * c


def _check(alpha: float, c: float, k: float) -> None:
    # A comparison with what is not a number is false, so that each of these finds it.
    if not (0.0 <= alpha <= 1.0 and 0.0 <= c < math.inf and 1 <= k < math.inf):
        raise ValueError(f"no speed-up is defined for alpha={alpha}, c={c}, k={k}")


def _check_least(name: str, value: float, least: float = 0.0) -> None:
    if not least <= value < math.inf:
        raise ValueError(f"no speed-up is defined for {name}={value}")
