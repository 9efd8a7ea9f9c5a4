"""The ``lookahead`` command.

Promises: every failure that has a name ends in one clear sentence on stderr and exit code 1, Ctrl-C and SIGTERM in exit
code 130; importing this module imports neither ray nor torch, so that ``lookahead --help`` answers at once.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

import typer

from actors.errors import LookaheadError
from deployments.cli import keys, models
from deployments.cli.audit import audit
from deployments.cli.bench import bench
from deployments.cli.calibrate import calibrate
from deployments.cli.chaos import chaos
from deployments.cli.chat import chat
from deployments.cli.demo import demo
from deployments.cli.plan import plan
from deployments.cli.serve import serve
from deployments.cli.simulate import simulate
from deployments.cli.terminal import all_written, printable
from deployments.cli.trace import trace

app = typer.Typer(
    name="lookahead",
    help="Step-level speculative reasoning: a draft model writes steps ahead, the target checks them in one batch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (serve, chat, bench, simulate, plan, calibrate, trace, audit, demo, chaos):
    app.command()(_command)
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C or SIGTERM."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with all_written():
            app(args=arguments)
    except LookaheadError as error:
        print(f"lookahead: {printable(str(error))}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code == 130:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # or another Ctrl-C would be how it ended
            print("lookahead: stopped.", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(signum: int, frame: object) -> None:
    """SIGTERM ends like Ctrl-C: streams are closed and a cluster that was started is shut down."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
