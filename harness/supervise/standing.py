"""Where a run stands, read from its directory alone, whether anything of it lives or not.

Not here: how it is put into words for a terminal (`cli.status`).
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import RecordError
from harness.rundir import Attempt, RunDirectory, RunRecord, host_name
from harness.supervise.opening import alive_attempt, is_of_this_boot, settle
from harness.supervise.tree import Identity
from harness.watch.procstat import boot_id, read_stat

if TYPE_CHECKING:
    from pathlib import Path

    from harness.watch.heartbeat import Heartbeat

SCHEMA = "harness.status/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """All that the files tell."""

    path: Path
    record: RunRecord
    state: str
    sentence: str
    pid: int | None
    beats: tuple[Heartbeat, ...]
    age_seconds: float | None  # since the last progress; of the rank that moved longest ago
    open_incidents: tuple[str, ...]
    incident_count: int
    supervised: bool
    log: Path
    notes: tuple[str, ...]

    @property
    def beat(self) -> Heartbeat | None:
        """The lowest rank's record."""
        return self.beats[0] if self.beats else None

    @property
    def at(self) -> str:
        """`train/forward · step 128/400`."""
        if self.beat is None:
            return ""
        target = self.beat.total_steps or self.record.target_steps
        where = "/".join(each.stage for each in self.beat.stages) or self.beat.stage
        where += f"/{self.beat.phase}" if self.beat.phase else ""
        if self.beat.step is None:
            return where
        return f"{where} · step {self.beat.step}" + (f"/{target}" if target else "")

    @property
    def numbers(self) -> str:
        """`loss 4.812 · lr 1.00e-03`."""
        row = self.beat.last if self.beat else None
        if row is None:
            return ""
        parts = [f"loss {row.loss:.4g}"] if row.loss is not None else []
        parts += [f"lr {row.learning_rates[0]:.2e}"] if row.learning_rates else []
        parts += [f"{row.step_seconds:.3g} s a step"] if row.step_seconds else []
        return " · ".join(parts)

    @property
    def attempts(self) -> list[str]:
        """One short text per attempt."""
        return [f"{each.attempt}: {ending_words(each)}" for each in self.record.attempts]

    @property
    def incidents(self) -> str:
        """`3, one open: runs/latest/incidents/003`."""
        if not self.incident_count:
            return ""
        still = f", open: {', '.join(self.open_incidents)}" if self.open_incidents else ""
        return f"{self.incident_count}{still}"

    @property
    def metrics_address(self) -> str | None:
        """Where metrics are served now."""
        return self.record.metrics_address if self.supervised else None

    def document(self) -> dict[str, Any]:
        """The same for programs. Later versions may add keys, never change these."""
        row = self.beat.last if self.beat else None
        last = self.record.last_attempt
        return {
            "schema": SCHEMA,
            "state": self.state,
            "summary": self.sentence,
            "run_dir": str(self.path),
            "run_id": self.record.run_id,
            "name": self.record.name,
            "host": self.record.host,
            "command": list(self.record.command),
            "pid": self.pid,
            "supervisor_pid": self.record.supervisor_pid if self.supervised else None,
            "attempt": self.record.attempt,
            "attempts": [
                {
                    "attempt": each.attempt,
                    "started_at": each.started_at,
                    "ended_at": each.ended_at,
                    "exit_status": each.exit_status,
                    "ended_by": each.ended_by,
                }
                for each in self.record.attempts
            ],
            "exit_status": last.exit_status if last else None,
            "stage": self.beat.stage if self.beat else None,
            "phase": self.beat.phase if self.beat else None,
            "step": self.beat.step if self.beat else None,
            "target_steps": (self.beat.total_steps if self.beat else None) or self.record.target_steps,
            "loss": number(row.loss) if row else None,
            "learning_rate": number(row.learning_rates[0]) if row and row.learning_rates else None,
            "last_progress_age_seconds": self.age_seconds,
            "ranks": len(self.beats),
            "incidents": self.incident_count,
            "open_incidents": list(self.open_incidents),
            "metrics_address": self.metrics_address,
            "log": str(self.log),
            "notes": list(self.notes),
        }


