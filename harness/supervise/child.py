"""The command as the supervisor holds it: started by us, or adopted from a supervisor that died.

`StartedChild` talks to its keeper over a socket; `AdoptedChild` has a pidfd to wait on and the keeper's
record to read. Both are polled and never block. Not here: the keeper itself (`keeper`), the rest of the tree
(`tree`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.endings import signal_name
from harness.errors import HarnessError, RecordError
from harness.rundir import read_regular, seconds_of
from harness.supervise.execution import explain
from harness.supervise.tree import Identity, Tree, identify
from harness.supervise.waiting import wait_readable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.rundir import Attempt, RunDirectory

_KEEPER = Path(__file__).with_name("keeper.py")
_START_DEADLINE_SECONDS = 30.0  # for a fork and an exec; a program on a network file system may take a while
_KILLED_DEADLINE_SECONDS = 5.0
# A keeper that shares our terminal may be sent a Ctrl-C before it has come to ignore it.
_HELD_BACK = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)
_RECORD_DEADLINE_SECONDS = 2.0  # between the death of an adopted command and its keeper's note of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How the command ended; `wait_status` is None where nobody was there to see it."""

    wait_status: int | None
    ended_at_seconds: float

    @property
    def signal(self) -> int | None:
        """The signal that ended it."""
        return (
            os.WTERMSIG(self.wait_status) if self.wait_status and os.WIFSIGNALED(self.wait_status) else None
        )

    @property
    def exit_status(self) -> int | None:
        """As a shell tells it: its own, or 128 + N by signal N."""
        if self.wait_status is None:
            return None
        return 128 + self.signal if self.signal else os.WEXITSTATUS(self.wait_status)

    def __str__(self) -> str:
        if self.wait_status is None:
            return "ended, exit status unknown"
        return f"killed by {signal_name(self.signal)}" if self.signal else f"exit status {self.exit_status}"


class Child(Protocol):
    """What the loop needs of the command."""

    root: Identity
    keeper: Identity | None
    started_at_seconds: float

    def fileno(self) -> int:
        """To select on for reading; -1 where there is nothing to wait on and polling has to do."""

    def poll(self) -> Ended | None:
        """How the command ended, once it did."""

    def gone(self) -> bool:
        """Whether the keeper found that nothing of the command's tree is left."""

    def close(self) -> None:
        """Let go of it; the processes are left alone."""


def tree_of(child: Child) -> Tree:
    """The processes of `child`."""
    return Tree(root=child.root, keeper=child.keeper)


def start(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: Path | None,
    output: Path,
    record: Path,
    attempt: int,
    terminal: bool,
    title: str,
) -> StartedChild:
    """Start the command below a keeper of its own, its output appended to `output`.

    With `terminal` the command stays in our session and process group and reads our standard input; otherwise
    it gets a session of its own, where no closing terminal can reach it, and an empty standard input.
    """
    ours, theirs = socket.socketpair()
    try:
        log = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HarnessError(
            f"{output}: the log cannot be written: {error.strerror}", remedy="Make room, or mend its rights"
        ) from None
    # Blocked and not ignored, so that none sent to ourselves is lost; the keeper inherits it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_KEEPER), title, str(theirs.fileno())],
            stdin=None if terminal else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(environment),
            cwd=cwd,
            pass_fds=[theirs.fileno()],
            start_new_session=not terminal,
        )
    except OSError as error:
        raise HarnessError(
            f"no process can be started for the command: {error.strerror}",
            remedy="Look at the limits on processes (ulimit -u) and at the memory",
        ) from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(log)
        theirs.close()
    order = {
        "command": list(command),
        "own_session": not terminal,
        "hangup": not terminal and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN,
        "attempt": attempt,
        "record": str(record),
    }
    ours.settimeout(_START_DEADLINE_SECONDS)
    with contextlib.suppress(OSError):  # that it says nothing is noticed below
        ours.sendall(json.dumps(order).encode() + b"\n")
    child = StartedChild(ours, process)
    child.wait_for_start(command, environment)
    return child


def adopt(run: RunDirectory, attempt: Attempt) -> AdoptedChild:
    """The command of an attempt whose supervisor died, or what is left of it."""
    assert attempt.pid is not None
    keeper = None
    if attempt.keeper_pid is not None:
        keeper = Identity(pid=attempt.keeper_pid, start_time_ticks=attempt.keeper_start_time_ticks)
    return AdoptedChild(
        root=Identity(pid=attempt.pid, start_time_ticks=attempt.start_time_ticks),
        keeper=keeper,
        record=run.exit_record(attempt.attempt),
        started_at_seconds=seconds_of(attempt.started_at),
    )


