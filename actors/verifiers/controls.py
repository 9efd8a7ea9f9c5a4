"""Controls: checks that do not read the steps' meaning, to measure the others against.

Promises: no model, no state; `RandomCheck` gives the same answer on the same two texts, in every process.
`ScriptedCheck` alone answers to somebody outside.
"""

from __future__ import annotations

import hashlib
import random
from typing import cast

from actors.engines.control_folder import ControlFolder
from actors.errors import ConfigError
from actors.messages import JudgeRequest
from actors.verifiers.check import Decision, Opinion


class AlwaysCheck:
    """Accepts everything: only the draft's steps are committed. An upper bound of speed."""

    name = "always"
    reads_context = False

    async def check(self, request: JudgeRequest) -> Opinion:
        return Opinion(Decision.ACCEPT, "this control accepts everything")


class NeverCheck:
    """Rejects everything: only the target's steps are committed. A lower bound of speed."""

    name = "never"
    reads_context = False

    async def check(self, request: JudgeRequest) -> Opinion:
        return Opinion(Decision.REJECT, "this control rejects everything")


class RandomCheck:
    """Accepts with probability `accept`, by a hash of `seed` and the two texts: what a verifier must be better than."""

    name = "random"
    reads_context = False

    def __init__(self, accept: float = 0.5, seed: int = 0) -> None:
        if not 0.0 <= accept <= 1.0:
            raise ConfigError(f"The check `random` accepts with probability {accept}, which is not between 0 and 1.")
        self._accept = accept
        self._seed = seed

    async def check(self, request: JudgeRequest) -> Opinion:
        # repr keeps the two texts apart: no pair of texts reads like another pair.
        words = repr((self._seed, request.draft.text, request.target and request.target.text)).encode()
        draw = int.from_bytes(hashlib.sha256(words).digest()[:8], "big") / 2**64
        if draw < self._accept:
            return Opinion(Decision.ACCEPT, f"the draw {draw:.3f} is below {self._accept:g}")
        return Opinion(Decision.REJECT, f"the draw {draw:.3f} is not below {self._accept:g}")


class ScriptedCheck:
    """Unsure, until an order in the folder `control` says otherwise (None: never): ``random`` accepts or rejects by
    chance, ``broken`` fails, ``malformed`` answers what is no opinion."""

    name = "scripted"
    reads_context = True  # else what is said at random would be remembered for other requests

    def __init__(self, control: str | None = None) -> None:
        self._control = ControlFolder(control)

    async def check(self, request: JudgeRequest) -> Opinion:
        garbage = self._control.orders().garbage
        if garbage == "broken":
            raise RuntimeError("The scripted check was ordered to break off.")
        if garbage == "malformed":
            return cast("Opinion", "yes")
        if garbage == "random":
            return Opinion(random.choice((Decision.ACCEPT, Decision.REJECT)), "ordered to answer at random")
        return Opinion(Decision.UNSURE, "nothing was ordered")
