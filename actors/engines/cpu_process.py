"""A CPU engine in one process: the model beside vLLM's scheduler. Written against vLLM 0.32.

vLLM gives the model of a CPU engine a process of its own, and polls for its answers without a pause: where cores are
few, the poll takes time from the very model it waits for, and every pass crosses a process boundary twice.

Promises: an engine with several workers, on another device, or with an executor that was asked for stays as vLLM makes
it; threads are bound to cores as vLLM binds those of a worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vllm.utils.ompmultiprocessing import OMPProcessManager


@contextmanager
def in_one_process(config: Any, executor: object) -> Iterator[None]:
    """An engine that is made of `config`, vLLM's `VllmConfig`, in this context runs its model itself, if it may.

    `executor` is what `distributed_executor_backend` says in the engine's options: vLLM itself makes ``mp`` of nothing
    and of ``uni``, since it has no place to set the threads' environment; here it is set around the engine's start.
    """
    parallel = config.parallel_config
    is_alone = parallel.world_size == 1 and parallel.data_parallel_size == 1
    if executor not in (None, "uni") or config.device_config.device_type != "cpu" or not is_alone:
        yield
        return
    parallel.distributed_executor_backend = "uni"
    with OMPProcessManager(config).configure_omp_envs(rank=0, local_rank=0):
        yield
