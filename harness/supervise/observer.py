"""Looks at a run a few times a second and says what happened to it; never waits for anything.

Brings together progress (heartbeats, or the log and the processes of a command that never emits), limits
(`detect`) and incidents. Used by the supervisor's watcher and by `harness watch`. Whoever uses it polls the
records and the log themselves and hands in what they found, so that nothing is read twice.

Not here: reading records (`watch.ranks`) and logs (`watch.logtail`), and acting on a stall (`policy`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.detect import Detector, Limit, Overrides
from harness.notices import IncidentDismissed, Notice
from harness.supervise.eventlog import EventLog
from harness.supervise.gather import DEADLINE_SECONDS, Gathering
from harness.supervise.incidents import Incidents
from harness.supervise.tree import Identity
from harness.watch.activity import CommandProgress, TreeActivity
from harness.watch.procstat import boot_id
from harness.watch.progress import COMMAND_STAGE, Progress, from_heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from harness.clock import Clock
    from harness.detect import Suspicion
    from harness.rundir import RunDirectory
    from harness.snapshot import RankState
    from harness.supervise.incidentstore import Incident


_MOVED = "moved"  # harness.emit: the process has the record of another rank now


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """The command that is being observed: its first process, and how to list all of them."""

    pid: int
    start_time_ticks: int
    pids: Callable[[], Iterable[int]]
    has_log: bool = True


class Observer:
    """One run under observation, over all its attempts."""

    def __init__(
        self,
        run: RunDirectory,
        *,
        clock: Clock,
        overrides: Overrides | None = None,
        attempt: int = 1,
        records: Path | None = None,
        collect_deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._records = records or run.path  # where the ranks' records lie
        self._clock = clock
        self._overrides = overrides or Overrides()
        self._deadline = collect_deadline_seconds
        self._boot_id = boot_id()
        self._detector = Detector(self._overrides)
        self._command: Command | None = None
        self._command_progress: CommandProgress | None = None
        self._progress: dict[int | None, Progress] = {}
        self._incidents = Incidents(
            run.incidents,
            clock=clock,
            events=EventLog(run.supervisor_events, clock=clock),
            gather=self._gather,
            attempt=attempt,
        )

    # ── what the loop calls ────────────────────────────────────────────────────────────────────────────────

    def command_started(self, command: Command, *, attempt: int) -> None:
        """From now on this is the command; nothing learned of an earlier one holds for it."""
        self._command = command
        self._detector = Detector(self._overrides)
        self._progress = {}
        self._command_progress = self._progress_of_command()
        self._incidents.next_attempt(attempt)

    def tick(self, ranks: Iterable[RankState], grown_bytes: int = 0) -> tuple[Notice, ...]:
        """Look once: `ranks` as just polled, `grown_bytes` of log since the last tick."""
        now = self._clock.monotonic()
        wall = self._clock.wall()
        living: dict[int | None, Progress] = {}
        unsaid = False
        for state in ranks:
            if not state.alive or state.heartbeat.closed_status == _MOVED:
                continue
            progress = from_heartbeat(
                state.heartbeat, boot_id=self._boot_id, now_monotonic_seconds=now, now_wall_seconds=wall
            )
            if progress.stage == COMMAND_STAGE:
                unsaid = True
            else:
                living[state.heartbeat.rank] = progress
        if living and not unsaid:
            self._command_progress = None  # its records tell more than its log
        else:
            self._command_progress = self._command_progress or self._progress_of_command()
            if self._command_progress is not None:
                living[None] = self._command_progress.poll(grown_bytes)
        for gone in self._progress.keys() - living.keys():
            self._detector.forget(gone)
        self._progress = living
        notices: list[Notice] = []
        for progress in living.values():
            suspicion = self._detector.observe(progress, now)
            if suspicion is not None:
                notices.extend(self._incidents.suspect(suspicion, progress))
        if living and None not in living:
            # A stall seen before the first record ends with what any record says.
            living = {**living, None: next(iter(living.values()))}
        for notice in self._incidents.poll(living, goes_on=self._goes_on()):
            notices.append(notice)
            if isinstance(notice, IncidentDismissed):
                self._detector.excuse(notice.suspicion.rank)
        return tuple(notices)

    def command_ended(self, how: str, *, well: bool) -> tuple[Notice, ...]:
        """The command is gone: `how` in a few words ("exit 1", "SIGKILL", "terminated: stalled")."""
        self._progress = {}
        self._command = self._command_progress = None
        return self._incidents.command_ended(how, well=well)

    def close(self) -> None:
        """Stop observing a command that may go on."""
        self._incidents.abandon()

    # ── what metrics and the live line ask ─────────────────────────────────────────────────────────────────

    def limits(self) -> Mapping[int | None, Limit]:
        """The limit in force for every rank observed (None: the whole command, which never emitted)."""
        found = {rank: self._detector.limit(rank) for rank in self._progress}
        return {rank: limit for rank, limit in found.items() if limit is not None}

    @property
    def progress(self) -> Mapping[int | None, Progress]:
        """Where every living rank stood at the last tick."""
        return self._progress

    @property
    def command_progress(self) -> Progress | None:
        """The whole command's progress, for one that does not emit."""
        return self._progress.get(None)

    @property
    def stalls(self) -> Mapping[tuple[str, str], int]:
        """Incidents opened, by stage and cause."""
        return dict(self._incidents.opened)

    @property
    def last_incident_wall_seconds(self) -> float | None:
        """When the last incident opened."""
        return self._incidents.last_opened_wall_seconds

    @property
    def collect_errors(self) -> Mapping[str, int]:
        """Failures while evidence was taken, by collector."""
        return dict(self._incidents.errors)

    @property
    def open_incident(self) -> Incident | None:
        """The incident that is open now."""
        return self._incidents.open_incident

    def _gather(self, suspicion: Suspicion, out: Path) -> Gathering:
        pid, start_time_ticks = self._target(suspicion)
        return Gathering(
            pid=pid,
            start_time_ticks=start_time_ticks,
            run_dir=self._records,
            out=out,
            clock=self._clock,
            deadline_seconds=self._deadline,
        )

    def _progress_of_command(self) -> CommandProgress | None:
        """By its log and its processes, from now on: for as long as no record says more."""
        command = self._command
        if command is None:
            return None
        return CommandProgress(
            incarnation=(command.pid, command.start_time_ticks),
            activity=TreeActivity(command.pids, clock=self._clock),
            clock=self._clock,
            has_log=command.has_log,
        )

    def _target(self, suspicion: Suspicion) -> tuple[int, int]:
        """The command's first process, whose whole tree is looked at; a rank's own where that is gone."""
        command = self._command
        if command is not None and self._goes_on():
            return command.pid, command.start_time_ticks
        return self._progress[suspicion.rank].incarnation

    def _goes_on(self) -> bool:
        """Whether the command's first process lives: that very one; its pid may be a stranger's by now."""
        command = self._command
        if command is None:
            return False
        return Identity(pid=command.pid, start_time_ticks=command.start_time_ticks or None).alive()
