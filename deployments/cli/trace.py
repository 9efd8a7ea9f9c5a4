"""``lookahead trace``: what draft, target and verifier did for one request, over time.

Promises: takes the id of a recent request or a saved trace file; draws in the terminal, or writes one HTML page that
needs no network; ``--json`` gives the trace itself, which can be saved and read again.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from actors.errors import RequestError
from deployments.cli.terminal import DEFAULT_URL, ApiKey, Json, Url, print_json, words_console, write_text
from deployments.server.client import connect, get_json
from deployments.telemetry.timeline import read_trace, shares


def trace(
    source: Annotated[str, typer.Argument(metavar="ID|FILE", help="Id of a recent request, or a saved trace file.")],
    url: Url = DEFAULT_URL,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file in the place of the drawing.")] = None,
    api_key: ApiKey = None,
    json_output: Json = False,
) -> None:
    """Show what draft, target and verifier did for one request, over time.

    Example: lookahead trace chatcmpl-7f3a91c2 --html trace.html
    """
    data = _load(source, url, api_key)
    found = read_trace(data)
    console = words_console(json_output)
    if html is not None:
        from deployments.telemetry.timeline_page import page

        write_text(html, page(found))
        console.print(f"Wrote {html}.", markup=False, soft_wrap=True)
    if json_output:
        print_json({**data, "shares": asdict(shares(found))})
    elif html is None:
        from deployments.telemetry.timeline_text import render

        console.print(render(found, console.width))


def _load(source: str, url: str, api_key: str | None) -> dict[str, Any]:
    path = Path(source)
    if os.path.isfile(source):  # false as well for a name that no file can have
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RequestError(f"{source} cannot be read as a trace: {error}.", "source") from error
    elif path.suffix == ".json":
        raise RequestError(f"There is no file {source}.", "source")
    else:
        data = asyncio.run(_fetch(source, url, api_key))
    if not isinstance(data, dict):
        raise RequestError(f"{source} is not a step trace.", "source")
    return data


async def _fetch(request_id: str, url: str, api_key: str | None) -> Any:
    async with connect(url, api_key) as http:
        return await get_json(http, f"/v1/traces/{quote(request_id, safe='')}")
