"""What emitting costs a trainer: the import, each call, and a step against five prometheus_client gauges.

    python benchmarks/emit.py [--write] [--repeats N]

The import is measured in fresh interpreters, with and without, in turn; calls in short rounds that take turns
too, so that a machine that slows down slows all. prometheus_client's multiprocess mode is for information.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import support

if TYPE_CHECKING:
    from collections.abc import Callable

_CALLS = 1_000  # per round: short, so that most rounds see no other process
_ALL = {"loss": 2.5, "lr": 3e-4, "grad_norm": 1.25, "tokens": 16384, "memory": (2**30, 2**31, 2**31)}
_IMPORTS = {
    "bare interpreter": "pass",
    "import harness.emit": "import harness.emit",
    "import os, time, mmap, struct": "import os, time, mmap, struct",
    "import prometheus_client": "import prometheus_client",
}


def imports(repeats: int) -> str:
    """Wall time of an interpreter that imports, less that of one that does not."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    samples: dict[str, list[float]] = {name: [] for name in _IMPORTS}
    for turn in range(repeats + 1):
        for name, code in _IMPORTS.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=60)
            if turn:  # the first writes the byte code
                samples[name].append(time.perf_counter() - begun)
    bare = samples["bare interpreter"]
    rows = []
    for name, taken in samples.items():
        over = [a - b for a, b in zip(taken, bare, strict=True)]
        rows.append([name, f"{support.spread(taken)[0] * 1e3:.2f}", f"{support.spread(over)[0] * 1e3:.2f}"])
    return support.table(["fresh interpreter", "median ms", "over bare, ms"], rows)


def inside() -> str:
    """Time of the import statement itself, in fresh interpreters: what the trainer's clock sees."""
    code = "import time; t = time.perf_counter(); import harness.emit; print(time.perf_counter() - t)"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    taken = []
    for _ in range(21):
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, check=True, timeout=60, capture_output=True
        )
        taken.append(float(done.stdout))
    middle, low, high = support.spread(taken[1:])
    itself = f"The statement itself: {middle * 1e3:.2f} ms (10-90 %: {low * 1e3:.2f}-{high * 1e3:.2f})."
    return f"{itself}\nTo reach: importing harness.emit ≤ 5 ms over a bare interpreter."


def calls(repeats: int) -> str:
    """Median time per call over rounds that take turns."""
    from harness import emit

    step, phase, progress, stage = emit.step, emit.phase, emit.progress, emit.stage
    measured: dict[str, Callable[[], object]] = {}
    unwatched = _per_call(lambda: step(1, **_ALL), repeats)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HARNESS_RUN_DIR"] = folder
        emit.open()
        assert emit.enabled
        loss, lr, grad_norm, tokens, memory = _ALL.values()

        def all_values() -> None:
            step(7, loss=loss, lr=lr, grad_norm=grad_norm, tokens=tokens, memory=memory)

        measured["emit.step, all values"] = all_values
        measured["emit.step, all values, two rates"] = lambda: step(7, **{**_ALL, "lr": (lr, lr)})
        measured["emit.progress"] = progress
        measured["emit.stage"] = lambda: stage("train")
        measured["five prometheus_client Gauge.set"] = _gauges()
        # Last, for it stays so: with phases each step has a second block.
        after: dict[str, Callable[[], object]] = {"emit.phase": lambda: phase("forward")}
        after["emit.step, all values, with phases"] = all_values
        rounds: dict[str, list[float]] = {name: [] for name in (*measured, *after)}
        for _ in range(repeats):
            for name, call in measured.items():
                rounds[name].append(_round(call))
        phase("forward")
        for _ in range(repeats):
            for name, call in after.items():
                rounds[name].append(_round(call))
        emit.close()
    middles = {name: support.spread(taken)[0] for name, taken in rounds.items()}
    rows: list[list[object]] = []
    for name, taken in rounds.items():
        middle, low, high = support.spread(taken)
        rows.append([name, f"{middle * 1e6:.2f}", f"{low * 1e6:.2f}-{high * 1e6:.2f}"])
    rows.append(["emit.step without HARNESS_RUN_DIR", f"{unwatched * 1e6:.2f}", ""])
    rows.append(["five Gauge.set, multiprocess mode", f"{_multiprocess(repeats) * 1e6:.2f}", ""])
    ratio = middles["emit.step, all values"] / middles["five prometheus_client Gauge.set"]
    step_us = middles["emit.step, all values"] * 1e6
    return (
        support.table(["call", "median µs", "10-90 %"], rows)
        + f"\n\nTo reach: emit.step ≤ 1.5 µs. Measured: {step_us:.2f} µs."
        + f"\nTo reach: over five gauges ≤ 0.5. Measured: {ratio:.2f}."
    )


def _gauges() -> Callable[[], None]:
    """What a trainer that serves its own metrics does at each step."""
    from prometheus_client import CollectorRegistry, Gauge

    registry = CollectorRegistry()
    names = ("step", "loss", "lr", "grad_norm", "tokens")
    a, b, c, d, e = (Gauge(f"trainer_{name}", name, registry=registry) for name in names)

    def set_all() -> None:
        a.set(7)
        b.set(2.5)
        c.set(3e-4)
        d.set(1.25)
        e.set(16384)

    return set_all


def _multiprocess(repeats: int) -> float:
    """The same in a process of its own: the mode is chosen at prometheus_client's import."""
    code = f"from benchmarks import emit; print(emit._per_call(emit._gauges(), {repeats}))"
    with tempfile.TemporaryDirectory() as folder:
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": folder}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, check=True, timeout=300, capture_output=True
        )
    return float(done.stdout)


def _per_call(call: Callable[[], object], repeats: int) -> float:
    return support.spread([_round(call) for _ in range(repeats)])[0]


def _round(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    for _ in range(_CALLS):
        call()
    return (time.perf_counter() - begun) / _CALLS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the result into benchmarks/results")
    parser.add_argument("--repeats", type=int, default=201)
    arguments = parser.parse_args()
    os.environ.pop("HARNESS_RUN_DIR", None)
    busy = support.load()
    body = "\n\n".join(
        [imports(max(arguments.repeats // 8, 5)), inside(), calls(arguments.repeats), f"({busy})"]
    )
    support.report("emit", body, write=arguments.write)


if __name__ == "__main__":
    main()
