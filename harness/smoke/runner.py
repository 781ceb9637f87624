"""Running a plan: stage after stage, skipping what depends on a failed one, to a report in any case.

Not here: how one stage is run (`execution`), what is shown meanwhile (`screen`), and the report's files
(`files`).
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Protocol

from harness.errors import UsageError
from harness.redaction import strike_out
from harness.rundir import utc
from harness.smoke.execution import Execution, diagnosed, environment, over_budget, unseen
from harness.smoke.outcome import Outcome, Report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from harness.smoke.checks import Check
    from harness.smoke.execution import Ran
    from harness.smoke.interrupts import Interrupts
    from harness.smoke.observe import Moment
    from harness.smoke.plan import Plan, Stage

_FOLDERS = 1000


class Show(Protocol):
    """Who is told how it goes; never raises, never waits for long."""

    def begin(self, plan: Plan, stages: Sequence[Stage], folder: Path) -> None:
        """Before the first stage."""
        ...

    def started(self, stage: Stage) -> None:
        """A stage begins."""
        ...

    def moment(self, stage: Stage, moment: Moment, seconds: float) -> None:
        """It runs."""
        ...

    def resting(self) -> None:
        """Ctrl-Z: the shell has the terminal until `rested`."""
        ...

    def rested(self) -> None:
        """It goes on."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """It ended, or was never started."""
        ...

    def finished(self, report: Report) -> None:
        """All is over."""
        ...


def new_folder(runs: Path, now_seconds: float) -> Path:
    """Make runs/smoke-<UTC>, one that was not there; UsageError where it cannot be."""
    stamp = time.strftime("smoke-%Y-%m-%dT%H-%M-%S", time.gmtime(now_seconds))
    for number in range(_FOLDERS):
        folder = runs / (f"{stamp}-{number}" if number else stamp)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not runs.is_dir():
                raise UsageError(f"{runs}: is no folder", remedy="Name another with --runs") from None
            continue
        except OSError as error:
            raise UsageError(
                f"{folder}: cannot be made: {error.strerror}", remedy="Name another place with --runs"
            ) from None
        return folder
    raise UsageError(f"{runs}: has too many folders {stamp}-*", remedy="Name another place with --runs")


class Runner:
    """Runs the chosen stages of a plan, in order."""

    def __init__(
        self, plan: Plan, stages: Sequence[Stage], folder: Path, show: Show, *, again: str = "harness smoke"
    ) -> None:
        self._plan, self._stages, self._folder, self._show = plan, stages, folder, show
        self._again = again
        self._environment: Mapping[str, str] = environment()
        self._outcomes: dict[str, Outcome] = {}

    def run(self, interrupts: Interrupts) -> Report:
        """All of it; telling how it ended is left to who keeps the report."""
        started_at, began = utc(), time.monotonic()
        self._show.begin(self._plan, self._stages, self._folder)
        for stage in self._stages:
            if interrupts.rest_asked:
                self._rest(interrupts)
            if interrupts.count:
                outcome = _unstarted(stage, "not run", "interrupted before")
            else:
                blocked = self._blocked(stage)
                outcome = (
                    _unstarted(stage, "skipped", blocked) if blocked else self._run_stage(stage, interrupts)
                )
            self._outcomes[stage.name] = outcome
            self._show.ended(outcome)
        return Report(
            plan=self._plan.path,
            name=self._plan.name,
            folder=str(self._folder),
            again=self._again,
            started_at=started_at,
            seconds=time.monotonic() - began - interrupts.rested_seconds,
            outcomes=tuple(self._outcomes.values()),
            interrupted=interrupts.count > 0,
        )

    def _blocked(self, stage: Stage) -> str:
        """Which of those it needs did not pass; what was not chosen to run is taken for granted."""
        for name in stage.needs:
            outcome = self._outcomes.get(name)
            if outcome is not None and outcome.state != "passed":
                return f"needs {name}, which {'failed' if outcome.state == 'failed' else 'was skipped'}"
        return ""

    def _rest(self, interrupts: Interrupts) -> None:
        self._show.resting()
        interrupts.rest()
        self._show.rested()

    def _run_stage(self, stage: Stage, interrupts: Interrupts) -> Outcome:
        began = time.monotonic() - interrupts.rested_seconds

        def passed() -> float:
            return time.monotonic() - interrupts.rested_seconds - began

        self._show.started(stage)
        folder = self._folder / stage.name
        try:
            ran = Execution(
                stage,
                folder,
                self._environment,
                tell=lambda moment: self._show.moment(stage, moment, passed()),
                interrupts=interrupts,
                rest=lambda: self._rest(interrupts),
            ).run()
        except UsageError as error:
            return _failed(stage, folder, passed(), str(error), "")
        return judged(stage, folder, ran)


def judged(stage: Stage, folder: Path, ran: Ran) -> Outcome:
    """What became of a stage that ran."""
    seen = ran.observed
    checks = tuple(each.check(seen) for each in stage.expectations)
    reason, remedy = _why(stage, ran, checks)
    log = folder / "log" / "output.log"
    with contextlib.suppress(OSError):
        if not log.is_file():
            log = folder.with_name(f"{folder.name}.harness.log")
    return Outcome(
        name=stage.name,
        state="interrupted" if seen.ended_by == "interrupt" else "failed" if reason else "passed",
        budget_seconds=stage.budget_seconds,
        seconds=seen.seconds,
        reason=reason,
        remedy=remedy if reason else "",
        summary=stage.summary,
        checks=checks,
        resident_peak_bytes=seen.resident_peak_bytes,
        gpu_peak_bytes=seen.gpu_peak_bytes,
        measured=seen.measured,
        verdict=ran.verdict,
        run_dir=str(folder),
        log=str(log),
        command=strike_out(stage.command)[0],
    )


def _why(stage: Stage, ran: Ran, checks: Sequence[Check]) -> tuple[str, str]:
    """Why it failed, in one line, and what to do; empty where it passed."""
    seen = ran.observed
    if seen.ended_by == "interrupt":
        return "interrupted", ""
    if ran.problem is not None:
        return ran.problem, stage.remedy
    failed = next((check for check in checks if not check.passed), None)
    next_steps = [str(step) for step in (ran.verdict or {}).get("next_steps", ())]
    verdict_remedy = next_steps[0] if next_steps else ""
    if seen.ended_by == "budget":
        remedy = verdict_remedy or "Raise its budget, or give --timeout-scale 2 on a slow machine"
        return over_budget(stage, ran.verdict), stage.remedy or remedy
    if failed is None:
        return "", ""
    if seen.ended_by == "stall" and failed.what in ("exit", "incident") and not _stall_expected(checks):
        told = diagnosed(ran.verdict) or (seen.incidents[0].headline if seen.incidents else "no verdict")
        return f"stalled · {told}", stage.remedy or verdict_remedy
    if failed.what == "exit" and seen.last_line and not _stall_expected(checks):
        # A trainer that fails in order says what, and what to do, in its last line.
        return f"exit status {failed.seen.partition(' ')[0]}: {seen.last_line}", stage.remedy
    if failed.what == "exit":  # of several, the one that says more than a number
        failed = next((check for check in checks if not check.passed and check.what != "exit"), failed)
    if failed.what == "incident" and (ran.verdict or {}).get("cause") == "unknown":
        return failed.sentence, unseen(ran.diagnosis) or failed.remedy
    return failed.sentence, failed.remedy or stage.remedy


def _stall_expected(checks: Sequence[Check]) -> bool:
    return any(check.what == "incident" and check.expected != "no stall" for check in checks)


def _unstarted(stage: Stage, state: str, reason: str) -> Outcome:
    assert state in ("skipped", "not run")
    return Outcome(
        name=stage.name,
        state="skipped" if state == "skipped" else "not run",
        budget_seconds=stage.budget_seconds,
        reason=reason,
        summary=stage.summary,
        command=strike_out(stage.command)[0],
    )


def _failed(stage: Stage, folder: Path, seconds: float, reason: str, remedy: str) -> Outcome:
    return Outcome(
        name=stage.name,
        state="failed",
        budget_seconds=stage.budget_seconds,
        seconds=seconds,
        reason=reason,
        remedy=remedy,
        summary=stage.summary,
        run_dir=str(folder),
        command=strike_out(stage.command)[0],
    )
