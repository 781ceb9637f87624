"""Where the rows of a record go: rank 0's into metrics.jsonl, every rank's into its totals.

metrics.jsonl is line-complete at all times: a line is there whole or not at all, whatever the disk does, and
a later supervisor goes on where the last one stopped, without a row twice. What is lost (overwritten in the
ring, or held back longer than memory allows while the disk was full) is a line of its own:
{"gap": [first step, last step], "rows": n, "attempt": a}. Not here: reading records (`heartbeat`).
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_left
from collections import deque
from statistics import median
from typing import TYPE_CHECKING, Any

from harness.snapshot import Histogram, RankTotals

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from harness.watch.heartbeat import Drained, Heartbeat, StepRow

PENDING_ROWS = 20_000  # held in memory while they cannot be written: some 10 MB
_TAIL_BYTES = 256 << 10
_WINDOW = 64

# From a millisecond (toys) to ten minutes (accumulation on a CPU).
DURATION_BOUNDS = (
    0.001, 0.003, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0,
)  # fmt: skip


def row_line(row: StepRow, attempt: int, resident_bytes: int | None = None) -> bytes:
    """One line of metrics.jsonl. JSON has no NaN: those values are strings. Memory where it is known."""
    rates = [_number(rate) for rate in row.learning_rates]
    document: dict[str, Any] = {
        "time": row.wall_seconds,
        "step": row.step,
        "loss": _number(row.loss),
        "lr": rates[0] if len(rates) == 1 else rates or None,
        "grad_norm": _number(row.grad_norm),
        "tokens": row.tokens,
        "step_seconds": _number(row.step_seconds),
        "attempt": attempt,
        "phases": {name: _number(seconds) for name, seconds in row.phase_seconds.items()},
    }
    if row.memory is not None:
        document["gpu_memory_bytes"] = dict(zip(("allocated", "reserved", "peak"), row.memory, strict=True))
    if resident_bytes is not None:
        document["resident_bytes"] = resident_bytes
    return json.dumps(document, separators=(", ", ": ")).encode() + b"\n"


def _number(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


class MetricsLog:
    """Appends rank 0's rows to metrics.jsonl, over all attempts and supervisors."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: deque[tuple[int, bytes]] = deque()  # step, line
        self._gap: list[int] | None = None  # first step, last step, rows: of pending rows that were given up
        self._attempt = -1
        self._known: tuple[int, float] | None = None  # step and time of the attempt's last line
        self._last_step: int | None = None
        self.rows_lost = 0
        self.problem: str | None = None  # what keeps us from writing now

    def add(self, drained: Drained, attempt: int, resident_bytes: int | None = None) -> None:
        """Take the rows of one drain of the record of `attempt`; they are written by `flush`.

        `resident_bytes` is the process's memory now: it stands in the newest row.
        """
        rows = drained.rows
        lost = drained.lost[1] - drained.lost[0] + 1 if drained.lost else 0
        if attempt != self._attempt:
            self._attempt = attempt
            self._known, self._last_step = self._last_of(attempt), None
            if self._known is not None:
                self._last_step = self._known[0]
        if self._known is not None and rows:
            # The first rows since this supervisor began: those that the last one wrote are not written again.
            at = next((i for i, row in enumerate(rows) if (row.step, row.wall_seconds) == self._known), None)
            if at is not None:
                rows, lost = rows[at + 1 :], 0
            elif lost:
                lost = max(1, rows[0].step - self._known[0] - 1)  # some of these were written long ago
            self._known = None
        if lost:
            first = rows[0].step if rows else None
            self._add_gap(lost, first)
        for row in rows:
            memory = resident_bytes if row is rows[-1] else None
            self._pending.append((row.step, row_line(row, attempt, memory)))
            self._last_step = row.step
        while len(self._pending) > PENDING_ROWS:
            self._give_up(self._pending.popleft()[0])

    def flush(self) -> None:
        """Write what is pending, if it can be; never half a line, never raises."""
        if not self._pending and self._gap is None:
            return
        lines = [line for _, line in self._pending]
        if self._gap is not None:
            first, last, rows = self._gap
            lines.insert(0, self._gap_line(first, last, rows))
        try:
            _append(self._path, b"".join(lines))
        except OSError as error:
            self.problem = error.strerror or str(error)
            return
        self.problem = None
        self._gap = None
        self._pending.clear()

    def _add_gap(self, rows: int, next_step: int | None) -> None:
        self.rows_lost += rows
        if next_step is None:
            first = (self._last_step or 0) + 1
            last = first + rows - 1
        else:
            last = next_step - 1
            first = self._last_step + 1 if self._last_step is not None else last - rows + 1
        if first <= last:
            self._pending.append((last, self._gap_line(first, last, rows)))

    def _gap_line(self, first: int, last: int, rows: int) -> bytes:
        return f'{{"gap": [{first}, {last}], "rows": {rows}, "attempt": {self._attempt}}}\n'.encode()

    def _give_up(self, step: int) -> None:
        self.rows_lost += 1
        if self._gap is None:
            self._gap = [step, step, 0]
        self._gap[1] = step
        self._gap[2] += 1

    def _last_of(self, attempt: int) -> tuple[int, float] | None:
        """Step and time of the last row written of `attempt`; what a crash left of a line is cut off."""
        try:
            with self._path.open("rb+") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                tail = file.read()
                if tail and not tail.endswith(b"\n"):
                    whole = tail.rfind(b"\n") + 1
                    file.truncate(size - len(tail) + whole)
                    tail = tail[:whole]
        except OSError:
            return None
        for line in reversed(tail.split(b"\n")):
            found = _parse(line)
            if found is not None and "step" in found:
                try:
                    return (int(found["step"]), float(found["time"])) if found["attempt"] == attempt else None
                except (KeyError, TypeError, ValueError):
                    return None
        return None


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _append(path: Path, data: bytes) -> None:
    """All of `data` at the end of the file, or nothing of it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


class Tally:
    """One rank's totals, over all attempts that were seen."""

    def __init__(self) -> None:
        self._tokens_before = 0
        self._phases_before: dict[str, float] = {}
        self._heartbeat: Heartbeat | None = None
        self._counts = [0] * (len(DURATION_BOUNDS) + 1)
        self._total_seconds = 0.0
        self._nonfinite = 0
        self._rows_lost = 0
        self._recent: deque[tuple[float, int, int | None]] = deque(maxlen=_WINDOW)  # monotonic, step, tokens
        self._recent_seconds: deque[float] = deque(maxlen=_WINDOW)
        self._first_loss: float | None = None
        self._snapshot: RankTotals | None = None

    def restart(self) -> None:
        """Another process writes this rank's record now: counters go on, rates begin anew."""
        if self._heartbeat is not None:
            self._tokens_before += self._heartbeat.tokens_total
            for name, seconds in self._heartbeat.phase_totals.items():
                self._phases_before[name] = self._phases_before.get(name, 0.0) + seconds
        self._heartbeat = None
        self._recent.clear()
        self._recent_seconds.clear()
        self._first_loss = None

    def add(self, drained: Drained) -> None:
        """Count the rows of one drain."""
        if drained.lost:
            self._rows_lost += drained.lost[1] - drained.lost[0] + 1
            self._recent.clear()
        for row in drained.rows:
            if row.step_seconds is not None and row.step_seconds >= 0:
                self._counts[bisect_left(DURATION_BOUNDS, row.step_seconds)] += 1
                self._total_seconds += row.step_seconds
                self._recent_seconds.append(row.step_seconds)
            if not _all_finite((row.loss, row.grad_norm)):
                self._nonfinite += 1
            self._recent.append((row.monotonic_seconds, row.step, row.tokens))
            if self._first_loss is None:
                self._first_loss = row.loss
        if drained.rows or drained.lost:
            self._snapshot = None

    def totals(self, heartbeat: Heartbeat) -> RankTotals:
        """Everything so far, with the running attempt as `heartbeat` tells it."""
        before = self._heartbeat
        self._heartbeat = heartbeat
        if self._snapshot is None or before is None or before.steps_written != heartbeat.steps_written:
            self._snapshot = self._take(heartbeat)
        return self._snapshot

    def _take(self, heartbeat: Heartbeat) -> RankTotals:
        phases = dict(self._phases_before)
        for name, seconds in heartbeat.phase_totals.items():
            phases[name] = phases.get(name, 0.0) + seconds
        tokens_per_second = steps_per_second = None
        if len(self._recent) > 1:
            (begin, first, _), (end, last, _) = self._recent[0], self._recent[-1]
            if end > begin and last > first:
                steps_per_second = (last - first) / (end - begin)
                amounts = [tokens for _, _, tokens in self._recent]
                if None not in amounts:
                    tokens_per_second = sum(amount or 0 for amount in amounts[1:]) / (end - begin)
        return RankTotals(
            tokens=self._tokens_before + heartbeat.tokens_total,
            nonfinite=self._nonfinite,
            phase_seconds=phases,
            durations=Histogram(
                bounds=DURATION_BOUNDS, counts=tuple(self._counts), total=self._total_seconds
            ),
            rows_lost=self._rows_lost,
            step_seconds=median(self._recent_seconds) if self._recent_seconds else None,
            tokens_per_second=tokens_per_second,
            steps_per_second=steps_per_second,
            first_loss=self._first_loss,
        )


def _all_finite(values: Iterable[float | None]) -> bool:
    return all(value is None or math.isfinite(value) for value in values)
