"""What /proc says of processes and their threads: state, system calls, CPU ticks, io, memory, signals.

Read with the root of /proc passed in. Nothing here blocks by itself for long, but any read may (a process in
state D, a dead mount): callers give each a deadline.

Not covered: what the text means (`procparse`), descriptors (`descriptors`), sockets, locks, control groups,
Python stacks.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import psutil

from harness.collect.deadline import NotSeen, missing_from
from harness.collect.procparse import (
    Scheduled,
    Stat,
    parse_io,
    parse_schedstat,
    parse_stat,
    parse_status,
    parse_syscall,
)
from harness.evidence import (
    IoCounters,
    Memory,
    Missing,
    Piece,
    Reading,
    Running,
    Syscall,
    ThreadSample,
    Undisturbed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# A process with more threads than this shows its first ones; the rest would make a Case that no one reads.
MAX_THREADS = 512
_MAX_FILE_BYTES = 4 * 2**20
_NOT_COUNTED = Missing(
    reason="unavailable", detail="a first sample, a new thread, or a kernel without CONFIG_SCHED_INFO"
)


_NOTHING_BEFORE: Mapping[int, Scheduled] = MappingProxyType({})


class Proc:
    """Reads one /proc; every method may raise OSError or psutil.Error, which callers make `Missing`."""

    def __init__(self, root: Path = Path("/proc"), machine: str | None = None) -> None:
        self.root = root
        self.machine = machine or os.uname().machine
        psutil.PROCFS_PATH = str(root)

    def read(self, *parts: str | int) -> bytes:
        """The bytes of one file, bounded."""
        with self.path(*parts).open("rb", buffering=0) as file:
            chunks = []
            size = 0
            while size < _MAX_FILE_BYTES and (chunk := file.read(65536)):
                chunks.append(chunk)
                size += len(chunk)
        return b"".join(chunks)

    def path(self, *parts: str | int) -> Path:
        """A path below the root."""
        return self.root.joinpath(*map(str, parts))

    def pids(self) -> Iterator[int]:
        """All processes that we may see."""
        return (int(name) for name in os.listdir(self.root) if name.isdigit())  # noqa: PTH208 - names are enough

    def stat(self, pid: int) -> Stat:
        """The process's line."""
        return parse_stat(self.read(pid, "stat"))

    def same(self, pid: int, start_time_ticks: int) -> Stat:
        """The process's line, if it still is the same process: its pid may have passed to another."""
        stat = self.stat(pid)
        if stat.start_time_ticks != start_time_ticks:
            detail = "the process has ended and its pid belongs to another one now"
            raise NotSeen(Missing(reason="unavailable", detail=detail))
        return stat

    def status(self, pid: int) -> dict[str, str]:
        """/proc/PID/status."""
        return parse_status(self.read(pid, "status"))

    def io(self, pid: int) -> IoCounters:
        """/proc/PID/io."""
        return parse_io(self.read(pid, "io"))

    def threads(
        self, pid: int, before: Mapping[int, Scheduled] = _NOTHING_BEFORE
    ) -> tuple[ThreadSample, ...]:
        """Every thread, but those that end meanwhile. `before`: their counts after the last dump."""
        samples = (self._thread(pid, tid, before.get(tid)) for tid in self._tids(pid))
        return tuple(sample for sample in samples if sample is not None)

    def scheduled(self, pid: int) -> dict[int, Scheduled]:
        """The scheduler's counts of every thread, where this kernel keeps them."""
        found = {tid: self._scheduled(pid, tid) for tid in self._tids(pid)}
        return {tid: counts for tid, counts in found.items() if counts is not None}

    def _tids(self, pid: int) -> list[int]:
        return sorted(int(name) for name in os.listdir(self.path(pid, "task")))[:MAX_THREADS]  # noqa: PTH208 - as above

    def _scheduled(self, pid: int, tid: int) -> Scheduled | None:
        with contextlib.suppress(OSError, ValueError):
            return parse_schedstat(self.read(pid, "task", tid, "schedstat"), time.monotonic())
        return None

    def _undisturbed(self, pid: int, tid: int, before: Scheduled | None) -> Piece[Undisturbed]:
        now = self._scheduled(pid, tid) if before is not None else None
        if now is None or before is None:
            return _NOT_COUNTED
        return Reading(
            value=Undisturbed(
                seconds=now.at_seconds - before.at_seconds,
                runs=now.runs - before.runs,
                cpu_seconds=now.cpu_seconds - before.cpu_seconds,
                queued_seconds=now.queued_seconds - before.queued_seconds,
            )
        )

    def _thread(self, pid: int, tid: int, before: Scheduled | None) -> ThreadSample | None:
        undisturbed = self._undisturbed(pid, tid, before)
        try:
            stat = parse_stat(self.read(pid, "task", tid, "stat"))
        except (FileNotFoundError, ProcessLookupError):
            return None
        return ThreadSample(
            tid=tid,
            name=stat.name,
            state=stat.state,
            user_ticks=stat.user_ticks,
            system_ticks=stat.system_ticks,
            syscall=self._syscall(pid, tid),
            wchan=self._wchan(pid, tid),
            undisturbed=undisturbed,
        )

    def _syscall(self, pid: int, tid: int) -> Piece[Syscall | Running]:
        try:
            return Reading(value=parse_syscall(self.read(pid, "task", tid, "syscall"), self.machine))
        except (OSError, ValueError, IndexError) as error:
            return missing_from(error)

    def _wchan(self, pid: int, tid: int) -> Piece[str]:
        try:
            name = self.read(pid, "task", tid, "wchan").decode("ascii", "replace").strip()
        except OSError as error:
            return missing_from(error)
        if name in ("", "0"):
            return Missing(
                reason="unavailable", detail="the kernel names none: not waiting, or not shown to us"
            )
        return Reading(value=name)

    def memory(self, pid: int) -> Memory:
        """Sizes from /proc/PID/status."""
        status = self.status(pid)
        try:
            score: Piece[int] = Reading(value=int(self.read(pid, "oom_score")))
        except (OSError, ValueError) as error:
            score = missing_from(error)
        return Memory(
            resident_bytes=_kilobytes(status, "VmRSS"),
            virtual_bytes=_kilobytes(status, "VmSize"),
            swapped_bytes=_kilobytes(status, "VmSwap"),
            peak_resident_bytes=_kilobytes(status, "VmHWM"),
            oom_score=score,
        )


def _kilobytes(status: dict[str, str], key: str) -> int:
    if key not in status:
        # Kernel threads and zombies have no memory of their own.
        raise NotSeen(
            Missing(reason="unavailable", detail="the process has no memory (a zombie or a kernel thread)")
        )
    return int(status[key].split()[0]) * 1024
