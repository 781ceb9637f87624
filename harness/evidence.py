"""The nouns of a Case: what was seen of one process tree at one moment, and what could not be seen.

Covered: the types, all frozen, and nothing but the types. Every piece that may be absent is a `Reading` or a
`Missing` with its reason; None, 0 and -1 never mean "not seen". A Case that is loaded from disk equals the
one that was saved (`harness.bundle`); rules and renderers are pure functions of it.

Not covered: how anything is read (`harness.collect`), and what it means (rules).

Times: `taken_at_seconds` is wall clock (seconds since the epoch), each `at_seconds` counts from it on the
monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar

SCHEMA = "harness.case/1"

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Reason: TypeAlias = Literal["unavailable", "denied", "timed_out", "disabled"]
# What comes from JSON and stays JSON (heartbeats, run.json).
Json: TypeAlias = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Evidence that could not be had, and why."""

    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(Generic[T_co]):
    """Evidence, and when it was taken."""

    value: T_co
    at_seconds: float = 0.0


Piece: TypeAlias = Reading[T] | Missing


# ── what does not change while we look ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The process that was asked about; the start time tells it from a later owner of its pid."""

    pid: int
    start_time_ticks: Piece[int]
    run_dir: Piece[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine, and who looked."""

    name: str
    boot_id: Piece[str]
    kernel: str
    machine: str
    clock_ticks_per_second: int
    page_size_bytes: int
    cpu_count: int
    memory_total_bytes: Piece[int]
    memory_available_bytes: Piece[int]
    load: Piece[tuple[float, float, float]]
    yama_scope: Piece[int]
    observer_uid: int
    observer_pid: int
    tools: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Masks of /proc/PID/status; bit N-1 is signal N."""

    caught: int
    ignored: int
    blocked: int
    pending: int

    def catches(self, number: int) -> bool:
        """Whether the process has a handler of its own for this signal."""
        return bool(self.caught >> (number - 1) & 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Sizes of one process, as /proc/PID/status has them: no walk over its mappings."""

    resident_bytes: int
    virtual_bytes: int
    swapped_bytes: int
    peak_resident_bytes: int
    oom_score: Piece[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """Pressure stall information: shares of time, in percent, over the last 10 and 60 seconds."""

    resource: Literal["cpu", "memory", "io"]
    some_avg10: float
    some_avg60: float
    full_avg10: float
    full_avg60: float
    some_total_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup:
    """Limits of the control group of one process, version 1 or 2."""

    version: Literal[1, 2]
    path: str
    memory_limit_bytes: Piece[int]
    memory_used_bytes: Piece[int]
    oom_kills: Piece[int]
    cpu_limit_cores: Piece[float]
    throttled_periods: Piece[int]
    throttled_seconds: Piece[float]
    frozen: Piece[bool]
    pressure: Piece[tuple[Pressure, ...]]
    # Of `throttled_periods`, how many there were at all.
    periods: Piece[int] = Missing(reason="unavailable", detail="not recorded")


DescriptorKind: TypeAlias = Literal[
    "file", "directory", "fifo", "pipe", "socket", "anon", "tty", "device", "other"
]
Access: TypeAlias = Literal["read", "write", "both"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What stat says of an open file."""

    size_bytes: int
    modified_wall_seconds: float
    device: str
    inode: int
    owner_uid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """One open file descriptor: /proc/PID/fd/N and fdinfo/N."""

    number: int
    kind: DescriptorKind
    target: str
    access: Access
    flags: int
    position: int
    inode: Piece[int]
    filesystem: Piece[str]
    file: Piece[FileFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    """One socket of the tree, as /proc/net shows it; addresses as `ip:port`, `[ip6]:port`, or a path."""

    inode: int
    family: Literal["tcp", "tcp6", "udp", "udp6", "unix"]
    local: str
    peer: str
    state: str
    receive_queue_bytes: int
    send_queue_bytes: int
    retransmits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What one TCP socket moved in its life, and how long nothing has come or gone, after the last sample."""

    inode: int
    received_bytes: int
    acknowledged_bytes: int
    since_received_seconds: float
    since_sent_seconds: float
    since_acknowledged_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PipeEnd:
    """Who holds one end of a pipe."""

    pid: int
    command: str
    descriptor: int
    access: Access


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipe:
    """One pipe of the tree and every holder that we may see."""

    inode: int
    ends: tuple[PipeEnd, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLock:
    """One line of /proc/locks. `pid` is -1 for locks of an open file description, as the kernel prints it."""

    kind: str
    mode: str
    pid: int
    device: str
    inode: int
    waiting: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process of the tree: what holds for the whole observation."""

    pid: int
    ppid: int
    start_time_ticks: int
    name: str
    kernel_thread: bool
    state: str
    tracer_pid: Piece[int]
    command: Piece[tuple[str, ...]]
    executable: Piece[str]
    cwd: Piece[str]
    uid: Piece[int]
    age_seconds: Piece[float]
    namespace_pids: Piece[tuple[int, ...]]
    signals: Piece[Signals]
    memory: Piece[Memory]
    environment: Piece[dict[str, str]]
    descriptors: Piece[tuple[Descriptor, ...]]
    sockets: Piece[tuple[Socket, ...]]
    cgroup: Piece[Cgroup]
    session: int = 0
    process_group: int = 0
    # The kernel's flags (PF_*, include/linux/sched.h): PF_FORKNOEXEC tells a fork from a new program.
    flags: Piece[int] = Missing(reason="unavailable", detail="not recorded")


# ── what changes: several samples ───────────────────────────────────────────────────────────────────────────

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
    undisturbed: Piece[Undisturbed] = Missing(reason="unavailable", detail="not recorded")


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
    exit_code: Piece[int] = Missing(reason="unavailable", detail="it has not ended")


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


# ── beside the processes ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The end of what the target wrote."""

    path: str
    size_bytes: int
    modified_wall_seconds: float
    tail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Some lines of a source file around a frame: its function, or what of it fits."""

    file: str
    first_line: int
    lines: tuple[str, ...]
    modified_wall_seconds: float

    @property
    def last_line(self) -> int:
        """The number of its last line."""
        return self.first_line + len(self.lines) - 1


ArtifactKind: TypeAlias = Literal["tensorboard", "checkpoint", "lock", "log"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file that trainings leave behind, near this one."""

    kind: ArtifactKind
    path: str
    size_bytes: int
    modified_wall_seconds: float
    inode: Piece[int] = Missing(reason="unavailable", detail="not recorded")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLine:
    """A line of a log that people are misled by: the first of its kind in that log."""

    kind: Literal["tokenizer-length"]
    path: str
    text: str
    modified_wall_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A number of a configuration file, by the name that stands before it."""

    name: str
    value: float
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightEntry:
    """One collective of one rank, as torch's flight recorder has it; the frame is the user's call."""

    group: str
    sequence: int
    operation: str
    sizes: str
    pending: bool
    file: str
    line: int
    function: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightDump:
    """The newest collectives of one rank, oldest first: a file that torch wrote when it gave up waiting."""

    rank: int
    ranks: int
    path: str
    modified_wall_seconds: float
    version: str
    entries: tuple[FlightEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A file system that the target writes to."""

    path: str
    total_bytes: int
    free_bytes: int
    free_inodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process on a GPU, as NVML names it (its pid may be another namespace's)."""

    pid: int
    used_bytes: Piece[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, through NVML."""

    index: int
    uuid: str
    name: str
    utilization_ratio: Piece[float]
    memory_used_bytes: Piece[int]
    memory_total_bytes: Piece[int]
    power_watts: Piece[float]
    temperature_celsius: Piece[float]
    performance_state: Piece[int]
    throttle_reasons: Piece[int]
    processes: Piece[tuple[GpuProcess, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectError:
    """A collector that failed; its field in the Case is Missing."""

    collector: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All evidence about one process tree at one moment."""

    schema: str = SCHEMA
    taken_at_seconds: float
    took_seconds: float
    target: Target
    host: Host
    processes: tuple[Process, ...]
    samples: tuple[Sample, ...]
    pipes: Piece[tuple[Pipe, ...]]
    locks: Piece[tuple[FileLock, ...]]
    pressure: Piece[tuple[Pressure, ...]]
    run: Piece[dict[str, Json]]
    log: Piece[Log]
    gpus: Piece[tuple[Gpu, ...]]
    errors: tuple[CollectError, ...] = ()
    sources: tuple[Source, ...] = ()
    artifacts: Piece[tuple[Artifact, ...]] = Missing(reason="unavailable", detail="not recorded")
    disks: Piece[tuple[Disk, ...]] = Missing(reason="unavailable", detail="not recorded")
    known_lines: Piece[tuple[KnownLine, ...]] = Missing(reason="unavailable", detail="not recorded")
    settings: Piece[tuple[Setting, ...]] = Missing(reason="unavailable", detail="not recorded")
    flight: Piece[tuple[FlightDump, ...]] = Missing(reason="unavailable", detail="not recorded")
    # The newest steps of the lowest rank here, oldest first: rows of its heartbeat's ring.
    steps: Piece[tuple[dict[str, Json], ...]] = Missing(reason="unavailable", detail="not recorded")
    traffic: Piece[tuple[Traffic, ...]] = Missing(reason="unavailable", detail="not recorded")

    def process(self, pid: int) -> Process | None:
        """The process of this pid, if it is in the tree."""
        return next((process for process in self.processes if process.pid == pid), None)


def value(piece: Piece[T], default: T) -> T:
    """The value of a reading, or `default` where it is missing: for words to show, never for judging."""
    return piece.value if isinstance(piece, Reading) else default
