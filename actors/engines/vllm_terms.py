"""vLLM's options, endings and errors in our terms. Written against version 0.32.

Promises: an option that vLLM does not know, or that a model cannot have, is a ConfigError that names it; every error of
vLLM's leaves as one of `actors.errors` that says whose fault it is; vLLM is imported silent and without telemetry,
unless the environment says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from typing import Any, get_args

from pydantic import ValidationError

from actors.engines.generation_config import check_override
from actors.engines.hint_options import engine_options
from actors.errors import CapacityError, ConfigError, LookaheadError, RequestError, RoleUnavailable, ServiceError
from actors.messages import NEUTRAL, Ending, Sampling


def settle_silence(environment: MutableMapping[str, str]) -> None:
    """Set in `environment` what vLLM reads while it is imported, here and in its processes. Whoever sets these keeps
    their own."""
    for name, value in {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}.items():
        environment.setdefault(name, value)


settle_silence(os.environ)

from vllm import AsyncEngineArgs  # noqa: E402
from vllm.config.speculative import SpeculativeMethod  # noqa: E402
from vllm.exceptions import GracefulHTTPError, VLLMClientError  # noqa: E402
from vllm.sampling_params import SamplingParams  # noqa: E402
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError  # noqa: E402

COUNTS_OPTION = "per_request_spec_decode_metrics"
"""With it the last output of a request says what was proposed and accepted in it."""


def engine_arguments(model_path: str, options: Mapping[str, Any]) -> Any:
    """vLLM's `AsyncEngineArgs` for the model in the folder `model_path`."""
    known = {field.name for field in fields(AsyncEngineArgs)}
    for name in options:
        if name == "model":
            raise ConfigError("The model is chosen by `model`, not in engine.options; remove it there.", "model")
        if name not in known:
            raise ConfigError(f"vLLM has no option {name!r}; correct engine.options.", f"engine.options.{name}")
    check_override(options)
    if options.get("speculative_config") and COUNTS_OPTION in known:
        options = {COUNTS_OPTION: "summary", **options}
    try:
        return AsyncEngineArgs(model=model_path, **engine_options(options, get_args(SpeculativeMethod)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"engine.options cannot be used: {words_of(error)}.", "engine.options") from error


def words_of(error: Exception) -> str:
    """What `error` says, in one line and without a full stop: of pydantic's, whose text is for developers, which of
    vLLM's fields are wrong and why."""
    said = str(error)
    if isinstance(error, ValidationError):
        said = "; ".join(": ".join((*map(str, wrong["loc"]), wrong["msg"])) for wrong in error.errors())
    return " ".join(said.split()).rstrip(".") or type(error).__name__


def start_failure(model: str, error: Exception) -> ConfigError:
    """That vLLM cannot start an engine of `model`, by its own `error`."""
    return ConfigError(
        f"vLLM cannot start {model} with these options: {words_of(error)}. Correct engine.options or choose another "
        "model; the log of the process may say more.",
        "engine.options",
    )


def end_ids(generation_config: Mapping[str, Any]) -> frozenset[int]:
    """The ids that end the text by the model's generation config, besides the tokenizer's own."""
    ids = generation_config.get("eos_token_id")
    return frozenset() if ids is None else frozenset([ids] if isinstance(ids, int) else ids)


def ending_of(completion: Any, end_ids: Container[int], model: str) -> Ending | None:
    """Why vLLM writes no more of `completion`: None if it goes on, or stopped where a step may end. `end_ids` end the
    text of `model`; RoleUnavailable or ServiceError where the request was broken off."""
    match completion.finish_reason:
        case None:
            return None
        case "length":
            return Ending.CAP
        case "stop":
            is_end = completion.stop_reason is None or completion.stop_reason in end_ids
            return Ending.END if is_end else None
        case "abort":
            raise RoleUnavailable(f"{model} is being shut down; another replica may answer.")
        case reason:
            raise ServiceError(f"{model} broke off a request ({reason}); try again.")


def num_sequences(config: Any) -> int:
    """So many sequences are worked on at once: vLLM's `max_num_seqs` is that of each of its data-parallel engines."""
    parallel = config.parallel_config
    num_engines = parallel.data_parallel_size_local if parallel.local_engines_only else parallel.data_parallel_size
    return int(config.scheduler_config.max_num_seqs * num_engines)


def sampling_params(sampling: Sampling, **others: Any) -> Any:
    """vLLM's `SamplingParams` for `sampling`, with `others` of its fields; vLLM's errors for what cannot be."""
    return SamplingParams(**asdict(sampling), **others)


def refusal(sampling: Sampling, config: Any) -> str | None:
    """Why an engine of `config` (vLLM's) would refuse a request that is drawn like `sampling`; None if it would not."""
    try:
        params = sampling_params(sampling)
        params.verify(config.model_config, config.speculative_config, config.structured_outputs_config, None)
    except (VLLMClientError, TypeError, ValueError) as error:
        return str(error)
    return None


def takes_min_p(config: Any) -> bool:
    """Whether an engine of `config` draws with `min_p`: of all that a request may ask for in its sampling the one thing
    that vLLM refuses in some engines, those that speculate on tokens."""
    return refusal(replace(NEUTRAL, min_p=0.5), config) is None


@contextmanager
def own_errors(model: str) -> Iterator[None]:
    """vLLM's errors in the words of `actors.errors`; `model` is who failed."""
    try:
        yield
    except LookaheadError:
        raise
    except EngineDeadError as error:
        raise RoleUnavailable(
            f"The engine of {model} has died; another replica may answer. Its log says why."
        ) from error
    except GracefulHTTPError as error:
        raise CapacityError(f"{model} has too much work: {error} Try again later.") from error
    except (VLLMClientError, ValueError) as error:
        raise RequestError(f"{model} cannot serve this request: {error}") from error
    except EngineGenerateError as error:
        raise ServiceError(f"{model} failed while it generated: {error.__cause__ or error}; try again.") from error
