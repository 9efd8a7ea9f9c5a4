"""``lookahead demo``: one question, asked of the target alone and then with lookahead, side by side.

Promises: starts everything it needs and leaves nothing running; says so when lookahead was slower; exit code 0 means
that both answers arrived whole.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from actors.errors import ServiceError
from actors.messages import Message
from deployments.cli.chat import printer
from deployments.cli.cluster import chosen_config, server, server_key
from deployments.cli.terminal import ApiKey, Json, print_json, words_console
from deployments.server.client import DEFAULT_TIMEOUT_S, Question, Reply, ask, connect, served_model

MODES = ("target", "lookahead")
QUESTION = (
    "A shop sells 14 pens a day at 3 dollars each. How many dollars does it take in 6 days? "
    "Answer in three short lines, one calculation in each, without LaTeX."
)
_WARM_UP_TOKENS = 8
_EASY = 0.9
_SAME = 0.03
"""Ratios this near to 1 are called the same."""


def demo(
    profile: Annotated[str | None, typer.Option(help="Shipped profile to start; 'local' if nothing is given.")] = None,
    config: Annotated[Path | None, typer.Option(help="Start the cluster of this config file.")] = None,
    url: Annotated[str | None, typer.Option(help="Use a server that runs already.")] = None,
    question: Annotated[str, typer.Option(help="What to ask.", show_default=False)] = QUESTION,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for each answer.")] = DEFAULT_TIMEOUT_S,
    api_key: ApiKey = None,
    json_output: Json = False,
) -> None:
    """Start a cluster, ask one question of the target alone and then with lookahead, and compare.

    Example: lookahead demo --profile local
    """
    if config is None and url is None:
        profile = "local" if profile is None else profile
    console = words_console(json_output)
    chosen = chosen_config(profile, config, url)
    if chosen is not None:
        console.print(f"Starting the cluster of {profile or config}; models load first.", style="dim", markup=False)
    with server(chosen, url) as address:
        key = server_key(chosen, api_key)
        replies = asyncio.run(_ask_both(console, address, key, question, max_tokens, timeout))
    if json_output:
        result = {mode: reply.as_dict() for mode, reply in replies.items()}
        print_json({"question": question, "answers": result, "speedup": speedup(replies)})
    broken = [f"mode {mode}: {reply.error}" for mode, reply in replies.items() if reply.error]
    if broken:
        raise ServiceError(f"Not every answer arrived whole. {' '.join(broken)}")
    _compare(console, replies)


async def _ask_both(
    console: Console, url: str, api_key: str | None, question: str, max_tokens: int, timeout_s: float
) -> dict[str, Reply]:
    """Both answers, one after the other, greedy, streamed to the console. Neither finds the question in a prefix cache,
    and each mode has written a few words before."""
    from deployments.bench.runner import WARM_UP

    replies, start = {}, secrets.token_hex(8)
    async with connect(url, api_key) as http:
        model = await served_model(http)

        def asking(mode: str, text: str, most: int) -> Question:
            salt = f"{start} {mode}"
            return Question((Message("user", text),), model, most, 0.0, None, {"mode": mode}, salt)

        for mode in MODES:  # a failure shows again below
            await ask(http, asking(mode, WARM_UP, _WARM_UP_TOKENS), timeout_s=timeout_s)
        console.print(question, style="bold", markup=False)
        for mode in MODES:
            console.print(f"\nmode={mode}", style="dim", markup=False)
            replies[mode] = await ask(http, asking(mode, question, max_tokens), printer(console), timeout_s)
            console.print()
    return replies


def speedup(replies: dict[str, Reply]) -> float | None:
    """Time per output token of the target alone over that with lookahead; None if one of them wrote nothing."""
    alone, ahead = (replies[mode].tokens_per_s for mode in MODES)
    return ahead / alone if alone and ahead else None


def _compare(console: Console, replies: dict[str, Reply]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("mode", "time", "tokens", "tokens/s", "accepted", "recovered", "target's own"):
        table.add_column(name, justify="left" if name == "mode" else "right")
    for mode, reply in replies.items():
        steps: dict[str, Any] = reply.speculation or {}
        table.add_row(
            mode,
            f"{reply.latency_s:.1f} s",
            str(reply.output_tokens),
            f"{reply.tokens_per_s:.1f}",
            *(str(steps.get(f"num_{origin}_steps", 0)) for origin in ("accepted", "recovered", "target")),
        )
    console.print()
    console.print(table)
    for text in verdict(replies):
        console.print(text, markup=False)


def verdict(replies: dict[str, Reply]) -> list[str]:
    """What the two answers show, in sentences, and how little that is."""
    ratio = speedup(replies)
    if ratio is None:
        sentences = ["The server counted no tokens, so the two cannot be compared."]
    elif ratio > 1 + _SAME:
        sentences = [f"Lookahead was {ratio:.2f} times as fast per token as the target alone."]
    elif ratio < 1 - _SAME:
        sentences = [f"Lookahead was SLOWER here: {ratio:.2f} times the speed of the target alone."]
    else:
        sentences = [f"Both were about as fast ({ratio:.2f} times)."]
    steps = replies[MODES[1]].speculation or {}
    judged = steps.get("num_accepted_steps", 0) + steps.get("num_recovered_steps", 0)
    if judged and steps.get("num_accepted_steps", 0) / judged >= _EASY:
        sentences.append("The question was easy for the draft, which was agreed with almost always: a best case.")
    if degraded := steps.get("degraded"):
        sentences.append(f"Lookahead was not at its best: {', '.join(map(str, degraded))}.")
    if any(reply.finish_reason == "length" for reply in replies.values()):
        sentences.append("An answer was cut at its token limit; --max-tokens allows more.")
    sentences.append(
        "One question is an anecdote, and on a machine whose few cores draft and target share it swings widely; "
        "'lookahead bench --profile local --out runs/first' measures."
    )
    return sentences
