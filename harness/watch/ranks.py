"""Every rank's record and process, looked at again and again; cheap for one rank and bearable for a thousand.

Covers finding records, following a rank into its next attempt, whether its process lives, and draining the
rows into metrics.jsonl and totals. A record that cannot be read is a problem, said once, and never more than
that rank's. Not here: what a record says (`heartbeat`), and what the rows add up to (`drain`).
"""

from __future__ import annotations

import os
import re
import resource
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import RecordError
from harness.snapshot import RankState, RankTotals
from harness.watch.checkpoints import CheckpointTimes
from harness.watch.drain import MetricsLog, Tally
from harness.watch.heartbeat import Heartbeat, Reader
from harness.watch.procstat import ProcessStat, boot_id, read_stat
from harness.watch.stagelog import StageLog

if TYPE_CHECKING:
    from harness.clock import Clock

__all__ = ["RankState", "RankTotals", "Ranks"]

_NAME = re.compile(r"(\d+)\.beat")
_SLICE = 256  # ranks read per poll: a thousand of them cost four polls, not a tenth of a core
_YOUNG_SECONDS = 2.0  # a folder changed so lately may change again within the same tick of its mtime
_SPARE_DESCRIPTORS = 256


class _Rank:
    """What is kept of one rank between polls."""

    __slots__ = ("inode", "reader", "state", "tally")

    def __init__(self) -> None:
        self.inode: int | None = None
        self.reader: Reader | None = None
        self.tally = Tally()
        self.state: RankState | None = None


