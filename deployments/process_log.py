"""Where the lines of our own code go in a replica: to the standard error that its process was started with.

Promises: warnings and errors stand in the replica's `worker-*.err` with their time and level, also where Ray Serve has
put a logger of its own in the place of `sys.stderr`; handlers that the root logger has already are left alone.
"""

from __future__ import annotations

import logging
import sys


def log_to_stderr() -> None:
    """To be called first in a replica's start."""
    logging.basicConfig(stream=sys.__stderr__, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
