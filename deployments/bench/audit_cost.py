"""What the audit log costs: microseconds of the coordinator's event loop for each decision, and bytes on the disk.

Promises: the production recorder and log, with steps of `--chars` characters, writing to a real folder that goes
afterwards; what the log's own thread uses is told beside it, since Python runs one thread at a time.

Run: ``python -m deployments.bench.audit_cost --decisions 20000``
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from actors.messages import Ending, Prompt, Sampling, Step, Verdict
from deployments.config import load_profile
from deployments.coordinator.events import Basis, Outcome, Retired
from deployments.generation import GenerationRequest
from deployments.telemetry.audit import AuditRecorder, Terms, Texts
from deployments.telemetry.audit_log import AuditLog
from deployments.telemetry.auditing import deployed

BURST = 100
"""So many decisions at once; then the writer gets its turn."""


def cost_of(texts: Texts, decisions: int, chars: int) -> dict[str, Any]:
    """Of `decisions` decisions whose steps have `chars` characters."""
    known = deployed(load_profile("scripted"))
    text = "x" * (chars - 6)
    verdict = Verdict(True, "numbers/always", "this control accepts everything", 0.91, probability=0.97)
    lost = [0]

    def count(_: int, num: int) -> None:
        lost[0] += num

    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(folder, "cost", known.head(), max_bytes=2**26, keep=100, count=count)
        recorder = AuditRecorder(GenerationRequest("r" * 24, Prompt(text="?")), known, texts, time.time, log.append)
        recorder.begin(Terms("r" * 32, "lookahead", "numbers", 4, 1, False, "blank_line", "scripted", Sampling()))
        commands = []
        for number in range(decisions):
            draft, target = (
                Step(f"{text}{number:06}{who}", tuple(range(50)), "v", Ending.BOUNDARY) for who in ("d", "t")
            )
            commands.append(Retired(number, Outcome.ACCEPTED, number, Basis(draft, target, verdict)))
        own_s = 0.0
        process_s = time.process_time()
        for start in range(0, decisions, BURST):
            began = time.thread_time()
            for command in commands[start : start + BURST]:
                recorder.on_command(command)
            own_s += time.thread_time() - began
            time.sleep(0.01)
        log.close()
        process_s = time.process_time() - process_s
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    return {
        "texts": texts,
        "us_a_decision": round(1e6 * own_s / decisions, 1),
        "us_a_decision_with_the_writer": round(1e6 * process_s / decisions, 1),
        "bytes_a_decision": round(size / decisions),
        "num_lost": lost[0],
    }


def main(
    decisions: Annotated[int, typer.Option(min=100, help="How many, for each way to keep texts.")] = 20_000,
    chars: Annotated[int, typer.Option(min=10, help="Characters of a step.")] = 200,
) -> None:
    """Print what a decision costs, for each way to keep texts, as one JSON document."""
    print(json.dumps([cost_of(texts, decisions, chars) for texts in get_args(Texts)], indent=2))


if __name__ == "__main__":
    typer.run(main)
