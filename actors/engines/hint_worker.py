"""What vLLM's worker can be asked: to be mended for its device, and for hinted decoding. Knows vLLM 0.32's insides.

How it gets in: `worker_extension_cls=EXTENSION` adds these methods to the worker, and `collective_rpc` calls them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from actors.engines.amx import ask_for_tiles
from actors.engines.cpu_sampling import keep_seeds, repair
from actors.engines.eager_sampling import uncompile
from actors.engines.hints import HintProposer, Note
from actors.engines.hints_over_draft import stand_before
from actors.engines.waiting import wait_asleep

logger = logging.getLogger(__name__)


class LookaheadWorker:
    """What `worker_extension_cls` adds to vLLM's worker; the names are unlike any of the worker's own."""

    model_runner: Any
    lookahead_proposer: HintProposer | None = None

    def lookahead_attach(self) -> bool:
        """Hand the proposer of this worker its model runner; False where there is none or it refuses."""
        runner = getattr(self, "model_runner", None)
        proposer = getattr(runner, "drafter", None)
        if isinstance(proposer, HintProposer):
            self.lookahead_proposer = proposer if proposer.attach(runner) else None
        elif proposer is not None:
            self.lookahead_proposer = stand_before(runner)
        return self.lookahead_proposer is not None

    def lookahead_repair(self) -> tuple[str, ...]:
        """As `cpu_sampling.keep_seeds`, `cpu_sampling.repair` and `eager_sampling.uncompile`, whichever can be done."""
        runner = getattr(self, "model_runner", None)
        return _mended(keep_seeds, runner) + _mended(repair, runner) + _mended(uncompile, runner)

    def lookahead_add_hints(self, *notes: Note) -> list[tuple[str, list[int]]]:
        """As `HintProposer.add_hints`."""
        return self.lookahead_proposer.add_hints(notes) if self.lookahead_proposer is not None else []

    def lookahead_counts(self) -> dict[str, int]:
        """As `HintProposer.counts`."""
        return self.lookahead_proposer.counts() if self.lookahead_proposer is not None else {}


def _mended(mend: Callable[[Any], tuple[str, ...]], runner: Any) -> tuple[str, ...]:
    """What `mend` did to `runner`; nothing, and a warning, where that is another than expected."""
    try:
        return mend(runner)
    except (AttributeError, TypeError) as error:
        name = mend.__name__
        logger.warning(
            "vLLM's sampling on this device could not be looked at (%s), and is used as it is: %s.", name, error
        )
        return ()


# vLLM imports this in each worker's process, before it makes a model.
ask_for_tiles()
wait_asleep()
