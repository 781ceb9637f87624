"""Questions to a Case that several readers ask: rates, best stacks, what a thread waits in, who is behind.

Pure. Not covered: verdicts (`movement`), words (`headline`, `render.case_text`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.evidence import Missing, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.evidence import (
        Case,
        Json,
        Piece,
        ProcessSample,
        Running,
        Syscall,
        ThreadSample,
        ThreadStack,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What one process did between the first and the last sample that saw it."""

    pid: int
    seconds: float
    cpu_ratio: float
    io_bytes: Piece[int]


def rates(case: Case) -> tuple[Rate, ...]:
    """CPU and io of every process that was seen at least twice."""
    ticks = max(1, case.host.clock_ticks_per_second)
    seen: dict[int, list[tuple[float, ProcessSample]]] = {}
    for sample in case.samples:
        for process in sample.processes:
            if isinstance(process.activity, Reading):
                seen.setdefault(process.pid, []).append((process.activity.at_seconds, process))
    found = []
    for pid, moments in seen.items():
        (begin, first), (end, last) = moments[0], moments[-1]
        if end > begin and isinstance(first.activity, Reading) and isinstance(last.activity, Reading):
            before, after = first.activity.value, last.activity.value
            used = after.user_ticks + after.system_ticks - before.user_ticks - before.system_ticks
            rate = Rate(
                pid=pid,
                seconds=end - begin,
                cpu_ratio=used / ticks / (end - begin),
                io_bytes=_io_between(first, last),
            )
            found.append(rate)
    return tuple(found)


def latest_stacks(case: Case, pid: int) -> tuple[ThreadStack, ...]:
    """The last Python stacks that were seen of a process; those read while it was paused, if any."""
    for methods in (("blocking", "native", "faulthandler"), ("nonblocking",)):
        for sample in reversed(case.samples):
            for process in sample.processes:
                if process.pid != pid or isinstance(process.stacks, Missing):
                    continue
                if process.stacks.value.method in methods:
                    return process.stacks.value.threads
    return ()


def latest_thread(case: Case, pid: int, tid: int) -> ThreadSample | None:
    """The last look at a thread."""
    return next((found for found in reversed(_looks(case, pid, tid))), None)


def waits_in(case: Case, pid: int, tid: int) -> Syscall | Running | None:
    """The system call of a thread, by its last look; None where it could not be seen.

    A pause (ptrace) makes calls with a timeout show as `restart_syscall` from then on: then an earlier
    look, before the first pause, tells what it was, if the thread has not run since.
    """
    looks = [found for found in _looks(case, pid, tid) if isinstance(found.syscall, Reading)]
    if not looks:
        return None
    last = looks[-1]
    for found in reversed(looks):
        assert isinstance(found.syscall, Reading)
        call = found.syscall.value
        same = (found.user_ticks, found.system_ticks) == (last.user_ticks, last.system_ticks)
        if same and getattr(call, "name", "") != "restart_syscall":
            return call
    assert isinstance(last.syscall, Reading)
    return last.syscall.value


def _looks(case: Case, pid: int, tid: int) -> list[ThreadSample]:
    return [
        thread
        for sample in case.samples
        for process in sample.processes
        if process.pid == pid and isinstance(process.threads, Reading)
        for thread in process.threads.value
        if thread.tid == tid
    ]


def laggard(records: Piece[tuple[dict[str, Json], ...]]) -> Mapping[str, Json] | None:
    """The record of the rank whose last progress is the oldest, of those that have not closed."""
    if isinstance(records, Missing):
        return None
    open_ones = [record for record in records.value if record.get("closed_status") is None]
    return min(open_ones, key=last_progress, default=None)


def last_progress(record: Mapping[str, Json]) -> float:
    """When this rank last progressed, on the monotonic clock."""
    found = record.get("last_progress_monotonic_seconds")
    return float(found) if isinstance(found, (int, float)) else 0.0


def _io_between(first: ProcessSample, last: ProcessSample) -> Piece[int]:
    if isinstance(first.io, Missing):
        return first.io
    if isinstance(last.io, Missing):
        return last.io
    before, after = first.io.value, last.io.value
    moved = after.read_chars + after.write_chars - before.read_chars - before.write_chars
    return Reading(value=moved, at_seconds=last.io.at_seconds)
