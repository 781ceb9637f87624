"""A Case as lines of text: what was seen and what was not, until rules say what it means.

Pure: lines in, none printed. Whatever came from the target is made harmless. Not covered: causes, colours.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from harness import frames
from harness.evidence import Missing, Reading, Syscall
from harness.headline import STATES, chosen_thread, headline, looked_at
from harness.movement import movement
from harness.questions import latest_stacks, latest_thread, rates, waits_in
from harness.render.text import duration, single_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.evidence import Case, Frame, Piece, Process, Stacks, ThreadSample, ThreadStack

# For the main facts to stand on one screen; everything is in case.json and stacks/.
MAX_PROCESSES = 8
MAX_THREADS = 4
MAX_FRAMES = 4

_VERDICTS = {
    "moved": "PROGRESS was seen",
    "still": "NO PROGRESS was seen",
    "unknown": "CANNOT TELL whether it progresses",
}


def case_lines(case: Case, *, judged: bool = False) -> list[str]:
    """The main facts on one screen; `judged`: below a diagnosis, which has said already whether it moves."""
    lines: list[str] = []
    if not judged:
        found = movement(case)
        lines += [
            f"{_VERDICTS[found.verdict]} · pid {case.target.pid} · {_command(case, case.target.pid)}",
            headline(case),
            "",
            *_labelled("because", found.facts[:4]),
        ]
    lines += _labelled("taken", [_taken(case)])
    lines += _labelled("log", _log(case))
    first = looked_at(case)
    for process in sorted(case.processes, key=lambda each: each is not first)[:MAX_PROCESSES]:
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
    return (
        f"{_when(case.taken_at_seconds)}, in {case.took_seconds:.1f} s, {len(case.samples)} samples "
        f"on {single_line(case.host.name)}"
    )


def _when(wall_seconds: float) -> str:
    try:
        return f"{dt.datetime.fromtimestamp(wall_seconds, tz=dt.timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return "at an impossible time"


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
    """A process: its main thread with the innermost frames, the others on one line each."""
    cpu = next((f", {rate.cpu_ratio * 100:.0f} % CPU" for rate in rates(case) if rate.pid == process.pid), "")
    age = f", {duration(process.age_seconds.value)} old" if isinstance(process.age_seconds, Reading) else ""
    state = STATES.get(process.state, process.state)
    yield f"pid {process.pid} · {state}{cpu}{age} · {_command(case, process.pid)}"
    stacks = latest_stacks(case, process.pid)
    main = chosen_thread(stacks)
    if main is not None:
        yield f"  {_thread_line(case, process.pid, main, where=False)}"
        yield from _short_stack(main.frames)
    others = [thread for thread in stacks if thread is not main]
    for thread in others[:MAX_THREADS]:
        yield f"  {_thread_line(case, process.pid, thread, where=True)}"
    named = {thread.tid.value for thread in stacks if isinstance(thread.tid, Reading)}
    native = [each for each in _threads(case, process.pid) if each.tid not in named] if named else []
    if not stacks:
        native = _threads(case, process.pid)
    for each in native[: MAX_THREADS if not stacks else 0]:
        yield f"  {single_line(each.name)} ({each.tid}): {_doing(case, process.pid, each)}"
    more = (
        len(others) + len(native) - MAX_THREADS
        if not stacks
        else max(0, len(others) - MAX_THREADS) + len(native)
    )
    if more > 0:
        names = sorted({single_line(each.name) for each in native})[:4]
        yield f"  and {more} more threads{': ' + ', '.join(names) if names and stacks else ''}"


def _threads(case: Case, pid: int) -> list[ThreadSample]:
    for sample in case.samples[-1:]:
        for process in sample.processes:
            if process.pid == pid and isinstance(process.threads, Reading):
                return list(process.threads.value)
    return []


def _thread_line(case: Case, pid: int, thread: ThreadStack, *, where: bool) -> str:
    title = _thread_title(thread)
    sample = latest_thread(case, pid, thread.tid.value) if isinstance(thread.tid, Reading) else None
    doing = f"{', ' if ': ' in title else ': '}{_doing(case, pid, sample)}" if sample is not None else ""
    frame = frames.blamed(thread.frames) or (thread.frames[0] if thread.frames else None)
    return f"{title}{doing}{f' at {single_line(frames.place(frame))}' if where and frame else ''}"


def _doing(case: Case, pid: int, sample: ThreadSample) -> str:
    words = [STATES.get(sample.state, sample.state)]
    call = waits_in(case, pid, sample.tid)
    if isinstance(call, Syscall) and call.number >= 0:
        words.append(f"in {call.name}")
    if isinstance(sample.wchan, Reading):
        words.append(f"({single_line(sample.wchan.value)})")
    return " ".join(words)


def _thread_title(thread: ThreadStack) -> str:
    tid = f" ({thread.tid.value})" if isinstance(thread.tid, Reading) else ""
    active = isinstance(thread.active, Reading) and thread.active.value
    gil = isinstance(thread.owns_gil, Reading) and thread.owns_gil.value
    words = [word for word, holds in (("active", active), ("holds the GIL", gil)) if holds]
    return f"{single_line(thread.name) or '?'}{tid}{': ' + ', '.join(words) if words else ''}"


def _short_stack(found: tuple[Frame, ...]) -> Iterator[str]:
    """The innermost frames, and the blamed one if it lies deeper in; that one with its whole path."""
    blamed = frames.blamed(found)
    shown = list(found[:MAX_FRAMES])
    if blamed is not None and blamed not in shown:
        shown[-1] = blamed
    for frame in shown:
        yield f"    > {_frame(frame)}" if frame is blamed else f"      {single_line(frames.place(frame))}"


def _frame(frame: Frame) -> str:
    numbers = [f"{each.name} = {each.value}" for each in frame.locals if each.kind == "number"][:4]
    where = f"{frame.file}:{frame.line}" if frame.line else frame.file
    return single_line(f"{where} in {frame.function}" + (f"   {', '.join(numbers)}" if numbers else ""))
