"""What does not change while we look: the target, its machine, and each process with what it has open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from harness.evidence.pieces import NOT_RECORDED, Piece


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
    periods: Piece[int] = NOT_RECORDED


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
    flags: Piece[int] = NOT_RECORDED
