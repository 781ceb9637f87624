"""Any number of steps in bounded memory, honestly: every extreme survives, every hole stays visible.

Rows come in runs (steps that go on, of one attempt, nothing missing between them) as columns. They fall into
buckets of equally many rows; when there are too many buckets, neighbours are merged two by two and the width
doubles. A bucket has each value's mean, least and greatest, and how many were NaN or infinite. Buckets are
not merged over a hole or where steps go back, unless there are more such places than buckets: then that is
counted. Pure. Not here: reading lines (`rows`), judging (`judge`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_BUCKETS = 2_000

Start: TypeAlias = Literal["", "gap", "lap"]
Numbers: TypeAlias = "list[float | None]"

MAX_PHASES = 12
OTHER_PHASES = "other"


@dataclass(slots=True, kw_only=True)
class Run:
    """Rows that follow one another: same attempt, steps that do not go back, nothing missing between."""

    attempt: int
    steps: Sequence[int]
    seconds: Sequence[float]  # wall clock
    columns: Mapping[str, Numbers]  # None is absent; NaN and infinities are the trainer's own
    clean: frozenset[str] = frozenset()  # columns known to be finite throughout
    phases: Mapping[str, list[float]] = field(default_factory=dict)  # seconds, 0.0 where a row has none
    phase_rows: Sequence[int] = ()  # 1 for a row that has any
    after_gap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The finite values of one column in one bucket."""

    count: int
    total: float
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Their mean; between the extremes also where the sum was too large for a float."""
        found = self.total / self.count
        return min(max(found, self.low), self.high) if math.isfinite(found) else self.low / 2 + self.high / 2

    def __add__(self, other: Spread) -> Spread:
        return Spread(
            count=self.count + other.count,
            total=self.total + other.total,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
        )


@dataclass(slots=True, kw_only=True)
class Bucket:
    """Neighbouring rows, summed up. Changed by `Downsampler` alone, and by nobody once it is handed out."""

    start: Start  # "gap": rows are missing before it; "lap": steps went back, or another attempt began
    attempt: int
    first_step: int
    last_step: int
    first_seconds: float
    last_seconds: float
    rows: int = 0
    values: dict[str, Spread] = field(default_factory=dict)
    nonfinite: dict[str, int] = field(default_factory=dict)
    phase_seconds: dict[str, float] = field(default_factory=dict)
    phase_rows: int = 0

    def take(self, other: Bucket) -> None:
        """Merge the next bucket into this one."""
        self.attempt = other.attempt
        self.first_step = min(self.first_step, other.first_step)
        self.last_step = max(self.last_step, other.last_step)
        self.first_seconds = min(self.first_seconds, other.first_seconds)
        self.last_seconds = max(self.last_seconds, other.last_seconds)
        self.rows += other.rows
        for name, spread in other.values.items():
            mine = self.values.get(name)
            self.values[name] = spread if mine is None else mine + spread
        for name, count in other.nonfinite.items():
            self.nonfinite[name] = self.nonfinite.get(name, 0) + count
        for name, seconds in other.phase_seconds.items():
            self.phase_seconds[name] = self.phase_seconds.get(name, 0.0) + seconds
        self.phase_rows += other.phase_rows


class Downsampler:
    """Runs in, a bounded number of buckets out.

    Args:
        limit: never more buckets than this; at least half as many once there are as many rows, but for
            those that are short because a hole or the end of an attempt cuts them.
    """

    def __init__(self, limit: int = MAX_BUCKETS) -> None:
        if limit < 4:
            raise ValueError(f"limit is {limit}, and four is the least")
        self._limit = limit
        self._buckets: list[Bucket] = []
        self._width = 1
        self._phases: dict[str, str] = {}
        self._last: tuple[int, int] | None = None  # attempt and step of the last row
        self.hidden_breaks = 0

    @property
    def width(self) -> int:
        """How many rows a whole bucket has."""
        return self._width

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """What there is so far, in the order of the rows."""
        return tuple(self._buckets)

    def add(self, run: Run) -> None:
        """Take some rows."""
        if not run.steps:
            return
        start = self._start(run)
        at, end = 0, len(run.steps)
        while at < end:
            last = self._buckets[-1] if self._buckets else None
            room = 0 if last is None or start else self._width - last.rows
            until = min(end, at + (room if room > 0 else self._width))
            found = self._sum_up(run, at, until, start)
            if room > 0 and last is not None:
                last.take(found)
            else:
                self._buckets.append(found)
                if len(self._buckets) > self._limit:
                    self._merge()
            at, start = until, ""
        self._last = run.attempt, run.steps[-1]

    def _start(self, run: Run) -> Start:
        if self._last is None or (self._last[0] == run.attempt and self._last[1] <= run.steps[0]):
            return "gap" if run.after_gap and self._last is not None else ""
        return "lap"

    def _sum_up(self, run: Run, at: int, until: int, start: Start) -> Bucket:
        bucket = Bucket(
            start=start,
            attempt=run.attempt,
            first_step=run.steps[at],
            last_step=run.steps[until - 1],
            first_seconds=min(run.seconds[at], run.seconds[until - 1]),
            last_seconds=max(run.seconds[at], run.seconds[until - 1]),
            rows=until - at,
        )
        for name, column in run.columns.items():
            part = column[at:until]
            finite: list[float]
            if name in run.clean:
                finite = cast("list[float]", part)
            else:
                finite = [value for value in part if value is not None and math.isfinite(value)]
                bad = len(part) - part.count(None) - len(finite)
                if bad:
                    bucket.nonfinite[name] = bad
            if not finite:
                continue
            bucket.values[name] = Spread(
                count=len(finite), total=sum(finite), low=min(finite), high=max(finite)
            )
        bucket.phase_rows = sum(run.phase_rows[at:until])
        if bucket.phase_rows:
            for name, taken in run.phases.items():
                known = self._phases.get(name) or self._phase(name)
                seconds = sum(taken[at:until])
                bucket.phase_seconds[known] = bucket.phase_seconds.get(known, 0.0) + seconds
        return bucket

    def _phase(self, name: str) -> str:
        """A phase's name; all beyond a bound are one, for a trainer may invent a new one with every step."""
        if len(self._phases) >= MAX_PHASES:
            return OTHER_PHASES
        self._phases[name] = name
        return name

    def _merge(self) -> None:
        self._width *= 2
        merged: list[Bucket] = []
        for bucket in self._buckets:
            last = merged[-1] if merged else None
            if last is not None and not bucket.start and last.rows + bucket.rows <= self._width:
                last.take(bucket)
            else:
                merged.append(bucket)
        if len(merged) > self._limit * 3 // 4:  # more holes than there is room for
            for left, right in zip(merged[::2], merged[1::2], strict=False):
                self.hidden_breaks += bool(right.start)
                left.take(right)
            merged = merged[::2]
        self._buckets = merged


