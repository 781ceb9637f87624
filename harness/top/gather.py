"""Looks at a run directory again and again, cheaply: what changes often often, the rest more seldom.

Nothing of the run has to live, nothing is written, nobody is asked for anything. Not here: drawing
(`render.top`), and which run is meant (`cli.top`).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import time
from datetime import datetime
from typing import TYPE_CHECKING

from harness.clock import SYSTEM
from harness.errors import HarnessError
from harness.rundir import RunDirectory
from harness.schedules import scheduled_rate
from harness.snapshot import CommandView, RunView
from harness.supervise.gpus import GpuWatch
from harness.supervise.incidentstore import read_incident
from harness.supervise.standing import Standing, stand
from harness.top.history import MetricsTail
from harness.top.model import History, IncidentLine, RunLine, TopView
from harness.watch.ranks import Ranks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.clock import Clock
    from harness.snapshot import RankState

_STAND_SECONDS = 1.0
_STAND_SHARE = 0.03  # of a core, at most: the records of a thousand ranks take a while to read
_GONE = "its directory is gone, or cannot be reached: this is what was seen last"
_LOG_BYTES = 16 << 10
_LOG_LINES = 40
_INCIDENTS = 3


class Source:
    """One run directory under view."""

    def __init__(self, path: Path, *, clock: Clock = SYSTEM, gpus: bool = True) -> None:
        """UsageError or RecordError where there is no run."""
        self._clock = clock
        self._run = RunDirectory(path)
        self._gone = False
        self._next_stand = 0.0
        self._stand()
        self._ranks = Ranks(path, clock=clock, record=False)
        self._metrics = MetricsTail(self._run.metrics)
        self._gpus = GpuWatch(clock=clock) if gpus else None

    def poll(self) -> TopView:
        """One look."""
        if self._clock.monotonic() >= self._next_stand:
            try:
                self._stand()
            except (HarnessError, OSError):  # replaced under us: the next look is soon
                self._gone = not os.path.exists(self._run.path)  # noqa: PTH110 -- pathlib's may raise
        standing = self._standing
        if self._gpus is not None:
            self._gpus.poll()
        states = self._ranks.poll()
        size, grown, lines = _tail(self._run.output_log)
        record, last = standing.record, standing.record.last_attempt
        lead = next((each for each in states if each.alive), states[0] if states else None)
        past = self._metrics.poll()
        began = _seconds(last.started_at if last is not None else record.created_at)
        pids = {each.heartbeat.pid for each in states} | {standing.pid}
        readings = self._gpus.readings if self._gpus is not None else ()
        alive = standing.pid is not None
        view = RunView(
            run_id=record.run_id,
            name=record.name,
            taken_wall_seconds=self._clock.wall(),
            attempt=record.attempt,
            started_wall_seconds=began,
            status=standing.state,
            host=record.host,
            target_steps=record.target_steps,
            ranks=states,
            command=CommandView(
                alive=alive, finished=not alive, started_wall_seconds=began, last_progress_wall_seconds=grown
            ),
            log_bytes=size,
            log_growth_wall_seconds=grown,
            gpus=tuple(each for each in readings if pids & set(each.pids)) or readings,
        )
        return TopView(
            state="gone" if self._gone else standing.state,
            sentence=_GONE if self._gone else standing.sentence,
            path=str(standing.path),
            name=record.name,
            command=shlex.join(record.command),
            attempt=record.attempt,
            view=view,
            scheduled_rate=_scheduled(lead, past) if lead is not None else None,
            history=past,
            incidents=self._incidents,
            incident_count=standing.incident_count,
            log_path=str(standing.log),
            log=lines,
            notes=(*standing.notes, *self._ranks.take_problems()),
            metrics_address=standing.metrics_address,
        )

    def close(self) -> None:
        """Let go of everything."""
        self._ranks.close()
        if self._gpus is not None:
            self._gpus.close()

    def _stand(self) -> None:
        self._next_stand = self._clock.monotonic() + _STAND_SECONDS
        began = time.process_time()
        self._standing = stand(self._run.path)
        self._gone = False
        self._look_at_incidents()
        self._next_stand += max(0.0, (time.process_time() - began) / _STAND_SHARE - _STAND_SECONDS)

    def _look_at_incidents(self) -> None:
        found = []
        for folder in sorted(_incident_folders(self._run), key=lambda each: each.name, reverse=True):
            incident = read_incident(folder)
            if incident is not None:
                found.append(
                    IncidentLine(
                        name=folder.name,
                        where=f"{incident.where}, step {incident.step}"
                        if incident.step is not None
                        else incident.where,
                        verdict=incident.headline or incident.cause or incident.summary,
                        age_seconds=max(0.0, self._clock.wall() - _seconds(incident.opened_at)),
                        open=incident.closed_at is None,
                    )
                )
            if len(found) == _INCIDENTS:
                break
        self._incidents: tuple[IncidentLine, ...] = tuple(found)


def _scheduled(lead: RankState, past: History) -> float | None:
    """At the last step whose rate is shown: rows are written a moment after the record has moved on."""
    row = lead.heartbeat.last
    known = [step for step, rate in zip(past.steps, past.learning_rate, strict=True) if rate is not None]
    at = known[-1] if known else row.step if row is not None else None
    return scheduled_rate(lead.heartbeat.schedule, at) if at is not None else None


def _incident_folders(run: RunDirectory) -> Iterator[Path]:
    for one in run.incidents_of_all():
        with contextlib.suppress(OSError):
            yield from (each for each in one.iterdir() if each.name.isdigit())


def _seconds(text: str) -> float:
    """Of an ISO 8601 time; 0 where it is none."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0.0


def _tail(path: Path) -> tuple[int | None, float | None, tuple[str, ...]]:
    """Size, last growth and last lines of a log; a carriage return draws a line anew, as in a terminal."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None, None, ()
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            return None, None, ()
        data = os.pread(descriptor, _LOG_BYTES, max(0, facts.st_size - _LOG_BYTES))
    except OSError:
        return None, None, ()
    finally:
        os.close(descriptor)
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    if facts.st_size > _LOG_BYTES:
        lines = lines[1:]  # begins in the middle
    grown = facts.st_mtime if facts.st_size else None
    return facts.st_size, grown, tuple(line for line in lines[-_LOG_LINES:] if line.strip())


def runs(folder: Path) -> tuple[RunLine, ...]:
    """Every run below a folder: those that run first, then the newest."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            if path.is_symlink() or not path.is_dir():
                continue
            with contextlib.suppress(HarnessError, OSError):
                found.append(_line(stand(path)))
    live = ("stalled", "running", "starting", "unsupervised")
    return tuple(
        sorted(
            found,
            key=lambda each: (
                live.index(each.state) if each.state in live else len(live),
                -(each.begun_wall_seconds or 0.0),
            ),
        )
    )


def _line(standing: Standing) -> RunLine:
    beat, record = standing.beat, standing.record
    return RunLine(
        path=str(standing.path),
        name=record.name,
        state=standing.state,
        where="/".join(filter(None, (beat.stage, beat.phase))) if beat is not None else "",
        step=beat.step if beat is not None else None,
        target_steps=(beat.total_steps if beat is not None else None) or record.target_steps,
        loss=beat.last.loss if beat is not None and beat.last is not None else None,
        progress_age_seconds=standing.age_seconds,
        open_incidents=len(standing.open_incidents),
        incidents=standing.incident_count,
        begun_wall_seconds=_seconds(record.created_at) or None,
    )
