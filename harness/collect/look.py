"""One observation: the tree that is looked at, the time that is left, and what all its parts share.

Not covered: samples (`sampling`), what lies beside the processes (`beside`).
"""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.collect import facts, logs, records, tree
from harness.collect.deadline import all_of, call, piece
from harness.evidence import CollectError, Missing, Reading

if TYPE_CHECKING:
    from harness.collect.deadline import Deadline
    from harness.collect.procfs import Proc
    from harness.collect.procparse import Stat
    from harness.evidence import Descriptor, Json, Piece, Process


class Look:
    """What the parts of one observation share. `run_dir` may be found on the way."""

    def __init__(self, proc: Proc, deadline: Deadline, *, run_dir: Path | None, width: int) -> None:
        self.proc = proc
        self.deadline = deadline
        self.run_dir = run_dir
        self.width = width
        self.pids: set[int] = set()
        self.processes: tuple[Process, ...] = ()
        self.errors: list[CollectError] = []

    def error(self, collector: str, detail: str) -> None:
        """Note what no field of the Case has room for."""
        self.errors.append(CollectError(collector=collector, detail=detail))

    def members(self, pid: int, start_time_ticks: int | None) -> tuple[Stat, ...]:
        """The tree, unless the pid is gone or another's."""
        found = call(functools.partial(tree.members, self.proc, pid), self.deadline.within(2.0))
        if isinstance(found, Missing):
            self.error("tree", found.detail)
            return ()
        asked = next((stat for stat in found if stat.pid == pid), None)
        if asked is None:
            self.error("tree", f"there is no process {pid} (any more)")
            return ()
        if start_time_ticks is not None and asked.start_time_ticks != start_time_ticks:
            self.error("tree", f"process {pid} has ended; the pid belongs to another one now")
            return ()
        if len(found) >= tree.MAX_PROCESSES:
            self.error("tree", f"only {tree.MAX_PROCESSES} processes of the tree were looked at")
        self.pids = {stat.pid for stat in found}
        return found

    def facts(self, members: tuple[Stat, ...]) -> None:
        """What does not change, once; and the run directory, if the target names one."""
        at, up = self.deadline.elapsed(), facts.uptime(self.proc)
        seconds = self.deadline.within(3.0)
        reads = [functools.partial(facts.process, self.proc, stat, at, up, seconds) for stat in members]
        found = all_of(reads, self.deadline.within(3.5), width=self.width)
        self.processes = tuple(
            facts.unread(stat, result) if isinstance(result, Missing) else result
            for stat, result in zip(members, found, strict=True)
        )
        for process in self.processes:
            if self.run_dir is None:
                named = call(functools.partial(records.run_dir_of, process.environment), 0.3)
                self.run_dir = None if isinstance(named, Missing) else named
        if self.run_dir is None and any(isinstance(each.environment, Missing) for each in self.processes):
            self.run_dir = self._run_dir_near()

    def _run_dir_near(self) -> Path | None:
        """Where the environment may not be read: among the runs where we stand, and where the target does."""
        places = [Path(each.cwd.value) for each in self.processes if isinstance(each.cwd, Reading)]
        with contextlib.suppress(OSError):  # somebody may have removed the folder where we stand
            places.insert(0, Path.cwd())
        folders = dict.fromkeys(each / "runs" for each in places)
        starts = {each.pid: each.start_time_ticks for each in self.processes}
        found = call(functools.partial(records.run_dir_near, folders, starts, self.owners()), 0.5)
        return None if isinstance(found, Missing) else found

    def owners(self) -> set[int]:
        """Whose files may be read: ours, and those of the target's users."""
        uids = {process.uid.value for process in self.processes if isinstance(process.uid, Reading)}
        return {os.geteuid(), *uids}

    def inodes(self, *kinds: Literal["pipe", "file", "socket"]) -> set[int]:
        """Inodes of the tree's open descriptors of these kinds."""
        return {
            each.inode.value
            for process in self.processes
            if isinstance(process.descriptors, Reading)
            for each in process.descriptors.value
            if each.kind in kinds and isinstance(each.inode, Reading)
        }

    def heartbeats(self) -> Piece[tuple[dict[str, Json], ...]]:
        """The records of the ranks now."""
        return piece(lambda: records.heartbeats(self.run_dir, self.pids), self.deadline, 0.5)

    def log_path(self) -> Path:
        """Where the target writes what it says; NotSeen."""
        asked = [each for process in self.processes for each in _descriptors_of(process)]
        return logs.log_path(self.run_dir, asked)

    def log_bytes(self) -> Piece[int]:
        """How long the log is."""

        def size() -> int:
            return logs.read_regular(self.log_path(), self.owners(), last_bytes=0)[1].st_size

        return piece(size, self.deadline, 0.3)


def _descriptors_of(process: Process) -> tuple[Descriptor, ...]:
    return process.descriptors.value if isinstance(process.descriptors, Reading) else ()
