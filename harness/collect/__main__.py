"""`python -m harness.collect`: one Case into a folder, one line of JSON on stdout; the child that may die.

    {"schema": "harness.collect/1", "ok": true, "folder": …, "movement": "moved|still|unknown", "facts": […],
     "headline": …, "state": "hung", "cause": "socket-read", "took_seconds": …,
     "errors": ["a collector that failed", …], "left_out": […], "error": null}

State, cause and headline are the diagnosis's; where it cannot tell, the headline says where the tree stands.
With `ok` false the Case was not written; the headline is there all the same if anything was seen. Exit
status: 0 written, 2 usage, 125 not written.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from harness import bundle
from harness.collect import deadline
from harness.collect.case import Options, collect
from harness.errors import HarnessError
from harness.headline import headline
from harness.movement import movement
from harness.render.text import single_line
from harness.rules import diagnose


def _end(*_: object) -> None:
    """End as asked, with what runs for us; where we are killed outright, `timeout` ends it a little later."""
    deadline.kill_all()
    os._exit(128 + signal.SIGTERM)


def main(arguments: list[str] | None = None) -> int:
    """Collect and write."""
    parser = argparse.ArgumentParser(prog="python -m harness.collect", description=__doc__)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument(
        "--start-time-ticks", type=int, help="refuse if the pid belongs to another process by now"
    )
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    parser.add_argument("--deadline", type=float, default=10.0, help="seconds")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--interval", type=float, default=0.3, help="seconds between samples")
    parser.add_argument("--no-locals", action="store_true", help="never pause the target")
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--no-gpu", action="store_true")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _end)
    options = Options(
        samples=asked.samples,
        interval_seconds=asked.interval,
        blocking=not asked.no_locals,
        native=asked.native,
        gpu=not asked.no_gpu,
    )
    case = collect(
        asked.pid,
        run_dir=asked.run_dir,
        start_time_ticks=asked.start_time_ticks,
        deadline_seconds=asked.deadline,
        options=options,
    )
    moved = movement(case)
    verdict = diagnose(case).verdict
    told = f"{verdict.cause}: {single_line(verdict.summary)}"
    if verdict.blame is None or f":{verdict.blame.line} in " not in told:
        told = f"{told} · {headline(case)}"  # a cause is to be read with its place
    answer: dict[str, object] = {
        "schema": "harness.collect/1",
        "ok": True,
        "folder": str(asked.out),
        "movement": moved.verdict,
        "facts": list(moved.facts),
        "headline": headline(case) if verdict.state == "unknown" else told,
        "state": verdict.state,
        "cause": verdict.cause,
        "took_seconds": round(case.took_seconds, 3),
        "errors": [error.collector for error in case.errors],
        "left_out": [],
        "error": None,
    }
    status = 0
    try:
        answer["left_out"] = list(bundle.save(case, asked.out).left_out)
    except HarnessError as error:
        answer.update(ok=False, error=str(error))
        status = error.exit_status
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return status


if __name__ == "__main__":
    code = main()
    # Threads that wait in the kernel for ever must not keep us: no joining, no clean-up.
    os._exit(code)
