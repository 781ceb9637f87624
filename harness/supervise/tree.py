"""The command's processes, and signals to all of them.

A process group is not the tree: torchrun gives its ranks sessions of their own. So the descendants are
walked: those of the keeper, which as their subreaper keeps even the orphans among them. Not here: when to
stop or kill (`loop`), and what the processes do (`watch.activity`).
"""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import dataclass

import psutil

from harness.watch.procstat import read_stat

_PIDS_SECONDS = 2.5
_MOST_ROUNDS = 20  # a tree that forks as fast as we signal it is walked this often


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A process for good: pids are used again, a pid with its start time is not."""

    pid: int
    start_time_ticks: int | None

    def alive(self) -> bool:
        """Whether this very process is there and not a zombie."""
        found = read_stat(self.pid)
        if found is None or found.ended:
            return False
        return self.start_time_ticks is None or found.start_time_ticks == self.start_time_ticks


def identify(pid: int) -> Identity:
    """The identity of the process that has `pid` now."""
    found = read_stat(pid)
    return Identity(pid=pid, start_time_ticks=found.start_time_ticks if found else None)


class Tree:
    """All processes of one attempt, found anew at each call."""

    def __init__(self, *, root: Identity, keeper: Identity | None) -> None:
        self._root, self._keeper = root, keeper
        self._seen: dict[int, psutil.Process] = {}
        self._stopped: list[psutil.Process] = []
        self._pids: list[int] = []
        self._pids_until = 0.0

    def members(self) -> list[psutil.Process]:
        """The living processes of the tree, the root first if it lives."""
        found: dict[int, psutil.Process] = {}
        for top in (self._root, self._keeper):
            if top is None or not top.alive():
                continue
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(top.pid)
                if top is self._root:
                    found[top.pid] = process
                for each in process.children(recursive=True):
                    found.setdefault(each.pid, each)
        for pid, process in self._seen.items():  # where the keeper is gone, orphans hang from no one we know
            found.setdefault(pid, process)
        self._seen = {pid: process for pid, process in found.items() if _lives(process)}
        return list(self._seen.values())

    def pids(self) -> list[int]:
        """The members' pids, at most `_PIDS_SECONDS` old: walking all processes costs milliseconds."""
        now = time.monotonic()
        if now >= self._pids_until:
            self._pids = [each.pid for each in self.members()]
            self._pids_until = now + _PIDS_SECONDS
        return self._pids

    def signal(self, number: int) -> list[str]:
        """Send `number` to every member; the names of those reached."""
        reached: dict[int, str] = {}
        for _ in range(_MOST_ROUNDS):
            new = [each for each in self.members() if each.pid not in reached]
            if not new:
                break
            for process in new:
                reached[process.pid] = describe(process)
                _send(process, number)
        return list(reached.values())

    def terminate(self) -> list[str]:
        """SIGTERM to all, and SIGCONT so that stopped ones can obey it."""
        names = self.signal(signal.SIGTERM)
        for process in self.members():
            _send(process, signal.SIGCONT)
        return names

    def kill(self) -> list[str]:
        """SIGKILL to all, those forked meanwhile included."""
        return self.signal(signal.SIGKILL)

    def stop(self) -> None:
        """SIGSTOP to all that are not stopped already."""
        self._stopped = []
        for _ in range(_MOST_ROUNDS):
            running = [each for each in self.members() if each not in self._stopped and not _is_stopped(each)]
            if not running:
                return
            for process in running:
                if _send(process, signal.SIGSTOP):
                    self._stopped.append(process)

    def resume(self) -> None:
        """SIGCONT to those that `stop` stopped; what was stopped before stays so."""
        for process in self._stopped:
            _send(process, signal.SIGCONT)
        self._stopped = []


def describe(process: psutil.Process) -> str:
    """`python (pid 4711)`; not psutil's name, which may read the command line and so hang on a state D."""
    try:
        with open(f"/proc/{process.pid}/comm", encoding="utf-8", errors="replace") as comm:  # noqa: PTH123 -- as above
            name = comm.read().strip()
    except OSError:
        name = "process"
    return f"{name} (pid {process.pid})"


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _is_stopped(process: psutil.Process) -> bool:
    found = read_stat(process.pid)
    return found is not None and found.state == "T"


def _send(process: psutil.Process, number: int) -> bool:
    """Send to this very process (psutil compares start times first); False where it is gone or not ours."""
    try:
        process.send_signal(number)
    except (psutil.Error, ProcessLookupError, PermissionError):
        return False
    return True
