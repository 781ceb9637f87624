"""What `harness top` takes of a core at 2 Hz, on a run of 0.1 s steps: CPU time over 30 s, start left out.

A thousand ranks stand still after some steps: to look at them costs as much.

python benchmarks/top.py [--write]
"""

from __future__ import annotations

import argparse
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support import report, table
from tests.support import run as runs
from tests.support import stalls
from tests.support.env import clean_env
from tests.support.wait import wait_for

_SECONDS = 30.0
_MANY = Path(__file__).resolve().parents[1] / "tests" / "support" / "trainers" / "many_ranks.py"
_REAL = 8  # so many are trainers that go on


def measure(ranks: int) -> float:
    """Share of one core."""
    with tempfile.TemporaryDirectory() as folder:
        command = stalls.ranks(ranks, "--seconds", "0.1", "--quiet", "--steps", "100000")
        if ranks > _REAL:
            command = (sys.executable, str(_MANY), str(ranks))
        options = ("--metrics-port", "off", "--stall-timeout", "off")
        run = runs.start(Path(folder) / "run", *command, options=options)
        try:
            if ranks > _REAL:
                wait_for(lambda: "up" in run.log(), 120.0, "the ranks")
                wait_for(lambda: stalls.step(run.directory, ranks - 1) >= 20, 120.0, "the last one's steps")
            else:
                stalls.wait_for_step(run.directory, 30)
            master, slave = pty.openpty()
            os.set_blocking(master, True)
            view = subprocess.Popen(
                [*runs.HARNESS, "top", str(run.directory)],
                env=clean_env(TERM="xterm-256color", COLUMNS="120", LINES="40"),
                stdout=slave,
                stderr=slave,
            )
            drain = threading.Thread(target=_drain, args=(master,), daemon=True)
            drain.start()
            process = psutil.Process(view.pid)
            time.sleep(5.0)  # its imports
            before, began = sum(process.cpu_times()[:2]), time.monotonic()
            time.sleep(_SECONDS)
            used = sum(process.cpu_times()[:2]) - before
            share = used / (time.monotonic() - began)
            view.terminate()
            view.wait(timeout=20)
            os.close(slave)
            return share
        finally:
            run.clean_up()


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 65536):
            pass
    except OSError:
        return


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="into benchmarks/results")
    options = parser.parse_args()
    rows = []
    for ranks in (1, 8, 1024):
        share = measure(ranks)
        pace = "at most 2 Hz" if ranks > _REAL else "2 Hz"
        rows.append(
            [
                f"`harness top` at {pace}, {ranks:,} rank{'s' if ranks > 1 else ''}",
                f"{share:.1%} of a core",
                "≤ 5 %",
            ]
        )
        print(rows[-1], file=sys.stderr)
    report("The live view", table(["what", "measured", "aim"], rows), write=options.write)


if __name__ == "__main__":
    main()
