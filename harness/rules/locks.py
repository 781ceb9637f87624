"""Locks between threads, with a parent's threads after a fork, and between processes.

Deadlocks are proved: each edge of a cycle was shown (`edges`). Where who holds what could not be shown, the
rule says less, or nothing. Not covered: lock files (`outside`, `lockfiles`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.rules import activity, say
from harness.rules.edges import key_of, wanted_lock
from harness.rules.progress import ends, progress
from harness.rules.threads import code_frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.findings import Finding
    from harness.rules.scene import Scene
    from harness.rules.view import ProcessView
    from harness.rules.waits import Wait

# What one may be doing, for long or for ever, while it holds what others wait for.
_WITH_LOCK = ("sleep", "event", "native", "native-futex", "busy", "signal", "retry")


def lock_deadlock(scene: Scene) -> Iterator[Finding]:
    """lock-deadlock: a cycle of locks."""
    for chain in scene.chains:
        if not chain.cycle or not any(each.kind == "lock" for each in chain.cycle):
            continue
        waits = [each for each in chain.cycle if each.kind == "lock"]
        names = " and ".join(dict.fromkeys(each.thread.name for each in chain.cycle))
        lines = [
            f"{each.thread.name} waits for {_lock_name(scene, each)} at {say.place(each.user)}"
            for each in chain.cycle
        ]
        one = len(chain.cycle) == 1
        yield say.finding(
            scene,
            chain,
            "hung",
            "lock-deadlock",
            0.96,
            f"{names} waits for a lock that it holds itself."
            if one
            else f"{names} wait for each other's locks{_named(scene, waits)}.",
            evidence=lines,
            wait=waits[0],
            next_steps=[
                "use an RLock, or do not take it twice"
                if one
                else "take the locks in the same order everywhere"
            ],
        )


def fork_deadlock(scene: Scene) -> Iterator[Finding]:
    """fork-deadlock: a forked child waits for what only a thread of its parent could release."""
    for chain in scene.chains:
        wait = chain.end
        process = wait.thread.process
        if (
            not process.forked
            or process.parent is None
            or not process.parent.python
            or progress(scene, chain) is not None
        ):
            continue
        alone = not [each for each in process.threads if each is not wait.thread and each.python_frames]
        if wait.kind == "lock" and chain.gap in ("nobody", "unproved") and alone:
            holder = _holder_in_parent(scene, wait, process.parent)
            what = f"the lock {_lock_name(scene, wait)}"
            facts = (
                [holder]
                if holder
                else ["no other thread of the child runs Python: nobody in it could release the lock"]
            )
            confidence = 0.94 if holder else 0.85
        elif wait.kind == "native-futex" and alone and wait.thread.stood_still and _threaded(process.parent):
            what, confidence = "a lock inside native code, as its parent's threads had left it", 0.85
            facts = ["a private futex in native code, and no other thread in the child"]
        elif wait.kind == "sync-over-async" and chain.gap == "nobody":
            what, confidence = "an event loop whose thread stayed in the parent", 0.9
            facts = ["no thread of the child runs an event loop"]
        else:
            continue
        yield say.finding(
            scene,
            chain,
            "hung",
            "fork-deadlock",
            confidence,
            f"{say.who(wait.thread)}, forked from pid {process.process.ppid}, waits for {what}, at "
            f"{say.place(wait.user)}.",
            evidence=["the process was forked and never called exec", *facts, *_fork_place(process)],
            next_steps=[
                "use the start method spawn or forkserver, or fork before threads are started",
                "TOKENIZERS_PARALLELISM=false for tokenizers",
            ],
        )


def lock_wait(scene: Scene) -> Iterator[Finding]:
    """lock-wait: the holder lives, and does something else; or it could not be shown who holds it."""
    for chain in scene.chains:
        locks = [(at, each) for at, each in enumerate(chain.waits) if each.kind == "lock"]
        if not locks or chain.cycle or progress(scene, chain) is not None:
            continue
        at, wait = locks[-1]
        if wait is chain.end:
            if wait.thread.process.forked and len(user_threads(wait.thread.process)) < 2:
                continue
            if wait.thread.stood_still is False:
                continue  # it has come on: it takes a lock now and then
            yield say.finding(
                scene,
                chain,
                "hung",
                "lock-wait",
                0.7 if chain.gap == "unproved" else 0.75,
                f"{say.who(wait.thread)} waits for the lock {_lock_name(scene, wait)}, at "
                f"{say.place(wait.user)}; "
                "who holds it could not be shown.",
                next_steps=["look for an acquire() without its release(), on a path that raised"],
            )
            continue
        holder = chain.waits[at + 1]
        confidence = 0.9 if holder is chain.end and holder.kind in _WITH_LOCK else 0.5
        yield say.finding(
            scene,
            chain,
            "hung",
            "lock-wait",
            confidence,
            f"{say.who(wait.thread)} waits for the lock {_lock_name(scene, wait)}; "
            f"{say.who(holder.thread)} holds it and waits "
            f"for {say.waits_for(holder)}, at {say.place(holder.user)}.",
            evidence=[f"{holder.thread.name} holds it at {say.place(holder.user)}"],
            next_steps=["do not hold the lock while doing that"],
        )
    for chain, wait in ends(scene, "process-lock"):
        working = _sharer_works(scene, wait.thread.process)
        yield say.finding(
            scene,
            chain,
            "slow" if working else "hung",
            "lock-wait",
            0.75,
            f"{say.who(wait.thread)} waits for a lock between processes, at {say.place(wait.user)}"
            + (f"; one that may hold it works: {working}." if working else "."),
            evidence=["a semaphore in shared memory", working],
            next_steps=[
                "look again: who works should let it go"
                if working
                else "a worker that was killed leaves its lock locked"
            ],
        )


def _sharer_works(scene: Scene, process: ProcessView) -> str:
    """What shows that a process advances with which this one may share the lock; nothing where none does."""
    siblings = process.parent.children if process.by_multiprocessing and process.parent is not None else ()
    beside = (each for each in (*process.children, *siblings) if each is not process)
    return activity.one_works(scene, (each for each in beside if each.by_multiprocessing))


def user_threads(process: ProcessView) -> list[object]:
    """The threads of a process that run the user's code."""
    return [each for each in process.threads if code_frames(each)]


