"""`harness report` of a run of a million logged steps: time, memory, size of the page.

    python benchmarks/report.py [--write] [--quick]

Needs half a gigabyte of disk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support import load, report, table
from tests.support import reports
from tests.support.env import clean_env

STEPS = 1_000_000


def write_rows(path: Path, steps: int) -> None:
    """Rows as the supervisor writes them, of a trainer on a GPU: everything that a row can hold."""
    noise = random.Random(1)
    with path.open("w") as file:
        for step in range(1, steps + 1):
            rate = 3e-4 * min(1.0, step / 2000)
            row = {
                "time": reports.BEGAN + 0.1 * step + noise.random() * 1e-3,
                "step": step,
                "loss": 2 + 5 * math.exp(-5 * step / steps) + noise.gauss(0, 0.1),
                "lr": [rate, rate],
                "grad_norm": abs(noise.gauss(1, 0.2)),
                "tokens": 4096,
                "step_seconds": 0.1 + noise.random() * 0.02,
                "attempt": 1,
                "phases": {
                    name: share * (1 + noise.random() / 10)
                    for name, share in (
                        ("data", 1e-3),
                        ("forward", 0.03),
                        ("backward", 0.06),
                        ("optimizer", 5e-3),
                    )
                },
                "gpu_memory_bytes": {"allocated": 10**10 + step, "reserved": 2 * 10**10, "peak": 15 * 10**9},
            }
            file.write(json.dumps(row) + "\n")


def measure(steps: int) -> tuple[float, float, int, int, int]:
    """Seconds, seconds of CPU, peak bytes of memory, bytes of the page, bytes read."""
    with tempfile.TemporaryDirectory() as folder:
        run = reports.run_dir(
            Path(folder) / "run", reports.attempt(end=0.1 * steps), target_steps=steps, schedule=None
        )
        write_rows(run.metrics, steps)
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "harness", "report", str(run.path)],
            env=clean_env(),
            stdout=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - began
        assert status == 0
        page = (run.path / "report.html").stat().st_size
        return took, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, page, run.metrics.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the results into benchmarks/results")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps: to see that it works")
    arguments = parser.parse_args()
    busy = load()
    rows = []
    for steps in (1_000, STEPS // 10) if arguments.quick else (1_000, STEPS // 10, STEPS):
        took, cpu, memory, page, read = measure(steps)
        rows.append(
            [
                f"{steps:,} steps, {read / 1e6:.1f} MB",
                f"{took:.1f} s",
                f"{cpu:.1f} s",
                f"{memory / 1e6:.0f} MB",
                f"{page / 1e6:.2f} MB",
            ]
        )
    body = [
        "`harness report`, as a process of its own (to reach, of a million steps: ≤ 20 s, ≤ 5 MB):",
        "",
        table(["metrics.jsonl", "time", "CPU time", "peak memory", "page"], rows),
        "",
        f"({busy})",
    ]
    report("report: a million steps", "\n".join(body), write=arguments.write)


if __name__ == "__main__":
    main()
