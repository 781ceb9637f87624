"""What a process of the tree does: trains, launches, works for a trainer, or helps.

From its command, its stacks and its place in the tree. Not covered: ranks (`harness.rules.view`, `spawned`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.findings import Role
    from harness.rules.view import ProcessView

_LAUNCHERS = re.compile(
    r"(^|/)(torchrun|accelerate|deepspeed|mpirun|mpiexec|srun|horovodrun|composer)$"
    r"|torch[./]distributed[./](run|launch)|accelerate[./]commands"
)
_SHELL = re.compile(r"(sh|bash|dash|zsh|ash|ksh|fish|nohup|env|timeout|time|nice|ionice|setsid|stdbuf|sudo)$")
_HELPERS = re.compile(
    r"resource_tracker|forkserver|semaphore_tracker|pt_elastic|compile_worker|harness\b.*\bkeeper"
)
_FORKSERVER = "multiprocessing.forkserver"
_WORKER_FRAMES = ("_worker_loop", "_process_worker", "worker", "_launch_process", "_bootstrap")


def role_of(process: ProcessView) -> Role:
    """What a process does in the training."""
    command = process.command
    program = command[0].rsplit("/", 1)[-1] if command else process.process.name
    if any(_LAUNCHERS.search(part) for part in command[:4]) or _SHELL.match(program):
        return "launcher"
    if not process.python and not any(each.python for each in process.ancestors):
        below = (each for each in process.view.processes if each.python)
        if any(each is process for other in below for each in other.ancestors):
            return "launcher"  # make, xargs, uv: whatever it is, the training is below it
    if _FORKSERVER in process.command_text and process.forked and process.parent is not None:
        return "trainer" if process.spawned_rank else "worker"  # what a forkserver began has its command
    if _HELPERS.search(process.command_text) or not process.python:
        return "helper" if process.parent is not None else "trainer"
    parent = process.parent
    if process.record is not None:
        return "trainer"
    if parent is not None and _is_worker(process, parent):
        return "trainer" if process.spawned_rank else "worker"
    return "trainer"


def _is_worker(process: ProcessView, parent: ProcessView) -> bool:
    """Whether its parent's program started it to work for it: a fork of it, or multiprocessing's spawn."""
    if process.process.executable != parent.process.executable or parent.role == "launcher":
        return False
    if "multiprocessing" in process.command_text and "spawn_main" in process.command_text:
        return True
    if process.forked is not None:
        return process.forked
    shows = any(
        frame.function in _WORKER_FRAMES and "multiprocessing" in frame.file
        for thread in process.threads
        for frame in thread.python_frames
    )
    return shows or process.command == parent.command
