"""What /proc says of processes and their threads: state, system calls, CPU ticks, io, memory, signals.

Parsers are pure (bytes to a type) and stand first; `Proc` reads, with the root of /proc passed in.
Nothing here blocks by itself for long, but any read may (a process in state D, a dead mount): callers
give each a deadline.

Not covered: descriptors (`descriptors`), sockets, locks, control groups, Python stacks.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import psutil

from harness.collect import syscalls
from harness.collect.deadline import NotSeen, missing_from
from harness.evidence import (
    Activity,
    IoCounters,
    Memory,
    Missing,
    Piece,
    Pressure,
    Reading,
    Running,
    Signals,
    Syscall,
    ThreadSample,
    Undisturbed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# A process with more threads than this shows its first ones; the rest would make a Case that no one reads.
MAX_THREADS = 512
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD, include/linux/sched.h
_MAX_FILE_BYTES = 4 * 2**20
_NOT_COUNTED = Missing(
    reason="unavailable", detail="a first sample, a new thread, or a kernel without CONFIG_SCHED_INFO"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """The fields of /proc/PID/stat that we use."""

    pid: int
    name: str
    state: str
    ppid: int
    process_group: int
    session: int
    kernel_thread: bool
    flags: int
    minor_faults: int
    major_faults: int
    user_ticks: int
    system_ticks: int
    thread_count: int
    start_time_ticks: int
    wait_status: int = 0

    @property
    def activity(self) -> Activity:
        """The part that changes."""
        return Activity(
            exit_code=self._exit_code,
            state=self.state,
            user_ticks=self.user_ticks,
            system_ticks=self.system_ticks,
            minor_faults=self.minor_faults,
            major_faults=self.major_faults,
            thread_count=self.thread_count,
        )

    @property
    def _exit_code(self) -> Piece[int]:
        if self.state not in ("Z", "X"):
            return Missing(reason="unavailable", detail="it has not ended")
        # To those who may not know the kernel says 0.
        if self.wait_status or os.geteuid() == 0:
            return Reading(value=os.waitstatus_to_exitcode(self.wait_status))
        return Missing(reason="denied", detail="the kernel tells 0, or does not tell")


def parse_stat(data: bytes) -> Stat:
    """/proc/PID/stat or /proc/PID/task/TID/stat. The name may hold anything, `)` and spaces too."""
    before, _, after = data.rpartition(b")")
    pid, _, name = before.partition(b"(")
    fields = after.split()
    return Stat(
        pid=int(pid),
        name=os.fsdecode(name),
        state=fields[0].decode("ascii", "replace"),
        ppid=int(fields[1]),
        process_group=int(fields[2]),
        session=int(fields[3]),
        kernel_thread=bool(int(fields[6]) & _KERNEL_THREAD),
        flags=int(fields[6]),
        minor_faults=int(fields[7]),
        major_faults=int(fields[9]),
        user_ticks=int(fields[11]),
        system_ticks=int(fields[12]),
        thread_count=int(fields[17]),
        start_time_ticks=int(fields[19]),
        wait_status=int(fields[49]) if len(fields) > 49 else 0,
    )


def parse_status(data: bytes) -> dict[str, str]:
    """/proc/PID/status, as it stands."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    split = (line.partition(":") for line in lines)
    return {key.strip(): content.strip() for key, separator, content in split if separator}


def parse_signals(status: dict[str, str]) -> Signals:
    """The signal masks; pending ones of the thread and of the process together."""
    return Signals(
        caught=int(status["SigCgt"], 16),
        ignored=int(status["SigIgn"], 16),
        blocked=int(status["SigBlk"], 16),
        pending=int(status["SigPnd"], 16) | int(status["ShdPnd"], 16),
    )


def parse_syscall(data: bytes, machine: str) -> Syscall | Running:
    """/proc/PID/syscall: `running`, or the number, six arguments, stack pointer and program counter."""
    words = data.split()
    if words[:1] == [b"running"]:
        return Running()
    number = int(words[0])
    arguments = tuple(int(word, 16) for word in words[1:7]) if number >= 0 else ()
    return Syscall(number=number, name=syscalls.name(number, machine), arguments=arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """The scheduler's counts of one thread: time on a CPU, time in line for one, and how often it got one."""

    at_seconds: float
    cpu_seconds: float
    queued_seconds: float
    runs: int


def parse_schedstat(data: bytes, at_seconds: float) -> Scheduled:
    """/proc/PID/task/TID/schedstat: nanoseconds on a CPU and waiting for one, and times put on one."""
    ran, queued, runs = map(int, data.split()[:3])
    return Scheduled(at_seconds=at_seconds, cpu_seconds=ran / 1e9, queued_seconds=queued / 1e9, runs=runs)


def parse_io(data: bytes) -> IoCounters:
    """/proc/PID/io."""
    fields = parse_status(data)
    return IoCounters(
        read_chars=int(fields["rchar"]),
        write_chars=int(fields["wchar"]),
        read_calls=int(fields["syscr"]),
        write_calls=int(fields["syscw"]),
        read_bytes=int(fields["read_bytes"]),
        write_bytes=int(fields["write_bytes"]),
    )


def parse_pressure(data: bytes, resource: Literal["cpu", "memory", "io"]) -> Pressure:
    """/proc/pressure/* and a control group's *.pressure; `full` may be absent."""
    lines = {
        words[0]: dict(word.split("=") for word in words[1:])
        for words in (line.split() for line in data.decode("ascii", "replace").splitlines() if line)
    }
    some, full = lines["some"], lines.get("full", {})
    return Pressure(
        resource=resource,
        some_avg10=float(some["avg10"]),
        some_avg60=float(some["avg60"]),
        full_avg10=float(full.get("avg10", 0.0)),
        full_avg60=float(full.get("avg60", 0.0)),
        some_total_seconds=int(some["total"]) / 1e6,
    )


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────


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
