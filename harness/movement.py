"""What moved between the samples of a Case: plain facts, and what they amount to.

Pure. `moved` means that progress was seen; `still` that none was, though enough could be seen; `unknown`
that too little could. Heartbeats decide where there are any: the rank that is behind must have
progressed. Without them the log, io, and the functions on the stacks speak. A process that burns CPU in
one place is `still`: whether that place is a spin or a slow loop is for the rules to say.

Not covered: causes, whom to blame (`headline`, rules).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from harness import frames
from harness.evidence import Missing, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.evidence import Case, Json, Piece, ProcessSample, Sample, ThreadStack

Verdict: TypeAlias = Literal["moved", "still", "unknown"]

# Below these a process counts as idle, or its io as housekeeping (an event loop that wakes up).
IDLE_CPU_RATIO = 0.02
SMALL_IO_BYTES = 4096
MAX_COUNTING = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """The verdict and the facts it stands on, the weightiest first."""

    verdict: Verdict
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What one process did between the first and the last sample that saw it."""

    pid: int
    seconds: float
    cpu_ratio: float
    io_bytes: Piece[int]


def movement(case: Case) -> Movement:
    """Whether anything that matters moved while we looked."""
    if not case.processes or all(_ended(case, process.pid) for process in case.processes):
        return Movement(verdict="still", facts=("the process has ended",))
    if len(case.samples) < 2:
        return Movement(verdict="unknown", facts=("one sample only: nothing to compare",))
    found = _by_records(case.samples[0], case.samples[-1]) or _by_activity(case)
    return Movement(verdict=found.verdict, facts=(*found.facts, *counting(case)))


def counting(case: Case) -> tuple[str, ...]:
    """Numbers in the user's frames that changed between dumps that may be trusted: `t went 398 → 412`.

    A fact and no verdict: a slow loop counts up, but so does one that will never end.
    """
    seen: dict[tuple[int, str, str, str], list[str]] = {}
    for sample in case.samples:
        for process in sample.processes:
            if isinstance(process.stacks, Missing) or process.stacks.value.method == "nonblocking":
                continue
            for thread in process.stacks.value.threads:
                frame = frames.blamed(thread.frames)
                for each in frame.locals if frame else ():
                    if frame and each.kind == "number":
                        key = (process.pid, thread.name, frames.function(frame), each.name)
                        seen.setdefault(key, []).append(each.value)
    changed = [
        f"{name} went {values[0]} → {values[-1]} in {function} (pid {pid})"
        for (pid, _, function, name), values in seen.items()
        if values[0] != values[-1]
    ]
    return tuple(changed[:MAX_COUNTING])


def rates(case: Case) -> tuple[Rate, ...]:
    """CPU and io of every process that was seen at least twice."""
    ticks = case.host.clock_ticks_per_second
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


def laggard(records: Piece[tuple[dict[str, Json], ...]]) -> Mapping[str, Json] | None:
    """The record of the rank whose last progress is the oldest, of those that have not closed."""
    if isinstance(records, Missing):
        return None
    open_ones = [record for record in records.value if record.get("closed_status") is None]
    return min(open_ones, key=_last_progress, default=None)


def _last_progress(record: Mapping[str, Json]) -> float:
    found = record.get("last_progress_monotonic_seconds")
    return float(found) if isinstance(found, (int, float)) else 0.0


def _by_records(first: Sample, last: Sample) -> Movement | None:
    behind = laggard(first.records)
    if behind is None or isinstance(last.records, Missing):
        return None
    now = next((record for record in last.records.value if record.get("pid") == behind.get("pid")), None)
    if now is None:
        return None
    rank, seconds = behind.get("rank"), last.at_seconds - first.at_seconds
    if _last_progress(now) > _last_progress(behind):
        fact = f"rank {rank} progressed while we looked: step {now.get('step')}, stage {now.get('stage')}"
        return Movement(verdict="moved", facts=(fact,))
    fact = (
        f"rank {rank} made no progress in {seconds:.1f} s (step {now.get('step')}, stage {now.get('stage')})"
    )
    return Movement(verdict="still", facts=(fact,))


def _by_activity(case: Case) -> Movement:
    moved, still, unseen = _log(case.samples[0], case.samples[-1]), [], []
    for rate in rates(case):
        if isinstance(rate.io_bytes, Reading) and rate.io_bytes.value >= SMALL_IO_BYTES:
            moved.append(f"pid {rate.pid} moved {rate.io_bytes.value} bytes in {rate.seconds:.1f} s")
        busy = f"pid {rate.pid} used {rate.cpu_ratio:.0%} of a core"
        changed = _stack_changed(case, rate.pid)
        if rate.cpu_ratio < IDLE_CPU_RATIO:
            still.append(f"pid {rate.pid} used no CPU")
        elif changed is None:
            unseen.append(f"{busy}, and where could not be seen")
        elif changed:
            moved.append(f"{busy}, in changing functions")
        else:
            still.append(f"{busy}, in one place")
    if moved:
        return Movement(verdict="moved", facts=(*moved, *still, *unseen))
    if unseen or not still:
        return Movement(verdict="unknown", facts=(*unseen, *still) or ("no process could be seen twice",))
    return Movement(verdict="still", facts=tuple(still))


def _log(first: Sample, last: Sample) -> list[str]:
    if isinstance(first.log_bytes, Reading) and isinstance(last.log_bytes, Reading):
        grown = last.log_bytes.value - first.log_bytes.value
        return [f"the log grew by {grown} bytes"] if grown > 0 else []
    return []


def _stack_changed(case: Case, pid: int) -> bool | None:
    """Whether other functions stood on the stacks; None where fewer than two dumps were had."""
    seen = [
        frozenset(
            tuple((frame.file, frame.function) for frame in thread.frames if not frame.native)
            for thread in process.stacks.value.threads
        )
        for sample in case.samples
        for process in sample.processes
        if process.pid == pid and isinstance(process.stacks, Reading)
    ]
    return len(set(seen)) > 1 if len(seen) > 1 else None


def _io_between(first: ProcessSample, last: ProcessSample) -> Piece[int]:
    if isinstance(first.io, Missing):
        return first.io
    if isinstance(last.io, Missing):
        return last.io
    before, after = first.io.value, last.io.value
    moved = after.read_chars + after.write_chars - before.read_chars - before.write_chars
    return Reading(value=moved, at_seconds=last.io.at_seconds)


def _ended(case: Case, pid: int) -> bool:
    """Whether the last sample found the process gone, or a zombie."""
    for sample in case.samples[-1:]:
        for process in sample.processes:
            if process.pid == pid:
                if isinstance(process.activity, Missing):
                    return process.activity.reason == "unavailable"
                return process.activity.value.state in "ZX"
    return False
