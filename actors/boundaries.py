"""Where a step ends: pure rules over the text of tokens.

Promises: a step ends at a token, never inside one; a step that the rule ended holds something visible, because a
boundary counts only after the step's first visible character (blank lines at the start of the text or right after
``</think>`` open the next step instead of making an empty one); a boundary or a closing text is found however its
characters are spread over tokens. Only the cap and the end of the text may leave a step without visible text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from actors.errors import ConfigError
from actors.messages import Delta, Ending, StepRule

BOUNDARIES: Mapping[str, str] = {"blank_line": "\n\n", "line": "\n"}
"""The text that ends a step, by the name of the rule."""


def boundary_text(name: str) -> str:
    """The text that ends a step under the rule `name`; ConfigError names the rules that exist."""
    if name not in BOUNDARIES:
        raise ConfigError(f"There is no step boundary {name!r}; there are: {', '.join(BOUNDARIES)}.", "boundary")
    return BOUNDARIES[name]


def stop_ids(token_texts: Mapping[int, str], rule: StepRule) -> frozenset[int]:
    """The ids that can end a step all by themselves: their own text holds the boundary or the closing text.

    A boundary that is spread over several tokens has no such id, and a token of white space only may have one without
    ending the step: a `StepSplitter` has the last word.
    """
    wanted = [boundary_text(rule.boundary), *([rule.close] if rule.close else [])]
    return frozenset(token for token, text in token_texts.items() if any(mark in text for mark in wanted))


class StepSplitter:
    """Reads the text of one generation token by token and says at which tokens steps end."""

    def __init__(self, rule: StepRule, *, capped: bool = True, before: str = "") -> None:
        """`capped` False never ends a step at ``rule.max_tokens``. `before` is the text in front of the generation:
        the last call may have been cut in the middle of the closing text."""
        self._boundary = boundary_text(rule.boundary)
        self._close = rule.close
        self._cap = rule.max_tokens if capped else None
        self._close_tail = _last(before, len(self._close) - 1) if self._close else ""
        self._begin_step()

    def feed(self, text: str) -> Ending | None:
        """The next token's `text` (empty for a token without text): how the step ends here, None if it goes on."""
        self._num_tokens += 1
        closes, bounds = self._sees_close(text), self._sees_boundary(text)
        if closes:
            ending = Ending.CLOSE
        elif bounds:
            ending = Ending.BOUNDARY
        elif self._num_tokens == self._cap:
            ending = Ending.CAP
        else:
            return None
        self._begin_step()
        return ending

    def _begin_step(self) -> None:
        self._num_tokens = 0
        self._is_visible = False
        self._boundary_tail = ""

    def _sees_close(self, text: str) -> bool:
        # The tail outlives the step: a cap may have cut the closing text in two.
        if not self._close:
            return False
        recent = self._close_tail + text
        self._close_tail = _last(recent, len(self._close) - 1)
        return self._close in recent

    def _sees_boundary(self, text: str) -> bool:
        if not self._is_visible:
            text = text.lstrip()
            self._is_visible = bool(text)
        recent = self._boundary_tail + text
        self._boundary_tail = _last(recent, len(self._boundary) - 1)
        return self._boundary in recent


class DeltaCutter:
    """Cuts an engine's outputs, of one or more tokens each, into deltas of which none reaches over a step's end.

    `finished` is set when the last wanted step has ended; tokens that the engine wrote after it are dropped. With
    `max_steps` None only the end of the engine's own work finishes.
    """

    def __init__(self, splitter: StepSplitter, to_text: Callable[[int], str], max_steps: int | None) -> None:
        self._splitter = splitter
        self._to_text = to_text
        self._max_steps = max_steps
        self._num_steps = 0
        self.finished = False

    def feed(self, token_ids: Sequence[int], final: Ending | None = None) -> list[Delta]:
        """The deltas of the next tokens; `final` (END or CAP) says that the engine will write no more, and why."""
        deltas: list[Delta] = []
        start, text = 0, ""
        for end, token in enumerate(token_ids, start=1):
            piece = self._to_text(token)
            text += piece
            ending = self._splitter.feed(piece)
            if end == len(token_ids) and final is not None:
                ending = self._last_ending(ending, final)
            if ending is None:
                continue
            deltas.append(Delta(text, tuple(token_ids[start:end]), ending))
            start, text = end, ""
            self._count(ending)
            if self.finished:
                break
        if not self.finished:
            if start < len(token_ids):
                deltas.append(Delta(text, tuple(token_ids[start:])))
            elif final is not None and not token_ids:
                deltas.append(Delta("", (), final))
            self.finished = final is not None
        return deltas

    def _last_ending(self, seen: Ending | None, final: Ending) -> Ending:
        if final is Ending.END or self._max_steps is None or seen is None:
            return final
        return seen

    def _count(self, ending: Ending) -> None:
        self._num_steps += 1
        if self._max_steps is not None:
            self.finished = ending.is_last or self._num_steps == self._max_steps


def _last(text: str, length: int) -> str:
    return text[-length:] if length > 0 else ""
