"""The last lines of a log that is not followed, with their times if wanted; none of what is no regular file.

Not here: following one (`logtail`), what a terminal may be shown (`harness.render.text`).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.watch.lines import split_lines
from harness.watch.logindex import time_at, times

if TYPE_CHECKING:
    from pathlib import Path

TAIL_BYTES = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class StampedLine:
    """A line of the log and when it had been written, if that is known."""

    line: bytes
    wall_seconds: float | None


def _end_of(path: Path, max_bytes: int) -> tuple[bytes, int]:
    """The last `max_bytes` of a regular file and the offset where they begin; nothing of anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return b"", 0
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return b"", 0
        begin = max(0, status.st_size - max_bytes)
        return os.pread(descriptor, max_bytes, begin), begin
    except OSError:
        return b"", 0
    finally:
        os.close(descriptor)


def tail(path: Path, lines: int, *, max_bytes: int = TAIL_BYTES) -> tuple[bytes, ...]:
    """The last lines of a log, within its last `max_bytes`; empty where it cannot be read."""
    data, begin = _end_of(path, max_bytes)
    found = split_lines(data)
    if begin and len(found) > 1:
        found = found[1:]  # its beginning was cut off
    return tuple(found[-lines:]) if lines > 0 else ()


def stamped_tail(
    path: Path, index_path: Path, lines: int, *, max_bytes: int = TAIL_BYTES
) -> tuple[StampedLine, ...]:
    """The last lines, each with the time by which it was there."""
    data, begin = _end_of(path, max_bytes)
    entries = times(index_path)
    end, stamped = begin, list[tuple[bytes, int]]()
    for piece in data.split(b"\n"):
        end += len(piece) + 1
        stamped.append((piece, min(end, begin + len(data))))
    if stamped and not stamped[-1][0]:
        stamped.pop()
    if begin and len(stamped) > 1:
        stamped = stamped[1:]
    return tuple(
        StampedLine(line=(split_lines(piece) or [b""])[-1], wall_seconds=time_at(entries, at))
        for piece, at in (stamped[-lines:] if lines > 0 else ())
    )