def number(value: float | None) -> float | str | None:
    """JSON has no NaN."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def ending_words(attempt: Attempt) -> str:
    """How an attempt ended, in a few words."""
    if attempt.ended_at is None:
        return "no ending recorded"
    if attempt.ended_by == "stall":
        return "stalled, and was ended for it"
    if attempt.exit_status is None:
        return "ended, exit status unknown"
    if attempt.ended_by and attempt.ended_by.startswith(("SIG", "signal")):
        return f"killed by {attempt.ended_by}"
    asked = {"interrupt": " after Ctrl-C", "request": " after SIGTERM"}.get(attempt.ended_by or "", "")
    return f"exit status {attempt.exit_status}{asked}"


def stand(path: Path) -> Standing:
    """Read it; UsageError or RecordError where there is no run to tell of."""
    run = RunDirectory(path)
    record = settle(run, run.read())
    beats, notes = _beats(run)
    opened, count = _incidents(run)
    here = record.host == host_name()
    same_boot = is_of_this_boot(record) or (here and record.boot_id is None)  # else all of then are gone
    supervised = same_boot and record.supervisor_pid is not None and _supervisor(record).alive()
    alive = alive_attempt(record)
    state, sentence = _state(run, record, alive, here=here, supervised=supervised, stalled=bool(opened))
    process = read_stat(alive.pid) if alive is not None and alive.pid else None
    if alive is not None and process is not None and process.state in "Tt":
        notes += (f"pid {alive.pid} is stopped (SIGSTOP, Ctrl-Z or a debugger): kill -CONT {alive.pid}",)
    age = max((_age(each) for each in beats), default=None)
    return Standing(
        path=path,
        record=record,
        state=state,
        sentence=sentence,
        pid=alive.pid if alive else None,
        beats=beats,
        age_seconds=age,
        open_incidents=opened,
        incident_count=count,
        supervised=supervised,
        log=run.output_log,
        notes=notes,
    )


def _supervisor(record: RunRecord) -> Identity:
    return Identity(pid=record.supervisor_pid or 0, start_time_ticks=record.supervisor_start_time_ticks)


def _age(beat: Heartbeat) -> float:
    if beat.boot_id == boot_id():
        return max(0.0, time.monotonic() - beat.last_progress_monotonic_seconds)
    return max(0.0, time.time() - beat.last_progress_wall_seconds)


def _state(
    run: RunDirectory,
    record: RunRecord,
    alive: Attempt | None,
    *,
    here: bool,
    supervised: bool,
    stalled: bool,
) -> tuple[str, str]:
    last = record.last_attempt
    if last is None:
        if supervised or not here:
            return "starting", "its command has not been started yet"
        return "lost", "its command was never started"
    if alive is not None:
        again = f"supervise it again with: harness run --run-dir {run.path}"
        if not supervised:
            return "unsupervised", f"its command runs, pid {alive.pid}, but its harness is gone · {again}"
        if stalled:
            return "stalled", f"its command runs, pid {alive.pid}, and makes no progress"
        return "running", f"its command runs, pid {alive.pid}"
    if last.ended_at is None:
        if not here:
            return "elsewhere", f"on host {record.host}; its files do not say that it ended"
        return "lost", "its command is gone, and nobody saw how it ended"
    words = ending_words(last)
    if last.exit_status is None and _closed_well(run):
        return "finished", "its trainer said that it finished; nobody saw its exit status"
    return ("finished" if last.exit_status == 0 else "died"), f"{words}, at {last.ended_at}"


def _closed_well(run: RunDirectory) -> bool:
    beats, _ = _beats(run)
    return bool(beats) and all(each.closed_status == "finished" for each in beats)


def _beats(run: RunDirectory) -> tuple[tuple[Heartbeat, ...], tuple[str, ...]]:
    """Every rank's record, the lowest first; what could not be read is noted."""
    from harness.watch import heartbeat

    found, notes = [], []
    with contextlib.suppress(OSError):
        for path in sorted(run.ranks.glob("*.beat")):
            try:
                found.append(heartbeat.read(path))
            except (RecordError, OSError) as error:  # noqa: PERF203 -- one rank's damage is its own
                notes.append(str(error))
    return tuple(sorted(found, key=lambda each: each.rank)), tuple(notes)


def _incidents(run: RunDirectory) -> tuple[tuple[str, ...], int]:
    """Folders of those still open, and how many there are."""
    from harness.supervise.incidentstore import read_incident

    opened, count = [], 0
    with contextlib.suppress(OSError):
        for folder in (each for one in run.incidents_of_all() for each in sorted(one.iterdir())):
            incident = read_incident(folder)
            if incident is not None:
                count += 1
                if incident.closed_at is None:
                    opened.append(str(folder))
    return tuple(opened), count
