"""What lies beside the processes of an observation: locks, files, logs, records; each within a deadline.

Not covered: how each of them is read: a source, a module.
"""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.collect import artifacts, descriptors, flight, locks, logs, records, settings, sources, traffic
from harness.collect.deadline import NotSeen, call, piece
from harness.collect.procparse import parse_pressure
from harness.evidence import Missing, Reading

if TYPE_CHECKING:
    from harness.collect.look import Look
    from harness.evidence import (
        Artifact,
        Disk,
        FileLock,
        FlightDump,
        Json,
        KnownLine,
        Log,
        Piece,
        Pipe,
        Pressure,
        Sample,
        Setting,
        Source,
        Traffic,
    )


def pipes(look: Look) -> Piece[tuple[Pipe, ...]]:
    """The pipes of the tree, and who holds their ends."""
    return piece(lambda: descriptors.pipes(look.proc, look.inodes("pipe")), look.deadline, 1.0)


def locks_of(look: Look, near: Piece[tuple[Artifact, ...]]) -> Piece[tuple[FileLock, ...]]:
    """File locks of the tree, on its files, and on the lock files that lie beside it."""
    inodes = look.inodes("file")
    inodes |= {
        each.inode.value
        for each in (near.value if isinstance(near, Reading) else ())
        if each.kind == "lock" and isinstance(each.inode, Reading)
    }
    return piece(lambda: locks.concerning(look.proc, look.pids, inodes), look.deadline, 0.5)


def traffic_of(look: Look) -> Piece[tuple[Traffic, ...]]:
    """What the TCP sockets of the tree moved."""
    sockets = look.inodes("socket")
    return piece(lambda: traffic.of_sockets(look.proc, look.pids, sockets), look.deadline, 0.5)


def pressure(look: Look) -> Piece[tuple[Pressure, ...]]:
    """The host's pressure."""
    names: tuple[Literal["cpu", "memory", "io"], ...] = ("cpu", "memory", "io")

    def read() -> tuple[Pressure, ...]:
        return tuple(parse_pressure(look.proc.read("pressure", name), name) for name in names)

    return piece(read, look.deadline, 0.5)


def sources_of(look: Look, samples: tuple[Sample, ...]) -> tuple[Source, ...]:
    """The source around the frames that were seen."""
    read = functools.partial(sources.around, look.proc, look.processes, samples)
    found = call(read, look.deadline.within(1.5))
    if isinstance(found, Missing):
        look.error("sources", found.detail)
        return ()
    return found


def artifacts_of(look: Look) -> Piece[tuple[Artifact, ...]]:
    """What trainings leave behind, where this one works."""
    read = functools.partial(artifacts.near, look.processes, look.run_dir)
    return piece(read, look.deadline, 1.0)


def disks(look: Look) -> Piece[tuple[Disk, ...]]:
    """The file systems that it writes to."""
    return piece(functools.partial(artifacts.disks, look.proc, look.processes), look.deadline, 0.5)


def known_lines(look: Look, found: Piece[tuple[Artifact, ...]]) -> Piece[tuple[KnownLine, ...]]:
    """Lines that mislead, in its log and in those beside it."""
    beside = (
        [Path(each.path) for each in found.value if each.kind == "log"] if isinstance(found, Reading) else []
    )

    def read() -> tuple[KnownLine, ...]:
        with contextlib.suppress(NotSeen):
            beside.insert(0, look.log_path())
        return logs.known_lines(dict.fromkeys(beside), look.owners())

    return piece(read, look.deadline, 0.5)


def settings_of(look: Look) -> Piece[tuple[Setting, ...]]:
    """What its configuration files say of its learning rate."""
    return piece(lambda: settings.read(look.processes, look.owners()), look.deadline, 0.5)


def flight_of(look: Look) -> Piece[tuple[FlightDump, ...]]:
    """What torch's flight recorder left behind."""
    seconds = look.deadline.within(3.0)
    read = functools.partial(flight.read, look.proc, look.processes, look.owners(), seconds=seconds)
    return piece(read, look.deadline, 3.5)


def run(look: Look) -> Piece[dict[str, Json]]:
    """What the run directory says of the run."""
    return piece(lambda: records.run_json(look.run_dir, look.owners()), look.deadline, 0.5)


def steps(look: Look) -> Piece[tuple[dict[str, Json], ...]]:
    """The newest steps."""
    return piece(lambda: records.steps(look.run_dir, look.pids), look.deadline, 0.5)


def log(look: Look) -> Piece[Log]:
    """The end of what the target writes."""
    return piece(lambda: logs.tail(look.log_path(), look.owners()), look.deadline, 0.5)