def _named(scene: Scene, waits: list[Wait]) -> str:
    """`: metrics.lock and buffer.lock`, where the source names all of them."""
    known = [name for each in waits if (name := wanted_lock(scene, each)[1])]
    return f": {' and '.join(dict.fromkeys(known))}" if len(known) == len(waits) else ""


def _lock_name(scene: Scene, wait: Wait) -> str:
    return wanted_lock(scene, wait)[1] or "(unnamed)"


def _holder_in_parent(scene: Scene, wait: Wait, parent: ProcessView) -> str:
    """The thread of the parent that stands in a block of the same name: after a fork addresses are alike."""
    taker, wanted = wanted_lock(scene, wait)
    if taker is None or wanted is None:
        return ""
    key = key_of(scene, wait.thread, taker, wanted)
    for thread in parent.threads:
        for frame in code_frames(thread):
            for held in scene.sources.held(frame):
                if key is not None and key_of(scene, thread, frame, held.expression) == key:
                    return f"in the parent {thread.name} holds {wanted} at {say.place(frame)}"
    return ""


def _threaded(parent: ProcessView) -> bool:
    """Whether a parent has threads that may have held native locks, besides those that manage its workers."""
    managers = ("multiprocessing/pool.py", "multiprocessing/queues.py", "concurrent/futures/process.py")
    return any(
        not thread.is_main and not any(frame.file.endswith(managers) for frame in thread.python_frames)
        for thread in parent.threads
    )


def _fork_place(process: ProcessView) -> list[str]:
    parent = process.parent
    main = parent.main if parent is not None else None
    frame = main.user_frame if main is not None else None
    return [f"its parent stands at {say.place(frame)}"] if frame is not None else []
