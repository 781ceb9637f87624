"""Reads a rank's record, whatever state its writer is in; the layout is `harness.wire`'s.

Covers checking that a file is a record, the state now, and the rows and stages since the last look. Reads by
`pread` and never maps: a file cut short under us is an error here, not a SIGBUS. Not here: what the
bytes mean (`decoding`), finding records and their processes (`ranks`), writing (`harness.emit`).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness import wire
from harness.errors import RecordError
from harness.watch.decoding import (
    NO_SECONDS,
    Heartbeat,
    RowBlock,
    StageEntry,
    StepRow,
    heartbeat,
    newest,
    parse_header,
    row_of,
    stages_of,
)

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

# A block can be overtaken while it is copied; if this many copies in a row were, it is damaged.
_TRIES = 50

__all__ = ["Drained", "Heartbeat", "Reader", "StageEntry", "StepRow", "read"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What is new since the last `Reader.drain`."""

    rows: tuple[StepRow, ...]
    lost: tuple[int, int] | None  # indices (first, last) of rows overwritten before they were read
    stages: tuple[
        StageEntry, ...
    ]  # each change of the innermost stage; a return to an outer one is a change too


def read(path: str | Path) -> Heartbeat:
    """The state of the record at `path` now; RecordError if there is none."""
    with Reader(path) as reader:
        return reader.read()


