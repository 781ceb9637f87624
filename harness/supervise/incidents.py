"""From a suspicion to an incident on disk, and to its end.

    suspicion -> a child takes evidence and judges it -> progress, or a verdict healthy or slow: dismissed
                                                         else: incidents/NNN, until progress returns

One incident for one stall: what stalls while one is open joins it. A disk that is full costs the evidence,
not the incident: it is announced and counted all the same. Evidence is bounded: the oldest incidents lose
theirs and keep their `incident.json`.

Not here: when silence is suspicious (`detect`), how evidence is taken (`gather`), the disk (`incidentstore`),
and what is done about a stall (`policy`).
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from harness.notices import IncidentClosed, IncidentDismissed, IncidentOpened, Notice, Suspected
from harness.supervise.gather import Gathered, Gathering
from harness.supervise.incidentstore import MAX_BYTES, MAX_KEPT, Incident, IncidentStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from harness.clock import Clock
    from harness.detect import Suspicion
    from harness.supervise.eventlog import EventLog
    from harness.watch.progress import Progress

# How long the end of a run waits for evidence that is being taken.
_LAST_WAIT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where a rank stood when it was suspected: what it has to leave for the stall to be over."""

    moved_at_wall_seconds: float
    moved_at_monotonic_seconds: float | None  # for wall time may be set back; None: an earlier supervisor's
    count: int | None
    incarnation: tuple[int, int] | None

    def left_by(self, progress: Progress) -> bool:
        if self.incarnation is not None and progress.incarnation != self.incarnation:
            return True
        if self.count is None and progress.source != "heartbeat":
            return progress.count > 0  # taken over from an earlier supervisor, whose count is not ours
        if self.count is not None and progress.count != self.count:
            return True
        if self.moved_at_monotonic_seconds is not None:
            return progress.moved_at_monotonic_seconds > self.moved_at_monotonic_seconds
        return progress.moved_at_wall_seconds > self.moved_at_wall_seconds


@dataclass(slots=True)
class _Stall:
    """The one stall that is being looked at, or stands open."""

    suspicion: Suspicion | None  # None where an earlier supervisor saw it begin
    began_wall_seconds: float
    marks: dict[int | None, _Mark]
    gathering: Gathering | None = None
    incident: Incident | None = None  # once it is open
    ranks: list[int | None] = field(default_factory=list)
    began_monotonic_seconds: float | None = None

    def ended_wall_seconds(self, moved: Progress) -> float:
        """When it ended, by the clock that told when it began; the wall clock may have been set meanwhile."""
        if self.began_monotonic_seconds is None:
            return moved.moved_at_wall_seconds
        return self.began_wall_seconds + moved.moved_at_monotonic_seconds - self.began_monotonic_seconds


