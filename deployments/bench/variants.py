"""What one row of a benchmark asks for: a mode, and the request's other wishes, in one word.

Promises: a word means the same wherever it stands; a wish that is not known is refused before anything is measured.
Written ``MODE[:WISH...]``: a fidelity (``exact``), a token speculation (``ngram``), ``depth=N``, ``branches=N``,
``verifier=NAME``, ``boundary=NAME``, ``controller=on`` or ``controller=off``. ``lookahead:exact:ngram`` is the mode
`lookahead` at fidelity `exact` with n-gram look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from actors.errors import RequestError
from deployments.config import Fidelity, TokenSpeculation

_NUMBERS = {"depth": "max_lookahead", "branches": "branches"}
_SWITCHES = {"on": True, "off": False}


def wishes(variant: str) -> dict[str, Any]:
    """The `speculation` object of a request for `variant`; RequestError names the word that is not known."""
    mode, *words = variant.split(":")
    found: dict[str, Any] = {"mode": mode}
    for word in words:
        name, value = _wish(word, variant)
        if name in found:
            raise RequestError(f"{variant!r} wishes for {name} twice.", "modes")
        found[name] = value
    return found


def baseline(variants: Sequence[str]) -> str:
    """What the others are measured against: the first variant whose mode is `target`, or mode `target` itself, which
    then was not measured."""
    return next((variant for variant in variants if wishes(variant)["mode"] == "target"), "target")


def _wish(word: str, variant: str) -> tuple[str, Any]:
    if word in get_args(Fidelity):
        return "fidelity", word
    if word in get_args(TokenSpeculation):
        return "token_speculation", word
    name, _, value = word.partition("=")
    if name in ("verifier", "boundary") and value:
        return name, value
    if name in _NUMBERS and value.isdecimal() and int(value) > 0:
        return _NUMBERS[name], int(value)
    if name == "controller" and value in _SWITCHES:
        return name, _SWITCHES[value]
    others = ("depth=N", "branches=N", "verifier=NAME", "boundary=NAME", "controller=off")
    known = ", ".join((*get_args(Fidelity), *get_args(TokenSpeculation), *others))
    raise RequestError(f"{word!r} in {variant!r} is no wish that is known; there are: {known}.", "modes")
