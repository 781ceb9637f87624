"""Whether what a thread waits for comes after all: it runs now and then, bytes arrive, bytes leave.

A thread that waits for what does not come is never put on a CPU. The scheduler's counts, taken while
nothing of ours paused the process, tell that without a guess (`evidence.Undisturbed`); the kernel's counts of
a socket tell when its last byte came (`evidence.Traffic`). A wait with a time limit of its own wakes up for
nothing, so that only waits without one are judged by it.

Not covered: loops and their counters (`progress`), causes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.evidence import Reading
from harness.rules import runs, say
from harness.rules.signatures import SLEEPS
from harness.rules.threads import code_frames

if TYPE_CHECKING:
    from harness.evidence import IoCounters, Syscall, Traffic
    from harness.rules.scene import Scene
    from harness.rules.view import ProcessView
    from harness.rules.waits import Wait

# What one is woken from only by what one waits for.
_SERVED = frozenset(
    {"queue-get", "queue-put", "process-queue", "lock", "process-lock", "event", "process-event"}
    | {"future", "pool", "async", "file-lock"}
)
_POLL_TIMEOUT_AT = {"poll": 2, "epoll_wait": 3, "epoll_pwait": 3}
_NO_LIMIT = 0xFFFFFFFF
# A callback that only looks at something (a heartbeat, a poll) costs a fraction of this.
_WORK_SECONDS = 0.0004
# A loop that sleeps between portions; a poll that reads a small status file moves less.
_COPIED_BYTES_PER_SECOND = 4096
_READ_BYTES_PER_SECOND = 128 * 1024


def has_limit(call: Syscall) -> bool:
    """Whether a wait ends by itself after a time."""
    if call.name == "futex":
        return len(call.arguments) > 3 and bool(call.arguments[3])
    if call.name in _POLL_TIMEOUT_AT:
        at = _POLL_TIMEOUT_AT[call.name]
        return len(call.arguments) <= at or call.arguments[at] & _NO_LIMIT != _NO_LIMIT
    if call.name in ("select", "pselect6", "ppoll"):
        at = 2 if call.name == "ppoll" else 4
        return len(call.arguments) <= at or bool(call.arguments[at])
    return call.name in ("clock_nanosleep", "nanosleep", "rt_sigtimedwait", "epoll_pwait2")


def ends_within(call: Syscall | None, seconds: float) -> bool:
    """Whether a poll has a limit of its own that is no further off than this."""
    at = _POLL_TIMEOUT_AT.get(call.name) if call is not None else None
    if call is None or at is None or len(call.arguments) <= at:
        return False
    return call.arguments[at] & _NO_LIMIT <= seconds * 1000


def served(scene: Scene, wait: Wait) -> str:
    """What shows that a wait inside the training ends again and again, or nothing."""
    thread, call = wait.thread, wait.thread.syscall
    # Asleep by now, where its last stack shows another wait: it came on from there.
    came_on = call is not None and call.name in SLEEPS
    if wait.kind not in _SERVED or call is None or (has_limit(call) and not came_on):
        return ""
    if scene.motion(thread).user_lines_changed:
        return f"{thread.name or 'the thread'} came to other lines, and waits for {say.waits_for(wait)} again"
    if came_on or not runs.runs_again(thread):
        return ""
    # The proxy's own method was made while the program ran, and has no source.
    caller = next((each for each in code_frames(thread) if scene.sources.of(each) is not None), None)
    if _is_proxied(wait) and caller is not None and "timeout" in scene.sources.statement(caller):
        return ""  # a Manager answers when the time is over, with nothing
    inner = [each.function for each in thread.python_frames[:4]]
    # A barrier wakes those that wait when it opens, and for nothing else.
    if wait.frame is not None and "wait_for" in inner[:3] and "_wait" not in inner:
        return ""  # woken, and its condition is false all the same
    often, _, seconds = runs.counted(thread)
    return (
        f"{thread.name or 'the thread'} got {say.waits_for(wait)} and waits again: it ran {often} times "
        f"in {seconds:.1f} s"
    )


def _is_proxied(wait: Wait) -> bool:
    return wait.frame is not None and wait.frame.file.endswith("multiprocessing/managers.py")


def turns(wait: Wait) -> str:
    """What shows that an event loop's timers call something that works, or nothing."""
    if wait.kind != "async" or not runs.runs_again(wait.thread):
        return ""
    often, worked, seconds = runs.counted(wait.thread)
    if worked < _WORK_SECONDS * often:
        return ""
    return f"the event loop ran {often} times in {seconds:.1f} s, and worked {worked * 1000:.0f} ms"


