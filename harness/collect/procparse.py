"""The text of /proc as types: a process's line and status, system calls, counters, pressure. Pure.

Process names contain anything, spaces and parentheses too. Not covered: reading it (`procfs`), descriptors,
sockets, locks, control groups.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from harness.collect import syscalls
from harness.evidence import (
    Activity,
    IoCounters,
    Missing,
    Piece,
    Pressure,
    Reading,
    Running,
    Signals,
    Syscall,
)

_KERNEL_THREAD = 0x00200000  # PF_KTHREAD, include/linux/sched.h


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
