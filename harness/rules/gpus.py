"""A wait for a GPU. Not verified: no Case of a real GPU was there to write it from.

Not covered: ranks that wait for each other on GPUs (`harness.rules.ranks`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from harness.evidence import Reading
from harness.rules import say
from harness.rules.progress import by_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.findings import Finding
    from harness.rules.scene import Scene


def gpu_wait(scene: Scene) -> Iterator[Finding]:
    """gpu-wait. Not verified on a GPU: its confidence stays low."""
    gpus = scene.view.case.gpus
    if not isinstance(gpus, Reading):
        return
    for chain in scene.chains:
        wait = chain.end
        pid = wait.thread.process.pid
        mine = [
            each
            for each in gpus.value
            if isinstance(each.processes, Reading) and any(one.pid == pid for one in each.processes.value)
        ]
        statement = scene.sources.statement(wait.user) if wait.user is not None else ""
        asks = wait.kind == "gpu" or re.search(r"\.(item|cpu|tolist|synchronize|numpy)\(", statement)
        if not mine or not asks or by_record(scene, wait.thread.process) is not None:
            continue
        busy = [
            f"GPU {each.index} is {each.utilization_ratio.value:.0%} busy"
            for each in mine
            if isinstance(each.utilization_ratio, Reading)
        ]
        yield say.finding(
            scene,
            chain,
            "hung",
            "gpu-wait",
            0.6,
            f"It waits for the GPU, at {say.place(wait.user)}.",
            evidence=[*busy, "this rule is not verified on a GPU"],
            next_steps=["nvidia-smi, and dmesg | grep -i xid, tell of a GPU that fell off"],
        )