def moves_bytes(scene: Scene, wait: Wait) -> str:
    """What shows that bytes come or go where a wait is for them, or nothing."""
    if wait.kind in ("socket-read", "socket-write"):
        return _socket(scene, wait)
    piped = wait.descriptor is not None and wait.descriptor.kind in ("pipe", "fifo")
    if wait.kind in ("pipe-read", "pipe-write") or (wait.kind == "stdin" and piped):
        return _pipe(wait)
    if wait.kind == "sleep" and wait.user is not None and not scene.sources.retries(wait.user):
        return _portions(wait.thread.process) if runs.runs_again(wait.thread) else ""
    return ""


def traffic(scene: Scene, wait: Wait) -> Traffic | None:
    """What the kernel counted of the socket of a wait."""
    seen = scene.view.case.traffic
    if wait.socket is None or not isinstance(seen, Reading):
        return None
    return next((each for each in seen.value if each.inode == wait.socket.inode), None)


def _socket(scene: Scene, wait: Wait) -> str:
    found, call = traffic(scene, wait), wait.thread.syscall
    again = runs.runs_again(wait.thread)
    elapsed = scene.view.elapsed_seconds
    if found is not None:
        recent = max(elapsed, 0.5)
        if wait.kind == "socket-read":
            since, moves = found.since_received_seconds, again is not False
        else:
            # The kernel sends on from its buffer while the writer sleeps. What is only probed is not sent
            # anew, and what is sent again is not acknowledged.
            since = found.since_sent_seconds
            lost = wait.socket is not None and wait.socket.retransmits > 0
            moves = found.since_acknowledged_seconds < recent and not lost
        if since >= recent or not moves:
            return ""
        total = found.received_bytes if wait.kind == "socket-read" else found.acknowledged_bytes
        verb = "came" if wait.kind == "socket-read" else "went"
        return f"the last bytes {verb} {since:.1f} s ago, {total:,} on this connection"
    if again and call is not None and not has_limit(call):
        return f"{wait.thread.name or 'the thread'} is woken by its socket again and again"
    return ""


def _pipe(wait: Wait) -> str:
    first, last, seconds = _io(wait.thread.process)
    if first is None or last is None or seconds <= 0 or not _took(wait):
        return ""
    reads = wait.kind != "pipe-write"
    moved = last.read_chars - first.read_chars if reads else last.write_chars - first.write_chars
    if moved <= 0:
        return ""
    return f"{moved:,} bytes {'came' if reads else 'went'} in {seconds:.1f} s"


def _took(wait: Wait) -> bool:
    """Whether what its process moved was moved by this thread: it ran again and again, or alone."""
    others = (each for each in wait.thread.process.threads if each is not wait.thread)
    alone = not any(runs.counted(each)[0] for each in others)
    return bool(runs.runs_again(wait.thread)) or (alone and runs.counted(wait.thread)[0] > 0)


def _portions(process: ProcessView) -> str:
    first, last, seconds = _io(process)
    if first is None or last is None or seconds <= 0:
        return ""
    wrote, read = last.write_chars - first.write_chars, last.read_chars - first.read_chars
    if wrote / seconds < _COPIED_BYTES_PER_SECOND and read / seconds < _READ_BYTES_PER_SECOND:
        return ""
    return f"it read {read:,} and wrote {wrote:,} bytes in {seconds:.1f} s, with pauses"


def _io(process: ProcessView) -> tuple[IoCounters | None, IoCounters | None, float]:
    """The first and the last counters of a process that has only this one to move bytes, and the seconds."""
    seen = [
        (sample.at_seconds, each.io.value)
        for sample in process.view.case.samples
        for each in sample.processes
        if each.pid == process.pid and isinstance(each.io, Reading)
    ]
    if len(seen) < 2:
        return None, None, 0.0
    return seen[0][1], seen[-1][1], seen[-1][0] - seen[0][0]
