"""Which processes belong to what the user asked about: the whole launcher's tree, in one pass over /proc.

A pid may be a launcher's or one rank's of several: the tree begins at the topmost launcher above it.
Sessions and process groups do not matter: torchrun gives its ranks their own.

Not covered: ranks on other machines; processes that were re-parented away.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from harness.collect.deadline import NotSeen

if TYPE_CHECKING:
    from harness.collect.procfs import Proc
    from harness.collect.procparse import Stat

# Beyond these the descendants nearest to the target are kept.
MAX_PROCESSES = 256
_LAUNCHER = re.compile(
    rb"(^|/|\0)(torchrun|accelerate|deepspeed|mpirun|mpiexec|horovodrun)(\0|$)"
    rb"|torch[./]distributed[./](run|launch)|accelerate[./]commands"
)


def snapshot(proc: Proc) -> dict[int, Stat]:
    """All processes that we may see, by pid."""
    found = {}
    for pid in proc.pids():
        stat = _stat(proc, pid)
        if stat is not None:
            found[pid] = stat
    return found


def members(proc: Proc, pid: int) -> tuple[Stat, ...]:
    """The target's tree, its root first, near descendants before far ones; empty if the pid is gone."""
    everything = snapshot(proc)
    if pid not in everything:
        return ()
    children: dict[int, list[int]] = {}
    for stat in everything.values():
        children.setdefault(stat.ppid, []).append(stat.pid)
    order = [root_of(proc, everything, pid)]
    for parent in order:
        order += sorted(children.get(parent, ()))
        if len(order) >= MAX_PROCESSES:
            break
    kept = order[:MAX_PROCESSES]
    if pid not in kept:
        kept.append(pid)
    return tuple(everything[each] for each in kept)


def root_of(proc: Proc, everything: dict[int, Stat], pid: int) -> int:
    """The launcher that started this pid's rank, or the pid itself."""
    root, current = pid, pid
    while (parent := everything[current].ppid) in everything and parent > 1:
        if _is_launcher(proc, parent):
            root = parent
        current = parent
    return root


def _is_launcher(proc: Proc, pid: int) -> bool:
    try:
        return bool(_LAUNCHER.search(proc.read(pid, "cmdline")))
    except OSError:
        return False


def _stat(proc: Proc, pid: int) -> Stat | None:
    try:
        return proc.stat(pid)
    except (OSError, ValueError, IndexError, NotSeen):
        return None  # ended between the listing and the look
