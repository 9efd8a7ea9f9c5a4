"""``lookahead audit``: why a step of a request stands, from the audit log.

Promises: reads files only, and asks no server; ``--json`` gives the records themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from actors.errors import RequestError
from deployments.cli.terminal import Json, print_json, printable, words_console
from deployments.telemetry.audit_reading import Audited, explain, find

PREFIXES = ("chatcmpl-", "cmpl-")
"""Before the request's id in the id of a completion."""


def audit(
    request_id: Annotated[str, typer.Argument(help="The x-request-id of an answer, or the id of its completion.")],
    log: Annotated[Path, typer.Option(help="An audit log, or the folder with those of all coordinators.")],
    step: Annotated[int | None, typer.Option(min=0, help="Only this step of the output, counted from 0.")] = None,
    run: Annotated[
        int | None,
        typer.Option(min=1, help="Which run, where several had this id or one went on elsewhere; else the last."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Say why the steps of a request were accepted or not.

    Example: lookahead audit 7f3a91c2 --step 3 --log /var/log/lookahead
    """
    found = _find(log, request_id, run)
    lines = explain(found, step)
    console = words_console(json_output)
    for line in lines:
        console.print(printable(line), markup=False, soft_wrap=True)
    if json_output:
        decisions = found.decisions if step is None else found.at(step)
        print_json(
            {
                "request_id": found.request_id,
                "begin": found.begin,
                "decisions": decisions,
                "end": found.end,
                "run": found.run,
                "num_runs": found.num_runs,
                "num_lost": found.num_lost,
                "num_damaged": found.num_damaged,
                "words": lines,
            }
        )


def _find(log: Path, request_id: str, run: int | None) -> Audited:
    plain = request_id
    for prefix in PREFIXES:
        plain = plain.removeprefix(prefix)
    try:
        return find(log, request_id, run)
    except RequestError as error:
        if plain == request_id or error.param != "request_id":
            raise
        return find(log, plain, run)
