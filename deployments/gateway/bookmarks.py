"""How far a client has read a stream, as the ``id`` of each event.

Promises: the id of an event and the outputs of the backend, in whatever parts they come, say exactly what the client
lacks; pure. An id is the request's id, a slash, and for each choice a number, with dots between: 0 before it was
opened, then 1 and the characters of its text; an ``e`` where it is finished. ``abc/35.1e``: 34 characters of the first
choice, and none of the second one, which has ended.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from deployments.gateway.errors import bad_request
from deployments.generation import Committed, Opened, Output

MARK = re.compile(r"(\d{1,12})(e?)")


@dataclass(frozen=True, slots=True)
class Mark:
    """What a client has of one choice."""

    is_open: bool = False
    num_chars: int = 0
    is_finished: bool = False

    def __str__(self) -> str:
        return f"{self.num_chars + 1 if self.is_open else 0}{'e' if self.is_finished else ''}"


class Bookmarks:
    """The marks of all choices of request `request_id`, moved by the outputs that are sent."""

    def __init__(self, request_id: str, marks: tuple[Mark, ...]) -> None:
        self._request_id = request_id
        self._marks = list(marks)

    def move(self, index: int, output: Output) -> bytes | None:
        """The line with the id of the event that tells `output` of choice `index`; None: the client has it already."""
        mark = self._marks[index]
        if isinstance(output, Opened):
            moved = replace(mark, is_open=True)
        elif isinstance(output, Committed):
            moved = replace(mark, is_open=True, num_chars=mark.num_chars + len(output.text))
        else:
            moved = replace(mark, is_open=True, is_finished=True)
        if moved == mark:
            return None
        self._marks[index] = moved
        return f"id: {self._request_id}/{'.'.join(map(str, self._marks))}\n".encode()


def read_id(last_event_id: str, request_id: str) -> tuple[Mark, ...]:
    """The marks in `last_event_id`, which must be of this request; HttpError (400) says what is wrong with it."""
    of, _, text = last_event_id.rpartition("/")
    found = [MARK.fullmatch(part) for part in text.split(".")]
    if of != request_id or not all(found):
        message = "'Last-Event-ID' must be the id of an event of this stream, unchanged."
        raise bad_request("invalid_value", message, "Last-Event-ID")
    marks = []
    for match in found:
        number = int(match[1]) if match is not None else 0
        marks.append(Mark(number > 0, max(0, number - 1), bool(match is not None and match[2])))
    return tuple(marks)