class Incidents:
    """All incidents of a run; at most one is open."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        events: EventLog,
        gather: Callable[[Suspicion, Path], Gathering],
        attempt: int,
        max_kept: int = MAX_KEPT,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._store = IncidentStore(folder, max_kept=max_kept, max_bytes=max_bytes)
        self._clock = clock
        self._events = events
        self._gather = gather
        self._attempt = attempt
        self._stall: _Stall | None = None
        self.opened: Counter[tuple[str, str]] = Counter()
        self.errors: Counter[str] = Counter()
        self.last_opened_wall_seconds: float | None = None
        self._highest = 0
        self._look_back()

    @property
    def open_incident(self) -> Incident | None:
        """The incident that is open now."""
        return self._stall.incident if self._stall else None

    def suspect(self, suspicion: Suspicion, progress: Progress) -> tuple[Notice, ...]:
        """A rank went over its limit. Joins the stall that is there, or begins the taking of evidence."""
        mark = _Mark(
            progress.moved_at_wall_seconds,
            progress.moved_at_monotonic_seconds,
            progress.count,
            progress.incarnation,
        )
        if self._stall is not None:
            self._stall.marks[suspicion.rank] = mark
            if suspicion.rank not in self._stall.ranks:
                self._stall.ranks.append(suspicion.rank)
            return ()
        stall = _Stall(
            suspicion,
            suspicion.since_wall_seconds,
            {suspicion.rank: mark},
            ranks=[suspicion.rank],
            began_monotonic_seconds=progress.moved_at_monotonic_seconds,
        )
        self._stall = stall
        self._events.write("suspected", **_facts(suspicion))
        try:
            stall.gathering = self._gather(suspicion, self._store.pending(self._highest + 1))
        except OSError as error:  # no process to be had: the incident is known all the same
            failed = Gathered(
                errors={"gather": 1}, problem=f"taking evidence could not begin: {error.strerror}"
            )
            return (Suspected(suspicion=suspicion), self._open(stall, suspicion, failed, None))
        return (Suspected(suspicion=suspicion),)

    def poll(self, progress: Mapping[int | None, Progress], *, goes_on: bool = True) -> tuple[Notice, ...]:
        """Look whether evidence is in and whether progress returned; `progress` of the living ranks.

        The command itself `goes_on`, or is about to end: that is said with how it ended.
        """
        stall = self._stall
        if stall is None:
            return ()
        moved = [
            rank for rank, mark in stall.marks.items() if rank in progress and mark.left_by(progress[rank])
        ]
        over = bool(moved) and all(rank in moved for rank in stall.marks if rank in progress)
        # The command goes on without it: with a script's next program, say, when somebody killed this one.
        gone = goes_on and not any(
            rank in progress or mark.incarnation is None for rank, mark in stall.marks.items()
        )
        ended_wall = max((stall.ended_wall_seconds(progress[rank]) for rank in moved), default=0.0)
        notices: list[Notice] = []
        if stall.gathering is not None and stall.suspicion is not None:
            gathered = stall.gathering.poll()
            if over:
                # No need to wait for evidence of what is over: the trainer is better off without a dump.
                stall.gathering.kill()
                return (self._dismiss(stall, stall.suspicion, ended_wall),)
            if gathered is None:
                return ()
            if gathered.moved:
                self.errors.update(gathered.errors)  # what failed, failed, whatever became of the suspicion
                return (self._dismiss(stall, stall.suspicion, self._clock.wall()),)
            notices.append(self._open(stall, stall.suspicion, gathered, stall.gathering.out))
            stall.gathering = None
        elif over:
            notices.append(self._close(stall, "progress", ended_wall))
        elif gone:
            notices.append(self._close(stall, "its process ended, or tells no more", self._clock.wall()))
        return tuple(notices)

    def command_ended(self, how: str, *, well: bool) -> tuple[Notice, ...]:
        """The command is gone, so no stall outlasts it. Waits shortly for evidence that is being taken."""
        stall = self._stall
        if stall is None:
            return ()
        notices: list[Notice] = []
        now = self._clock.wall()
        if stall.gathering is not None and stall.suspicion is not None:
            gathered = None
            until = self._clock.monotonic() + _LAST_WAIT_SECONDS
            while not well and gathered is None and self._clock.monotonic() < until:
                gathered = stall.gathering.poll()
                if gathered is None:
                    time.sleep(0.02)
            if well:
                stall.gathering.kill()
                return (self._dismiss(stall, stall.suspicion, now),)
            if gathered is None:
                stall.gathering.kill()
                gathered = stall.gathering.poll() or Gathered(
                    problem="the command ended while evidence was taken"
                )
            notices.append(self._open(stall, stall.suspicion, gathered, stall.gathering.out))
            stall.gathering = None
        notices.append(self._close(stall, how, now))
        return tuple(notices)

    def next_attempt(self, attempt: int) -> None:
        """From now on incidents belong to this attempt."""
        self._attempt = attempt

    def abandon(self) -> None:
        """The supervisor ends, the command may go on: stop taking evidence, leave an open incident open."""
        if self._stall and self._stall.gathering:
            self._stall.gathering.kill()
            self._store.discard(self._stall.gathering.out)
        self._stall = None

    # ── the three transitions ──────────────────────────────────────────────────────────────────────────────

    def _open(
        self, stall: _Stall, suspicion: Suspicion, gathered: Gathered, pending: Path | None
    ) -> IncidentOpened:
        self._highest += 1
        now = self._clock.wall()
        incident = Incident(
            number=self._highest,
            attempt=self._attempt,
            opened_at=_iso(now),
            stage=suspicion.stage,
            where=suspicion.where,
            phase=suspicion.phase,
            step=suspicion.step,
            rank=suspicion.rank,
            ranks=tuple(stall.ranks),
            last_progress_at_seconds=suspicion.since_wall_seconds,
            idle_seconds=round(suspicion.idle_seconds, 3),
            limit_seconds=suspicion.limit_seconds,
            why=suspicion.why,
            summary=suspicion.summary,
            headline=gathered.headline,
            cause=gathered.cause,
            evidence=gathered.problem or "whole",
        )
        self.opened[suspicion.stage, gathered.cause] += 1
        self.errors.update(gathered.errors)
        self.last_opened_wall_seconds = now
        path, problem = None, gathered.problem
        try:
            path = self._store.settle(incident, pending or self._store.pending(incident.number))
        except OSError as error:
            self._trouble(error)
            problem = problem or f"it could not be written: {error.strerror or error}"
        stall.incident = dataclasses.replace(incident, evidence=problem) if problem else incident
        self._events.write("incident-opened", number=incident.number, problem=problem, **_facts(suspicion))
        for number in self._store.make_room():
            self._events.write("evidence-dropped", number=number)
        return IncidentOpened(
            number=incident.number,
            path=path,
            suspicion=suspicion,
            headline=gathered.headline,
            problem=problem,
        )

    def _dismiss(self, stall: _Stall, suspicion: Suspicion, ended_wall: float) -> IncidentDismissed:
        self._stall = None
        if stall.gathering:
            self._store.discard(stall.gathering.out)
        after = max(0.0, ended_wall - stall.began_wall_seconds)
        self._events.write("suspicion-dismissed", after_seconds=round(after, 3), **_facts(suspicion))
        return IncidentDismissed(suspicion=suspicion, after_seconds=after)

    def _close(self, stall: _Stall, how: str, ended_wall: float) -> IncidentClosed:
        self._stall = None
        assert stall.incident is not None
        after = max(0.0, ended_wall - stall.began_wall_seconds)
        closed = dataclasses.replace(
            stall.incident,
            ranks=tuple(stall.ranks),
            closed_at=_iso(self._clock.wall()),
            closed_after_seconds=round(after, 3),
            how=how,
        )
        path = None
        try:
            path = self._store.update(closed)
        except OSError as error:
            self._trouble(error)
        self._events.write("incident-closed", number=closed.number, after_seconds=round(after, 3), how=how)
        return IncidentClosed(number=closed.number, path=path, after_seconds=after, how=how)

    def _trouble(self, error: OSError) -> None:
        self.errors["disk"] += 1
        self._events.write("incident-not-written", error=error.strerror or str(error))

    def _look_back(self) -> None:
        """After an earlier supervisor of this run: take over the incident that is open."""
        self._highest, last = self._store.look_back()
        if last is None or last.closed_at is not None:
            return
        began = last.last_progress_at_seconds
        marks = {rank: _Mark(began, None, None, None) for rank in last.ranks}
        self._stall = _Stall(None, began, marks, incident=last, ranks=list(last.ranks))
        if last.attempt != self._attempt:
            self._close(self._stall, "its supervisor ended", self._clock.wall())


def _facts(suspicion: Suspicion) -> dict[str, object]:
    return {
        "rank": suspicion.rank,
        "where": suspicion.where,
        "step": suspicion.step,
        "idle_seconds": round(suspicion.idle_seconds, 3),
        "limit_seconds": suspicion.limit_seconds,
        "why": suspicion.why,
    }


def _iso(wall_seconds: float) -> str:
    return datetime.fromtimestamp(wall_seconds, tz=timezone.utc).isoformat(timespec="milliseconds")
