"""Following the log that the command writes itself: into a file, so that no reader can ever hurt the writer.

Covers partial lines, carriage returns, rubbish, files that are truncated, replaced, missing or no files at
all, gigabytes within bounded memory and bounded time per poll, the times of lines (`logindex`), and the
log's size: the newest `keep_bytes` stay, blocks before them are given back (`holes`). Nothing here blocks,
raises, or looks away from the log for good. Not here: the end of a log that is not
followed (`logend`), what a terminal may be shown (`harness.render.text`).
A file that was truncated and has grown past its old size between two polls looks like one that only grew.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.watch import holes
from harness.watch.lines import LineSplitter
from harness.watch.logindex import IndexWriter

if TYPE_CHECKING:
    from pathlib import Path

    from harness.clock import Clock

READ_BYTES = 1 << 20
POLL_SECONDS = 0.05  # reading time per poll: some hundred megabytes from the page cache
SHOWN_BYTES = 64 << 10  # more than this per poll is for no human eye
SKIP_BYTES = 256 << 20  # further behind than this, the newest is worth more than the rest
_BLOCK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class LogUpdate:
    """What one poll found."""

    new: bytes  # to show, at most SHOWN_BYTES
    skipped_bytes: int  # followed but left out before `new`
    grown_bytes: int
    lines: int  # line ends among the bytes read
    size_bytes: int  # of the file now, its given-back head included
    last_growth_wall_seconds: float | None
    notices: tuple[str, ...] = ()  # truncated, replaced, cannot be shortened: each said once


class LogFollower:
    """Follows one log file.

    Args:
        path: the log; need not exist yet.
        index_path: where the times of lines are kept, or None.
        keep_bytes: how much of the log to keep on disk, or None: all of it, and nothing is ever written.
        clock: the time.
        start: "index" goes on where the index beside it ends (and with the beginning where there is none),
            "beginning", or "end": only what comes from now on.
    """

    def __init__(
        self,
        path: Path,
        *,
        index_path: Path | None,
        keep_bytes: int | None,
        clock: Clock,
        start: Literal["index", "beginning", "end"] = "index",
    ) -> None:
        self._path = path
        self._clock = clock
        self._keep_bytes = keep_bytes
        self._start = start
        self._descriptor: int | None = None
        self._identity: tuple[int, int] | None = None
        self._offset = 0  # read up to here
        self._size = 0  # seen to reach to here
        self._punched = 0  # given back up to here
        self._splitter = LineSplitter()
        self._notices: list[str] = []
        self._said: set[str] = set()
        self._grown_wall_seconds: float | None = None  # when it last was
        self._index = IndexWriter(index_path) if index_path is not None else None

    @property
    def offset(self) -> int:
        """How far the log has been followed."""
        return self._offset

    @property
    def partial(self) -> bytes:
        """What stands of the line that has not ended yet: a progress bar's last frame, a prompt."""
        return self._splitter.partial

    def poll(self) -> LogUpdate:
        """Read what is new; never blocks for long, never raises."""
        parts: list[bytes] = []
        grown = skipped = lines = 0
        try:
            grown = self._look()
            skipped, lines = self._read(self._size, parts)
            self._shorten()
        except OSError as error:
            self._say("read", f"{self._name}: cannot be read: {error.strerror}")
            self._close()
        new = b"".join(parts)
        if len(new) > SHOWN_BYTES:
            cut = new.find(b"\n", len(new) - SHOWN_BYTES) + 1 or len(new) - SHOWN_BYTES
            skipped += cut
            new = new[cut:]
        if skipped:
            self._splitter = LineSplitter()
        self._splitter.feed(new)
        notices, self._notices = tuple(self._notices), []
        return LogUpdate(
            new=new,
            skipped_bytes=skipped,
            grown_bytes=grown,
            lines=lines,
            size_bytes=self._size,
            last_growth_wall_seconds=self._grown_wall_seconds,
            notices=notices,
        )

    def close(self) -> None:
        """Let go of the file."""
        self._close()

    # ---- the file

    @property
    def _name(self) -> str:
        return self._path.name

    def _look(self) -> int:
        """Open the file, go over to the one that took its place, note its size; by how much it grew."""
        if self._descriptor is None:
            return self._open()
        size = os.fstat(self._descriptor).st_size
        if size < self._size:
            # Each truncation is news. The writer's O_APPEND goes on at the new end.
            self._notices.append(f"{self._name}: truncated by somebody, from {self._size} to {size} bytes")
            self._restart()
        elif size == self._offset and self._replaced():
            self._notices.append(f"{self._name}: replaced by another file, which is followed from now on")
            self._close()
            self._restart()
            return self._open()
        return self._grow_to(size, self._clock.wall())

    def _grow_to(self, size: int, wall_seconds: float) -> int:
        grown = size - self._size
        if grown > 0:
            self._size = size
            self._grown_wall_seconds = wall_seconds
            if self._index is not None:
                self._index.add(size, wall_seconds)
        return grown

    def _replaced(self) -> bool:
        """Whether another file with something in it stands at the path, and the old one grows no more."""
        try:
            there = self._path.lstat()
        except OSError:
            return False  # renamed or deleted: whoever has it open still writes to it
        return (
            (there.st_dev, there.st_ino) != self._identity
            and stat.S_ISREG(there.st_mode)
            and there.st_size > 0
        )

    def _open(self) -> int:
        # Somebody else may own the folder: no links, no pipes that block, no devices.
        mode = os.O_RDONLY if self._keep_bytes is None else os.O_RDWR
        try:
            descriptor = os.open(
                self._path, mode | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
            )
        except FileNotFoundError:
            return 0
        except OSError as error:
            self._say("open", f"{self._name}: cannot be opened: {error.strerror}")
            return 0
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            self._say("open", f"{self._name}: not a regular file, so it cannot be followed")
            return 0
        self._descriptor = descriptor
        self._identity = (status.st_dev, status.st_ino)
        start, self._start = self._start, "beginning"  # a file that takes this one's place is read whole
        if start == "end":
            self._offset = self._size = status.st_size
        elif start == "index" and self._index is not None and self._index.last is not None:
            if self._index.last.end_offset <= status.st_size:
                self._offset = self._size = self._index.last.end_offset
            else:
                self._index.restart()
        # What is there already came at its last change at the latest, not now.
        changed = min(status.st_mtime, self._clock.wall())
        if status.st_size:
            self._grown_wall_seconds = changed
        return self._grow_to(status.st_size, changed)

    def _restart(self) -> None:
        self._offset = self._size = self._punched = 0
        self._splitter = LineSplitter()
        if self._index is not None:
            self._index.restart()

    def _close(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = None

    def _say(self, key: str, notice: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self._notices.append(notice)

    # ---- its bytes

    def _read(self, size: int, parts: list[bytes]) -> tuple[int, int]:
        """Read up to `size` into `parts`, of which about SHOWN_BYTES stay; (skipped, lines)."""
        if self._descriptor is None or size <= self._offset:
            return 0, 0
        skipped = lines = 0
        if size - self._offset > SKIP_BYTES:
            skipped += self._skip_to(size - READ_BYTES)
        with suppress(OSError, AttributeError):  # a head that was given back reads as gigabytes of zeros
            skipped += self._skip_to(min(size, os.lseek(self._descriptor, self._offset, os.SEEK_DATA)))
        deadline = time.perf_counter() + POLL_SECONDS
        while self._offset < size:
            chunk = os.pread(self._descriptor, min(READ_BYTES, size - self._offset), self._offset)
            if not chunk:
                break
            self._offset += len(chunk)
            lines += chunk.count(b"\n")
            parts.append(chunk)
            while len(parts) > 1 and sum(map(len, parts[1:])) >= SHOWN_BYTES:
                skipped += len(parts.pop(0))
            if time.perf_counter() > deadline:
                break
        return skipped, lines

    def _skip_to(self, offset: int) -> int:
        skipped = max(0, offset - self._offset)
        self._offset += skipped
        return skipped

    def _shorten(self) -> None:
        """Give back what lies more than `keep_bytes` before the followed end, an eighth of that at a time."""
        if self._keep_bytes is None or self._descriptor is None:
            return
        end = (self._offset - self._keep_bytes) // _BLOCK * _BLOCK
        if end - self._punched < max(_BLOCK, self._keep_bytes // 8):
            return
        try:
            holes.punch(self._descriptor, self._punched, end)
        except OSError as error:
            self._keep_bytes = None
            self._say(
                "shorten",
                f"{self._name}: its oldest part cannot be given back ({error.strerror} on this file system), "
                "so it grows as long as the command writes",
            )
            return
        self._punched = end
