"""`harness watch`: the observing side for a training that was not started by us and is never touched.

One thread that looks twice a second until the target has ended, or somebody asks it to stop. Not here: what
is known of the target (`watch.foreign`), and the command's options (`cli.watch`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import redaction
from harness.clock import SYSTEM
from harness.errors import UsageError
from harness.render.screen import Screen
from harness.render.stall import notice_lines
from harness.render.text import single_line
from harness.rundir import Attempt, RunDirectory, RunRecord, host_name, utc
from harness.snapshot import CommandView, RunView
from harness.supervise import announcing, claim, identity, opening, viewing
from harness.supervise.gpus import GpuWatch
from harness.supervise.observer import Command, Observer
from harness.supervise.serving import MetricsOptions, serve
from harness.supervise.signals import SignalInbox
from harness.supervise.waiting import wait_readable
from harness.watch.activity import descendants, read_counters
from harness.watch.logtail import LogFollower
from harness.watch.procstat import boot_id
from harness.watch.ranks import Ranks
from harness.wire import ENDED

if TYPE_CHECKING:
    from pathlib import Path

    from harness.detect import Overrides
    from harness.metrics.server import Server
    from harness.snapshot import RankState
    from harness.watch.foreign import Foreign

TICK_SECONDS = 0.5
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """What the user chose."""

    overrides: Overrides
    run_dir: Path | None
    runs: Path
    metrics: MetricsOptions
    quiet: bool
    announce: Path | None = None


class Watching:
    """One target under watch."""

    def __init__(self, target: Foreign, options: WatchOptions) -> None:
        self._target, self._options = target, options
        self._records, self.run, self._lock, self.shown = _place(target, options)
        self._started_at = SYSTEM.wall()
        self._record = _run_record(target, self.run)
        ours = self._records is None or self._records == self.run.path
        self._ranks = Ranks(self._records or self.run.path, clock=SYSTEM, record=ours)
        self._logs = [
            LogFollower(path, index_path=None, keep_bytes=None, clock=SYSTEM, start="end")
            for path in target.logs
        ]
        self._attempt = self._record.attempt or 1
        self._observer = Observer(
            self.run, clock=SYSTEM, overrides=options.overrides, attempt=self._attempt, records=self._records
        )
        self._gpus = GpuWatch(clock=SYSTEM)
        self._view: RunView | None = None
        self._server: Server | None = None
        self._screen = Screen(log_name=", ".join(map(str, target.logs)) or "its log")
        self._say = self._screen.line
        self._states: tuple[RankState, ...] = ()

    def watch(self) -> int:
        """Look until the end; 0 where it was progressing or ended well, 1 where it was not."""
        try:
            # Before the first line: whoever reads it may press Ctrl-C.
            with SignalInbox() as inbox:
                self._server = serve(self._options.metrics, lambda: self._view, self._say)
                self._sign()
                self._greet()
                for line in self._options.overrides.doubts():
                    self._say(line)
                announced = announcing.announced(
                    self._options.announce,
                    run_id=self._record.run_id,
                    url=self._server.url if self._server is not None else None,
                    run_dir=self.run.path,
                    say=self._say,
                )
                self._observer.command_started(
                    Command(
                        pid=self._target.pid,
                        start_time_ticks=self._target.start_time_ticks,
                        pids=lambda: descendants(self._target.pid),
                        has_log=bool(self._target.logs),
                    ),
                    attempt=self._attempt,
                )
                with announced:
                    return self._look_until_the_end(inbox)
        finally:
            self._screen.close()
            self._observer.close()
            self._gpus.close()
            self._ranks.close()
            for log in self._logs:
                log.close()
            if self._server is not None:
                self._server.close()
            self._lock.release()

    def _look_until_the_end(self, inbox: SignalInbox) -> int:
        while True:
            alive = self._target.alive()
            self._tick(alive)
            if not alive:
                status = self._ended()
                self._linger(inbox)
                return status
            wait_readable([inbox], TICK_SECONDS)
            for number in inbox.drain():
                if number == signal.SIGTSTP:
                    self._screen.pause()
                    inbox.stop_ourselves()
                    self._screen.resume()
                elif number in _ENDING:
                    return self._left()

    def _tick(self, alive: bool) -> None:
        self._states = self._ranks.poll()
        updates = [log.poll() for log in self._logs]
        for notice in self._observer.tick(self._states, sum(update.grown_bytes for update in updates)):
            for line in notice_lines(notice, self.shown):
                self._say(line)
        for line in (*self._ranks.take_problems(), *(line for update in updates for line in update.notices)):
            self._say(line)
        self._gpus.poll()
        self._view = self._snapshot(alive)
        if not self._options.quiet:
            self._screen.show(self._view)

    @property
    def _unfinished(self) -> list[RankState]:
        """Ranks whose record was never closed: if the process is gone, it is without having finished."""
        return [state for state in self._states if state.heartbeat.closed_status is None]

    @property
    def _by_itself(self) -> list[RankState]:
        """Ranks that came to their interpreter's end: well, or with a status of their own."""
        return [state for state in self._states if state.heartbeat.closed_status == ENDED]

    @property
    def _well(self) -> bool:
        """Whether an end now is a good one, as far as can be told without the exit status."""
        return self._observer.open_incident is None and not self._unfinished

    @property
    def _verdict(self) -> str:
        return "failed" if not self._well else "ended" if self._by_itself else "finished"

    def _ended(self) -> int:
        stalled = self._observer.open_incident is not None
        unfinished, well = self._unfinished, self._well
        for notice in self._observer.command_ended("the process ended", well=well):
            for line in notice_lines(notice, self.shown):
                self._say(line)
        if unfinished:
            last = unfinished[0].heartbeat
            words = f"without having finished: rank {last.rank} in {last.stage}, step {last.step}"
        elif stalled:
            words = "while it was stalled"
        elif self._by_itself:
            last = self._by_itself[0].heartbeat
            words = f"by itself: rank {last.rank} after step {last.step}; its exit status is not known"
        else:
            words = "after its trainer said so" if self._states else ""
        self._say(f"process {self._target.pid} ended {words}".rstrip() + f" · {self.shown}")
        return 0 if well else 1

    def _linger(self, inbox: SignalInbox) -> None:
        """Let the last values be scraped, where somebody was told to come for them."""
        server = self._server
        if server is None or self._options.announce is None:
            return
        self._say(announcing.lingering(announcing.LINGER_SECONDS))
        scraped = threading.Thread(
            target=server.wait_scraped, args=(announcing.LINGER_SECONDS,), name="linger", daemon=True
        )
        scraped.start()
        while scraped.is_alive():
            wait_readable([inbox], 0.1)
            if any(number in _ENDING for number in inbox.drain()):
                return

    def _left(self) -> int:
        stalled = self._observer.open_incident is not None
        words = "stalled" if stalled else "progressing"
        self._say(f"left process {self._target.pid} alone, {words} · {self.shown}")
        return 1 if stalled else 0

    # ── what it tells ──────────────────────────────────────────────────────────────────────────────────────

    def _sign(self) -> None:
        """Others shall see that the run is looked after, and where its metrics are."""
        address = self._server.url if self._server is not None else None
        with contextlib.suppress(OSError):
            claim.RunFile(self.run, self._record).update(**opening.supervisor(), metrics_address=address)

    def _greet(self) -> None:
        where = f" · metrics {self._server.url}" if self._server else ""
        command = single_line(" ".join(self._record.command))
        self._say(f"watching process {self._target.pid} · {command[:100]} · {self.shown}{where}")
        for path in self._target.logs:
            self._say(f"  log {path}")
        if self._target.no_log:
            self._say(f"  no log: {self._target.no_log}")
        if self._records is None:
            self._say("  no records: it does not say HARNESS_RUN_DIR; its log and its activity have to do")

    def _snapshot(self, alive: bool) -> RunView:
        command = self._observer.command_progress
        stalled = self._observer.open_incident
        first = self._states[0].heartbeat if self._states else None
        return RunView(
            run_id=self._record.run_id,
            name=self._record.name,
            taken_wall_seconds=SYSTEM.wall(),
            attempt=self._attempt,
            started_wall_seconds=first.opened_wall_seconds if first else self._started_at,
            status="running" if alive else self._verdict,
            host=self._record.host,
            info=viewing.with_device({"name": self._record.name}, self._gpus, self._states),
            ranks=self._states,
            command=None
            if command is None
            else CommandView(
                alive=alive,
                finished=not alive and self._well and not self._by_itself,
                started_wall_seconds=self._started_at,
                last_progress_wall_seconds=command.moved_at_wall_seconds,
                cpu_seconds=_cpu_seconds(self._target.pid),
            ),
            limits_seconds={rank: limit.seconds for rank, limit in self._observer.limits().items()},
            stalls=self._observer.stalls,
            last_incident_wall_seconds=self._observer.last_incident_wall_seconds,
            stalled_since_wall_seconds=stalled.last_progress_at_seconds if stalled else None,
            last_checkpoint_wall_seconds=self._ranks.checkpoints.last_wall_seconds,
            checkpoint_interval_seconds=self._ranks.checkpoints.interval_seconds,
            gpus=self._gpus.readings,
            collect_errors=viewing.collect_errors(self._observer, self._gpus),
        )


