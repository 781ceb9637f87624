"""Ranks that a program starts itself: torch.multiprocessing.spawn, or a Process for each rank.

No launcher tells their rank. Processes of one parent are ranks when one of them stands in torch.distributed
(or torch's spawn began it) and the others run the same function; the rank is read from their locals.

Not covered: ranks of a launcher, workers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from harness import frames as code

if TYPE_CHECKING:
    from harness.rules.view import ProcessView

_DISTRIBUTED = re.compile(r"torch/(distributed/.*|nn/parallel/distributed)\.py$")
_SPAWNED = "torch/multiprocessing/spawn.py"
_WORKER = re.compile(
    r"torch/utils/data/_utils/worker\.py$|concurrent/futures/process\.py$|multiprocessing/pool\.py$"
)
_RANK_NAMES = ("rank", "global_rank", "local_rank", "rank_id", "process_index", "proc_id")


def ranks_of(parent: ProcessView) -> tuple[ProcessView, ...]:
    """The children of a process that are ranks, oldest first."""
    began = {each.pid: _began(each) for each in parent.children if each.by_multiprocessing and each.alive}
    showing = {
        began[each.pid]
        for each in parent.children
        if began.get(each.pid) is not None and _stands_in_distributed(each)
    }
    found = [each for each in parent.children if began.get(each.pid) in showing]
    return tuple(sorted(found, key=lambda each: (each.process.start_time_ticks, each.pid)))


def rank_in(process: ProcessView) -> int | None:
    """The rank of one of them: as its own variables have it, else its place among its siblings."""
    if process.main is None or process.parent is None:
        return None
    spawn = process.main.frame_in("_wrap", module=_SPAWNED)
    told = process.main.local("i", spawn) if spawn is not None else None
    for name in () if told else _RANK_NAMES:
        told = told or process.main.local(name)
    if told is not None and told.isdigit():
        return int(told)
    siblings = ranks_of(process.parent)
    return next((at for at, each in enumerate(siblings) if each is process), None)


def world_size(process: ProcessView) -> int | None:
    """How many ranks there should be: by a variable of that name."""
    if process.main is None:
        return None
    told = process.main.local("world_size") or process.main.local("nprocs")
    return int(told) if told is not None and told.isdigit() else None


def _began(process: ProcessView) -> tuple[str, str] | None:
    """The function that a process was started to run; None for workers of libraries, and where unseen."""
    frames = process.main.python_frames if process.main is not None else ()
    if any(_WORKER.search(frame.file) for frame in frames):
        return None
    outermost = next((frame for frame in reversed(frames) if code.owner(frame) != "stdlib"), None)
    return (outermost.file, outermost.function) if outermost is not None else None


def _stands_in_distributed(process: ProcessView) -> bool:
    return any(
        _DISTRIBUTED.search(frame.file) or (frame.function == "_wrap" and frame.file.endswith(_SPAWNED))
        for thread in process.threads
        for frame in thread.python_frames
    )
