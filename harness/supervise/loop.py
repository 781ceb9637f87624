"""The supervisor's main thread: the command, its signals and its end. Nothing here observes.

What observes (records, log, detection, metrics, the terminal) runs in the watcher's thread: it may fail, or
hang on a dead disk, and Ctrl-C still reaches the command. Not here: which run (`opening`), how processes are
started or signalled (`child`, `tree`), when a stall is one (`observer`, `policy`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.endings import signal_name
from harness.rundir import Attempt, utc
from harness.supervise import child as children
from harness.supervise import instrumenting, policy
from harness.supervise.child import Child, Ended, tree_of
from harness.supervise.clearing import KILLED_DEADLINE_SECONDS, clear_away
from harness.supervise.waiting import wait_readable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.supervise.opening import Opened
    from harness.supervise.signals import SignalInbox
    from harness.supervise.tree import Identity, Tree
    from harness.supervise.watcher import Watcher

FAILED = 125
INTERRUPTED = 130
_INTERRUPTS = (signal.SIGINT, signal.SIGQUIT)
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
_TICK_SECONDS = 1.0  # at rest: only to notice what sends no event
# Given to a command that is started again: when it was started first. How it was to begin was for then.
_RESTARTED = "HARNESS_RESTARTED_SINCE"
_POLL_SECONDS = 0.1  # where there is nothing to wait on
_FINISH_DEADLINE_SECONDS = 10.0  # for the watcher's last look


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """How the command is run and ended."""

    terminal_stdin: bool
    grace_seconds: float
    policy: policy.Settings
    instrument: bool = True


class Supervisor:
    """Runs the command, again where the policy says so, until it has ended for good."""

    def __init__(
        self,
        opened: Opened,
        options: LoopOptions,
        environment: Mapping[str, str],
        inbox: SignalInbox,
        watcher: Watcher,
    ) -> None:
        self._opened, self._options, self._environment = opened, options, environment
        self._inbox, self._watcher = inbox, watcher
        self._interrupts = 0
        self._asked_to_stop = False
        self._kill_at: float | None = None
        self._kills = 0
        self._ended_by: str | None = None
        self._begun_wall_seconds: float | None = None

    def run(self) -> int:
        """The whole run; the exit status of `harness run`."""
        if self._opened.leftover is not None:
            self._clear(children.adopt(self._opened.run, self._opened.leftover))
            if self._asked_to_stop:
                self._watcher.say("not started: it was asked to stop before")
                return INTERRUPTED
        alive = self._opened.alive
        child = children.adopt(self._opened.run, alive) if alive else self._start()
        self._begun_wall_seconds = child.started_at_seconds
        endings: list[policy.Ending] = []
        while True:
            number = self._opened.file.record.attempt
            self._watcher.attempt_started(child, number)
            ended = self._attend(child)
            ended_by = self._how(ended)
            self._note_end(number, ended, ended_by)
            self._watcher.attempt_ended(ended)
            self._clear(child)
            endings.append(self._ending(ended))
            decision = policy.after_ending(self._options.policy, endings)
            if isinstance(decision, policy.Restart) and not self._opened.repeatable:
                decision = policy.secret_lost(endings[-1])
            if isinstance(decision, policy.Restart):
                self._watcher.say(f"attempt {number} {ended} · {decision.why}")
                if self._pause(decision.after_seconds):
                    self._kill_at, self._kills, self._ended_by = None, 0, None
                    child = self._start()
                    continue
                decision = policy.End(exit_status=endings[-1].exit_status)
            if decision.why:
                self._watcher.say(decision.why)
            self._watcher.finish(ended, ended_by, _FINISH_DEADLINE_SECONDS)
            self._linger()
            return decision.exit_status

    def _ending(self, ended: Ended) -> policy.Ending:
        return policy.Ending(
            exit_status=FAILED if ended.exit_status is None else ended.exit_status,
            killed_by=ended.signal,
            stalled=self._ended_by == "stall",
            asked_to_stop=self._asked_to_stop,
            last_step=self._watcher.last_step(),
        )

    def _pause(self, seconds: float) -> bool:
        """Wait before a restart; False where somebody asked us to stop meanwhile."""
        end = time.monotonic() + seconds
        while not self._asked_to_stop and (left := end - time.monotonic()) > 0:
            wait_readable([self._inbox], left)
            self._between_commands()
        return not self._asked_to_stop

    def _start(self) -> Child:
        record = self._opened.file.record
        number = record.attempt + 1
        run = self._opened.run
        environment = {
            **{name: value for name, value in self._environment.items() if name != _RESTARTED},
            "HARNESS_RUN_DIR": str(run.path.resolve()),
            "HARNESS_RUN_ID": record.run_id,
            "HARNESS_ATTEMPT": str(number),
            **({} if self._begun_wall_seconds is None else {_RESTARTED: f"{self._begun_wall_seconds:.3f}"}),
            **instrumenting.environment_of(self._environment, instrument=self._options.instrument),
            "PYTHONUNBUFFERED": "1",  # a file is no terminal: what Python holds back, a SIGKILL takes with it
        }
        child = children.start(
            self._opened.command,
            environment=environment,
            cwd=self._opened.home,
            output=run.output_log,
            record=run.exit_record(number).resolve(),
            attempt=number,
            terminal=self._options.terminal_stdin,
            title=str(run.path),
        )
        self._write(
            Attempt(
                attempt=number,
                started_at=utc(child.started_at_seconds),
                command=record.command,
                pid=child.root.pid,
                start_time_ticks=child.root.start_time_ticks,
                keeper_pid=child.keeper.pid if child.keeper else None,
                keeper_start_time_ticks=child.keeper.start_time_ticks if child.keeper else None,
            )
        )
        for early in self._inbox.drain():
            self._on_signal(early, child.root, tree_of(child), early=True)
        return child

    def _write(self, attempt: Attempt) -> None:
        try:
            self._opened.file.update_attempt(attempt)
        except OSError as error:
            self._watcher.say(f"run.json cannot be written ({error.strerror}): the run goes on without")

    def _attend(self, child: Child) -> Ended:
        """Until the command itself has ended; a fault of ours costs its supervision, never the command."""
        try:
            return self._serve(child)
        except Exception as error:  # noqa: BLE001 -- see above
            self._watcher.failed("supervision", error)
        while (ended := child.poll()) is None:
            time.sleep(_POLL_SECONDS)
            for number in self._inbox.drain():  # Ctrl-C works whatever else does not
                self._asked_to_stop = self._asked_to_stop or number in _STOPPING
                self._interrupts += number in _INTERRUPTS
                if number not in (signal.SIGTSTP, signal.SIGHUP):
                    _send(child.root, signal.SIGKILL if self._interrupts > 1 else number)
        return ended

    def _serve(self, child: Child) -> Ended:
        """Pass on what comes, until the command itself has ended."""
        tree = tree_of(child)
        while True:
            ended = child.poll()
            if ended is not None:
                return ended
            self._wait(child, _TICK_SECONDS)
            for number in self._inbox.drain():
                self._on_signal(number, child.root, tree)
            self._obey(tree)
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._kill(tree)

    def _wait(self, child: Child, seconds: float) -> None:
        """Until something happens, or `seconds` are over, or something is due."""
        waited_on: list[SignalInbox | Child] = [self._inbox]
        if child.fileno() >= 0:
            waited_on.append(child)
        else:
            seconds = min(seconds, _POLL_SECONDS)
        if self._kill_at is not None:
            seconds = min(seconds, max(0.0, self._kill_at - time.monotonic()))
        wait_readable(waited_on, seconds)

    def _obey(self, tree: Tree) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                attempt, demand = self._watcher.demands.get_nowait()
                if attempt != self._opened.file.record.attempt:
                    continue  # that one ended by itself while evidence of its stall was taken
                if self._asked_to_stop or self._ended_by:
                    continue  # it is being ended already
                self._ended_by = "stall"
                self._watcher.say(f"ending the command: {demand.why}")
                tree.terminate()
                self._kill_at = time.monotonic() + self._options.grace_seconds

    def _kill(self, tree: Tree) -> None:
        """Again and again: what is in state D dies once it leaves it. Said once."""
        if self._kills == 0:
            self._watcher.say(f"not ended within {self._options.grace_seconds:g} s of SIGTERM: killing it")
        elif self._kills == 1:
            self._watcher.say("SIGKILL has not ended it yet (state D: it waits for a disk or a driver)")
        self._kills += 1
        tree.kill()
        self._kill_at = time.monotonic() + KILLED_DEADLINE_SECONDS

    def _on_signal(self, number: int, root: Identity, tree: Tree, *, early: bool = False) -> None:
        """Act on a signal; an `early` one came before the command could have it from the terminal."""
        name = signal_name(number)
        if number == signal.SIGTSTP:
            self._stop_all(tree)
        elif number == signal.SIGHUP:
            self._watcher.hang_up()
        elif number in _INTERRUPTS:
            self._interrupts += 1
            self._asked_to_stop = True
            self._ended_by = "interrupt"
            if self._interrupts > 1:
                self._watcher.say("killing the command and all it started")
                tree.kill()
                if not _send(root, 0):
                    self._watcher.say(_out_of_reach(name, root))
            elif self._interrupt(number, root, early=early):
                self._watcher.say(f"{name} passed on to the command · again: kill it and all it started")
            else:
                self._watcher.say(_out_of_reach(name, root))
        else:
            if number == signal.SIGTERM:
                self._ended_by = "request"
                self._asked_to_stop = True
            sent = _send(root, number)
            self._watcher.say(f"{name} passed on to the command" if sent else _out_of_reach(name, root))

    def _interrupt(self, number: int, root: Identity, *, early: bool) -> bool:
        """As the terminal does: to the command's process group; unless the terminal has done so already.

        False where we may not: it is another user's.
        """
        try:
            if root.alive():
                group = os.getpgid(root.pid)
                if group != os.getpgrp():
                    os.killpg(group, number)
                elif early or not _in_foreground():
                    return _send(root, number)
        except PermissionError:
            return False
        except OSError:
            pass  # it has just ended
        return True

    def _between_commands(self) -> bool:
        """Act on signals while there is no command to pass them on to; True where the user interrupts."""
        numbers = self._inbox.drain()
        for number in numbers:
            if number == signal.SIGTSTP:
                self._stop_all(None)
            elif number == signal.SIGHUP:
                self._watcher.hang_up()
            elif number in _STOPPING:
                self._asked_to_stop = True
        return any(number in _INTERRUPTS for number in numbers)

    def _stop_all(self, tree: Tree | None) -> None:
        before = time.monotonic()
        self._watcher.suspend()
        if tree is not None:
            tree.stop()
        self._inbox.stop_ourselves()
        if tree is not None:
            tree.resume()
        self._watcher.resumed(time.monotonic() - before)

    def _clear(self, child: Child) -> None:
        clear_away(
            child,
            grace_seconds=self._options.grace_seconds,
            wait=lambda seconds: self._wait_clearing(child, seconds),
            say=self._watcher.say,
        )
        child.close()

    def _wait_clearing(self, child: Child, seconds: float) -> bool:
        """Wait a little; True where the user lost patience."""
        self._wait(child, min(seconds, _POLL_SECONDS))
        return self._between_commands()

    def _how(self, ended: Ended) -> str:
        return self._ended_by or (signal_name(ended.signal) if ended.signal else "itself")

    def _note_end(self, number: int, ended: Ended, ended_by: str) -> None:
        attempt = self._opened.file.record.last_attempt
        assert attempt is not None
        assert attempt.attempt == number
        self._write(
            dataclasses.replace(
                attempt,
                ended_at=utc(ended.ended_at_seconds),
                exit_status=ended.exit_status,
                ended_by=ended_by,
            )
        )

    def _linger(self) -> None:
        self._asked_to_stop = False
        while self._watcher.lingers() and not self._asked_to_stop:
            wait_readable([self._inbox], _POLL_SECONDS)
            self._between_commands()


def _send(root: Identity, number: int) -> bool:
    """Send it to the command, if that lives; False where we may not: it is another user's."""
    try:
        if root.alive():
            os.kill(root.pid, number)
    except PermissionError:
        return False
    except OSError:
        pass  # it has just ended
    return True


def _out_of_reach(name: str, root: Identity) -> str:
    return (
        f"{name} cannot be passed on: pid {root.pid} is another user's (sudo?) · end it: sudo kill {root.pid}"
    )


def _in_foreground() -> bool:
    """Whether the terminal's Ctrl-C goes to our process group."""
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            return os.tcgetpgrp(descriptor) == os.getpgrp()
    return False
