"""What became of each stage, and of the plan as a whole. Facts, and the few words made of them; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.smoke.checks import Check
    from harness.smoke.observed import Scalar

State: TypeAlias = Literal["passed", "failed", "skipped", "interrupted", "not run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One stage's."""

    name: str
    state: State
    budget_seconds: float
    seconds: float | None = None  # None where it was not started
    reason: str = ""  # one line: why it is not passed
    remedy: str = ""
    summary: str = ""  # what the stage is about
    checks: tuple[Check, ...] = ()
    resident_peak_bytes: int | None = None
    gpu_peak_bytes: int | None = None
    measured: Mapping[str, Scalar] = field(default_factory=dict)
    verdict: Mapping[str, Any] | None = None
    run_dir: str | None = None
    log: str | None = None
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All of them."""

    plan: str
    name: str
    folder: str
    again: str  # the command line that runs the same, to be continued with --from STAGE
    started_at: str
    seconds: float
    outcomes: tuple[Outcome, ...]
    interrupted: bool = False

    @property
    def first_failure(self) -> Outcome | None:
        """The first stage that failed."""
        return next((each for each in self.outcomes if each.state == "failed"), None)

    @property
    def passed(self) -> bool:
        """Every stage that was to run passed."""
        return all(each.state == "passed" for each in self.outcomes)

    def count(self, state: State) -> int:
        """How many ended so."""
        return sum(each.state == state for each in self.outcomes)