class StartedChild:
    """A command whose keeper we started."""

    def __init__(self, channel: socket.socket, keeper: subprocess.Popen[bytes]) -> None:
        self._channel, self._process = channel, keeper
        self._channel.setblocking(False)
        self._buffer = b""
        self._closed = False
        self._ended: Ended | None = None
        self.keeper: Identity | None = identify(keeper.pid)
        self.root = Identity(pid=0, start_time_ticks=None)
        self.started_at_seconds = time.time()
        self._problem = 0

    def wait_for_start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Wait for the exec; CannotExecuteError or NotFoundError where it failed."""
        end = time.monotonic() + _START_DEADLINE_SECONDS
        while not self.root.pid and not self._problem and not self._closed and time.monotonic() < end:
            wait_readable([self._channel], 0.5)
            self._receive()
        if self.root.pid:
            return
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # in state D, on a dead disk
            self._process.wait(_KILLED_DEADLINE_SECONDS)
        self.close()
        if self._problem:
            raise explain(command, self._problem, environment)
        raise HarnessError(
            f"the command could not be started: its keeper said nothing (python: {sys.executable})"
        )

    def fileno(self) -> int:
        """The keeper's socket, -1 once it is closed."""
        return -1 if self._closed else self._channel.fileno()

    def poll(self) -> Ended | None:
        """See Child."""
        self._receive()
        if self._ended is None and self._closed and not self.root.alive():
            # The keeper was killed. As the next subreaper up, we are the command's parent now.
            self._ended = Ended(wait_status=_reap(self.root.pid), ended_at_seconds=time.time())
        return self._ended

    def gone(self) -> bool:
        """See Child."""
        self._receive()
        return self._process.poll() is not None

    def close(self) -> None:
        """See Child."""
        self._closed = True
        self._channel.close()

    def _receive(self) -> None:
        while not self._closed:
            try:
                data = self._channel.recv(4096)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._closed = True
            self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        self._problem = message.get("errno", 0)
        if "pid" in message:
            self.root = Identity(pid=message["pid"], start_time_ticks=message["start_time_ticks"])
            self.started_at_seconds = message["started_at"]
        self._ended = ending(message)


class AdoptedChild:
    """A command that outlived its supervisor: no child of ours, so its keeper's record tells how it ended."""

    def __init__(
        self, *, root: Identity, keeper: Identity | None, record: Path, started_at_seconds: float
    ) -> None:
        self.root, self.keeper, self.started_at_seconds = root, keeper, started_at_seconds
        self._record = record
        self._seen_dead_at: float | None = None
        self._pidfd = -1
        with contextlib.suppress(OSError, AttributeError):  # a kernel older than 5.3: polling does too
            self._pidfd = os.pidfd_open(root.pid)

    def fileno(self) -> int:
        """A pidfd, readable once the command ended; -1 afterwards."""
        return -1 if self._seen_dead_at is not None else self._pidfd

    def poll(self) -> Ended | None:
        """See Child."""
        if self.root.alive():
            return None
        now = time.monotonic()
        self._seen_dead_at = self._seen_dead_at or now
        written = ending(read_exit_record(self._record) or {})
        if written is None and now < self._seen_dead_at + _RECORD_DEADLINE_SECONDS and self._kept():
            return None
        return written or Ended(wait_status=None, ended_at_seconds=time.time())

    def gone(self) -> bool:
        """See Child."""
        return not self._kept()

    def close(self) -> None:
        """See Child."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _kept(self) -> bool:
        return self.keeper is not None and self.keeper.alive()


def read_exit_record(path: Path) -> dict[str, Any] | None:
    """What the keeper wrote of its command; None where there is nothing to read."""
    try:
        document = json.loads(read_regular(path))
    except (OSError, ValueError, RecordError):
        return None
    return document if isinstance(document, dict) else None


def ending(record: Mapping[str, Any]) -> Ended | None:
    """How the command of a keeper's record ended, if it did."""
    status = record.get("wait_status")
    if not isinstance(status, int):
        return None
    return Ended(wait_status=status, ended_at_seconds=float(record.get("ended_at") or time.time()))


def _reap(pid: int) -> int | None:
    try:
        return os.waitpid(pid, os.WNOHANG)[1]
    except ChildProcessError:
        return None
