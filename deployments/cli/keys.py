"""``lookahead keys``: new API keys, and the hashes of old ones.

Promises: a key is printed once and stored nowhere; a key to be hashed comes from stdin, never from the command line,
where other users and the shell's history would see it; with ``--json`` stdout holds one JSON document.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
import yaml

from actors.errors import RequestError
from deployments.cli.terminal import Json, print_json, print_result
from deployments.gateway.keys import digest_of, new_key

app = typer.Typer(no_args_is_help=True, help="Make and hash API keys.")

Name = Annotated[str | None, typer.Option(help="What limits and messages call the holder.")]


@app.command("new")
def new(name: Name = None, as_json: Json = False) -> None:
    """Make a key, and the entry for gateway.api_keys or its file, which holds only the key's hash.

    Example: lookahead keys new --name alice
    """
    key = new_key()
    entry = _entry(key, name)
    if as_json:
        print_json({"key": key, **entry})
        return
    print_result(
        f"The key, shown this once: {key}\nThe entry for gateway.api_keys or gateway.api_keys_file:\n\n{_yaml(entry)}"
    )


@app.command("hash")
def hash_key(name: Name = None, as_json: Json = False) -> None:
    """Hash a key that is typed, or piped in as one line.

    Example: lookahead keys hash --name alice < key.txt
    """
    key = typer.prompt("Key", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    key = key.strip()
    if not key:
        raise RequestError("There is no key on stdin: type it when asked, or pipe it in.", "key")
    entry = _entry(key, name)
    if as_json:
        print_json(entry)
    else:
        print_result(_yaml(entry))


def _yaml(entry: dict[str, Any]) -> str:
    return yaml.safe_dump([entry], sort_keys=False).rstrip()


def _entry(key: str, name: str | None) -> dict[str, Any]:
    named = {} if name is None else {"name": name}
    return {**named, "sha256": digest_of(key.encode()).hex()}