@dataclass(slots=True, kw_only=True)
class Extremes:
    """One column over the whole history: its finite values with their steps, and what was not finite."""

    first: tuple[int, float] | None = None
    last: tuple[int, float] | None = None
    low: tuple[int, float] | None = None
    high: tuple[int, float] | None = None
    nonfinite: int = 0
    first_nonfinite_step: int | None = None

    def see(self, steps: Sequence[int], column: Numbers, *, clean: bool) -> None:
        """Take the rows of one run."""
        if not clean:
            bad = [
                step
                for step, value in zip(steps, column, strict=True)
                if value is not None and not math.isfinite(value)
            ]
            if bad:
                self.nonfinite += len(bad)
                if self.first_nonfinite_step is None:
                    self.first_nonfinite_step = bad[0]
            kept = [
                (step, value)
                for step, value in zip(steps, column, strict=True)
                if value is not None and math.isfinite(value)
            ]
            if not kept:
                return
            steps, column = [step for step, _ in kept], [value for _, value in kept]
        values = cast("list[float]", column)
        if self.first is None:
            self.first = steps[0], values[0]
        self.last = steps[-1], values[-1]
        low, high = min(values), max(values)
        if self.low is None or low < self.low[1]:
            self.low = steps[values.index(low)], low
        if self.high is None or high > self.high[1]:
            self.high = steps[values.index(high)], high


