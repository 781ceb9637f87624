"""A Case as lines of text: what was seen and what was not, until rules say what it means.

Pure: lines in, none printed. Whatever came from the target is made harmless. Not covered: causes, colours.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from harness import frames
from harness.evidence import Missing, Reading, Running, Syscall
from harness.headline import STATES, headline
from harness.movement import latest_stacks, movement, rates
from harness.render.text import duration, single_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.evidence import Case, Frame, Piece, Process, Stacks, ThreadSample, ThreadStack

# For the main facts to stand on one screen; everything is in case.json and stacks/.
MAX_PROCESSES = 12
MAX_THREADS = 6
MAX_FRAMES = 5

_VERDICTS = {
    "moved": "PROGRESS was seen",
    "still": "NO PROGRESS was seen",
    "unknown": "CANNOT TELL whether it progresses",
}


def case_lines(case: Case) -> list[str]:
    """The main facts on one screen."""
    found = movement(case)
    lines = [
        f"{_VERDICTS[found.verdict]} · pid {case.target.pid} · {_command(case, case.target.pid)}",
        headline(case),
        "",
    ]
    lines += _labelled("because", found.facts[:4])
    lines += _labelled("taken", [_taken(case)])
    lines += _labelled("log", _log(case))
    for process in case.processes[:MAX_PROCESSES]:
        lines += ["", *_process_lines(case, process)]
    if len(case.processes) > MAX_PROCESSES:
        lines += ["", f"and {len(case.processes) - MAX_PROCESSES} more processes: see stacks/ and case.json"]
    missing = not_seen(case)
    if missing:
        lines += ["", *_labelled("unchecked", missing)]
    return lines


def stack_lines(stacks: Stacks) -> list[str]:
    """One dump, all of it, innermost frame first."""
    lines = [f"{stacks.method} dump, {stacks.took_seconds:.2f} s"]
    if stacks.limits:
        lines.append(f"no more than that because: {single_line(stacks.limits)}")
    for thread in stacks.threads:
        lines += ["", _thread_title(thread)]
        lines += [f"    {_frame(frame)}" for frame in thread.frames]
    return lines


def not_seen(case: Case) -> list[str]:
    """What is missing and why, each thing once."""
    pieces: list[tuple[str, Piece[object]]] = [
        ("log", case.log),
        ("run.json", case.run),
        ("gpu", case.gpus),
        ("file locks", case.locks),
        ("pipes", case.pipes),
        ("pressure", case.pressure),
    ]
    if case.samples:
        pieces.append(("heartbeats", case.samples[-1].records))
    for process in case.processes:
        pieces += [
            (f"files of pid {process.pid}", process.descriptors),
            (f"environment of pid {process.pid}", process.environment),
        ]
    for sample in case.samples[-1:]:
        for each in sample.processes:
            pieces += [(f"stacks of pid {each.pid}", each.stacks), (f"io of pid {each.pid}", each.io)]
    lines = [_missing(what, piece) for what, piece in pieces if isinstance(piece, Missing)]
    return lines + [single_line(f"{error.collector}: {error.detail}") for error in case.errors]


def _missing(what: str, piece: Missing) -> str:
    return single_line(f"{what}: {piece.reason.replace('_', ' ')} ({piece.detail})")


def _labelled(label: str, texts: list[str] | tuple[str, ...]) -> list[str]:
    return [f"  {label if not index else '':<10}{text}" for index, text in enumerate(texts)]


def _taken(case: Case) -> str:
    when = dt.datetime.fromtimestamp(case.taken_at_seconds, tz=dt.timezone.utc)
    return (
        f"{when:%Y-%m-%d %H:%M:%S} UTC, in {case.took_seconds:.1f} s, {len(case.samples)} samples "
        f"on {single_line(case.host.name)}"
    )


def _log(case: Case) -> list[str]:
    if isinstance(case.log, Missing):
        return []
    log = case.log.value
    age = max(0.0, case.taken_at_seconds - log.modified_wall_seconds)
    last = [line for line in log.tail.split("\n") if line.strip()][-1:]
    lines = [f"{single_line(log.path)}, {log.size_bytes} bytes, last written {duration(age)} before"]
    return lines + [f"  {single_line(line)[:90]}" for line in last]


def _command(case: Case, pid: int) -> str:
    process = case.process(pid)
    if process is None:
        return "gone"
    if isinstance(process.command, Reading) and process.command.value:
        return single_line(" ".join(process.command.value))[:80]
    return single_line(f"[{process.name}]")


def _process_lines(case: Case, process: Process) -> Iterator[str]:
    cpu = next((f", {rate.cpu_ratio * 100:.0f} % CPU" for rate in rates(case) if rate.pid == process.pid), "")
    age = f", {duration(process.age_seconds.value)} old" if isinstance(process.age_seconds, Reading) else ""
    state = STATES.get(process.state, process.state)
    yield f"pid {process.pid} · {state}{cpu}{age} · {_command(case, process.pid)}"
    stacks = {
        thread.tid.value: thread
        for thread in latest_stacks(case, process.pid)
        if isinstance(thread.tid, Reading)
    }
    unnamed = [each for each in latest_stacks(case, process.pid) if isinstance(each.tid, Missing)]
    samples = _threads(case, process.pid)
    # Threads with a Python stack first, the main thread before the others.
    samples.sort(key=lambda each: (each.tid not in stacks, each.tid != process.pid))
    for sample in samples[:MAX_THREADS]:
        thread = stacks.get(sample.tid)
        yield f"  {_thread_state(sample, thread)}"
        yield from _short_stack(thread.frames if thread else ())
    for thread in unnamed[:MAX_THREADS]:
        yield f"  {_thread_title(thread)}"
        yield from _short_stack(thread.frames)
    if len(samples) > MAX_THREADS:
        yield f"  and {len(samples) - MAX_THREADS} more threads"


def _threads(case: Case, pid: int) -> list[ThreadSample]:
    for sample in case.samples[-1:]:
        for process in sample.processes:
            if process.pid == pid and isinstance(process.threads, Reading):
                return list(process.threads.value)
    return []


def _thread_state(sample: ThreadSample, thread: ThreadStack | None) -> str:
    name = thread.name if thread is not None else sample.name
    words = [STATES.get(sample.state, sample.state)]
    if isinstance(sample.syscall, Reading):
        call = sample.syscall.value
        if isinstance(call, Syscall) and call.number >= 0:
            words.append(f"in {call.name}")
        elif isinstance(call, Running):
            words = ["running"]
    if isinstance(sample.wchan, Reading):
        words.append(f"({single_line(sample.wchan.value)})")
    gil = (
        ", holds the GIL" if thread and isinstance(thread.owns_gil, Reading) and thread.owns_gil.value else ""
    )
    return f"{single_line(name) or '?'} ({sample.tid}): {' '.join(words)}{gil}"


def _thread_title(thread: ThreadStack) -> str:
    tid = f" ({thread.tid.value})" if isinstance(thread.tid, Reading) else ""
    active = isinstance(thread.active, Reading) and thread.active.value
    gil = isinstance(thread.owns_gil, Reading) and thread.owns_gil.value
    words = [word for word, holds in (("active", active), ("holds the GIL", gil)) if holds]
    return f"{single_line(thread.name) or '?'}{tid}{': ' + ', '.join(words) if words else ''}"


def _short_stack(found: tuple[Frame, ...]) -> Iterator[str]:
    """The innermost frames, and the blamed one if it lies deeper in."""
    blamed = frames.blamed(found)
    shown = list(found[:MAX_FRAMES])
    if blamed is not None and blamed not in shown:
        shown[-1] = blamed
    for frame in shown:
        yield f"    {'>' if frame is blamed else ' '} {_frame(frame)}"


def _frame(frame: Frame) -> str:
    numbers = [f"{each.name} = {each.value}" for each in frame.locals if each.kind == "number"][:4]
    where = f"{frame.file}:{frame.line}" if frame.line else frame.file
    return single_line(f"{frame.function} ({where})" + (f"  {', '.join(numbers)}" if numbers else ""))
