"""``lookahead chat``: ask, and watch the steps arrive in the colour of who wrote them.

Promises: the answer is printed as it comes; every turn ends with one line of what it cost; Ctrl-C closes the stream,
so that the server stops too; a turn that fails ends no conversation, and what it said is not part of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.style import Style

from actors.errors import LookaheadError, RequestError, ServiceError
from actors.messages import Message
from deployments.cli.terminal import (
    DEFAULT_URL,
    STEP_STYLES,
    ApiKey,
    Fidelity,
    Json,
    Temperature,
    Url,
    Verifier,
    describe_steps,
    print_json,
    printable,
    words_console,
)
from deployments.generation import Channel
from deployments.server.client import DEFAULT_TIMEOUT_S, Fragment, Question, Reply, ask, connect, served_model
from deployments.speculation_config import Mode

MODES = f"{', '.join(get_args(Mode)[:-1])} or {get_args(Mode)[-1]}"


def chat(
    question: Annotated[str | None, typer.Argument(help="What to ask; without it, a conversation begins.")] = None,
    url: Url = DEFAULT_URL,
    mode: Annotated[str | None, typer.Option(help=f"{MODES}; else the server's default.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    temperature: Temperature = 0.0,
    fidelity: Fidelity = None,
    verifier: Verifier = None,
    max_lookahead: Annotated[int | None, typer.Option(min=1, help="How many steps the draft may be ahead.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for a whole answer.")] = DEFAULT_TIMEOUT_S,
    api_key: ApiKey = None,
    json_output: Json = False,
) -> None:
    """Ask a question and watch the steps arrive: green was drafted and agreed, yellow is the target's correction, blue
    the target's own.

    Without a question it is a conversation; an empty line or Ctrl-D ends it.

    Example: lookahead chat "A train runs 180 km in 2 hours. How far does it run in 5?" --mode lookahead
    """
    if question is not None and not question.strip():
        raise RequestError("The question is empty.", "question")
    if json_output and question is None:
        raise RequestError("--json needs a question: lookahead chat --json 'What is 6 * 7?'", "json")
    wishes = {"mode": mode, "fidelity": fidelity, "verifier": verifier, "max_lookahead": max_lookahead}
    speculation = {name: value for name, value in wishes.items() if value is not None}
    console = words_console(json_output)
    messages = (Message("system", system),) if system else ()

    def turn(messages: tuple[Message, ...]) -> Reply:
        async def exchange() -> Reply:
            async with connect(url, api_key) as http:
                model = await served_model(http)
                asked = Question(messages, model, max_tokens, temperature, None, speculation)
                return await ask(http, asked, printer(console), timeout)

        for message in messages:
            _check_text(message)
        reply = asyncio.run(exchange())
        if json_output:
            print_json(reply.as_dict())
        finish_turn(console, reply)
        return reply

    if question is not None:
        turn((*messages, Message("user", question)))
    else:
        _converse(console, messages, turn)


def _check_text(message: Message) -> None:
    """RequestError for what a terminal handed over that is no text: bytes that are not UTF-8 come as lone
    surrogates."""
    try:
        message.content.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"The {message.role} message is not text in UTF-8.", "question") from error


def _converse(console: Console, messages: tuple[Message, ...], turn: Callable[[tuple[Message, ...]], Reply]) -> None:
    console.print("Ask; an empty line or Ctrl-D ends the conversation.", style="dim")
    while True:
        try:
            line = console.input("[bold]you>[/] ").strip()
        except EOFError:
            console.print()
            return
        if not line:
            return
        asked = (*messages, Message("user", line))
        try:
            messages = (*asked, Message("assistant", turn(asked).text))
        except LookaheadError as error:
            console.print(str(error), style="red", markup=False, soft_wrap=True)


def printer(console: Console) -> Callable[[Fragment], None]:
    """Prints fragments one after another: the origin is the colour, reasoning is dim and italic."""
    last: list[Channel] = []

    def show(fragment: Fragment) -> None:
        if last and last[-1] is not fragment.channel:
            console.print("\n")
        last[:] = [fragment.channel]
        style = Style.parse(STEP_STYLES.get(fragment.origin or "", "none"))
        if fragment.channel is Channel.REASONING:
            style += Style(dim=True, italic=True)
        console.out(printable(fragment.text), style=style, end="", highlight=False)

    return show


def finish_turn(console: Console, reply: Reply) -> None:
    """The line under an answer; ServiceError if the answer is not whole."""
    console.print()
    if reply.error:
        hint = f" (request {reply.request_id})" if reply.request_id else ""
        raise ServiceError(reply.error + hint)
    cost = [f"{reply.latency_s:.1f} s"]
    if reply.output_tokens:
        cost.append(f"{reply.output_tokens} tokens · {reply.tokens_per_s:.1f} tokens/s")
    cost.append(describe_steps(reply.speculation))
    console.print()
    console.print(" · ".join(part for part in cost if part), style="dim", markup=False)
    if degraded := (reply.speculation or {}).get("degraded"):
        console.print(f"Not at its best: {', '.join(map(str, degraded))}.", style="yellow", markup=False)
    if reply.finish_reason == "length":
        console.print("The answer was cut at its token limit (--max-tokens).", style="yellow", markup=False)
    if reply.request_id:
        console.print(f"lookahead trace {reply.request_id}", style="dim", markup=False, soft_wrap=True)
