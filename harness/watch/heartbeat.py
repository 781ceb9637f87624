"""Reads a rank's record, whatever state its writer is in; the layout is `harness.wire`'s.

Covers checking that a file is a record, the state now, and the rows and stages since the last look. Reads by
`pread` and never maps: a file cut short under us is an error here, not a SIGBUS. Not here: finding records,
whether the process still lives (`harness.watch.ranks`), writing (`harness.emit`).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness import wire
from harness.errors import RecordError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

# A block can be overtaken while it is copied; if this many copies in a row were, it is damaged.
_TRIES = 50
_NO_SECONDS = (0.0,) * len(wire.PHASES)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One step. None is absent; NaN and infinities are the trainer's own."""

    index: int  # running number of the row within the attempt, from 0
    step: int
    wall_seconds: float
    monotonic_seconds: float
    step_seconds: float | None  # since the step before, nested stages left out; None for a stage's first step
    loss: float | None
    learning_rates: tuple[float, ...]
    grad_norm: float | None
    tokens: int | None
    phase_seconds: dict[str, float]  # empty also where the row before is lost
    memory: tuple[int, int, int] | None  # bytes: allocated, reserved, peak


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEntry:
    """A stage, and since when."""

    stage: str
    entered_wall_seconds: float
    entered_monotonic_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What a record says now. Monotonic times are this machine's clock if `boot_id` is this boot's."""

    rank: int
    world_size: int | None
    pid: int
    start_time_ticks: int
    boot_id: str
    run_id: str
    attempt: int
    opened_wall_seconds: float
    opened_monotonic_seconds: float
    traceback_signal: int | None  # writes all stacks to ranks/NNNNN.traceback
    total_steps: int | None
    schedule: dict[str, Any] | None  # kind, peak, warmup, total, floor, as far as declared
    stages: tuple[StageEntry, ...]  # outermost first
    stage: str  # the innermost one's name
    phase: str | None
    phase_entered_monotonic_seconds: float | None
    step: int | None
    last_progress_wall_seconds: float
    last_progress_monotonic_seconds: float
    progress_count: int  # the sum of emit.progress
    detail: str | None
    steps_written: int
    tokens_total: int
    last: StepRow | None
    closed_status: str | None  # None: not closed; if its process is gone, it did not end on its own
    closed_wall_seconds: float | None
    phase_totals: dict[str, float]  # seconds up to the last step


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
            self._header, self._checked = _parse_header(
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
        self._totals: tuple[float, ...] | None = None if next_row else _NO_SECONDS
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
            facts = _newest(wire.FACTS, head, counts)
            now = _newest(wire.NOW, head, counts, checked=self._checked)
            change = _newest(wire.STAGE_CHANGES, head, counts)
            # Without a check, the place must not have come round meanwhile: the next one may be half written.
            if self._counts()[wire.NOW.counter] - counts[wire.NOW.counter] > wire.NOW.count - 2:
                continue
            if facts is None or now is None or change is None:
                continue
            rows = self._rows(max(counts[wire.STEPS.counter] - 2, 0), counts)
            if None not in rows:
                return self._heartbeat(facts, now, change, [row for row in rows if row is not None])
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
                rows.append(_row(block, self._totals))
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

    def _rows(self, first: int, counts: tuple[int, ...]) -> list[_Row | None]:
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
            else _Row(
                step[0], step[1], totals[1] if totals else _NO_SECONDS, rates[1] if rates else step[1][5:6]
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
            innermost = _stages(block[1])[-1]
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

    def _heartbeat(
        self, facts: tuple[Any, ...], now: tuple[Any, ...], change: tuple[Any, ...], rows: list[_Row]
    ) -> Heartbeat:
        present, _, total_steps, world_size, kind, *numbers, closed_wall, status = facts
        phase, phase_entered, progress_wall, progress_mono, count, detail = now
        schedule: dict[str, Any] = {"kind": wire.unpack_text(kind)} if present & wire.HAS_KIND else {}
        names = ("peak", "warmup", "total", "floor")
        bits = (wire.HAS_PEAK, wire.HAS_WARMUP, wire.HAS_TOTAL, wire.HAS_FLOOR)
        schedule |= {name: n for name, bit, n in zip(names, bits, numbers, strict=True) if present & bit}
        stages = _stages(change)
        last: StepRow | None = None
        totals: tuple[float, ...] | None = None
        for row in rows:
            last = _row(row, _NO_SECONDS if row.number == 0 else totals)
            totals = row.totals
        in_phase = bool(phase.strip(b"\0"))
        if last is not None:
            in_phase = in_phase and phase_entered >= last.monotonic_seconds  # a step ends its phase
            if last.monotonic_seconds > progress_mono:
                progress_wall, progress_mono = last.wall_seconds, last.monotonic_seconds
        closed = bool(present & wire.IS_CLOSED)
        return Heartbeat(
            **self._header,
            world_size=world_size if present & wire.HAS_WORLD_SIZE else None,
            total_steps=total_steps if present & wire.HAS_TOTAL_STEPS else None,
            schedule=schedule or None,
            stages=stages,
            stage=stages[-1].stage,
            phase=wire.unpack_text(phase) if in_phase else None,
            phase_entered_monotonic_seconds=phase_entered if in_phase else None,
            step=last.step if last else None,
            last_progress_wall_seconds=progress_wall,
            last_progress_monotonic_seconds=progress_mono,
            progress_count=count,
            detail=wire.unpack_text(detail) or None,
            steps_written=last.index + 1 if last else 0,
            tokens_total=rows[-1].values[wire.ROW_TOKENS_TOTAL] if rows else 0,
            last=last,
            closed_status=wire.unpack_text(status) if closed else None,
            closed_wall_seconds=closed_wall if closed else None,
            phase_totals={name: s for name, s in zip(wire.PHASES, totals or (), strict=False) if s > 0},
        )

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


def _parse_header(path: str, data: bytes) -> tuple[dict[str, Any], bool]:
    """The header's facts, and whether rows have checks; RecordError that says what the file is instead."""
    if not data:
        raise RecordError(f"{path}: the file is empty, so not a record")
    if not data.startswith(wire.MAGIC[: len(data)]):
        raise RecordError(f"{path}: not a record: it begins with {data[:8]!r} and not with {wire.MAGIC!r}")
    if len(data) < wire.PROLOGUE.size:
        raise RecordError(f"{path}: the record was truncated to {len(data)} bytes of {wire.SIZE}")
    _, version, size = wire.PROLOGUE.unpack_from(data)
    if version != wire.VERSION:
        raise RecordError(
            f"{path}: the record has layout version {version}, and this harness reads {wire.VERSION}",
            remedy="Use the harness that the trainer's environment has",
        )
    if size != wire.SIZE or len(data) < wire.HEADER.size + wire.CHECK.size:
        raise RecordError(f"{path}: the record was truncated, or says a wrong size: {size}, not {wire.SIZE}")
    header = data[: wire.HEADER.size]
    if data[wire.HEADER.size : wire.HEADER.size + wire.CHECK.size] != wire.header_check(header):
        raise RecordError(f"{path}: the record's header is damaged")
    _, _, _, rank, pid, ticks, boot_id, run_id, attempt, signal, wall, mono, checked = wire.HEADER.unpack(
        header
    )
    return {
        "rank": rank,
        "pid": pid,
        "start_time_ticks": ticks,
        "boot_id": wire.unpack_text(boot_id),
        "run_id": wire.unpack_text(run_id),
        "attempt": attempt,
        "traceback_signal": signal or None,
        "opened_wall_seconds": wall,
        "opened_monotonic_seconds": mono,
    }, bool(checked)


