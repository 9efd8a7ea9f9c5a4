"""What a stream must say, and what is wrong with what it said. Pure.

Promises: `Expected` knows for each step every version that may be committed; a text is right only if it is one version
of each step, once, in order, to the last character. Where only equal steps are accepted there is one version: the
target's. Where a verifier judges there are the target's and the draft's, since the verifier has the word between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from actors.engines.scripted import NONSENSE, Script, ScriptOptions
from actors.messages import Message

KINDS: Mapping[str, Mapping[str, str | bool]] = {
    "target": {"mode": "target"},
    "window": {"mode": "lookahead", "fidelity": "exact", "controller": False, "token_speculation": "none"},
    "guided": {"mode": "lookahead", "fidelity": "exact"},
    "sync": {"mode": "lookahead_sync", "fidelity": "exact"},
    "judged": {"mode": "lookahead", "verifier": "numbers", "controller": False, "token_speculation": "none"},
}
"""Streams take these by turns: their `speculation`."""
SHOWN = 40


@dataclass(frozen=True, slots=True)
class Expected:
    """The versions of each step that may be committed."""

    steps: tuple[tuple[str, ...], ...]

    @property
    def text(self) -> str:
        """The target's own text."""
        return "".join(versions[0] for versions in self.steps)


def expected(question: str, target: ScriptOptions, draft: ScriptOptions, judged: bool) -> Expected:
    """What a chat with the one message `question` must say."""
    message = Message("user", question)
    prompt = f"{message.role}: {message.content}"
    writers = [target]
    if judged:
        writers += [draft, replace(draft, agree=0.0, paraphrase=0.0)]
    scripts = [Script(options, prompt) for options in writers]
    steps: list[tuple[str, ...]] = []
    while scripts[0].step(len(steps)):
        versions = [script.step(len(steps)) for script in scripts] + ([NONSENSE] if judged else [])
        steps.append(tuple(dict.fromkeys(versions)))
    return Expected(tuple(steps))


def complaint(text: str, wanted: Expected) -> str | None:
    """What is wrong with `text`; None if nothing is."""
    at = 0
    for index, versions in enumerate(wanted.steps):
        found = [version for version in versions if text.startswith(version, at)]
        if not found:
            return _describe(text, at, index, wanted)
        at += max(map(len, found))
    return f"went on behind the end with {text[at : at + SHOWN]!r}" if at < len(text) else None


def _describe(text: str, at: int, index: int, wanted: Expected) -> str:
    rest = text[at:]
    if any(version.startswith(rest) for version in wanted.steps[index]):
        return f"lost: ends after {len(text)} characters, in step {index} of {len(wanted.steps)}"
    before = [i for i in range(index) if any(rest.startswith(version) for version in wanted.steps[i])]
    if before:
        return f"duplicated: step {before[-1]} comes again where step {index} should be"
    later = [
        i for i in range(index + 1, len(wanted.steps)) if any(rest.startswith(version) for version in wanted.steps[i])
    ]
    if later:
        return f"lost: step {later[0]} comes where step {index} should be"
    version = wanted.steps[index][0]
    same = next((i for i, (a, b) in enumerate(zip(rest, version, strict=False)) if a != b), len(version))
    return f"wrong in step {index}: {rest[same : same + SHOWN]!r} where {version[same : same + SHOWN]!r} should be"