class Ranks:
    """The ranks of one run directory on this machine.

    Nodes may share the directory: each looks after the ranks that run on it, and passes over the others'.

    Args:
        run_dir: the run directory; `ranks/` in it need not exist yet.
        clock: the time.
        record: whether rank 0's rows go into metrics.jsonl; not for a second observer of the same run.
        proc: where processes are listed.
    """

    def __init__(
        self, run_dir: Path, *, clock: Clock, record: bool = True, proc: Path = Path("/proc")
    ) -> None:
        self._folder = run_dir / "ranks"
        self._clock = clock
        self._proc = proc
        self._ranks: dict[str, _Rank] = {}
        self._order: list[str] = []
        self._next = 0
        self._listed: tuple[int, int] | None = None  # mtime and inode of the folder, once it can be trusted
        self._metrics = MetricsLog(run_dir / "metrics.jsonl") if record else None
        self._stages = StageLog(run_dir / "events" / "stages.jsonl") if record else None
        self._boot_id = boot_id(proc)
        self._said: dict[str, str] = {}
        self._problems: list[str] = []
        self._attempt = -1  # the newest seen
        self.checkpoints = CheckpointTimes(run_dir / "events" / "rank-00000.jsonl")

    def take_problems(self) -> tuple[str, ...]:
        """What went wrong since the last call: a line each, each said once."""
        problems, self._problems = tuple(self._problems), []
        return problems

    def poll(self) -> tuple[RankState, ...]:
        """Look at every rank (at a slice where there are very many); in the order of their numbers."""
        try:
            self._list()
        except FileNotFoundError:
            pass
        except OSError as error:
            self._say("", f"{self._folder}: cannot be listed: {error.strerror}")
        for name in self._due():
            self._look(name)
        if self._metrics is not None:
            self._metrics.flush()
            problem = self._metrics.problem
            if problem is not None:
                self._say("metrics", f"metrics.jsonl cannot be written ({problem}): steps are kept in memory")
            else:
                self._said.pop("metrics", None)
        self.checkpoints.poll()
        states = [rank.state for rank in self._ranks.values() if rank.state is not None]
        self._attempt = max((state.heartbeat.attempt for state in states), default=-1)
        # A dead rank of an earlier attempt is no rank of this one: there may be fewer now.
        shown = [state for state in states if state.alive or state.heartbeat.attempt == self._attempt]
        return tuple(sorted(shown, key=lambda state: state.heartbeat.rank))

    def close(self) -> None:
        """Let go of all records; what was read is written."""
        for rank in self._ranks.values():
            if rank.reader is not None:
                rank.reader.close()
                rank.reader = None
        if self._metrics is not None:
            self._metrics.flush()

    # ---- finding them

    def _list(self) -> None:
        status = self._folder.stat()
        identity = (status.st_mtime_ns, status.st_ino)
        if identity == self._listed:
            return
        age_seconds = self._clock.wall() - status.st_mtime
        found = {
            entry.name: entry.inode() for entry in os.scandir(self._folder) if _NAME.fullmatch(entry.name)
        }
        _allow_descriptors(len(found))
        for name, inode in found.items():
            rank = self._ranks.setdefault(name, _Rank())
            if rank.inode != inode:
                self._reopen(name, rank, inode)
        self._order = list(self._ranks)
        self._listed = identity if not 0 <= age_seconds < _YOUNG_SECONDS else None

    def _reopen(self, name: str, rank: _Rank, inode: int) -> None:
        if rank.reader is not None:
            self._read(name, rank)  # what its predecessor wrote last
            rank.reader.close()
            rank.reader = None
        try:
            reader = Reader(self._folder / name)
            if self._is_elsewhere(reader):
                reader.close()
                rank.inode, rank.state = inode, None
                return
        except RecordError as error:
            if _leads_nowhere(self._folder / name):
                rank.inode = rank.state = None
                return
            self._say(name, str(error))
            rank.inode = rank.state = None  # another look when the folder changes
            return
        rank.tally.restart()
        rank.reader, rank.inode = reader, inode
        self._said.pop(name, None)

    def _is_elsewhere(self, reader: Reader) -> bool:
        """Whether the record is another machine's, or from before this one was started again."""
        return bool(reader.boot_id and self._boot_id and reader.boot_id != self._boot_id)

    def _due(self) -> list[str]:
        if len(self._order) <= _SLICE:
            return self._order
        begin = self._next % len(self._order)
        self._next = begin + _SLICE
        new = [name for name in self._order if self._ranks[name].state is None]
        return list(dict.fromkeys(self._order[begin : begin + _SLICE] + new))

    # ---- looking at one

    def _look(self, name: str) -> None:
        rank = self._ranks[name]
        heartbeat = self._read(name, rank)
        if heartbeat is None and rank.state is not None:
            heartbeat = rank.state.heartbeat  # a record cut short: whether its process lives is still known
        if heartbeat is None:
            return
        process = self._process(heartbeat)
        rank.state = RankState(
            heartbeat=heartbeat,
            alive=process is not None,
            resident_bytes=process.resident_bytes if process is not None else None,
            cpu_seconds=process.cpu_seconds if process is not None else None,
            totals=rank.tally.totals(heartbeat),
        )

    def _read(self, name: str, rank: _Rank) -> Heartbeat | None:
        if rank.reader is None:
            return None
        try:
            drained = rank.reader.drain()
            heartbeat = rank.reader.read()
        except (RecordError, OSError) as error:
            self._say(name, str(error))
            return None
        rank.tally.add(drained)
        if heartbeat.rank == 0:
            if self._metrics is not None and self._stages is not None:
                process = self._process(heartbeat) if drained.rows else None
                resident = process.resident_bytes if process is not None else None
                self._metrics.add(drained, heartbeat.attempt, resident)
                self._stages.add(drained.stages, heartbeat.attempt)
            self.checkpoints.see_stages(drained.stages)
        return heartbeat

    def _process(self, heartbeat: Heartbeat) -> ProcessStat | None:
        """The process that wrote the record, if it lives; a zombie does not."""
        process = read_stat(heartbeat.pid, self._proc)
        if process is None or process.ended or process.start_time_ticks != heartbeat.start_time_ticks:
            return None
        return process

    def _say(self, key: str, problem: str) -> None:
        if self._said.get(key) != problem:
            self._said[key] = problem
            self._problems.append(problem)
            del self._problems[:-100]


def _leads_nowhere(path: Path) -> bool:
    """A link into the memory of another machine: a record on a network file system stands there."""
    try:
        path.stat()
    except FileNotFoundError:
        return path.is_symlink()
    except OSError:  # closed to this user: that is another matter
        return False
    return False


def _allow_descriptors(records: int) -> None:
    """Each record stays open; the soft limit is 1,024 by default. Raised only when it is really needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = records + _SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and wanted > soft:
        with suppress(ValueError, OSError):
            ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
