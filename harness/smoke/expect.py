"""Expectations: each a small type that judges what was observed. Pure.

A failed one says what was seen, what was expected, and what to do about it. Not here: reading them from a
plan (`plan`), and observing (`observe`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import mean, median
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias

from harness.render.text import duration, exponent, size
from harness.schedules import scheduled_rate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.smoke.observed import Observed, Row, SeenIncident

# A number, or the name of one that the stage itself measures.
Bound: TypeAlias = "float | str"
MEASURED = "measured."
# Trainers compute the rate in float64 and report it so; the heartbeat keeps doubles.
_RATE_TOLERANCE = 1e-6
# A loss wobbles: its ends are means over this share of the steps, and at least this many of them.
_END_SHARE = 0.1
_END_STEPS = 3
# Growth is told from two stretches of samples; with fewer there is nothing to tell.
MIN_SAMPLES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One expectation's verdict."""

    what: str
    passed: bool
    seen: str
    expected: str
    remedy: str = ""

    @property
    def sentence(self) -> str:
        """`loss.falls_by: 0.02 (5.51 → 5.49), expected at least 1`."""
        return f"{self.what}: {self.seen}, expected {self.expected}"


class Expectation(Protocol):
    """Judges one thing."""

    def check(self, seen: Observed) -> Check:
        """Whether it is as expected."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus:
    """How the command ended."""

    remedy: ClassVar[str] = "Its log says more"
    allowed: tuple[int, ...]

    def check(self, seen: Observed) -> Check:
        """The status is one of those allowed."""
        status = seen.exit_status
        said = f" ({seen.last_line})" if seen.last_line and status not in self.allowed else ""
        return Check(
            what="exit",
            passed=status in self.allowed,
            seen=("unknown" if status is None else f"{status}") + said,
            expected=" or ".join(map(str, self.allowed)),
            remedy=self.remedy,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReached:
    """A stage of the trainer's own, such as `train`."""

    stage: str

    def check(self, seen: Observed) -> Check:
        """It was entered."""
        return Check(
            what="stage",
            passed=self.stage in seen.stages,
            seen=f"reached {', '.join(sorted(seen.stages))}" if seen.stages else "none was marked",
            expected=f"{self.stage!r} to be reached",
            remedy="Mark stages with harness.emit.stage, or look in the log for where it ended",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReached:
    """An optimizer step."""

    step: int

    def check(self, seen: Observed) -> Check:
        """It was finished."""
        last = max((row.step for row in seen.rows), default=None)
        return Check(
            what="step",
            passed=last is not None and last >= self.step,
            seen="no step was reported" if last is None else f"reached {last}",
            expected=f"{self.step} to be reached",
            remedy="Report steps with harness.emit.step" if last is None else "Its log says where it ended",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """How many ranks took part."""

    count: int

    def check(self, seen: Observed) -> Check:
        """As many wrote a heartbeat."""
        return Check(
            what="ranks",
            passed=seen.ranks == self.count,
            seen=f"{seen.ranks} took part",
            expected=f"{self.count}",
            remedy="Each rank has to call harness.emit.open(rank=…), and each log says why one ended",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LossFinite:
    """No NaN, no infinity."""

    def check(self, seen: Observed) -> Check:
        """Every reported loss is finite, and there is one."""
        losses = _losses(seen)
        bad = next((row for row in losses if not _finite(row.loss)), None)
        return Check(
            what="loss.finite",
            passed=bool(losses) and bad is None,
            seen=_no_loss(losses) or (f"{bad.loss} at step {bad.step}" if bad else f"{len(losses)} losses"),
            expected="a finite loss at every step",
            remedy="Lower the learning rate or lengthen its warm-up; look at the data of that step",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LossFalls:
    """Its end is below its beginning."""

    by: Bound

    def check(self, seen: Observed) -> Check:
        """The mean of the last tenth is that much below the mean of the first."""
        losses = _losses(seen)
        wanted, missing = _resolve(self.by, seen)
        ends = _ends(losses)
        fell = ends[0] - ends[1] if ends else math.nan
        return Check(
            what="loss.falls_by",
            passed=missing is None and fell >= wanted,
            seen=_no_loss(losses)
            or (f"{fell:.4g} ({ends[0]:.4g} → {ends[1]:.4g})" if ends else "too few steps to tell"),
            expected=missing or f"at least {wanted:g}",
            remedy="Train longer, or look at the learning rate and whether gradients reach the weights",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LossEndsBelow:
    """Where it ends."""

    bound: Bound

    def check(self, seen: Observed) -> Check:
        """The last loss is below."""
        losses = _losses(seen)
        wanted, missing = _resolve(self.bound, seen)
        last = losses[-1].loss if losses else None
        return Check(
            what="loss.ends_below",
            passed=missing is None and last is not None and last < wanted,
            seen=_no_loss(losses) or f"{last:.4g} at step {losses[-1].step}",
            expected=missing or f"below {wanted:g}",
            remedy="Train longer, or look at the learning rate and whether gradients reach the weights",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRate:
    """At each step what the schedule says: the one given here, or the one that the trainer declares."""

    schedule: Mapping[str, object] | None = None

    def check(self, seen: Observed) -> Check:
        """Every step's rate, from the first reported on."""
        schedule = self.schedule or seen.schedule
        rows = [row for row in seen.rows if row.learning_rate is not None]
        wrong = next((row for row in rows if not self._agrees(schedule, row)), None)
        if schedule is None or not rows:
            said = "no schedule was declared" if schedule is None else "no learning rate was reported"
        elif wrong is None:
            said = f"as scheduled at all of {len(rows)} steps"
        else:
            asked = scheduled_rate(schedule, wrong.step)
            asked_text = "cannot be computed" if asked is None else f"says {exponent(asked)}"
            said = f"{exponent(wrong.learning_rate or 0.0)} at step {wrong.step}, its schedule {asked_text}"
        return Check(
            what="learning_rate",
            passed=schedule is not None and bool(rows) and wrong is None,
            seen=said,
            expected="the scheduled rate at every step",
            remedy="The optimizer must use what the schedule gives for that step, counted in optimizer steps",
        )

    @staticmethod
    def _agrees(schedule: Mapping[str, object] | None, row: Row) -> bool:
        asked = scheduled_rate(schedule, row.step)
        assert row.learning_rate is not None
        return asked is not None and math.isclose(
            row.learning_rate, asked, rel_tol=_RATE_TOLERANCE, abs_tol=1e-15
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensPerSecond:
    """The rate while it trains: tokens over time of the steps, the first one left out."""

    at_least: Bound

    def check(self, seen: Observed) -> Check:
        """The median over steps."""
        rates = [
            row.tokens / row.seconds
            for row in seen.rows[1:]
            if row.tokens and row.seconds and row.seconds > 0
        ]
        wanted, missing = _resolve(self.at_least, seen)
        return Check(
            what="tokens_per_second",
            passed=missing is None and bool(rates) and median(rates) >= wanted,
            seen=f"{median(rates):,.0f}" if rates else "no step with its tokens was reported",
            expected=missing or f"at least {wanted:,.0f}",
            remedy="See where a step's time goes: metrics.jsonl has its phases",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """Resident memory of all its processes together."""

    at_most_bytes: int

    def check(self, seen: Observed) -> Check:
        """At its peak."""
        return _at_most(
            "memory", seen.resident_peak_bytes, self.at_most_bytes, "Lower the batch, or raise it"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """Memory of the GPU that held most."""

    at_most_bytes: int

    def check(self, seen: Observed) -> Check:
        """At its peak."""
        remedy = "Lower the batch, recompute activations, or raise it"
        return _at_most("gpu_memory", seen.gpu_peak_bytes, self.at_most_bytes, remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryGrowth:
    """Between an early and a late stretch of the steps, on the host and on the GPU."""

    at_most_bytes: int

    def check(self, seen: Observed) -> Check:
        """From the second quarter of the samples to the last one, by their medians."""
        grown = {
            name: _growth(samples)
            for name, samples in (("host", seen.resident_bytes), ("GPU", seen.gpu_bytes))
            if len(samples) >= MIN_SAMPLES
        }
        most = max(grown, key=lambda name: grown[name], default=None)
        return Check(
            what="memory_growth",
            passed=most is not None and grown[most] <= self.at_most_bytes,
            seen=f"{size(max(0, grown[most]))} on the {most}"
            if most
            else f"{len(seen.resident_bytes)} samples while it trained, too few to tell",
            expected=f"at most {size(self.at_most_bytes)}",
            remedy="Look for what keeps tensors or rows from step to step" if most else "Train longer",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scraped:
    """Its metrics were scraped while it ran, as Prometheus would."""

    series: tuple[str, ...] = ()

    def check(self, seen: Observed) -> Check:
        """At least once, and these series were among them."""
        lacking = [name for name in self.series if name not in seen.scraped_series]
        return Check(
            what="scraped",
            passed=seen.scrapes > 0 and not lacking,
            seen=f"{seen.scrapes} scrapes" + (f" without {', '.join(lacking)}" if lacking else ""),
            expected=f"{', '.join(self.series) or 'metrics'} while it ran",
            remedy="Is its port free, and does it run long enough to be scraped?",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FileWritten:
    """A file in its run directory."""

    pattern: str

    def check(self, seen: Observed) -> Check:
        """It is there and not empty."""
        count = seen.files.get(self.pattern, 0)
        return Check(
            what="files",
            passed=count > 0,
            seen=f"{count or 'none'} of {self.pattern}",
            expected="one that is not empty",
            remedy="Is it written where HARNESS_RUN_DIR says, and had the disk room?",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLacks:
    """A line that must not be in its log; a regular expression."""

    pattern: str

    def check(self, seen: Observed) -> Check:
        """No line matches."""
        line = seen.log_lines.get(self.pattern)
        return Check(
            what="log_lacks",
            passed=line is None,
            seen="no such line" if line is None else f"the line “{line}”",
            expected=f"no line with {self.pattern!r}",
            remedy="Its log shows what stands around it",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHas:
    """A line that must be in its log; a regular expression."""

    pattern: str

    def check(self, seen: Observed) -> Check:
        """A line matches."""
        line = seen.log_lines.get(self.pattern)
        return Check(
            what="log_has",
            passed=line is not None,
            seen="no such line" if line is None else "such a line",
            expected=f"a line with {self.pattern!r}",
            remedy="Its log shows what it wrote instead",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoIncident:
    """The supervisor found no stall."""

    def check(self, seen: Observed) -> Check:
        """None was opened."""
        first = seen.incidents[0] if seen.incidents else None
        return Check(
            what="incident",
            passed=first is None,
            seen="none" if first is None else f"it stalled: {first.headline or first.cause}",
            expected="no stall",
            remedy="" if first is None else f"harness explain {first.path}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentFound:
    """A stall is found, for the right cause, in time: how the harness itself is tried."""

    causes: tuple[str, ...]
    within_seconds: float

    def check(self, seen: Observed) -> Check:
        """The first incident is that one."""
        first = seen.incidents[0] if seen.incidents else None
        return Check(
            what="incident",
            passed=first is not None
            and first.cause in self.causes
            and first.found_after_seconds <= self.within_seconds,
            seen="none was opened" if first is None else self._told(first),
            expected=f"{' or '.join(self.causes)} within {duration(self.within_seconds)}",
            remedy="Is py-spy installed and allowed to look (ptrace)? Or is the machine very busy?"
            if first is None or first.cause in self.causes
            else f"harness explain {first.path}",
        )

    @staticmethod
    def _told(incident: SeenIncident) -> str:
        return f"{incident.cause}, {duration(incident.found_after_seconds)} after the last progress"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A value that the stage measured and printed itself."""

    name: str
    at_least: Bound | None = None
    at_most: Bound | None = None
    equals: str | float | bool | None = None
    remedy: str = ""

    def check(self, seen: Observed) -> Check:
        """It was told, and lies within."""
        value = seen.measured.get(self.name)
        wanted: list[str] = []
        passed = value is not None
        for bound, words, sign in ((self.at_least, "at least", 1.0), (self.at_most, "at most", -1.0)):
            if bound is None:
                continue
            limit, missing = _resolve(bound, seen)
            wanted.append(missing or f"{words} {_plain(limit)}")
            number = _number(value)
            passed = passed and missing is None and number is not None and sign * (number - limit) >= 0
        if self.equals is not None:
            wanted.append(_plain(self.equals))
            passed = passed and value == self.equals
        return Check(
            what=self.name,
            passed=passed,
            seen="it was not measured" if value is None else _plain(value),
            expected=" and ".join(wanted) or "a value",
            remedy=self.remedy,
        )


def _resolve(bound: Bound, seen: Observed) -> tuple[float, str | None]:
    """The number that `bound` stands for, or why there is none."""
    if not isinstance(bound, str):
        return bound, None
    value = _number(seen.measured.get(bound.removeprefix(MEASURED)))
    return (math.nan, f"{bound}, which was not measured") if value is None else (value, None)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _plain(value: object) -> str:
    number = _number(value)
    if number is None:
        return ("no", "yes")[value] if isinstance(value, bool) else str(value)
    if number == int(number) and abs(number) < 1e15:
        return f"{int(number):,}"
    return f"{number:.4g}"


def _losses(seen: Observed) -> list[Row]:
    return [row for row in seen.rows if row.loss is not None]


def _no_loss(losses: list[Row]) -> str:
    return "" if losses else "no loss was reported"


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _ends(rows: list[Row]) -> tuple[float, float] | None:
    """Means of the loss at the beginning and at the end; None for fewer than two steps."""
    losses = [row.loss for row in rows if row.loss is not None]
    if len(losses) < 2:
        return None
    count = min(max(_END_STEPS, round(_END_SHARE * len(losses))), len(losses) // 2)
    return mean(losses[:count]), mean(losses[-count:])


def _growth(samples: tuple[int, ...]) -> int:
    quarter = len(samples) // 4
    return int(median(samples[-quarter:]) - median(samples[quarter : 2 * quarter]))


def _at_most(what: str, seen: int | None, limit: int, remedy: str) -> Check:
    return Check(
        what=what,
        passed=seen is not None and seen <= limit,
        seen="it was not seen" if seen is None else f"{size(seen)} at its peak",
        expected=f"at most {size(limit)}",
        remedy=remedy,
    )
