"""Where a step ends: pure rules over the text of tokens.

Promises: a step ends at a token, never inside one; a step that the rule ended holds something visible, because a
boundary counts only after the step's first visible character (blank lines at the start of the text or right after
``</think>`` open the next step instead of making an empty one); a boundary or a closing text is found however its
characters are spread over tokens. Only counts of tokens and the end of the text may leave a step without visible text.

By every rule the text up to a token says whether the step ends with it. A token that was drawn, looked at and left for
the next step to draw again would not have the model's distribution any more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from actors.errors import ConfigError
from actors.messages import Delta, Ending, StepRule

BOUNDARIES: Mapping[str, str | None] = {"blank_line": "\n\n", "line": "\n", "sentence": "\n", "tokens": None}
"""The text that ends a step wherever it stands, by the name of the rule. ``sentence`` ends at sentences besides,
``tokens`` only at every `StepRule.max_tokens` tokens."""

SENTENCE_TAIL = 64
"""So many last characters of a step are looked at for the end of a sentence."""
_STOPS = ".!?"
_CLOSING_MARKS = ")]}\"'*_$\u2019\u201d»"
_LIST_MARK = re.compile(r"\W*(?:step\s+)?(?:\d{1,3}|[A-Za-z])\.\W*\Z", re.IGNORECASE)
_ABBREVIATIONS = frozenset(
    "al approx a.k.a ca cf dr e.g eq eqs fig i.e jr mr mrs ms pp prof resp sr st vol vs w.r.t".split()  # noqa: SIM905
)
_OPEN_POINT = re.compile(r"(?:\d|\b[^\W\d_])\.\Z")
"""A stop that may be a decimal point or stand in an abbreviation ("4.5", "U.S."): the next token will tell."""
_FULL_WIDTH = frozenset("\u3002\uff01\uff1f")


def boundary_text(name: str) -> str | None:
    """The text that ends a step under the rule `name`; ConfigError names the rules that exist."""
    if name not in BOUNDARIES:
        raise ConfigError(f"There is no step boundary {name!r}; there are: {', '.join(BOUNDARIES)}.", "boundary")
    return BOUNDARIES[name]


def stop_ids(token_texts: Mapping[int, str], rule: StepRule) -> frozenset[int]:
    """The ids that can end a step all by themselves: their own text holds the boundary or the closing text.

    A boundary that is spread over several tokens has no such id, nor has the end of a sentence, and a token of white
    space only may have one without ending the step: a `StepSplitter` has the last word. Stop strings, which are others
    with every request, are left to it.
    """
    wanted = [mark for mark in (boundary_text(rule.boundary), rule.close) if mark]
    return frozenset(token for token, text in token_texts.items() if any(mark in text for mark in wanted))


def ends_sentence(text: str) -> bool:
    """Whether a sentence ends with `text`, the beginning of a line, if no word goes on behind it: behind ``. ! ?`` and
    closing marks; not behind a list's number ("1."), a common abbreviation, a factorial, or dots for a gap."""
    # Read from its end, and without a pattern: this runs for every token, and a pattern would try each beginning.
    sentence = text.rstrip(_CLOSING_MARKS)
    before = sentence.rstrip(_STOPS)
    stop = sentence[len(before) :]
    if not stop or not before or before[-1].isspace() or _LIST_MARK.match(text):
        return False
    word = before.rsplit(maxsplit=1)[-1].lstrip("([{\"'*_$\u2018\u201c«")
    if not word or (stop == "!" and word[-1].isdigit()):
        return False
    return word.lower() not in _ABBREVIATIONS


class _Watch:
    """Watches for texts however they are spread over tokens, and over steps: a cap may have cut one in two."""

    def __init__(self, texts: tuple[str, ...], before: str) -> None:
        self._texts = texts
        self._tail_length = max(map(len, texts), default=1) - 1
        self._tail = _last(before, self._tail_length)

    def sees(self, text: str) -> bool:
        """Whether the next token's `text` completes one."""
        recent = self._tail + text
        ends = range(len(self._tail) + 1, len(recent) + 1)
        self._tail = _last(recent, self._tail_length)
        return any(recent.endswith(watched, 0, end) for watched in self._texts for end in ends)


class StepSplitter:
    """Reads the text of one generation token by token and says at which tokens steps end."""

    def __init__(self, rule: StepRule, *, capped: bool = True, before: str = "") -> None:
        """`capped` False never ends a step at ``rule.max_tokens``, unless that is the rule. `before` is the text in
        front of the generation: the last call may have been cut in the middle of the closing text or a stop string."""
        self._boundary = boundary_text(rule.boundary)
        self._ends_at_sentences = rule.boundary == "sentence"
        self._tail_length = SENTENCE_TAIL if self._ends_at_sentences else len(self._boundary or "") - 1
        self._close = _Watch((rule.close,) if rule.close else (), before)
        self._stop = _Watch(rule.stop, before)
        self._cap = rule.max_tokens if capped else None
        self._count = rule.max_tokens if self._boundary is None else None
        self._begin_step()

    def feed(self, text: str) -> Ending | None:
        """The next token's `text` (empty for a token without text): how the step ends here, None if it goes on."""
        self._num_tokens += 1
        closes, stops, bounds = self._close.sees(text), self._stop.sees(text), self._sees_boundary(text)
        if closes:
            ending = Ending.CLOSE
        elif stops or bounds:
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

    def _sees_boundary(self, text: str) -> bool:
        if self._boundary is None:
            return self._num_tokens == self._count
        if not self._is_visible:
            text = text.lstrip()
            self._is_visible = bool(text)
        before = self._boundary_tail
        self._boundary_tail = _last(before + text, self._tail_length)
        return self._boundary in before + text or (self._ends_at_sentences and _holds_sentence_end(before, text))


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
        self._ids: list[int] = []
        self._text = ""
        self.finished = False

    def feed(self, token_ids: Sequence[int], final: Ending | None = None) -> list[Delta]:
        """The deltas of the next tokens; `final` (END or CAP) says that the engine will write no more, and why."""
        deltas: list[Delta] = []
        for number, token in enumerate(token_ids, start=1):
            piece = self._to_text(token)
            self._ids.append(token)
            self._text += piece
            ending = self._splitter.feed(piece)
            if number == len(token_ids) and final is not None:
                ending = self._last_ending(ending, final)
            if ending is not None:
                deltas.append(self._end(ending))
                if self.finished:
                    return deltas
        if final is not None and not token_ids:
            deltas.append(self._take(final))
        elif self._ids:
            deltas.append(self._take(None))
        self.finished = final is not None
        return deltas

    def _last_ending(self, seen: Ending | None, final: Ending) -> Ending:
        if final is Ending.END or self._max_steps is None or seen is None:
            return final
        return seen

    def _take(self, ending: Ending | None) -> Delta:
        delta = Delta(self._text, tuple(self._ids), ending)
        self._ids, self._text = [], ""
        return delta

    def _end(self, ending: Ending) -> Delta:
        self._num_steps += 1
        if self._max_steps is not None:
            self.finished = ending.is_last or self._num_steps == self._max_steps
        return self._take(ending)


def _holds_sentence_end(before: str, text: str) -> bool:
    """Whether a sentence is known to end within or with `text`, which follows `before` in a step."""
    if any(character in _FULL_WIDTH for character in text):
        return True
    if any(character.isspace() and ends_sentence(before + text[:at]) for at, character in enumerate(text)):
        return True
    whole = before + text
    return ends_sentence(whole) and _OPEN_POINT.search(whole) is None


def _last(text: str, length: int) -> str:
    return text[-length:] if length > 0 else ""
