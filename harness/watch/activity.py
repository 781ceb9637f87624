"""Progress of a command that never emits: its log's growth, and what its processes use.

What counts as what:

- A log that grows is progress. Its rhythm is learned by `detect`, like that of steps.
- CPU time is *not* progress (a spin burns CPU), but a tree that uses it is not idle either, and of a silent
  command only an idle tree is suspicious within minutes.
- Idle means, over a period of some seconds: less CPU than `CPU_SHARE` of one core, fewer bytes than
  `IO_BYTES_PER_SECOND` read and written, and fewer than `SWITCHES_PER_SECOND` voluntary context switches.
  The last is for downloads: what `recv` takes from a socket stands in no byte counter of /proc, but each
  packet wakes somebody. A waiting trainer wakes up too (watchdogs, progress bars), hence a threshold and
  not zero. A process that appears or ends is activity as well.
- Where no log can be followed (the output is a pipe or a terminal), activity is all there is, and stands in.

Not here: heartbeats (`progress`), limits (`detect`), and why nothing moves.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.watch.procstat import read_stat
from harness.watch.progress import COMMAND_STAGE, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from harness.clock import Clock

CPU_SHARE = 0.02
IO_BYTES_PER_SECOND = 1024.0
SWITCHES_PER_SECOND = 50.0
PERIOD_SECONDS = 5.0
# Counting switches opens a file per thread: enough of them to see a download, not all of a thousand.
MAX_THREADS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What one process has used since it began; None where the kernel does not tell us."""

    cpu_seconds: float
    io_bytes: int | None
    switches: int | None


def parse_io(data: bytes) -> int:
    """Bytes read and written through system calls, from /proc/PID/io."""
    values = dict(line.split(b": ", 1) for line in data.splitlines() if b": " in line)
    return int(values[b"rchar"]) + int(values[b"wchar"])


def parse_switches(data: bytes) -> int:
    """Voluntary context switches of one thread, from its status file."""
    for line in data.splitlines():
        if line.startswith(b"voluntary_ctxt_switches:"):
            return int(line.split()[1])
    raise ValueError("no voluntary_ctxt_switches")


def read_counters(pid: int, proc: Path = Path("/proc")) -> tuple[int, Counters] | None:
    """Start time and counters of a process; None when it is gone."""
    folder = proc / str(pid)
    process = read_stat(pid, proc)
    if process is None:
        return None
    try:
        moved: int | None = parse_io((folder / "io").read_bytes())
    except (OSError, ValueError, KeyError):
        moved = None  # another user's process
    return process.start_time_ticks, Counters(
        cpu_seconds=process.cpu_seconds, io_bytes=moved, switches=_read_switches(folder)
    )


def _read_switches(folder: Path) -> int | None:
    try:
        threads = sorted((folder / "task").iterdir())
    except OSError:
        return None
    total = 0
    for thread in threads[:MAX_THREADS]:
        with contextlib.suppress(OSError, ValueError):  # the thread ended in between
            total += parse_switches((thread / "status").read_bytes())
    return total


def is_active(
    before: Mapping[tuple[int, int], Counters], now: Mapping[tuple[int, int], Counters], seconds: float
) -> bool:
    """Whether a tree did anything between two looks `seconds` apart; keys are pid and start time."""
    if before.keys() != now.keys():
        return True
    cpu = io_bytes = switches = 0.0
    for key, after in now.items():
        earlier = before[key]
        cpu += after.cpu_seconds - earlier.cpu_seconds
        io_bytes += _grown(earlier.io_bytes, after.io_bytes)
        switches += _grown(earlier.switches, after.switches)
    return (
        cpu > CPU_SHARE * seconds
        or io_bytes > IO_BYTES_PER_SECOND * seconds
        or switches > SWITCHES_PER_SECOND * seconds
    )


def _grown(before: int | None, after: int | None) -> float:
    # Threads that ended take their switches with them: never count below zero.
    return float(max(0, after - before)) if before is not None and after is not None else 0.0


class TreeActivity:
    """Looks at a process tree every few seconds and knows since when it has been idle."""

    def __init__(
        self, pids: Callable[[], Iterable[int]], *, clock: Clock, period_seconds: float = PERIOD_SECONDS
    ) -> None:
        self._pids = pids
        self._clock = clock
        self._period = period_seconds
        self._before: dict[tuple[int, int], Counters] | None = None
        self._looked_at = 0.0
        self.idle_since_monotonic_seconds = clock.monotonic()

    def poll(self) -> float:
        """Look, if it is time to; returns since when the tree has been idle (now, if it is active)."""
        now = self._clock.monotonic()
        if self._before is not None and now - self._looked_at < self._period:
            return self.idle_since_monotonic_seconds
        seen = self._read()
        if self._before is None or is_active(self._before, seen, now - self._looked_at):
            self.idle_since_monotonic_seconds = now
        self._before, self._looked_at = seen, now
        return self.idle_since_monotonic_seconds

    def _read(self) -> dict[tuple[int, int], Counters]:
        seen = {}
        for pid in self._pids():
            found = read_counters(pid)
            if found:
                seen[pid, found[0]] = found[1]
        return seen


class CommandProgress:
    """The Progress of a whole command, from its log where one can be followed, else from its activity."""

    def __init__(
        self, *, incarnation: tuple[int, int], activity: TreeActivity, clock: Clock, has_log: bool
    ) -> None:
        self._incarnation = incarnation
        self._activity = activity
        self._clock = clock
        self._has_log = has_log
        self._moved_at = (clock.monotonic(), clock.wall())
        self._count = 0

    def poll(self, grown_bytes: int) -> Progress:
        """Take note of how much the log grew since the last poll, and look at the tree."""
        idle_since = self._activity.poll()
        if self._has_log:
            if grown_bytes > 0:
                self._moved_at = (self._clock.monotonic(), self._clock.wall())
                self._count += 1
        elif idle_since > self._moved_at[0]:
            self._moved_at = (idle_since, self._clock.wall())
            self._count += 1
        return Progress(
            source="log" if self._has_log else "activity",
            rank=None,
            incarnation=self._incarnation,
            stages=(COMMAND_STAGE,),
            phase=None,
            step=None,
            steps=0,
            count=self._count,
            moved_at_monotonic_seconds=self._moved_at[0],
            moved_at_wall_seconds=self._moved_at[1],
            idle_since_monotonic_seconds=idle_since,
        )


def descendants(pid: int, proc: Path = Path("/proc")) -> tuple[int, ...]:
    """`pid` and all below it, from the kernel's lists of children: no walk over every process there is."""
    found: dict[int, None] = {pid: None}
    waiting = [pid]
    while waiting:
        for child in _children(proc / str(waiting.pop()) / "task"):
            if child not in found:
                found[child] = None
                waiting.append(child)
    return tuple(found)


def _children(folder: Path) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in folder.iterdir():
            with contextlib.suppress(OSError, ValueError):  # ended in between
                found.extend(map(int, (thread / "children").read_bytes().split()))
    return found
