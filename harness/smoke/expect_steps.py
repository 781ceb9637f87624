"""Expectations of a stage's steps: loss, learning rate, speed and memory. Pure.

Not here: those of the stage as a whole (`expect`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import mean, median
from typing import TYPE_CHECKING

from harness.render.text import exponent, size
from harness.schedules import scheduled_rate
from harness.smoke.checks import Bound, Check, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.smoke.observed import Observed, Row

# Trainers compute the rate in float64 and report it so; the heartbeat keeps doubles.
_RATE_TOLERANCE = 1e-6
# A loss wobbles: its ends are means over this share of the steps, and at least this many of them.
_END_SHARE = 0.1
_END_STEPS = 3
# Growth is told from two stretches of samples; with fewer there is nothing to tell.
MIN_SAMPLES = 8


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
        wanted, missing = resolve(self.by, seen)
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
        wanted, missing = resolve(self.bound, seen)
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
        wanted, missing = resolve(self.at_least, seen)
        return Check(
            what="tokens_per_second",
            passed=missing is None and bool(rates) and median(rates) >= wanted,
            seen=f"{median(rates):,.0f}" if rates else "no step with its tokens was reported",
            expected=missing or f"at least {wanted:,.0f}",
            remedy="Its log says why; or give the plan a number instead"
            if missing
            else "See where a step's time goes: metrics.jsonl has its phases",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """Resident memory of all its processes together."""

    at_most_bytes: int

    def check(self, seen: Observed) -> Check:
        """At its peak."""
        remedies = "Lower the batch, or raise the bound", "Does it run for long enough to be looked at?"
        return _at_most("memory", seen.resident_peak_bytes, self.at_most_bytes, remedies)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """Memory of the GPU that held most."""

    at_most_bytes: int

    def check(self, seen: Observed) -> Check:
        """At its peak."""
        remedies = (
            "Lower the batch, recompute activations, or raise the bound",
            "A torch trainer on CUDA is seen; others report it with harness.emit.step(memory=…)",
        )
        return _at_most("gpu_memory", seen.gpu_peak_bytes, self.at_most_bytes, remedies)


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
        if most is not None and "host" not in grown and grown[most] <= self.at_most_bytes:
            most = None  # the GPU alone does not tell of the host
        return Check(
            what="memory_growth",
            passed=most is not None and grown[most] <= self.at_most_bytes,
            seen=f"{size(max(0, grown[most]))} on the {most}"
            if most
            else f"{len(seen.resident_bytes)} samples while it trained, too few to tell",
            expected=f"at most {size(self.at_most_bytes)}",
            remedy="Look for what keeps tensors or rows from step to step" if most else "Train longer",
        )


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


def _at_most(what: str, seen: int | None, limit: int, remedies: tuple[str, str]) -> Check:
    """`remedies`: for too much, and for what was not seen."""
    return Check(
        what=what,
        passed=seen is not None and seen <= limit,
        seen="it was not seen" if seen is None else f"{size(seen)} at its peak",
        expected=f"at most {size(limit)}",
        remedy=remedies[seen is None],
    )
