"""What looked wrong in a run that was recorded: remarks, each with what it stands on.

The learning rate is looked at row by row while the rows go by (`RateWatch`); all else is judged from the
history. A remark is made only where the record carries it: a short run, or one that recorded little, gets
few. Pure. Not here: incidents (they were diagnosed when they happened), and words on a page.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from harness.render.text import count, duration, exponent, short_seconds
from harness.schedules import scheduled_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from harness.report.history import Bucket, History, Numbers, Run

Severity: TypeAlias = Literal["bad", "odd", "told"]

_WINDOWS = 20
_LEAST_ROWS = 200
# A rate may be this far from its schedule, and a step early or late, for trainers count differently: as in
# `harness.rules.learning`, which judges the last steps of a run that goes on.
_OFF_SCHEDULE = 0.05
_OVERDUE = 3.0
_STRIDE = 64
_LEVEL = 0.01
_LEAST_RATE = 1e-3  # of the peak: below it nothing is compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """One thing worth knowing. "bad" spoils the run, "odd" should be looked into, "told" only explains."""

    cause: str
    severity: Severity
    summary: str
    evidence: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class RateWatch:
    """Goes over every row's learning rate: where it was 0, and where off the declared schedule."""

    schedule: Mapping[str, Any] | None
    zero_rows: int = 0
    zero_steps: tuple[int, int] | None = None  # the first and the last
    zero_last: bool = False  # the last row seen was at 0
    off_rows: int = 0
    off_steps: tuple[int, int] | None = None
    off_worst: tuple[int, float, float] | None = None  # step, rate, what it should have been
    before_zero: float | None = None  # the last rate above 0
    highest: float = 0.0
    zero_breaks: int = 0  # how often it rose from 0 again

    def see(self, run: Run) -> None:
        """Take the rows of one run."""
        rates = run.columns.get("lr")
        if rates is None:
            return
        asked = self.schedule is not None and self._rate_at(max(run.steps[0], 1)) is not None
        for begin in range(0, len(rates), _STRIDE):
            part = slice(begin, begin + _STRIDE)
            if not (
                "lr" in run.clean and self._is_plain(run.steps[part], cast("list[float]", rates[part]), asked)
            ):
                self._see_each(run.steps[part], rates[part], asked=asked)

    def _is_plain(self, steps: Sequence[int], rates: list[float], asked: bool) -> bool:
        """Whether a few rates are above 0 and where the schedule, nearly level there, has them.

        Nearly all are; it takes a fifth of the time of looking at each.
        """
        low, high = min(rates), max(rates)
        if low <= 0.0:
            return False
        if asked:
            first, last = self._rate_at(steps[0]), self._rate_at(steps[-1])
            if first is None or last is None:
                return False
            least, most = min(first, last), max(first, last)
            level = most - least <= _LEVEL * most
            if not level or low < least * (1 - _OFF_SCHEDULE) or high > most * (1 + _OFF_SCHEDULE):
                return False
        self.zero_breaks += self.zero_last
        self.zero_last, self.before_zero = False, rates[-1]
        self.highest = max(self.highest, high)
        return True

    def _see_each(self, steps: Sequence[int], rates: Numbers, *, asked: bool) -> None:
        for step, rate in zip(steps, rates, strict=True):
            if rate is None:
                continue
            if rate == 0.0:
                if not asked or (self._rate_at(step) or 0.0) > 0.0:
                    self.zero_rows += 1
                    self.zero_steps = (self.zero_steps[0] if self.zero_steps else step, step)
                    self.zero_last = True
            elif rate > 0.0:
                self.zero_breaks += self.zero_last
                self.zero_last, self.before_zero = False, rate
                self.highest = max(self.highest, rate)
            if asked:
                self._compare(step, rate)

    def _compare(self, step: int, rate: float) -> None:
        expected = scheduled_rate(self.schedule, step)
        if expected is None or abs(rate - expected) <= _OFF_SCHEDULE * expected:
            return
        peak = float((self.schedule or {}).get("peak", 0.0))
        for near in (step - 1, step, step + 1):
            asked = self._rate_at(near)
            if asked is not None and abs(rate - asked) <= _OFF_SCHEDULE * max(asked, _LEAST_RATE * peak):
                return
        self.off_rows += 1
        self.off_steps = (self.off_steps[0] if self.off_steps else step, step)
        if self.off_worst is None or abs(rate - expected) > abs(self.off_worst[1] - self.off_worst[2]):
            self.off_worst = step, rate, expected

    def _rate_at(self, step: int) -> float | None:
        return scheduled_rate(self.schedule, step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What is known of the run beside its rows."""

    state: str  # as `harness status` tells it
    end_seconds: float  # when it ended; now, while it runs
    checkpoints: tuple[tuple[float, int | None], ...] = ()  # when each was written, and its step
    schedule: Mapping[str, Any] | None = None
    target_steps: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing will come any more."""
        return self.state in ("finished", "died", "lost")


def remarks(history: History, rates: RateWatch, ending: Ending) -> tuple[Remark, ...]:
    """All of them, the worst first."""
    found = [
        each
        for judge in (nonfinite, rate_zero, rate_off, rate_warmup, loss_trend, throughput, checkpoints)
        for each in judge(history, rates, ending)
    ]
    order = ("bad", "odd", "told")
    return tuple(sorted(found, key=lambda each: order.index(each.severity)))


def nonfinite(history: History, _: RateWatch, __: Ending) -> Iterator[Remark]:
    """loss-nonfinite."""
    for name, words in (("loss", "loss"), ("grad_norm", "gradient norm")):
        found = history.extremes.get(name)
        if found is not None and found.nonfinite:
            many = f"{found.nonfinite:,} steps" if found.nonfinite > 1 else "1 step"
            yield Remark(
                cause="loss-nonfinite",
                severity="bad",
                summary=f"The {words} was NaN or infinite at {many}, first at step "
                f"{found.first_nonfinite_step:,}: what came after is worth nothing unless it was skipped.",
            )


def rate_zero(_: History, rates: RateWatch, ending: Ending) -> Iterator[Remark]:
    """lr-zero: nothing is learned. Not at the end of a decay to zero."""
    if rates.zero_steps is None:
        return
    decayed = (
        rates.zero_last
        and not rates.zero_breaks
        and rates.before_zero is not None
        and rates.before_zero < 0.05 * rates.highest
    )
    if decayed and not ending.schedule:
        return
    where = _at_steps(rates.zero_rows, *rates.zero_steps)
    yield Remark(
        cause="lr-zero", severity="bad", summary=f"The learning rate was 0 {where}: nothing is learned there."
    )


def _at_steps(count: int, first: int, last: int) -> str:
    return f"at step {first:,}" if first == last else f"at {count:,} steps from {first:,} to {last:,}"


def rate_off(_: History, rates: RateWatch, __: Ending) -> Iterator[Remark]:
    """lr-off-schedule."""
    if rates.off_steps is None or rates.off_worst is None:
        return
    step, rate, expected = rates.off_worst
    where = _at_steps(rates.off_rows, *rates.off_steps)
    yield Remark(
        cause="lr-off-schedule",
        severity="odd",
        summary=f"The learning rate left its declared schedule {where}.",
        evidence=(
            f"furthest at step {step:,}: {exponent(rate)}, and {exponent(expected)} by the schedule",
            "the schedule is the one that the last attempt declared",
        ),
    )


def rate_warmup(history: History, rates: RateWatch, ending: Ending) -> Iterator[Remark]:
    """lr-warmup: it ended before the rate had reached its peak."""
    schedule, step = ending.schedule or {}, history.last_step
    warmup, peak = schedule.get("warmup"), schedule.get("peak")
    if not isinstance(warmup, int) or not isinstance(peak, float) or step is None or not rates.highest:
        return
    if 0 < step < warmup and rates.highest < 0.99 * peak:
        verb = "ended" if ending.is_over else "is"
        yield Remark(
            cause="lr-warmup",
            severity="told",
            summary=f"It {verb} at step {step:,} of a {warmup:,}-step warm-up: the learning rate came to "
            f"{exponent(rates.highest)} of {exponent(peak)}.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """A twentieth of the rows."""

    first_step: int
    last_step: int
    value: float


def loss_trend(history: History, _: RateWatch, ending: Ending) -> Iterator[Remark]:
    """loss-flat and loss-rose."""
    windows = _windows(history, lambda bucket: _mean(bucket, "loss"))
    if len(windows) < _WINDOWS * 3 // 4:
        return
    best = min(windows, key=lambda each: each.value)
    first, last = windows[0].value, windows[-1].value
    if last - best.value > max(0.3 * (first - best.value), 0.05 * abs(best.value)):
        yield Remark(
            cause="loss-rose",
            severity="odd",
            summary=f"The loss rose again: {last:.3g} over the last steps, {best.value:.3g} about step "
            f"{best.last_step:,}.",
            evidence=(_of_windows(windows),),
        )
        return
    cut = len(windows) * 3 // 5
    early, late = (min(part, key=lambda each: each.value) for part in (windows[:cut], windows[cut:]))
    if late.value > early.value - 0.002 * abs(early.value):
        verb = "did not fall" if ending.is_over else "has not fallen"
        fell = early.value < 0.98 * first
        yield Remark(
            cause="loss-flat",
            severity="told" if fell else "odd",
            summary=f"The loss {verb} after about step {early.last_step:,}: {early.value:.4g} then, "
            f"{late.value:.4g} at best since.",
            evidence=(_of_windows(windows),),
        )


def throughput(history: History, _: RateWatch, __: Ending) -> Iterator[Remark]:
    """throughput-drop."""
    tokens = "tokens_per_second" in history.extremes
    windows = _windows(history, (lambda b: _mean(b, "tokens_per_second")) if tokens else _steps_per_second)
    if len(windows) < _WINDOWS * 3 // 4:
        return
    usual = median(each.value for each in windows)
    if usual <= 0:
        return

    def said(value: float) -> str:
        return (
            f"{count(value)} tokens/s"
            if tokens
            else f"{short_seconds(1 / value)} a step"
            if value
            else "none"
        )

    slow = [each for each in windows[1:] if each.value < 0.7 * usual]
    if not slow:
        return
    last = windows[-1]
    if last in slow:
        began = next(each for each, after in zip(windows, [*windows[1:], last], strict=True) if after in slow)
        yield Remark(
            cause="throughput-drop",
            severity="odd",
            summary=f"It became slower: {said(last.value)} at the end, {said(usual)} usually "
            f"({100 * (last.value / usual - 1):+.0f} %).",
            evidence=(f"from about step {began.last_step:,} on", _of_windows(windows)),
        )
        return
    worst = min(slow, key=lambda each: each.value)
    if worst.value > 0.6 * usual:
        return
    yield Remark(
        cause="throughput-drop",
        severity="told",
        summary=f"It was slower for a while: {said(worst.value)} from step {worst.first_step:,} to "
        f"{worst.last_step:,}, {said(usual)} usually.",
        evidence=(_of_windows(windows),),
    )


def checkpoints(history: History, _: RateWatch, ending: Ending) -> Iterator[Remark]:
    """stale-checkpoint: overdue, or what an ending cost."""
    times = [seconds for seconds, _ in ending.checkpoints]
    if not times:
        return
    last_seconds, last_step = ending.checkpoints[-1]
    gaps = [after - before for before, after in pairwise(times) if after > before]
    trained_until = history.last_seconds or ending.end_seconds
    since = (ending.end_seconds if not ending.is_over else trained_until) - last_seconds
    lost = history.last_step - last_step if history.last_step is not None and last_step is not None else None
    if ending.state in ("died", "lost") and lost is not None and lost > 0:
        yield Remark(
            cause="stale-checkpoint",
            severity="told",
            summary=f"The last checkpoint is of step {last_step:,}: the "
            + (f"{lost:,} steps after it have to be done again." if lost > 1 else "step after it is lost."),
        )
    elif ending.state != "finished" and len(gaps) > 1 and since > _OVERDUE * median(gaps):
        yield Remark(
            cause="stale-checkpoint",
            severity="odd",
            summary=f"No checkpoint for {duration(since)}; until then there was one every "
            f"{duration(median(gaps))}.",
        )


def _windows(history: History, value: Callable[[Bucket], tuple[float, int] | None]) -> list[_Window]:
    """The history in twentieths of its rows, each with the mean of `value` (mean, how many rows)."""
    if history.rows < _LEAST_ROWS:
        return []
    size = history.rows / _WINDOWS
    windows: list[_Window] = []
    members: list[Bucket] = []
    total, weight, rows = 0.0, 0, 0

    def close() -> None:
        if weight and members:
            windows.append(
                _Window(  # steps may have gone back within it
                    first_step=min(each.first_step for each in members),
                    last_step=max(each.last_step for each in members),
                    value=total / weight,
                )
            )

    for bucket in history.buckets:
        rows += bucket.rows
        members.append(bucket)
        found = value(bucket)
        if found is not None:
            total, weight = total + found[0] * found[1], weight + found[1]
        if rows >= size * (len(windows) + 1) - 1e-9:
            close()
            members, total, weight = [], 0.0, 0
    close()
    return windows


def _mean(bucket: Bucket, name: str) -> tuple[float, int] | None:
    spread = bucket.values.get(name)
    return (spread.mean, spread.count) if spread is not None else None


def _steps_per_second(bucket: Bucket) -> tuple[float, int] | None:
    spread = bucket.values.get("step_seconds")
    return (1 / spread.mean, spread.count) if spread is not None and spread.mean > 0 else None


def _of_windows(windows: Sequence[_Window]) -> str:
    return f"by the means of {len(windows)} equal parts of the run"
