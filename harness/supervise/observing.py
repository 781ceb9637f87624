"""The observing side of `harness run`: a thread that looks, tells, and may fail without hurting the run.

Every part (records, log, observer, metrics, screen) is guarded: what raises is reported in one line, written
down with its traceback in log/harness.log, and left out from then on. The main thread never waits for this
one, except, bounded, at the end. Not here: what the parts do, and the command itself (`loop`).
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from harness.clock import SYSTEM
from harness.notices import IncidentOpened, Notice
from harness.rundir import utc
from harness.supervise import announcing, policy, summary, viewing
from harness.supervise.child import tree_of
from harness.supervise.describing import Describing
from harness.supervise.gpus import GpuWatch
from harness.supervise.instrumenting import Unseen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.limits import Overrides
    from harness.metrics.server import Server
    from harness.render.screen import Screen
    from harness.snapshot import RankState, RunView
    from harness.supervise.child import Child, Ended
    from harness.supervise.observer import Observer
    from harness.supervise.opening import Opened
    from harness.supervise.tree import Tree
    from harness.watch.logtail import LogFollower, LogUpdate
    from harness.watch.ranks import Ranks

T = TypeVar("T")
TICK_SECONDS = 0.5
_PATIENCE_SECONDS = 2.0  # of the main thread with this side


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservingOptions:
    """What the user chose for this side."""

    overrides: Overrides
    policy: policy.Settings
    linger_seconds: float
    log_keep_bytes: int
    instrument: bool = True


class Observing:
    """See `watcher.Watcher` for what the main thread calls."""

    def __init__(
        self,
        opened: Opened,
        options: ObservingOptions,
        environment: Mapping[str, str],
        *,
        screen: Screen,
        serve: Callable[[Callable[[], RunView | None]], Server | None],
        wake: Callable[[], None],
    ) -> None:
        self.demands: queue.SimpleQueue[tuple[int, policy.EndTree]] = queue.SimpleQueue()
        self._opened, self._options = opened, options
        self._screen, self._wake = screen, wake
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._broken: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="watcher", daemon=True)
        self._describing = Describing(opened, environment, failed=self.failed)
        self._lingering: threading.Thread | None = None
        self._ranks: Ranks | None = None
        self._log: LogFollower | None = None
        self._observer: Observer | None = None
        self._gpus: GpuWatch | None = None
        self._unseen = Unseen(clock=time.monotonic) if options.instrument else None
        self._usage = viewing.Usage()
        self._child: Child | None = None
        self._attempt = 0
        self._tree: Tree | None = None
        self._ended: Ended | None = None
        self._states: tuple[RankState, ...] = ()
        self._update: LogUpdate | None = None
        self._view: RunView | None = None
        self._began_at = time.monotonic()
        self._server = serve(lambda: self._view)
        with contextlib.suppress(OSError):
            opened.file.update(metrics_address=self.metrics_url)

    @property
    def metrics_url(self) -> str | None:
        """Where metrics are served."""
        return self._server.url if self._server is not None else None

    # ── the main thread's side: every call returns at once ─────────────────────────────────────────────────

    def __enter__(self) -> Observing:  # noqa: PYI034 -- Self is 3.11
        self._thread.start()
        self._describing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        if self._server is not None:
            self._server.close()
        if self._gpus is not None:
            self._gpus.close()
        self._screen.close()

    def attempt_started(self, child: Child, attempt: int) -> None:
        """See Watcher."""
        self._orders.put(lambda: self._attempt_started(child, attempt))

    def attempt_ended(self, ended: Ended) -> None:
        """See Watcher."""
        self._orders.put(lambda: self._attempt_ended(ended))

    def say(self, line: str) -> None:
        """See Watcher."""
        self._screen.line(line)

    def failed(self, part: str, error: Exception) -> None:
        """See Watcher."""
        self.say(f"harness: {part} failed ({type(error).__name__}: {error}); the run goes on without it")
        with contextlib.suppress(OSError), self._opened.run.harness_log.open("a", encoding="utf-8") as log:
            log.write(f"{utc()} {part}\n{''.join(traceback.format_exception(error))}\n")

    def hang_up(self) -> None:
        """See Watcher."""
        self._screen.hang_up()

    def suspend(self) -> None:
        """See Watcher."""
        self._screen.pause()

    def resumed(self, seconds: float) -> None:
        """See Watcher; the detector itself leaves out the time in which nobody looked."""
        self._screen.resume()
        self.say(f"continued after {seconds:.1f} s")

    def last_step(self) -> int | None:
        """See Watcher."""
        done = threading.Event()
        self._orders.put(done.set)  # behind the last look at the attempt
        done.wait(_PATIENCE_SECONDS)
        lead = self._view.lead if self._view is not None else None
        return lead.heartbeat.step if lead is not None else None

    def finish(self, ended: Ended, ended_by: str, deadline_seconds: float) -> None:
        """See Watcher."""
        self._describing.join(_PATIENCE_SECONDS)
        done = threading.Event()

        def last_look() -> None:
            self._guard("watching", self._tick)
            self._guard("summary", lambda: self._summarise(ended, ended_by))
            done.set()
            for part in (self._ranks, self._log):
                if part is not None:
                    part.close()

        self._orders.put(last_look)
        if not done.wait(deadline_seconds):
            self.say(f"{ended} · what observes it does not answer · {self._opened.shown_path()}")
        if self._server is not None and self._options.linger_seconds:
            self.say(announcing.lingering(self._options.linger_seconds))
            self._lingering = threading.Thread(target=self._linger, name="linger", daemon=True)
            self._lingering.start()

    def lingers(self) -> bool:
        """See Watcher."""
        return self._lingering is not None and self._lingering.is_alive()

    # ── the thread's side ──────────────────────────────────────────────────────────────────────────────────

    def _serve(self) -> None:
        while not self._closing.is_set():
            next_at = time.monotonic() + TICK_SECONDS
            while (left := next_at - time.monotonic()) > 0:
                try:
                    order = self._orders.get(timeout=left)
                except queue.Empty:
                    break
                self._carry_out(order)
            self._guard("watching", self._tick)

    def _carry_out(self, order: Callable[[], None]) -> None:
        try:
            order()
        except Exception as error:  # noqa: BLE001 -- as in _guard; but the next order is carried out all the same
            self.failed("watching", error)

    def _guard(self, part: str, action: Callable[[], T]) -> T | None:
        """Do `action` unless its part broke before; where it breaks, say so once and go on without it."""
        if part in self._broken:
            return None
        try:
            return action()
        except Exception as error:  # noqa: BLE001 -- a fault of ours must not become the training's
            self._broken.add(part)
            self.failed(part, error)
            return None

    def _attempt_started(self, child: Child, attempt: int) -> None:
        self._child, self._tree, self._ended = child, tree_of(child), None
        self._attempt = attempt
        self._guard("records", self._open_ranks)
        self._guard("log", self._open_log)
        self._guard("observer", lambda: self._observe(child, attempt))
        if self._gpus is None:
            self._gpus = self._guard("gpus", lambda: GpuWatch(clock=SYSTEM))
        self._guard("watching", self._tick)

    def _open_ranks(self) -> None:
        from harness.watch.ranks import Ranks

        self._ranks = self._ranks or Ranks(self._opened.run.path, clock=SYSTEM)

    def _open_log(self) -> None:
        from harness.watch.logtail import LogFollower

        run = self._opened.run
        self._log = self._log or LogFollower(
            run.output_log,
            index_path=run.output_index,
            keep_bytes=self._options.log_keep_bytes,
            clock=SYSTEM,
        )

    def _observe(self, child: Child, attempt: int) -> None:
        from harness.supervise.observer import Command, Observer

        if self._observer is None:
            self._observer = Observer(
                self._opened.run, clock=SYSTEM, overrides=self._options.overrides, attempt=attempt
            )
        tree = tree_of(child)
        self._observer.command_started(
            Command(
                pid=child.root.pid,
                start_time_ticks=child.root.start_time_ticks or 0,
                pids=tree.pids,
            ),
            attempt=attempt,
        )

    def _attempt_ended(self, ended: Ended) -> None:
        self._ended = ended
        self._guard("watching", self._tick)
        observer = self._observer
        if observer is not None:
            well = ended.exit_status == 0
            self._tell(self._guard("observer", lambda: observer.command_ended(str(ended), well=well)) or ())

    def _tick(self) -> None:
        ranks, log, observer = self._ranks, self._log, self._observer
        if self._child is None:
            return
        if ranks is not None:
            self._states = self._guard("records", ranks.poll) or ()
            for problem in ranks.take_problems():
                self.say(problem)
            self._note_target()
        if log is not None:
            self._update = self._guard("log", log.poll)
            self._show_log(self._update)
        if observer is not None and self._ended is None:
            grown = self._update.grown_bytes if self._update is not None else 0
            self._tell(self._guard("observer", lambda: observer.tick(self._states, grown)) or ())
        if self._gpus is not None:
            self._guard("gpus", self._gpus.poll)
        if self._unseen is not None:
            self._guard("instrumentation", self._look_for_unseen)
        self._view = self._guard("view", self._look) or self._view
        if self._view is not None:
            self._screen.show(self._view)

    def _look_for_unseen(self) -> None:
        assert self._unseen is not None
        assert self._tree is not None
        if self._ended is None:
            line = self._unseen.look(self._tree.pids, recorded=bool(self._states))
            if line is not None:
                self.say(line)

    def _look(self) -> RunView:
        assert self._child is not None
        assert self._tree is not None
        return viewing.view_of(
            self._opened.file.record,
            info=self._describing.info,
            child=self._child,
            ended=self._ended,
            ranks=self._states,
            followed=self._ranks,
            log=self._update,
            observer=self._observer,
            usage=(None, None) if self._states else self._usage.of(self._tree),
            gpus=self._gpus,
        )

    def _show_log(self, update: LogUpdate | None) -> None:
        if update is None:
            return
        for notice in update.notices:
            self.say(notice)
        if update.skipped_bytes and self._screen.shows_output:
            self.say(f"({update.skipped_bytes} bytes of output not shown: {self._opened.run.output_log})")
        if update.new:
            self._screen.write(update.new)

    def _note_target(self) -> None:
        """What the trainer declared about its run goes into run.json."""
        if not self._states:
            return
        beat, record = self._states[0].heartbeat, self._opened.file.record
        if (beat.total_steps, beat.schedule) not in ((None, None), (record.target_steps, record.schedule)):
            with contextlib.suppress(OSError):
                self._opened.file.update(target_steps=beat.total_steps, schedule=beat.schedule)

    def _tell(self, notices: tuple[Notice, ...]) -> None:
        from harness.render.stall import notice_lines

        for notice in notices:
            for line in notice_lines(notice, self._opened.shown_path()):
                self.say(line)
            if isinstance(notice, IncidentOpened):
                decision = policy.after_stall(self._options.policy)
                if isinstance(decision, policy.EndTree):
                    self.demands.put((self._attempt, decision))
                    self._wake()

    def _summarise(self, ended: Ended, ended_by: str) -> None:
        self.say(
            summary.summary_line(
                self._view,
                how=summary.how_it_ended(ended, ended_by),
                seconds=time.monotonic() - self._began_at,
                best_evaluation=summary.best_evaluation(self._opened.run.events / "rank-00000.jsonl"),
                where=self._opened.shown_path(),
            )
        )

    def _linger(self) -> None:
        assert self._server is not None
        self._server.wait_scraped(self._options.linger_seconds)