@dataclass(slots=True, kw_only=True)
class Lap:
    """Rows whose steps do not go back."""

    attempt: int
    first_step: int
    last_step: int
    first_seconds: float
    last_seconds: float
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Everything that metrics.jsonl says, small."""

    buckets: tuple[Bucket, ...] = ()
    width: int = 1  # rows in a whole bucket
    rows: int = 0
    extremes: Mapping[str, Extremes] = field(default_factory=dict)
    laps: tuple[Lap, ...] = ()  # the first and the last ones of very many
    lap_count: int = 0
    rows_lost: int = 0  # of which the file says so itself
    unreadable_lines: int = 0
    hidden_breaks: int = 0
    problem: str | None = None  # why there is nothing, or not all

    @property
    def first_seconds(self) -> float | None:
        """When its first row was written."""
        return self.buckets[0].first_seconds if self.buckets else None

    @property
    def last_seconds(self) -> float | None:
        """When its last row was written."""
        return self.buckets[-1].last_seconds if self.buckets else None

    @property
    def last_step(self) -> int | None:
        """The step of the last row."""
        return self.laps[-1].last_step if self.laps else None


_KEPT_LAPS = 100


class Recorder:
    """Builds a History from runs."""

    def __init__(self, limit: int = MAX_BUCKETS) -> None:
        self._down = Downsampler(limit)
        self._extremes: dict[str, Extremes] = {}
        self._laps: list[Lap] = []
        self._lap_count = 0
        self.rows = 0

    def add(self, run: Run) -> None:
        """Take some rows."""
        if not run.steps:
            return
        self.rows += len(run.steps)
        self._down.add(run)
        for name, column in run.columns.items():
            self._extremes.setdefault(name, Extremes()).see(run.steps, column, clean=name in run.clean)
        last = self._laps[-1] if self._laps else None
        if last is None or last.attempt != run.attempt or run.steps[0] < last.last_step:
            self._lap_count += 1
            self._laps.append(
                Lap(
                    attempt=run.attempt,
                    first_step=run.steps[0],
                    last_step=run.steps[-1],
                    first_seconds=run.seconds[0],
                    last_seconds=run.seconds[-1],
                    rows=len(run.steps),
                )
            )
            if len(self._laps) > _KEPT_LAPS:
                del self._laps[_KEPT_LAPS // 2]
        else:
            last.last_step, last.last_seconds = run.steps[-1], run.seconds[-1]
            last.rows += len(run.steps)

    def history(
        self, *, rows_lost: int = 0, unreadable_lines: int = 0, problem: str | None = None
    ) -> History:
        """What came together."""
        return History(
            buckets=self._down.buckets,
            width=self._down.width,
            rows=self.rows,
            extremes=self._extremes,
            laps=tuple(self._laps),
            lap_count=self._lap_count,
            rows_lost=rows_lost,
            unreadable_lines=unreadable_lines,
            hidden_breaks=self._down.hidden_breaks,
            problem=problem,
        )


def ranges(buckets: Sequence[Bucket]) -> list[tuple[int, int]]:
    """Where the steps go on without going back: ranges of indices, begin and end."""
    if not buckets:
        return []
    begins = [0]
    for index, (before, bucket) in enumerate(pairwise(buckets), 1):
        if bucket.start == "lap" or bucket.first_step < before.last_step:
            begins.append(index)
    return list(pairwise([*begins, len(buckets)]))
