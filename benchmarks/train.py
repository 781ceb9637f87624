"""What a training step costs: the 125 M model on the CPU, and what the harness adds to a quickstart step.

    python benchmarks/train.py [--only m7c|emit] [--steps 8] [--json FILE]

m7c: configs/m7c_125m_local.yaml, optimizer steps without accumulation: seconds, peak RSS, RSS after each step
(no growth after step 2 is the target). emit: every emit call of a quickstart step, timed by itself over many
repetitions, over the time of the step (≤ 0.5 % is the target). Prints a line a figure; exits with 1 if one
misses its target.

Not here: attention alone (benchmarks/attention.py), emit against prometheus_client (benchmarks/emit.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

EMIT_TARGET_RATIO = 0.005
GROWTH_TARGET_BYTES = (
    16 << 20
)  # of RSS from step 2 to the last: the allocator's noise, not a leak of activations


def hardware() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return (
        f"{os.cpu_count()} x {names[0] if names else platform.machine()}, Python {platform.python_version()}"
    )


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Recorder:
    """A telemetry that notes when steps end and what is resident then, and passes everything on."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.ends: list[float] = []
        self.resident: list[int] = []
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in {"stage", "phase", "progress", "step", "event"}:
            return found

        def passed_on(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, arguments, named))
            answer = found(*arguments, **named)
            if name == "step":
                self.ends.append(time.perf_counter())
                self.resident.append(resident_bytes())
            return answer

        return passed_on


def trained(config: str, out: Path, *overrides: str) -> Recorder:
    """Train in this process, and return what was recorded."""
    from nsa import train

    recorder = Recorder(train.EmitTelemetry())
    original = train.EmitTelemetry
    train.EmitTelemetry = lambda: recorder  # type: ignore[assignment,misc]
    try:
        train.run(train.Options(config=ROOT / "configs" / config, overrides=overrides, out=out))
    finally:
        train.EmitTelemetry = original  # type: ignore[misc]
    return recorder


def benchmark_m7c(steps: int) -> dict[str, Any]:
    overrides = (
        f"train.steps={steps}", "train.accumulation=1", "schedule.warmup_steps=2", "train.device=cpu",
        "eval.batches=1", "eval.every=0", "checkpoint.every=0",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        recorder = trained("m7c_125m_local.yaml", Path(out), *overrides)
    seconds = [end - begin for begin, end in zip(recorder.ends, recorder.ends[1:], strict=False)]
    growth = recorder.resident[-1] - recorder.resident[1]
    found = {
        "step_seconds_median": statistics.median(seconds),
        "step_seconds": [round(value, 3) for value in seconds],
        "tokens_per_second": 1024 / statistics.median(seconds),
        "resident_megabytes": [value >> 20 for value in recorder.resident],
        "peak_resident_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "growth_after_step_2_megabytes": growth / (1 << 20),
        "met": growth <= GROWTH_TARGET_BYTES,
    }
    print(f"125 M, S = 1024, batch 1: {statistics.median(seconds):.2f} s a step (median of {len(seconds)})")
    print(f"125 M: peak RSS {found['peak_resident_megabytes']:,} MB")
    print(f"125 M: RSS after each step {found['resident_megabytes']} MB")
    print(f"125 M: growth after step 2 {found['growth_after_step_2_megabytes']:.1f} MB (target ≤ 16)")
    return found


def benchmark_emit(steps: int, repetitions: int = 2000) -> dict[str, Any]:
    """The calls of one quickstart step, as the loop makes them, replayed into a real record."""
    with tempfile.TemporaryDirectory() as run_dir:
        os.environ["HARNESS_RUN_DIR"] = run_dir
        overrides = (f"train.steps={steps}", "schedule.warmup_steps=2", "eval.batches=1", "eval.every=0")
        recorder = trained("quickstart.yaml", Path(run_dir), *overrides)
        seconds = statistics.median(b - a for a, b in zip(recorder.ends, recorder.ends[1:], strict=False))
        numbers = [at for at, (name, _, _) in enumerate(recorder.calls) if name == "step"]
        last_step = recorder.calls[numbers[-2] + 1 : numbers[-1] + 1]

        from harness import emit
        from nsa import train

        emit.open()
        assert emit.enabled
        telemetry = train.EmitTelemetry()
        replay = [(getattr(telemetry, name), arguments, named) for name, arguments, named in last_step]
        taken = []
        for _ in range(repetitions):
            began = time.perf_counter()
            for call, arguments, named in replay:
                call(*arguments, **named)
            taken.append(time.perf_counter() - began)
        emit.close()
        del os.environ["HARNESS_RUN_DIR"]
    cost = statistics.median(taken)
    found = {
        "calls": [name for name, _, _ in last_step],
        "emit_microseconds_a_step": cost * 1e6,
        "step_seconds_median": seconds,
        "ratio": cost / seconds,
        "met": cost / seconds <= EMIT_TARGET_RATIO,
    }
    print(
        f"quickstart: a step of {seconds * 1e3:.0f} ms has {len(last_step)} emit calls: {cost * 1e6:.1f} µs"
    )
    print(f"quickstart: emit is {100 * found['ratio']:.4f} % of the step (target ≤ 0.5 %)")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=("m7c", "emit"))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(hardware())
    found: dict[str, Any] = {"hardware": hardware()}
    # The small one first: the peak of RSS is the process's.
    if options.only != "m7c":
        found["emit"] = benchmark_emit(options.steps)
    if options.only != "emit":
        found["m7c"] = benchmark_m7c(options.steps)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all(part["met"] for part in found.values() if isinstance(part, dict)) else 1


if __name__ == "__main__":
    sys.exit(main())
