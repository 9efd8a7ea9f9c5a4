"""``lookahead models``: which models are here, and fetching those that are not.

Promises: with ``--json`` stdout holds one JSON document and nothing else, progress goes to stderr; a model that cannot
be had ends the command with one sentence, after those before it were fetched.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from actors.models import catalogue, default_cache, is_cached, package_folder, resolve
from deployments.cli.terminal import Json, print_json, words_console
from deployments.config import load_config, load_profile, models_of
from deployments.server.fetching import progress_bar, size

app = typer.Typer(no_args_is_help=True, help="List and fetch models.")


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the models that come inside Python packages, and say which are in the cache.

    Models of the Hugging Face hub (ORG/NAME), folders and .gguf files can be named in a config as well.

    Example: lookahead models list --json
    """
    rows: list[dict[str, Any]] = [
        {
            "model": f"package:{package.name}",
            "origin": package.origin,
            "cached": is_cached(f"package:{package.name}"),
            "download_bytes": package.download_bytes,
            "size_bytes": package.size_bytes,
            "path": str(package_folder(package)),
        }
        for package in catalogue()
    ]
    if as_json:
        print_json({"cache": str(default_cache()), "models": rows})
        return
    table = Table("name", Column("where from", overflow="fold"), "cached", "size", box=None)
    for package, row in zip(catalogue(), rows, strict=True):
        table.add_row(package.name, package.origin, "yes" if row["cached"] else "no", size(package.size_bytes))
    console = words_console(False)
    console.print(table)
    console.print(f"Cache: {default_cache()}. In a config file a name is written package:NAME.", soft_wrap=True)


@app.command("fetch")
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="package:NAME, ORG/NAME, a folder or a .gguf file.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Fetch all models of this profile.")] = None,
    config: Annotated[Path | None, typer.Option(help="Fetch all models of this config file.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch models into the cache, and convert them where needed; those that are there already take no time.

    Examples: lookahead models fetch smollm2-135m-instruct · lookahead models fetch --profile local
    """
    models = _models_to_fetch(names or [], profile, config)
    results: list[dict[str, Any]] = []
    console = words_console(as_json)
    for model in models:
        began = time.monotonic()
        cached = is_cached(model)
        with progress_bar(model) as report:
            path = resolve(model, progress=report)
        seconds = time.monotonic() - began
        results.append({"model": model, "path": str(path), "was_cached": cached, "seconds": round(seconds, 2)})
        how = "was there" if cached else f"fetched in {seconds:.0f} s"
        console.print(f"{model}: {how}, {path}", soft_wrap=True, markup=False)
    if as_json:
        print_json({"models": results})


def _models_to_fetch(names: list[str], profile: str | None, config: Path | None) -> list[str]:
    """All models asked for, once each; a bare name of the catalogue stands for its package."""
    if not names and profile is None and config is None:
        raise typer.BadParameter("Say what to fetch: NAME..., --profile or --config.")
    known = {package.name for package in catalogue()}
    models = [f"package:{name}" if name in known else name for name in names]
    if profile is not None:
        models += models_of(load_profile(profile))
    if config is not None:
        models += models_of(load_config(config))
    return list(dict.fromkeys(models))
