"""Expectations of a stage as a whole: how it ended, how far it came, what it left and what it measured. Pure.

A failed one says what was seen, what was expected, and what to do about it. Not here: those of its steps
(`expect_steps`), reading them from a plan (`expectations`), and observing (`observe`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.render.text import duration
from harness.smoke.checks import Bound, Check, number, plain, resolve

if TYPE_CHECKING:
    from harness.smoke.observed import Observed, SeenIncident


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
            limit, missing = resolve(bound, seen)
            wanted.append(missing or f"{words} {plain(limit)}")
            found = number(value)
            passed = passed and missing is None and found is not None and sign * (found - limit) >= 0
        if self.equals is not None:
            wanted.append(plain(self.equals))
            passed = passed and value == self.equals
        return Check(
            what=self.name,
            passed=passed,
            seen="it was not measured" if value is None else plain(value),
            expected=" and ".join(wanted) or "a value",
            remedy=self.remedy,
        )