class _Row(NamedTuple):
    """A step's row as it was copied, with what stands beside it."""

    number: int
    values: tuple[Any, ...]
    totals: tuple[float, ...]  # seconds so far in each phase
    rates: tuple[float, ...]


def _newest(
    ring: wire.Ring, head: bytes, counts: tuple[int, ...], *, checked: bool = True
) -> tuple[Any, ...] | None:
    """The values of the ring's newest block in a copy of the head; None if it was overtaken meanwhile."""
    newest = counts[ring.counter] - 1
    if newest < 0:
        return None
    block = wire.unseal(ring, head, ring.at(newest), checked=checked)
    return block[1] if block is not None and block[0] >= newest else None


def _stages(change: tuple[Any, ...]) -> tuple[StageEntry, ...]:
    depth = max(1, min(change[2], wire.MAX_STAGES))
    fields = change[3:]
    return tuple(
        StageEntry(
            stage=wire.unpack_text(fields[3 * i]),
            entered_wall_seconds=fields[3 * i + 1],
            entered_monotonic_seconds=fields[3 * i + 2],
        )
        for i in range(depth)
    )


def _row(row: _Row, before: tuple[float, ...] | None) -> StepRow:
    """A row for the reader's reader, given the phases' totals before it; None: not known."""
    step, wall, mono, step_seconds, loss, _, grad_norm, tokens, _, *memory = row.values
    spent = zip(wire.PHASES, row.totals, before or row.totals, strict=True)
    return StepRow(
        index=row.number,
        step=step,
        wall_seconds=wall,
        monotonic_seconds=mono,
        step_seconds=None if step_seconds != step_seconds else step_seconds,
        loss=None if wire.is_absent(loss) else loss,
        learning_rates=tuple(rate for rate in row.rates if not wire.is_absent(rate)),
        grad_norm=None if wire.is_absent(grad_norm) else grad_norm,
        tokens=tokens if tokens >= 0 else None,
        phase_seconds={name: after - earlier for name, after, earlier in spent if after > earlier},
        memory=(memory[0], memory[1], memory[2]) if min(memory) >= 0 else None,
    )
