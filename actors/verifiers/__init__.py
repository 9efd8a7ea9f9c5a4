"""Ways to compare two steps, one file each, and the one table of them.

A new check is one file with a class that keeps `actors.verifiers.check.Check`, and one line here. Its keyword arguments
are its settings in the config; one that asks a model has an argument `scorer`, which the config names by ``engine``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from actors.errors import ConfigError
from actors.roles import Scorer
from actors.verifiers.check import Check
from actors.verifiers.controls import AlwaysCheck, NeverCheck, RandomCheck, ScriptedCheck
from actors.verifiers.embedding import EmbeddingCheck
from actors.verifiers.exact import ExactCheck
from actors.verifiers.judge import JudgeCheck
from actors.verifiers.likelihood import LikelihoodCheck
from actors.verifiers.numbers import SameNumbersCheck
from actors.verifiers.polarity import SamePolarityCheck
from actors.verifiers.score import ScoreCheck
from actors.verifiers.self_confidence import SelfConfidenceCheck

CHECKS: dict[str, Callable[..., Check]] = {
    "exact": ExactCheck,
    "same_numbers": SameNumbersCheck,
    "same_polarity": SamePolarityCheck,
    "embedding": EmbeddingCheck.create,
    "judge": JudgeCheck,
    "score": ScoreCheck,
    "likelihood": LikelihoodCheck,
    "self_confidence": SelfConfidenceCheck,
    "always": AlwaysCheck,
    "never": NeverCheck,
    "random": RandomCheck,
    "scripted": ScriptedCheck,
}


def build_check(kind: str, options: Mapping[str, object], scorers: Mapping[str, Scorer]) -> Check:
    """The check `kind` with its settings in `options`; may load a model, which takes seconds.

    `scorers` are the models that can be asked, by the name of their engine (``target``, ``draft``, ``own``).
    ConfigError if there is no such check, setting or engine.
    """
    if kind not in CHECKS:
        raise ConfigError(f"There is no check {kind!r}; there are: {', '.join(CHECKS)}.", "verifier.verifiers")
    factory, arguments = CHECKS[kind], dict(options)
    signature = inspect.signature(factory)
    if "scorer" in signature.parameters:
        engine = arguments.pop("engine", "target")
        if engine not in scorers:
            known = ", ".join(scorers) or "none"
            raise ConfigError(f"The check {kind!r} asks the {engine} engine; those at hand are: {known}.", "engine")
        arguments["scorer"] = scorers[str(engine)]
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"The check {kind!r} cannot be made of its settings: {error}.", kind) from error
    return factory(**arguments)
