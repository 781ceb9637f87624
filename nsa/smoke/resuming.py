"""Stage `checkpoint`: a training killed by SIGKILL, resumed, with the losses it had; on a CPU to the bit.

The first attempt goes on past its checkpoint before it is killed, so the second one repeats steps whose
losses are known. Only the trainers import torch; this process watches them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from nsa.report import say
from nsa.smoke.stage import SmokeError, measured

if TYPE_CHECKING:
    from pathlib import Path

    from nsa.smoke.stage import Task

_STEPS = 12
# On CUDA some kernels have no deterministic variant: their sums differ in the last bits, and a step later the
# weights. Another batch, or weights that did not come back, are off by a thousand times that.
_CUDA_TOLERANCE = 1e-3
_POLL_SECONDS = 0.05
_TOLD_SECONDS = 5.0


def run(task: Task) -> None:
    """Kill, resume, compare."""
    steps = max(6, task.steps or _STEPS)
    tolerance = 0.0 if task.device == "cpu" else _CUDA_TOLERANCE
    every = steps // 3
    kill_after = every + max(1, every // 2)
    out = task.out / "resumed"
    first = _start(task, out, steps, every)
    _until_step(first, out, kill_after, every)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = _losses(out)
    say(f"killed after step {max(before)}")
    began = time.monotonic()
    second = _start(task, out, steps, every)
    while second.poll() is None:
        time.sleep(_POLL_SECONDS)
    if second.returncode != 0:
        raise SmokeError(f"the resumed training ended with {second.returncode}. Its own line above says why")
    after = _losses(out)
    repeated = sorted(step for step, losses in after.items() if len(losses) > 1)
    if not repeated:
        raise SmokeError(
            f"no step was repeated: it was resumed at step {min(after)} of {steps}. Was a checkpoint written?"
        )
    for step in repeated:
        one, other = after[step][:2]
        if not abs(one - other) <= tolerance * abs(one):
            raise SmokeError(
                f"step {step} had a loss of {one:.9g} before SIGKILL and {other:.9g} after resuming: the"
                " state does not come back whole (weights, optimizer, generators, place in the data). Do not"
                " trust a resumed run"
            )
    if max(after) != steps:
        raise SmokeError(f"resumed, it came to step {max(after)} of {steps}. Its own lines above say why")
    difference = max(abs(after[step][0] - after[step][1]) for step in repeated)
    measured(
        repeated_steps=len(repeated), largest_difference=difference, resumed_seconds=time.monotonic() - began
    )


def _start(task: Task, out: Path, steps: int, every: int) -> subprocess.Popen[bytes]:
    overrides = (
        *task.overrides,
        f"train.steps={steps}",
        f"schedule.warmup_steps={min(4, steps)}",
        f"checkpoint.every={every}",
        "eval.every=0",
        "eval.batches=1",
    )
    words = [sys.executable, "-m", "nsa", "train", str(task.config), "--out", str(out)]
    words += [word for override in overrides for word in ("--set", override)]
    # Trainers of this stage alone: their steps are not this run's, and they write metrics.jsonl themselves.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_")}
    return subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL)


def _until_step(process: subprocess.Popen[bytes], out: Path, step: int, checkpoint: int) -> None:
    """Until it is past `step` and its checkpoint stands; SmokeError where it ends before."""
    folder = out / "checkpoints" / f"step-{checkpoint:08d}"
    while True:
        ended = process.poll() is not None
        if max(_losses(out), default=0) >= step and folder.is_dir():
            return
        if ended:
            raise SmokeError(
                f"the training ended with {process.returncode} before step {step}. Its own line says why"
            )
        time.sleep(_POLL_SECONDS)


def _losses(out: Path) -> dict[int, list[float]]:
    """By step: each loss that an attempt had there."""
    found: dict[int, list[float]] = {}
    try:
        lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return found
    for line in lines:
        if line.endswith("\n"):
            row = json.loads(line)
            found.setdefault(int(row["step"]), []).append(float(row["loss"]))
    return found