class Reader:
    """An open record: its state, and what came since the last look. Keeps to the file it opened."""

    def __init__(self, path: str | Path, *, next_row: int = 0) -> None:
        """Open the record at `path`, or RecordError. `next_row` is the first that `drain` gives."""
        self.path = os.fspath(path)
        self._descriptor, self._identity = _open(self.path)
        try:
            self._header, self._checked = parse_header(
                self.path, os.pread(self._descriptor, wire.COUNTERS_AT, 0)
            )
            length = os.fstat(self._descriptor).st_size
            if length < wire.SIZE:
                raise self._cut(length)
        except BaseException:
            self.close()
            raise
        self._next_row = next_row
        self._next_change = 0
        # The phases' seconds up to the next row; None: not known.
        self._totals: tuple[float, ...] | None = None if next_row else NO_SECONDS
        self._stage: StageEntry | None = None

    @property
    def boot_id(self) -> str:
        """Of the machine that the record was written on, and of its boot."""
        found: str = self._header["boot_id"]
        return found

    def read(self) -> Heartbeat:
        """The state now."""
        for _ in range(_TRIES):
            head, counts = self._head()
            facts = newest(wire.FACTS, head, counts)
            now = newest(wire.NOW, head, counts, checked=self._checked)
            change = newest(wire.STAGE_CHANGES, head, counts)
            # Without a check, the place must not have come round meanwhile: the next one may be half written.
            if self._counts()[wire.NOW.counter] - counts[wire.NOW.counter] > wire.NOW.count - 2:
                continue
            if facts is None or now is None or change is None:
                continue
            rows = self._rows(max(counts[wire.STEPS.counter] - 2, 0), counts)
            if None not in rows:
                return heartbeat(self._header, facts, now, change, [row for row in rows if row is not None])
        raise self._damaged()

    def drain(self) -> Drained:
        """The rows and stages since the last call, in order, each exactly once; and which were lost."""
        for _ in range(_TRIES):
            head, counts = self._head()
            changes = self._changes(head, counts[wire.STAGE_CHANGES.counter])
            if changes is None:
                continue
            start = self._next_row
            end = max(start, counts[wire.STEPS.counter])
            first = max(start, end - wire.STEPS.count + 1)
            blocks = self._rows(first, counts)
            # Overwritten meanwhile: from the oldest on. Written but not yet whole to our eyes: the newest.
            while blocks and blocks[-1] is None:
                blocks.pop()
                end -= 1
            if not blocks and first < counts[wire.STEPS.counter]:
                continue  # all of them: we were asleep for a whole ring
            bad = max((i for i, block in enumerate(blocks) if block is None), default=-1)
            whole = [block for block in blocks[bad + 1 :] if block is not None]
            lost = (start, end - len(whole) - 1) if end - len(whole) > start else None
            if lost:
                self._totals = None
            rows: list[StepRow] = []
            for block in whole:
                rows.append(row_of(block, self._totals))
                self._totals = block.totals
            self._next_row = end
            self._next_change = counts[wire.STAGE_CHANGES.counter]
            entries, self._stage = changes
            return Drained(rows=tuple(rows), lost=lost, stages=tuple(entries))
        raise self._damaged()

    def replaced(self) -> bool:
        """Whether another file, or none, stands at the path by now: the next attempt's, say."""
        try:
            found = Path(self.path).stat()
        except OSError:
            return True
        return (found.st_dev, found.st_ino) != self._identity

    def close(self) -> None:
        """Close the file; may be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _head(self) -> tuple[bytes, tuple[int, ...]]:
        """A copy of the head, and how many blocks were written before it was taken."""
        counts = self._counts()
        return self._pread(wire.HEAD_BYTES, 0), counts

    def _counts(self) -> tuple[int, ...]:
        return wire.COUNTERS.unpack(self._pread(wire.COUNTERS.size, wire.COUNTERS_AT))

    def _rows(self, first: int, counts: tuple[int, ...]) -> list[RowBlock | None]:
        """The rows from `first` on, None where not whole or overtaken while they were copied."""
        end = counts[wire.STEPS.counter]
        if not 0 <= end - first <= wire.STEPS.count:
            return [None] * (end > first)
        steps = self._copy(wire.STEPS, first, end)
        beside = [
            self._copy(ring, first, end) if counts[ring.counter] else [None] * len(steps)
            for ring in (wire.PHASE_TOTALS, wire.RATES)
        ]
        now = self._counts()[wire.STEPS.counter]
        safe = now - wire.STEPS.count + 1  # what stood before may be overwritten, at least in part
        return [
            None
            if step is None or step[0] < safe
            else RowBlock(
                step[0], step[1], totals[1] if totals else NO_SECONDS, rates[1] if rates else step[1][5:6]
            )
            for step, totals, rates in zip(steps, *beside, strict=True)
        ]

    def _copy(self, ring: wire.Ring, first: int, end: int) -> list[wire.Block | None]:
        """Blocks `first` to `end` of a ring, None where another block stands or none that is whole."""
        blocks: list[wire.Block | None] = []
        while first < end:  # at most twice: the ring ends once in between
            several = min(end - first, ring.count - first % ring.count)
            copy = self._pread(several * ring.bytes, ring.at(first))
            for i in range(several):
                block = wire.unseal(ring, copy, i * ring.bytes, checked=self._checked)
                if not self._checked and ring is not wire.STEPS:  # a row may have nothing beside it
                    end_of_block = (i + 1) * ring.bytes
                    written = copy[end_of_block - wire.CHECK.size : end_of_block] == wire.WRITTEN
                    block = block if written else None
                blocks.append(block if block is not None and block[0] == first + i else None)
            first += several
        return blocks

    def _pread(self, size: int, at: int) -> bytes:
        data = os.pread(self._descriptor, size, at)
        if len(data) < size:
            raise self._cut(os.fstat(self._descriptor).st_size)
        return data

    def _changes(self, head: bytes, end: int) -> tuple[list[StageEntry], StageEntry | None] | None:
        """What is new about the innermost stage, and which it is now; None if overtaken while copied."""
        ring = wire.STAGE_CHANGES
        entries: list[StageEntry] = []
        before = self._stage
        for number in range(max(self._next_change, end - ring.count + 1), end):
            block = wire.unseal(ring, head, ring.at(number))
            if block is None or block[0] != number:
                if number == end - 1:
                    return None
                continue  # overtaken: a stage of microseconds
            innermost = stages_of(block[1])[-1]
            if innermost == before:
                continue
            if before and innermost.entered_monotonic_seconds < before.entered_monotonic_seconds:
                # It went on when a stage nested in it ended: from the change on, not from when it began.
                wall, mono, *_ = block[1]
                entry = StageEntry(
                    stage=innermost.stage, entered_wall_seconds=wall, entered_monotonic_seconds=mono
                )
                entries.append(entry)
            else:
                entries.append(innermost)
            before = innermost
        return entries, before

    def _cut(self, length: int) -> RecordError:
        return RecordError(
            f"{self.path}: the record was truncated to {length} bytes of {wire.SIZE}",
            remedy="Nothing can be read from it any more; the trainer makes a new one when it starts again",
        )

    def _damaged(self) -> RecordError:
        return RecordError(
            f"{self.path}: the record is damaged: no whole block in {_TRIES} readings",
            remedy="Something else wrote into the file; the trainer makes a new one when it starts again",
        )


def _open(path: str) -> tuple[int, tuple[int, int]]:
    """A descriptor on the regular file at `path`, and its identity. A link may lead to its owner's file."""
    try:
        named = Path(path).lstat()
        is_link = stat.S_ISLNK(named.st_mode)
        before = Path(path).stat() if is_link else named
        if not stat.S_ISREG(before.st_mode):
            raise RecordError(f"{path}: not a regular file, so not a record")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if is_link else os.O_NOFOLLOW)
        descriptor = os.open(path, flags)
    except OSError as error:
        raise RecordError(f"{path}: no record can be read here: {error.strerror}") from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or (is_link and found.st_uid not in (named.st_uid, 0)):
        os.close(descriptor)
        raise RecordError(f"{path}: leads to a file of another user, or to none")
    return descriptor, (found.st_dev, found.st_ino)
