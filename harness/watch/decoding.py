"""From a record's bytes to what it says: pure; the layout is `harness.wire`'s.

Not here: reading them from a file that its writer goes on changing (`heartbeat`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from harness import wire
from harness.errors import RecordError

NO_SECONDS = (0.0,) * len(wire.PHASES)


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


def parse_header(path: str, data: bytes) -> tuple[dict[str, Any], bool]:
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


class RowBlock(NamedTuple):
    """A step's row as it was copied, with what stands beside it."""

    number: int
    values: tuple[Any, ...]
    totals: tuple[float, ...]  # seconds so far in each phase
    rates: tuple[float, ...]


def newest(
    ring: wire.Ring, head: bytes, counts: tuple[int, ...], *, checked: bool = True
) -> tuple[Any, ...] | None:
    """The values of the ring's newest block in a copy of the head; None if it was overtaken meanwhile."""
    newest = counts[ring.counter] - 1
    if newest < 0:
        return None
    block = wire.unseal(ring, head, ring.at(newest), checked=checked)
    return block[1] if block is not None and block[0] >= newest else None


def stages_of(change: tuple[Any, ...]) -> tuple[StageEntry, ...]:
    """The stages that a change left open, outermost first."""
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


def row_of(row: RowBlock, before: tuple[float, ...] | None) -> StepRow:
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


def heartbeat(
    header: dict[str, Any],
    facts: tuple[Any, ...],
    now: tuple[Any, ...],
    change: tuple[Any, ...],
    rows: list[RowBlock],
) -> Heartbeat:
    """What the newest blocks of a record say; `rows` are its last two."""
    present, _, total_steps, world_size, kind, *numbers, closed_wall, status = facts
    phase, phase_entered, progress_wall, progress_mono, count, detail = now
    schedule: dict[str, Any] = {"kind": wire.unpack_text(kind)} if present & wire.HAS_KIND else {}
    names = ("peak", "warmup", "total", "floor")
    bits = (wire.HAS_PEAK, wire.HAS_WARMUP, wire.HAS_TOTAL, wire.HAS_FLOOR)
    schedule |= {name: n for name, bit, n in zip(names, bits, numbers, strict=True) if present & bit}
    stages = stages_of(change)
    last: StepRow | None = None
    totals: tuple[float, ...] | None = None
    for row in rows:
        last = row_of(row, NO_SECONDS if row.number == 0 else totals)
        totals = row.totals
    in_phase = bool(phase.strip(b"\0"))
    if last is not None:
        in_phase = in_phase and phase_entered >= last.monotonic_seconds  # a step ends its phase
        if last.monotonic_seconds > progress_mono:
            progress_wall, progress_mono = last.wall_seconds, last.monotonic_seconds
    closed = bool(present & wire.IS_CLOSED)
    return Heartbeat(
        **header,
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
