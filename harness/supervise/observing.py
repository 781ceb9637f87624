"""The observing side of `harness run`: a thread that looks, tells, and may fail without hurting the run.

Every part (records, log, observer, metrics, screen) is guarded: what raises is reported in one line, written
down with its traceback in log/harness.log, and left out from then on. The main thread never waits for this one,
except, bounded, at the end. Not here: what the parts do, and the command itself (`loop`).
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from harness.clock import SYSTEM
from harness.rundir import utc
from harness.supervise import identity, policy
from harness.supervise.child import tree_of
from harness.supervise.notices import IncidentClosed, IncidentDismissed, IncidentOpened, Notice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from harness.limits import Overrides
    from harness.supervise.child import Child, Ended
    from harness.supervise.opening import Opened

T = TypeVar("T")
TICK_SECONDS = 0.5
_DESCRIBED_DEADLINE_SECONDS = 2.0  # for git and the versions, where the command was quicker than they


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservingOptions:
    """What the user chose for this side."""

    overrides: Overrides
    policy: policy.Settings
    metrics_port: int | None
    metrics_address: str
    metrics_token_file: Path | None
    port_taken_fails: bool
    linger_seconds: float
    log_keep_bytes: int
    quiet: bool
    live: bool


class Observing:
    """See `loop.Watcher` for what the main thread calls."""

    def __init__(
        self,
        opened: Opened,
        options: ObservingOptions,
        environment: Mapping[str, str],
        *,
        wake: Callable[[], None],
    ) -> None:
        self.demands: queue.SimpleQueue[policy.EndTree] = queue.SimpleQueue()
        self._opened, self._options, self._environment, self._wake = opened, options, environment, wake
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._broken: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="watcher", daemon=True)
        self._describing = threading.Thread(target=self._describe, name="describe", daemon=True)
        self._ranks: Any = None
        self._log: Any = None
        self._observer: Any = None

    # ── the main thread's side: every call returns at once ─────────────────────────────────────────────────

    def __enter__(self) -> Observing:
        self._thread.start()
        self._describing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()

    def attempt_started(self, child: Child, attempt: int) -> None:
        """See Watcher."""
        self._orders.put(lambda: self._attempt_started(child, attempt))

    def attempt_ended(self, ended: Ended) -> None:
        """See Watcher."""
        self._orders.put(lambda: self._attempt_ended(ended))

    def say(self, line: str) -> None:
        """See Watcher."""
        sys.stderr.write(line + "\n")

    def failed(self, part: str, error: Exception) -> None:
        """See Watcher."""
        self.say(f"harness: {part} failed ({type(error).__name__}: {error}); the run goes on without it")
        with contextlib.suppress(OSError), self._opened.run.harness_log.open("a", encoding="utf-8") as log:
            log.write(f"{utc()} {part}\n{''.join(traceback.format_exception(error))}\n")

    def hang_up(self) -> None:
        """See Watcher."""

    def suspend(self) -> None:
        """See Watcher."""

    def resumed(self, seconds: float) -> None:
        """See Watcher."""

    def last_step(self) -> int | None:
        """See Watcher."""
        return None

    def finish(self, ended: Ended, ended_by: str, deadline_seconds: float) -> None:
        """See Watcher."""
        self._describing.join(_DESCRIBED_DEADLINE_SECONDS)
        done = threading.Event()
        self._orders.put(done.set)
        done.wait(deadline_seconds)

    def lingers(self) -> bool:
        """See Watcher."""
        return False

    # ── the thread's side ──────────────────────────────────────────────────────────────────────────────────

    def _serve(self) -> None:
        while not self._closing.is_set():
            next_at = time.monotonic() + TICK_SECONDS
            while (left := next_at - time.monotonic()) > 0:
                try:
                    order = self._orders.get(timeout=left)
                except queue.Empty:
                    break
                self._guard("watcher", order)
            self._tick()

    def _guard(self, part: str, action: Callable[[], T]) -> T | None:
        """Do `action` unless its part broke before; where it breaks, say so once and go on without it."""
        if part in self._broken:
            return None
        try:
            return action()
        except Exception as error:  # noqa: BLE001 -- a fault of ours must not become the training's
            self._broken.add(part)
            self.say(f"harness: {part} failed ({type(error).__name__}: {error}); the run goes on without it")
            with (
                contextlib.suppress(OSError),
                self._opened.run.harness_log.open("a", encoding="utf-8") as log,
            ):
                log.write(f"{utc()} {part}\n{traceback.format_exc()}\n")
            return None

    def _attempt_started(self, child: Child, attempt: int) -> None:
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
                pids=lambda: [each.pid for each in tree.members()],
            ),
            attempt=attempt,
        )

    def _attempt_ended(self, ended: Ended) -> None:
        if self._observer is not None:
            self._tell(self._observer.command_ended(str(ended), well=ended.exit_status == 0))

    def _tick(self) -> None:
        pass

    def _tell(self, notices: tuple[Notice, ...]) -> None:
        for notice in notices:
            if isinstance(notice, IncidentOpened):
                self._act()
            elif isinstance(notice, (IncidentClosed, IncidentDismissed)):
                pass

    def _act(self) -> None:
        decision = policy.after_stall(self._options.policy)
        if isinstance(decision, policy.EndTree):
            self.demands.put(decision)
            self._wake()

    def _describe(self) -> None:
        """What takes a while to find out about a run, and must not keep it from starting."""
        from pathlib import Path

        directory = Path(self._opened.file.record.cwd)
        git = self._guard("git", lambda: identity.git_state(directory))
        versions = self._guard(
            "versions", lambda: identity.versions_of(self._opened.command, self._environment, directory)
        )
        with contextlib.suppress(OSError):
            self._opened.file.update(git=git or {}, versions=versions or {})
