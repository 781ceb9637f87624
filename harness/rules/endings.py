"""Processes that are stopped, gone, in the kernel's hands, or done but unable to end.

Not covered: ranks that ended while others wait for them (`ranks`), workers that did (`inside`).
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import TYPE_CHECKING

from harness.evidence import Reading
from harness.findings import Finding
from harness.rules import say, spins
from harness.rules.progress import progress
from harness.rules.threads import code_frames
from harness.rules.view import workers_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.rules.chain import Chain
    from harness.rules.scene import Scene
    from harness.rules.threads import ThreadView
    from harness.rules.view import ProcessView


def exited(scene: Scene) -> Iterator[Finding]:
    """exited: what was asked about is gone, or a zombie."""
    target = scene.view.target
    if target is None:
        yield Finding(
            state="exited",
            cause="exited",
            confidence=0.99,
            summary=f"There is no process {scene.view.case.target.pid} any more: it has ended.",
            next_steps=("see the end of its log", "dmesg | grep -i 'killed process' tells of the OOM killer"),
        )
        return
    if target.alive:
        return
    zombie = target.state == "Z" or target.process.state == "Z"
    parent = target.process.ppid
    summary = (
        f"It {target.ended} and is a zombie: its parent, pid {parent}, has not asked for that."
        if zombie
        else "It ended while we looked."
    )
    yield Finding(
        state="exited",
        cause="exited",
        confidence=0.98,
        summary=summary,
        evidence=(f"state {target.state}", f"parent pid {parent}"),
        next_steps=(
            "see the end of its log",
            f"look at its parent: harness diagnose {parent}" if zombie else "",
        ),
    )


def stopped(scene: Scene) -> Iterator[Finding]:
    """stopped: SIGSTOP, ctrl-Z or a debugger; of the process itself, or of the worker it waits for."""
    for chain in scene.chains:
        wait = chain.end
        process = wait.thread.process
        if (wait.kind != "stopped" and process.state not in ("T", "t")) or _is_continued(wait.thread):
            continue
        tracer = process.process.tracer_pid
        traced = isinstance(tracer, Reading) and tracer.value > 0
        by = f" by pid {tracer.value} (a debugger)" if traced and isinstance(tracer, Reading) else ""
        what = say.who(wait.thread)
        yield say.finding(
            scene,
            chain,
            "stopped",
            "stopped",
            0.97,
            f"{what[0].upper()}{what[1:]} is stopped{by}.",
            evidence=[f"pid {process.pid} is in state {process.state}"],
            next_steps=[f"kill -CONT {process.pid}"]
            if not traced
            else ["let the debugger continue or detach"],
        )
    if not scene.chains:
        for subject in scene.subjects:
            if subject.state in ("T", "t"):
                yield Finding(
                    state="stopped",
                    cause="stopped",
                    confidence=0.95,
                    summary=f"pid {subject.pid} is stopped.",
                    evidence=(f"pid {subject.pid} is in state {subject.state}",),
                    next_steps=(f"kill -CONT {subject.pid}",),
                )


def _is_continued(thread: ThreadView) -> bool:
    """Whether it was stopped before, and ran again: who limits its CPU so (cpulimit) will let it go on."""
    seen = [sample for sample in thread.samples if sample is not None]
    return any(
        before.state in ("T", "t")
        and (
            after.state not in ("T", "t")
            or (isinstance(after.undisturbed, Reading) and after.undisturbed.value.cpu_seconds > 0)
        )
        for before, after in pairwise(seen)
    )


def disk_wait(scene: Scene) -> Iterator[Finding]:
    """disk-wait: uninterruptible sleep in every sample."""
    for chain, shown in ((_to_the_disk(scene, each), each) for each in scene.chains):
        wait = chain.end
        if wait.kind != "disk":
            continue
        where = f" in {wait.thread.wchans[-1]}" if wait.thread.wchans else ""
        mounts = _mounts(wait.thread.process)
        yield say.finding(
            scene,
            chain,
            "hung",
            "disk-wait",
            0.85 if chain is shown else 0.75,
            f"{say.who(wait.thread)} is in uninterruptible sleep{where}: the kernel waits, for a "
            f"disk, a network mount "
            "or a device.",
            evidence=["state D in every sample", wait.on, *mounts],
            next_steps=[
                "dmesg tells of disks and mounts that do not answer",
                "no signal ends it before the kernel is done",
            ],
        )


def _to_the_disk(scene: Scene, chain: Chain) -> Chain:
    """With a thread in state D no locals can be read, so that who waits for it cannot be shown."""
    if chain.gap != "unproved" or progress(scene, chain) is not None:
        return chain
    threads = (each for each in chain.end.thread.process.threads if code_frames(each))
    held = next((wait for each in threads if (wait := scene.wait(each)).kind == "disk"), None)
    if held is None:
        return chain
    fact = "who it waits for could not be read: the process cannot be paused while a thread is in state D"
    return dataclasses.replace(chain, waits=(*chain.waits, held), facts=(*chain.facts, fact), gap="")


def interpreter_exit(scene: Scene) -> Iterator[Finding]:
    """interpreter-exit: the program is done, and something keeps the interpreter from ending."""
    for chain in scene.chains:
        begin = chain.begin
        main = begin.thread
        ends = next((at for at, wait in enumerate(chain.waits) if wait.kind == "exit"), None)
        if progress(scene, chain) is not None:
            continue
        if ends is None:
            outermost = main.python_frames[-1] if main.python_frames else None
            hook = outermost is not None and main.is_main and outermost in code_frames(main)
            # The stack of a main thread begins with <module>; what an atexit hook runs does not.
            if not hook or outermost is None or outermost.function == "<module>" or begin.kind == "busy":
                continue
            if main.process.by_multiprocessing:
                continue
            yield say.finding(
                scene,
                chain,
                "hung",
                "interpreter-exit",
                0.95,
                f"The program is done, but an exit hook does not end: {say.place(begin.user)}.",
                evidence=[f"the main thread's outermost frame is {say.place(outermost)}, not a module's"],
                next_steps=["let the hook give up after a time"],
                wait=begin,
            )
            continue
        # The program itself, or a worker that it waits for.
        ending = chain.waits[ends].thread
        if chain.end.kind == "busy" and chain.end.thread.process is not ending.process:
            found = spins.spinning(scene, chain)
            if found is not None and found.state != "hung":
                continue  # a worker of the program trains, and that is what is left to do
        holder = next(iter(chain.waits[ends + 1 :]), None)
        children = workers_of(ending.process)
        if holder is None and not children:
            what, confidence = "a thread that is not a daemon", 0.6
        elif holder is not None:
            what = f"{say.who(holder.thread)}, which waits for {say.waits_for(holder)},"
            confidence = 0.92
        else:
            what, confidence = f"worker pid {children[0].pid}", 0.8
        yield dataclasses.replace(
            say.finding(
                scene,
                chain,
                "hung",
                "interpreter-exit",
                confidence,
                f"{say.who(ending) if ends else 'The program'} is done, but cannot end: {what} holds it.",
                evidence=["its main thread is in the interpreter's shutdown"],
                next_steps=[
                    "take everything out of the queue before, or queue.cancel_join_thread()"
                    if holder is not None
                    and holder.thread.frame_in("_feed", module="multiprocessing/queues.py")
                    else "make the thread a daemon, or tell it to end and join it, before the program ends"
                ],
                wait=holder,
            ),
        )


def _mounts(process: ProcessView) -> list[str]:
    found = process.process.descriptors
    if not isinstance(found, Reading):
        return []
    mounts = {
        each.filesystem.value
        for each in found.value
        if each.kind == "file" and isinstance(each.filesystem, Reading) and each.number > 2
    }
    return [f"it has files open on {mount}" for mount in sorted(mounts)[:2]]
