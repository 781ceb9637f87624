"""What changes while we look, sample by sample: counters, threads, system calls, stacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from harness.evidence.pieces import NOT_RECORDED, Json, Missing, Piece

_NOT_ENDED = Missing(reason="unavailable", detail="it has not ended")

LocalKind: TypeAlias = Literal["number", "bool", "none", "numbers", "object", "text", "container"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """A local variable. Values of `text`, and of a `container` with text in it, are dropped unless asked for.

    `address` tells objects apart (two frames on one lock); of an `object` the value is its class. `mark`
    stands for what was dropped: it changes when that changes, and tells nothing of it.
    """

    name: str
    argument: bool
    address: int
    kind: LocalKind
    value: str
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame, innermost first in its thread. `line` is 0 in native frames."""

    function: str
    file: str
    line: int
    native: bool = False
    module: str = ""
    entry: bool = False
    locals: tuple[Local, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadStack:
    """The Python stack of one thread; what a dump does not tell is missing (faulthandler: all but frames)."""

    tid: Piece[int]
    name: str
    active: Piece[bool]
    owns_gil: Piece[bool]
    frames: tuple[Frame, ...]


StackMethod: TypeAlias = Literal["nonblocking", "blocking", "native", "faulthandler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacks:
    """One dump of one process. `limits` says why no higher rung of the ladder was climbed, if so."""

    method: StackMethod
    took_seconds: float
    threads: tuple[ThreadStack, ...]
    limits: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Syscall:
    """What a thread asked of the kernel; `number` is -1 when it is blocked outside of a system call."""

    number: int
    name: str
    arguments: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The thread was on a CPU, so that there is no system call to show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Undisturbed:
    """What a thread did in the time before a sample in which nothing of ours paused its process.

    `runs` counts how often it was put on a CPU: a thread that waits for what does not come has none.
    """

    seconds: float
    runs: int
    cpu_seconds: float
    # Ready to run, and not let: on a crowded machine that is what work looks like.
    queued_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSample:
    """One thread at one moment."""

    tid: int
    name: str
    state: str
    user_ticks: int
    system_ticks: int
    syscall: Piece[Syscall | Running]
    wchan: Piece[str]
    undisturbed: Piece[Undisturbed] = NOT_RECORDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Counters of one process at one moment."""

    state: str
    user_ticks: int
    system_ticks: int
    minor_faults: int
    major_faults: int
    thread_count: int
    # Of a zombie, as `waitstatus_to_exitcode` has it: -9 is SIGKILL.
    exit_code: Piece[int] = _NOT_ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class IoCounters:
    """/proc/PID/io: `_chars` counts every read and write, `_bytes` only what went to storage."""

    read_chars: int
    write_chars: int
    read_calls: int
    write_calls: int
    read_bytes: int
    write_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSample:
    """One process at one moment. `activity` is missing once the process ended or its pid has a new owner."""

    pid: int
    start_time_ticks: int
    activity: Piece[Activity]
    io: Piece[IoCounters]
    threads: Piece[tuple[ThreadSample, ...]]
    stacks: Piece[Stacks]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The whole tree once; the records are those of its ranks."""

    at_seconds: float
    processes: tuple[ProcessSample, ...]
    records: Piece[tuple[dict[str, Json], ...]]
    log_bytes: Piece[int]
