"""What a training step costs: the 125 M model on the CPU, and what the harness adds to a quickstart step.

    python benchmarks/train.py [--only m7c|emit] [--steps 8] [--write]

m7c: configs/m7c_125m_local.yaml, optimizer steps without accumulation: seconds, peak RSS, RSS after each step
(no growth after step 2 is the target). emit: every emit call of a quickstart step, timed by itself over many
repetitions, over the time of the step (≤ 0.5 % is the target). Exits with 1 if a figure misses its target.

Not here: attention alone (benchmarks/attention.py), emit against prometheus_client (benchmarks/emit.py).
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import support

EMIT_TARGET_RATIO = 0.005
GROWTH_TARGET_BYTES = (
    16 << 20
)  # of RSS from step 2 to the last: the allocator's noise, not a leak of activations


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


def benchmark_m7c(steps: int) -> tuple[list[tuple[str, str]], bool]:
    """Rows of figures, and whether the target is met."""
    overrides = (
        f"train.steps={steps}", "train.accumulation=1", "schedule.warmup_steps=2", "train.device=cpu",
        "eval.batches=1", "eval.every=0", "checkpoint.every=0",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        recorder = trained("m7c_125m_local.yaml", Path(out), *overrides)
    seconds = [end - begin for begin, end in zip(recorder.ends, recorder.ends[1:], strict=False)]
    growth = recorder.resident[-1] - recorder.resident[1]
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rows = [
        (
            "125 M, S = 1024, batch 1: a step",
            f"{statistics.median(seconds):.2f} s (median of {len(seconds)})",
        ),
        ("125 M: tokens a second", f"{1024 / statistics.median(seconds):.0f}"),
        ("125 M: peak RSS", f"{peak_bytes / 2**20:,.0f} MiB"),
        ("125 M: RSS after each step", ", ".join(f"{each >> 20:,}" for each in recorder.resident) + " MiB"),
        ("125 M: growth after step 2 (none above 16 MiB)", f"{growth / 2**20:.1f} MiB"),
    ]
    return rows, growth <= GROWTH_TARGET_BYTES


def benchmark_emit(steps: int, repetitions: int = 2000) -> tuple[list[tuple[str, str]], bool]:
    """The calls of one quickstart step, as the loop makes them, replayed into a real record; met or not."""
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
    ratio = cost / seconds
    rows = [
        ("quickstart: a step", f"{seconds * 1e3:.0f} ms"),
        (f"quickstart: its {len(last_step)} emit calls", f"{cost * 1e6:.1f} µs"),
        ("quickstart: emit over the step (≤ 0.5 %)", f"{100 * ratio:.4f} %"),
    ]
    return rows, ratio <= EMIT_TARGET_RATIO


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=("m7c", "emit"))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--write", action="store_true", help="put the result into benchmarks/results")
    options = parser.parse_args()
    load, rows, met = support.load(), [], True
    # The small one first: the peak of RSS is the process's.
    for name, benchmark in (("emit", benchmark_emit), ("m7c", benchmark_m7c)):
        if options.only in {None, name}:
            more, well = benchmark(options.steps)
            rows += more
            met = met and well
    body = f"{load}\n\n{support.table(('what', 'measured'), rows)}"
    support.report("A training step", body, write=options.write)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
