"""Words and shapes that all rules share: a Finding from a chain, places, processes.

Not covered: judging; making text harmless (renderers).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import frames as code
from harness.evidence import Reading
from harness.findings import Blame, Finding, Link
from harness.rules import runs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.evidence import Frame
    from harness.findings import State
    from harness.rules.chain import Chain
    from harness.rules.scene import Scene
    from harness.rules.threads import ThreadView
    from harness.rules.view import ProcessView
    from harness.rules.waits import Wait

_IDLE_CORES = 0.05

_WORDS = {
    "queue-get": "an item from a queue",
    "queue-put": "room in a queue",
    "queue-join": "a queue to be worked off",
    "process-queue": "a queue between processes",
    "event": "an event",
    "join": "a thread to end",
    "lock": "a lock",
    "process-lock": "a lock between processes",
    "process-event": "an event between processes",
    "future": "a future",
    "async": "its event loop's next event",
    "sync-over-async": "a coroutine in another thread",
    "socket-read": "data from a peer",
    "socket-write": "a peer to take data",
    "socket-connect": "a connection",
    "dns": "a name server",
    "serve": "clients to connect",
    "pipe-read": "data from a pipe",
    "pipe-write": "room in a pipe",
    "stdin": "someone to type",
    "file-lock": "a lock file",
    "child": "a subprocess",
    "process-join": "a worker process to end",
    "pool": "a pool's result",
    "pool-worker": "a task",
    "dataloader": "a DataLoader worker",
    "retry": "the next try",
    "sleep": "time to pass",
    "disk": "the kernel (uninterruptible)",
    "collective": "the other ranks",
    "rendezvous": "ranks to come",
    "gpu": "the GPU",
    "exit": "its threads, to end",
    "compile": "a compiler",
    "native-futex": "a lock in native code",
    "native": "something in native code",
    "busy": "nothing: it works",
    "gil": "the GIL",
    "signal": "a signal",
    "stopped": "SIGCONT",
    "unseen": "something that could not be seen",
}


def waits_for(wait: Wait) -> str:
    """What a wait is for, in words."""
    words = _WORDS[wait.kind]
    if wait.socket is not None and wait.socket.peer:
        return f"{words} {wait.socket.peer} ({wait.socket.state})"
    if wait.descriptor is not None and wait.kind in ("file-lock", "pipe-read", "pipe-write"):
        return f"{words} {wait.descriptor.target}"
    return words


def doing(wait: Wait) -> str:
    """`waits for data from a peer …`, or `works`."""
    words = waits_for(wait)
    works = words.removeprefix("nothing: it ")
    return works if works != words else f"waits for {words}"


def place(frame: Frame | None) -> str:
    """`loader.py:31 in fetch`."""
    return code.place(frame) if frame is not None else "an unknown line"


def short(process: ProcessView, path: str) -> str:
    """A path as the process itself would write it: from its current folder, if it lies there."""
    cwd = process.process.cwd
    folder = cwd.value.rstrip("/") if isinstance(cwd, Reading) else ""
    return path[len(folder) + 1 :] if folder and path.startswith(f"{folder}/") else path


def who(thread: ThreadView) -> str:
    """The thread in words, with its rank or pid where it is not the only one."""
    process = thread.process
    name = "the main thread" if thread.is_main else f"thread {thread.name}"
    if process.rank is not None:
        return f"rank {process.rank}" if thread.is_main else f"{name} of rank {process.rank}"
    if process.pid != process.view.case.target.pid:
        return f"worker pid {process.pid}" if process.role == "worker" else f"pid {process.pid}"
    return name


def blame(thread: ThreadView, frame: Frame | None) -> Blame | None:
    """The line to look at."""
    if frame is None:
        return None
    return Blame(
        pid=thread.process.pid,
        tid=thread.tid,
        thread=thread.name or "?",
        file=frame.file,
        line=frame.line,
        function=frame.function,
    )


def link(wait: Wait) -> Link:
    """One waiter of a chain."""
    frame = wait.user
    return Link(
        pid=wait.thread.process.pid,
        tid=wait.thread.tid,
        thread=wait.thread.name or "?",
        waits_for=waits_for(wait),
        file=frame.file if frame else "",
        line=frame.line if frame else 0,
        function=frame.function if frame else "",
        rank=wait.thread.process.rank,
    )


def at_end(chain: Chain) -> Wait:
    """The last wait of a chain that has a frame to blame: of the user's code if there is any."""
    for wait in reversed(chain.waits):
        if wait.user is not None and code.owner(wait.user) == "user":
            return wait
        if wait.user is not None and wait is chain.end:
            return wait
    return next((wait for wait in reversed(chain.waits) if wait.user is not None), chain.end)


def finding(
    scene: Scene,
    chain: Chain,
    state: State,
    cause: str,
    confidence: float,
    summary: str,
    *,
    evidence: Iterable[str] = (),
    next_steps: Iterable[str] = (),
    wait: Wait | None = None,
) -> Finding:
    """A Finding about a chain; the blamed frame is the end's unless `wait` names another."""
    blamed = wait or at_end(chain)
    return Finding(
        state=state,
        cause=cause,
        confidence=round(confidence, 2),
        summary=summary[:1].upper() + summary[1:],
        blame=blame(blamed.thread, blamed.user),
        chain=tuple(link(each) for each in chain.waits),
        evidence=(*evidence, *chain.facts, *stillness(scene, chain.end.thread)),
        next_steps=tuple(next_steps),
    )


def stillness(scene: Scene, thread: ThreadView) -> tuple[str, ...]:
    """How long, how often, and how still a thread was seen."""
    seen = len(thread.shapes)
    facts = []
    if seen > 1 and thread.stood_still:
        facts.append(f"{seen} of {seen} samples over {scene.view.elapsed_seconds:.1f} s show the same lines")
    often, _, seconds = runs.counted(thread)
    if seconds > 0 and not often:
        facts.append(f"{who(thread)} did not run once between our looks ({seconds:.1f} s)")
    elif thread.cpu_cores is not None:
        facts.append(f"{who(thread)} used {thread.cpu_cores * 100:.0f} % of a CPU")
    if runs.runs_again(thread) and scene.wait(thread).kind != "busy":
        facts.append(f"it woke up {often} times in {seconds:.1f} s")
    call = thread.syscall
    if call is not None and thread.same_syscall:
        where = f" ({thread.wchans[-1]})" if thread.wchans else ""
        facts.append(f"it stands in the system call {call.name}{where}")
    if thread.holds_gil and thread.stood_still and (thread.cpu_cores or 0.0) < _IDLE_CORES:
        facts.append("it holds the GIL meanwhile: no other thread of this process can run, exporters too")
    return tuple(facts)


def commands(process: ProcessView) -> str:
    """A process in a few words."""
    text = process.command_text
    return f"pid {process.pid} ({text[:80]}{'…' if len(text) > 80 else ''})"
