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
from harness.questions import laggard, last_progress, rates

if TYPE_CHECKING:
    from harness.evidence import Case, Sample

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


def _by_records(first: Sample, last: Sample) -> Movement | None:
    behind = laggard(first.records)
    if behind is None or isinstance(last.records, Missing):
        return None
    now = next((record for record in last.records.value if record.get("pid") == behind.get("pid")), None)
    if now is None:
        return None
    rank, seconds = behind.get("rank"), last.at_seconds - first.at_seconds
    if last_progress(now) > last_progress(behind):
        fact = f"rank {rank} progressed while we looked: step {now.get('step')}, stage {now.get('stage')}"
        return Movement(verdict="moved", facts=(fact,))
    fact = (
        f"rank {rank} made no progress in {seconds:.1f} s (step {now.get('step')}, stage {now.get('stage')})"
    )
    return Movement(verdict="still", facts=(fact,))


def _by_activity(case: Case) -> Movement:
    moved, still, unseen, idle = _log(case.samples[0], case.samples[-1]), [], [], []
    for rate in rates(case):
        if isinstance(rate.io_bytes, Reading) and rate.io_bytes.value >= SMALL_IO_BYTES:
            moved.append(f"pid {rate.pid} moved {rate.io_bytes.value} bytes in {rate.seconds:.1f} s")
        busy = f"pid {rate.pid} used {rate.cpu_ratio:.0%} of a core"
        changed = _stack_changed(case, rate.pid)
        if rate.cpu_ratio < IDLE_CPU_RATIO:
            idle.append(str(rate.pid))
        elif changed is None:
            unseen.append(f"{busy}, and where could not be seen")
        elif changed:
            moved.append(f"{busy}, in changing functions")
        else:
            still.append(f"{busy}, in one place")
    if idle:
        still.append(f"pid {', '.join(idle[:8])}{' and others' if len(idle) > 8 else ''} used no CPU")
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


def _ended(case: Case, pid: int) -> bool:
    """Whether the last sample found the process gone, or a zombie."""
    for sample in case.samples[-1:]:
        for process in sample.processes:
            if process.pid == pid:
                if isinstance(process.activity, Missing):
                    return process.activity.reason == "unavailable"
                return process.activity.value.state in "ZX"
    return False
