"""When each line of a log was written: a small file beside the log, bounded however long the run.

Covers the entries (end offset, wall time), one per growth that the follower saw, thinned from the old end
once the file is full: recent times are exact to a poll, old ones coarser. A line's time is that of the first
entry at or past its end. Not here: the log itself (`logtail`).
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from harness.errors import RecordError

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"harness.logindex/1\n".ljust(24, b"\0")
_ENTRY = struct.Struct("<Qdd")  # end offset, wall seconds, and 0.0: room for later
MAX_ENTRIES = 32_768  # 768 KiB; over ten hours of steady growth at 1 Hz before anything is thinned


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTime:
    """Everything of the log before `end_offset` was there at `wall_seconds`."""

    end_offset: int
    wall_seconds: float


def times(path: Path) -> tuple[LogTime, ...]:
    """The entries of an index, oldest first; empty where there is none. RecordError on a foreign file."""
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
            body = file.read(_ENTRY.size * MAX_ENTRIES * 2)
    except FileNotFoundError:
        return ()
    if head != MAGIC:
        if not head:
            return ()
        raise RecordError(f"{path}: not an index of log times", remedy="Delete it: it will be made anew")
    whole = len(body) - len(body) % _ENTRY.size
    return tuple(
        LogTime(end_offset=end, wall_seconds=wall) for end, wall, _ in _ENTRY.iter_unpack(body[:whole])
    )


def time_at(entries: tuple[LogTime, ...], end_offset: int) -> float | None:
    """The wall time by which a line ending at `end_offset` was there, or None past the last entry."""
    at = bisect_left(entries, end_offset, key=attrgetter("end_offset"))
    return entries[at].wall_seconds if at < len(entries) else None


class IndexWriter:
    """Appends entries; a full or failing disk costs entries, never a broken file."""

    __slots__ = ("_count", "_path", "failures", "last")

    def __init__(self, path: Path) -> None:
        self._path = path
        self.failures = 0
        entries: tuple[LogTime, ...] = ()
        try:
            entries = times(path)
        except (RecordError, OSError):
            self.failures += 1
        self.last = entries[-1] if entries else None
        self._count = len(entries)
        if not entries:
            self._replace(())
        elif path.stat().st_size % _ENTRY.size:
            self._replace(entries)  # its last writer died half-way through an entry

    def add(self, end_offset: int, wall_seconds: float) -> None:
        """Note that the log reached `end_offset`; only what lies past the last entry says anything new."""
        if self.last is not None and end_offset <= self.last.end_offset:
            return
        entry = LogTime(end_offset=end_offset, wall_seconds=wall_seconds)
        if self._count >= MAX_ENTRIES:
            self._thin()
        if self._append(entry):
            self.last = entry
            self._count += 1

    def restart(self) -> None:
        """Forget all: the log was truncated or replaced."""
        self._replace(())
        self.last = None

    def _append(self, entry: LogTime) -> bool:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            self.failures += 1
            return False
        try:
            size = os.fstat(descriptor).st_size
            written = os.write(descriptor, _ENTRY.pack(entry.end_offset, entry.wall_seconds, 0.0))
            if written == _ENTRY.size:
                return True
            os.ftruncate(descriptor, size)
        except OSError:
            pass
        finally:
            os.close(descriptor)
        self.failures += 1
        return False

    def _thin(self) -> None:
        """Keep every second entry of the older half: old times get coarser, none goes missing."""
        try:
            entries = times(self._path)
        except (RecordError, OSError):
            entries = ()
        half = len(entries) // 2
        self._replace((*entries[:half:2], *entries[half:]))

    def _replace(self, entries: tuple[LogTime, ...]) -> None:
        beside = self._path.with_name(f"{self._path.name}.new")
        try:
            with beside.open("wb") as file:
                file.write(MAGIC)
                file.write(b"".join(_ENTRY.pack(each.end_offset, each.wall_seconds, 0.0) for each in entries))
            beside.replace(self._path)
        except OSError:
            self.failures += 1
            return
        self._count = len(entries)
        self.last = entries[-1] if entries else None
