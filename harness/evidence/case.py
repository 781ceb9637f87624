"""A Case: all evidence about one process tree at one moment.

Times: `taken_at_seconds` is wall clock (seconds since the epoch), each `at_seconds` counts from it on the
monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.evidence.beside import Artifact, Disk, FlightDump, Gpu, KnownLine, Log, Setting, Source
from harness.evidence.pieces import NOT_RECORDED, Json, Piece
from harness.evidence.processes import FileLock, Host, Pipe, Pressure, Process, Target, Traffic
from harness.evidence.samples import Sample

SCHEMA = "harness.case/1"


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
    artifacts: Piece[tuple[Artifact, ...]] = NOT_RECORDED
    disks: Piece[tuple[Disk, ...]] = NOT_RECORDED
    known_lines: Piece[tuple[KnownLine, ...]] = NOT_RECORDED
    settings: Piece[tuple[Setting, ...]] = NOT_RECORDED
    flight: Piece[tuple[FlightDump, ...]] = NOT_RECORDED
    # The newest steps of the lowest rank here, oldest first: rows of its heartbeat's ring.
    steps: Piece[tuple[dict[str, Json], ...]] = NOT_RECORDED
    traffic: Piece[tuple[Traffic, ...]] = NOT_RECORDED

    def process(self, pid: int) -> Process | None:
        """The process of this pid, if it is in the tree."""
        return next((process for process in self.processes if process.pid == pid), None)
