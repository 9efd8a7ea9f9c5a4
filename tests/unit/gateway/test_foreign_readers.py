"""Our streams as others read them: OpenAI's decoder and vLLM's load client, with pauses, whatever a read holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from openai._streaming import SSEDecoder
from vllm.benchmarks.lib.endpoint_request_func import StreamedResponseHandler

from actors.errors import RoleUnavailable
from actors.messages import Prompt
from deployments.gateway.answers import ChatAnswer
from deployments.gateway.bookmarks import Bookmarks, Mark
from deployments.gateway.generations import Generations
from deployments.gateway.sse import events
from deployments.generation import GenerationRequest
from tests.unit.clock import run_virtually
from tests.unit.gateway.script import MODEL, Act, ScriptedBackend, finished, opened, said

KEEP_ALIVE_S = 1.0
OPENED = opened(GenerationRequest("r", Prompt(text="x")))
SCRIPTS: dict[str, list[Act]] = {
    "a pause before the first text": [OPENED, 2.5, said("Six ", 0), said("times ", 0), finished()],
    "pauses everywhere": [OPENED, 1.5, said("Six ", 0), 3.5, said("", 1), said("times ", 1), 1.5, finished()],
    "a pause before the end": [OPENED, said("Six ", 0), 1.5, finished()],
    "a pause before a failure": [OPENED, said("Six ", 0), 1.5, RoleUnavailable("The target died.")],
    "no pause": [OPENED, said("Six ", 0), said("times ", 0), finished()],
}


def parts(*scripts: Sequence[Act], marks: Mark | None = None) -> list[bytes]:
    """What is sent, part by part, of as many choices as there are `scripts`; with ids, where `marks` says what the
    client has of each."""

    async def send() -> list[bytes]:
        names = [f"r-{index}" for index in range(len(scripts))]
        backend = ScriptedBackend(lambda request: scripts[names.index(request.request_id)])
        requests = [GenerationRequest(name, Prompt(text="x")) for name in names]
        answer = ChatAnswer("r", MODEL, 0, len(names), len(names), True)
        bookmarks = Bookmarks("r", (marks,) * len(names)) if marks is not None else None
        async with Generations(backend, requests, 100.0) as generations:
            await generations.open()
            return [part async for part in events(generations, answer, "r", True, KEEP_ALIVE_S, bookmarks)]

    return run_virtually(send())


def told(sent: Sequence[bytes]) -> list[Any]:
    """The data of each event in `sent`, by the words of the standard: what every reader should have."""
    lines = b"".join(sent).decode().split("\n")
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def by_openai(reads: Sequence[bytes]) -> list[Any]:
    return [each.data if each.data == "[DONE]" else each.json() for each in SSEDecoder().iter_bytes(iter(reads))]


def by_vllm(reads: Sequence[bytes]) -> list[Any]:
    """As `async_request_openai_chat_completions` reads."""
    handler, found = StreamedResponseHandler(), []
    for read in filter(None, map(bytes.strip, reads)):
        data = [each.removeprefix("data: ") for each in handler.add_chunk(read) if not each.startswith(":")]
        found += [each if each == "[DONE]" else json.loads(each) for each in data]
    return found


def in_pairs(sent: Sequence[bytes]) -> list[bytes]:
    return [b"".join(sent[at : at + 2]) for at in range(0, len(sent), 2)]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("marks", [None, Mark()])
def test_openais_client_reads_every_event(script: str, marks: Mark | None) -> None:
    sent = parts(SCRIPTS[script], marks=marks)
    assert (b": keep-alive\n" in sent) == (script != "no pause")
    whole = b"".join(sent)
    for reads in (sent, in_pairs(sent), [whole], [whole[at : at + 1] for at in range(len(whole))]):
        assert by_openai(reads) == told(sent)


@pytest.mark.parametrize("script", SCRIPTS)
def test_vllms_load_client_reads_every_event_as_it_comes(script: str) -> None:
    sent = parts(SCRIPTS[script])
    for number in range(len(sent) + 1):
        assert by_vllm(sent[:number]) == told(sent[:number]), "at once, and not with the next one"
    for reads in (in_pairs(sent), in_pairs([b"", *sent]), [b"".join(sent)]):
        assert by_vllm(reads) == told(sent)


def choices_of(event: Any) -> list[tuple[int, dict[str, Any]]]:
    return [(choice["index"], choice["delta"]) for choice in event.get("choices", ())] if event != "[DONE]" else []


def test_the_roles_of_all_choices_come_in_order_with_the_first_text_or_end_of_any() -> None:
    """Load clients take the first event with a choice for the first token; OpenAI's client takes the order in which
    choices come for their numbers."""
    role = {"role": "assistant", "content": ""}
    late: list[Act] = [OPENED, 2.5, said("", 0), 2.0, said("late", 0), finished()]
    soon: list[Act] = [OPENED, 0.5, said("soon", 0), finished()]
    silent: list[Act] = [OPENED, 0.7, finished()]
    sent = parts(late, soon, silent)
    assert [found for event in told(sent) for found in choices_of(event)] == [
        *((0, role), (1, role), (2, role)),
        *((1, {"content": "soon"}), (1, {})),
        (2, {}),
        *((0, {"content": "late"}), (0, {})),
    ]
    assert parts(late)[:4] == [b": keep-alive\n"] * 4, "4.5 s without a text"


def test_an_id_tells_of_no_more_than_its_event() -> None:
    """Who loses the connection between the role and the first text lacks that text."""
    script = SCRIPTS["no pause"]
    ids = [part.split(b"\n")[0] for part in parts(script, marks=Mark()) if part.startswith(b"id: ")]
    assert ids == [b"id: r/1", b"id: r/5", b"id: r/11", b"id: r/11e"]
    again = [choices_of(event) for event in told(parts(script, marks=Mark(is_open=True)))]
    assert again[0] == [(0, {"content": "Six "})], "whoever has the role is not sent it again"
