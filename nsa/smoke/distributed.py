"""Stage `distributed`: two ranks of `nsa train`, by NCCL where there are two GPUs, by gloo elsewhere.

This process becomes torchrun, so that the ranks' records are those of this run.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from nsa.report import say
from nsa.smoke.stage import measured

if TYPE_CHECKING:
    from nsa.smoke.stage import Task

RANKS = 2


def run(task: Task) -> None:
    """Become torchrun."""
    overrides = list(task.overrides)
    backend = "gloo"
    if task.device != "cpu":
        import torch

        if torch.cuda.device_count() >= RANKS:
            backend = "nccl"
        else:
            say(f"{torch.cuda.device_count()} GPU: NCCL wants one for each rank, so {RANKS} ranks on the CPU")
            overrides += ["train.device=cpu", "train.dtype=fp32"]
    measured(backend=backend)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    words += ["-m", "nsa", "train", str(task.config), "--resume", "never", "--out", str(task.out)]
    words += [word for override in overrides for word in ("--set", override)]
    os.execv(sys.executable, words)  # noqa: S606 -- a list of words, no shell
