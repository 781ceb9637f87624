"""One line that says where a process tree stands: rank, thread, state, deepest line of the user's code.

Pure. A stand-in for a diagnosis: it names no cause, and follows waits only from a DataLoader's main
process to its busy worker. Not covered: the whole Case (`harness.render.case_text`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import frames
from harness.evidence import Missing, Reading, Syscall
from harness.questions import laggard, latest_stacks, latest_thread, rates, waits_in
from harness.render.text import single_line

if TYPE_CHECKING:
    from harness.evidence import Case, Frame, Process, ThreadStack

STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "in uninterruptible sleep",
    "T": "stopped",
    "t": "stopped by a debugger",
    "Z": "a zombie",
    "X": "dead",
    "I": "idle",
}


def headline(case: Case) -> str:
    """One line for the terminal; says so where little was seen."""
    process = looked_at(case)
    if process is None:
        return single_line(f"process {case.target.pid} has ended")
    who = _who(case, process)
    thread = chosen_thread(latest_stacks(case, process.pid))
    state = _state(case, process, thread)
    if thread is None:
        return single_line(f"{who}: {state}; no Python stack ({_why_no_stack(case, process.pid)})")
    return single_line(f"{who} {_thread_name(thread)}: {_where(thread.frames)} ({state})")


def looked_at(case: Case) -> Process | None:
    """The process to speak of: the rank that is behind, else the target; or the busy worker it waits for."""
    alive = {
        process.pid: process
        for sample in case.samples[-1:]
        for seen in sample.processes
        if isinstance(seen.activity, Reading) and (process := case.process(seen.pid)) is not None
    }
    if not alive:
        return None
    behind = laggard(case.samples[-1].records)
    pid = behind.get("pid") if behind is not None else case.target.pid
    first = alive.get(pid) if isinstance(pid, int) else None
    with_stacks = [process for process in alive.values() if _has_user_frames(case, process.pid)]
    if first is None or (behind is None and with_stacks and not _has_user_frames(case, first.pid)):
        # The target is a shell or a launcher: the busiest of its descendants that runs the user's code.
        cpu = {rate.pid: rate.cpu_ratio for rate in rates(case)}
        first = max(with_stacks or list(alive.values()), key=lambda each: cpu.get(each.pid, 0.0))
    return _busy_worker(case, first, with_stacks) or first


def _busy_worker(case: Case, process: Process, candidates: list[Process]) -> Process | None:
    waits = any(
        frame.file.endswith("torch/utils/data/dataloader.py")
        for thread in latest_stacks(case, process.pid)
        for frame in thread.frames
    )
    if not waits:
        return None
    workers = (each for each in candidates if each.ppid == process.pid)
    return next((each for each in workers if any(map(_is_busy, latest_stacks(case, each.pid)))), None)


def _is_busy(thread: ThreadStack) -> bool:
    busy = isinstance(thread.active, Reading) and thread.active.value
    return (busy or _owns_gil(thread)) and frames.blamed(thread.frames) is not None


def _owns_gil(thread: ThreadStack) -> bool:
    return isinstance(thread.owns_gil, Reading) and thread.owns_gil.value


def chosen_thread(threads: tuple[ThreadStack, ...]) -> ThreadStack | None:
    """The main thread, unless another one holds the GIL in the user's code."""
    if not threads:
        return None
    holder = next((each for each in threads if _owns_gil(each) and frames.blamed(each.frames)), None)
    # faulthandler tells no names: it shows the main thread last.
    main = next((each for each in threads if each.name == "MainThread"), threads[-1])
    return holder or main


def _has_user_frames(case: Case, pid: int) -> bool:
    return any(
        frames.owner(frame) == "user" for thread in latest_stacks(case, pid) for frame in thread.frames
    )


def _who(case: Case, process: Process) -> str:
    records = case.samples[-1].records
    if isinstance(records, Reading):
        for record in records.value:
            if record.get("pid") == process.pid:
                return f"rank {record.get('rank')}"
    if isinstance(process.environment, Reading) and (rank := process.environment.value.get("RANK")):
        return f"rank {rank}" if process.pid == case.target.pid else f"rank {rank} (pid {process.pid})"
    return f"pid {process.pid}"


def _thread_name(thread: ThreadStack) -> str:
    return "main thread" if thread.name == "MainThread" else f"thread {thread.name or '?'}"


def _where(found: tuple[Frame, ...]) -> str:
    blamed = frames.blamed(found)
    if not found:
        return "no Python frame"
    if blamed is None:
        return f"in {frames.place(found[0])}"
    if blamed is found[0]:
        return f"at {frames.place(blamed)}"
    return f"in {frames.place(found[0])}, called from {frames.place(blamed)}"


def _state(case: Case, process: Process, thread: ThreadStack | None) -> str:
    tid = thread.tid.value if thread is not None and isinstance(thread.tid, Reading) else process.pid
    sample = latest_thread(case, process.pid, tid)
    state = sample.state if sample is not None else process.state
    words = [STATES.get(state, f"state {state}")]
    call = waits_in(case, process.pid, tid)
    if isinstance(call, Syscall) and call.number >= 0:
        words[0] += f" in {call.name}"
    cpu = next((rate.cpu_ratio for rate in rates(case) if rate.pid == process.pid), None)
    if cpu is not None:
        words.append(f"{cpu * 100:.0f} % CPU")
    if thread is not None and _owns_gil(thread):
        words.append("holds the GIL")
    return ", ".join(words)


def _why_no_stack(case: Case, pid: int) -> str:
    for process in case.samples[-1].processes:
        if process.pid == pid and isinstance(process.stacks, Missing):
            return f"{process.stacks.reason.replace('_', ' ')}: {process.stacks.detail}"
    return "not looked for"
