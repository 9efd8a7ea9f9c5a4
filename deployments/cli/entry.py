"""Where the installed ``lookahead`` begins, before the modules of its commands are imported.

Promises: Ctrl-C and SIGTERM end it with one word and exit code 130 while it imports, too; it imports little itself.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command line, as `deployments.cli.main` does."""
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in numbers}
    from deployments.cli.main import main as run

    for number, handler in before.items():
        signal.signal(number, handler)
    run()


def _stop(signum: int, frame: object) -> None:
    """At once, since nothing is open yet: an exception could be taken for a module that is missing."""
    print("lookahead: stopped.", file=sys.stderr, flush=True)
    os._exit(130)


if __name__ == "__main__":
    main()
