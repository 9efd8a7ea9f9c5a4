"""What one row of a benchmark asks for: a mode, and the request's other wishes, in one word.

Promises: a word means the same wherever it stands; a wish that is not known is refused before anything is measured, and
no error repeats an address, which may have a password.
Written ``MODE[:WISH...][@URL]``: a fidelity (``exact``), a token speculation (``ngram``), ``depth=N``, ``branches=N``,
``verifier=NAME``, ``boundary=NAME``, ``controller=on`` or ``controller=off``. ``lookahead:exact:ngram`` is the mode
`lookahead` at fidelity `exact` with n-gram look-up. The mode ``plain`` sends nothing of ours, for any OpenAI endpoint;
with ``@URL`` a row asks another server than the rest; ``vllm``, ``vllm:ngram`` and ``vllm:none`` ask vLLM's own server,
started for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from actors.errors import RequestError
from deployments.bench.equal_hardware import speculation_of
from deployments.sections import Fidelity
from deployments.speculation_config import TokenSpeculation

PLAIN = "plain"
_NUMBERS = {"depth": "max_lookahead", "branches": "branches"}
_SWITCHES = {"on": True, "off": False}
_OF_THE_RUN = ("fidelity", "verifier", "max_lookahead")
"""Wishes that a run has for all of its rows."""


def wishes(variant: str) -> dict[str, Any]:
    """The `speculation` object of a request for `variant`, empty where nothing of ours is sent; RequestError names the
    word that is not known."""
    row = variant.partition("@")[0]
    mode, *words = row.split(":")
    if speculation_of(row) is not None:
        return {}
    if mode == PLAIN:
        if words:
            raise RequestError(f"{row!r}: '{PLAIN}' sends no speculation, so it takes no wishes.", "modes")
        return {}
    found: dict[str, Any] = {"mode": mode}
    for word in words:
        name, value = _wish(word)
        if name in found:
            raise RequestError(f"{row!r} wishes for {name} twice.", "modes")
        found[name] = value
    return found


def asked(variant: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The `speculation` object that a run with the settings `plan` sends for `variant`, whose own wishes come before
    the run's."""
    own = wishes(variant)
    return {name: plan[name] for name in _OF_THE_RUN if plan.get(name) is not None} | own if own else {}


def takes_salt(variant: str) -> bool:
    """Whether the server of `variant` is known to take a `cache_salt`: ours, and vLLM's own as we start it."""
    return bool(wishes(variant)) or speculation_of(variant) is not None


def address(variant: str) -> str | None:
    """The server of its own that a variant names; None for the run's server."""
    row, found, url = variant.partition("@")
    if found and not url.startswith(("http://", "https://")):
        raise RequestError(f"{row!r}: after '@' comes an address like http://127.0.0.1:8001.", "modes")
    return base_url(url) if found else None


def base_url(url: str) -> str:
    """An address without the ``/v1`` that many tools want at its end."""
    return url.rstrip("/").removesuffix("/v1")


def baseline(variants: Sequence[str]) -> str:
    """What the others are measured against: the first variant whose mode is `target`, else the first that sends
    nothing of ours, else mode `target` itself, which then was not measured."""
    for mode in ("target", None):
        for variant in variants:
            if wishes(variant).get("mode") == mode:
                return variant
    return "target"


def _wish(word: str) -> tuple[str, Any]:
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
    raise RequestError(f"{word!r} is no wish that is known; there are: {known}.", "modes")
