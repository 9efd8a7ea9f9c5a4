"""Schemathesis over our own OpenAPI document, in this process: requests that the document allows, and that it does not.

Promises: every endpoint of ``/openapi.json`` is tried; no answer is a 5xx, undocumented in status, content type or
shape, or takes what the document or a missing key forbids; the first that is one is shown, with exit code 1. What the
document allows may still be refused with a 4xx in OpenAI's form: it does not say which models there are.

Run: ``python -m deployments.bench.schema_fuzz --examples 1000`` (needs the `dev` extra)
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from typing import Annotated, Any

import typer
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode, openapi
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok
from starlette.types import ASGIApp

from deployments.bench.fuzz import Broken, SetText
from deployments.config import Config, load_profile
from deployments.gateway.api import create_app

KEY = "lk-schema-fuzz"
OPEN = ("/health", "/ready", "/metrics", "/version")
"""Endpoints without parameters or keys: one request is all that can be tried."""
LEFT_OUT = {
    "positive_data_acceptance",  # the document cannot say which models, verifiers and lengths there are
    "use_after_free",  # nothing is made or deleted here
    "ensure_resource_availability",
    "object_level_authorization",  # keys own nothing
}


def guarded(config: Config) -> Config:
    """`config` with one key, so that requests without it are wrong."""
    return config.model_copy(update={"gateway": config.gateway.model_copy(update={"api_keys": [KEY]})})


def try_document(app: ASGIApp, backend: SetText, model: str, examples: int, start: int) -> Counter[str]:
    """`examples` requests an endpoint, allowed and not allowed ones each; how often each answer came. `start` is the
    seed. Raises Broken for the first answer that is wrong."""
    load_all_checks()
    answers: Counter[str] = Counter()
    for found in openapi.from_asgi("/openapi.json", app).get_all_operations():
        if not isinstance(found, Ok):
            raise Broken(f"a part of the document cannot be read: {found.err()}")
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if operation.path not in OPEN or mode is GenerationMode.POSITIVE:
                _try(operation, mode, backend, model, examples, start, answers)
    return answers


def _try(
    operation: Any,
    mode: GenerationMode,
    backend: SetText,
    model: str,
    examples: int,
    start: int,
    answers: Counter[str],
) -> None:
    checks = [CHECKS.get_one(name) for name in CHECKS.get_all_names() if name not in LEFT_OUT]

    @seed(start)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            _name_model(case, model)
        answer = case.call(headers={"Authorization": f"Bearer {KEY}"})
        answers[f"{mode.value} {operation.method.upper()} {operation.path} {answer.status_code}"] += 1
        try:
            case.validate_response(answer, checks=checks)
        except BaseExceptionGroup as failures:
            words = " ".join(str(failure) for failure in failures.exceptions)
            raise Broken(f"{operation.label}: {words:.1500} for {answer.status_code} {answer.text:.500}") from None
        if backend.num_running:
            raise Broken("a generation is still running")

    send()


def _name_model(case: Any, model: str) -> None:
    """A made-up name is a 404, and nothing behind it is tried. What says nothing of streams gets one."""
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body["model"] = model
        case.body.setdefault("stream", True)


def main(
    examples: Annotated[int, typer.Option(min=1, help="How many requests, for each endpoint and way.")] = 1000,
    start: Annotated[int, typer.Option("--seed", help="The same seed gives the same requests.")] = 0,
) -> None:
    """Try requests by our OpenAPI document, and print what came back as one JSON document."""
    config, backend, began = guarded(load_profile("scripted")), SetText(), time.perf_counter()
    app = create_app(config, lambda: backend)
    try:
        answers = try_document(app, backend, config.served_model_name, examples, start)
    except Broken as error:
        print(f"schema_fuzz: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    result = {"num_tried": answers.total(), "num_5xx": 0, "wall_s": round(time.perf_counter() - began, 1)}
    print(json.dumps(result | {"answers": dict(sorted(answers.items()))}, indent=2))


if __name__ == "__main__":
    typer.run(main)
