"""What lies beside the processes: logs, sources, files, disks, GPUs, what a flight recorder wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from harness.evidence.pieces import NOT_RECORDED, Piece


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
    inode: Piece[int] = NOT_RECORDED


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