def _cpu_seconds(pid: int) -> float | None:
    found = read_counters(pid)
    return found[1].cpu_seconds if found else None


def _place(
    target: Foreign, options: WatchOptions
) -> tuple[Path | None, RunDirectory, claim.SupervisorLock, str]:
    """Where records are read, where incidents go, the lock on that, and how to name it."""
    named = records = target.run_dir
    if options.run_dir is not None:
        if not os.path.isdir(options.run_dir):  # noqa: PTH112 -- pathlib's raises where a folder is closed
            raise UsageError(
                f"{options.run_dir}: no such run directory, or closed to this user",
                remedy="Name the target's, or leave --run-dir out",
            )
        named, records = opening.fixed(options.run_dir)
    if records is not None and (options.run_dir is not None or target.run_dir_is_ours):
        run = RunDirectory(records)
        with contextlib.suppress(OSError, *([] if options.run_dir else [claim.ForeignFolderError])):
            claim.refuse_foreign(records)
            run.make_folders()
            try:
                return records, run, claim.SupervisorLock(run), str(named)
            except claim.AlreadySupervisedError as error:
                raise UsageError(str(error), remedy="") from None
    run = claim.create(options.runs, f"watch-{target.pid}", now_seconds=SYSTEM.wall())
    return records, run, claim.SupervisorLock(run), str(run.path)


def _run_record(target: Foreign, run: RunDirectory) -> RunRecord:
    """The record of the run that is there; or one that we write for a training that has none."""
    with contextlib.suppress(UsageError):
        return run.read()
    command, redacted = redaction.strike_out(target.command)
    record = RunRecord(
        run_id=identity.new_run_id(run.path.resolve().name),
        name=identity.name_of(target.command),
        created_at=utc(),
        host=host_name(),
        boot_id=boot_id(),
        cwd="",
        command=command,
        command_redacted=redacted,
        attempt=1,
        attempts=(
            Attempt(
                attempt=1,
                started_at=utc(time.time()),
                command=command,
                pid=target.pid,
                start_time_ticks=target.start_time_ticks,
            ),
        ),
    )
    with contextlib.suppress(OSError):
        claim.RunFile(run, record).update()
    return record
