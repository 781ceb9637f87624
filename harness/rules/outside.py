"""Waits for something outside of the training: pipes, terminals, lock files, subprocesses, time.

Cause and blame stay with the waiter; who is at the other end is evidence. Not covered: peers (`network`),
workers (`inside`).
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from harness.evidence import Reading
from harness.rules import activity, lockfiles, ranks, runs, say
from harness.rules.progress import ends
from harness.rules.rests import rests
from harness.rules.runs import runs_again
from harness.rules.threads import code_frames
from harness.rules.view import descendants

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.findings import Finding
    from harness.rules.chain import Chain
    from harness.rules.scene import Scene
    from harness.rules.view import ProcessView
    from harness.rules.waits import Wait


# What is asleep in native code may wake up to look at a clock.
_ASLEEP_SHARE = 0.05


def pipes(scene: Scene) -> Iterator[Finding]:
    """pipe-read, pipe-write and stdin-read."""
    for chain, wait in ends(scene, "pipe-read", "pipe-write"):
        if chain.gap == "dead":
            continue  # who should have written has died: `inside.workers`
        cause = wait.kind
        far = _far_end(scene, wait)
        other = "writes" if cause == "pipe-read" else "reads"
        words = ", ".join(far) if far else "nobody that we can see"
        working = _works(scene, far)
        yield say.finding(
            scene,
            chain,
            "slow" if working else "hung",
            cause,
            0.9 if wait.descriptor is not None else 0.75,
            f"{say.who(wait.thread)} waits for {'data in' if cause == 'pipe-read' else 'room in'} "
            f"a pipe that {words} "
            f"{other}, at {say.place(wait.user)}" + (f"; it works: {working}." if working else "."),
            evidence=[
                f"at the pipe's other end: {words}",
                *([wait.descriptor.target] if wait.descriptor else []),
                working,
            ],
            next_steps=[
                "look again: the process at the other end is at work"
                if working
                else f"look at the process at the other end: it {other} nothing"
            ],
        )
    for chain, wait in ends(scene, "stdin"):
        yield say.finding(
            scene,
            chain,
            "hung",
            "stdin-read",
            0.93,
            f"It waits for someone to type, at {say.place(wait.user)}.",
            evidence=[f"it reads descriptor 0{f', {wait.descriptor.target}' if wait.descriptor else ''}"],
            next_steps=[
                "answer the prompt, or give the answer on the command line",
                "run it with </dev/null to see it fail",
            ],
        )


def file_locks(scene: Scene) -> Iterator[Finding]:
    """file-lock: a lock file that someone holds, or nobody any more."""
    for chain, wait in ends(scene, "file-lock"):
        target, inode = lockfiles.file_of(scene.view, wait)
        held = [
            f"pid {each.pid} holds it ({each.kind})"
            for each in lockfiles.holders(scene.view, inode)
            if each.pid != wait.thread.process.pid
        ]
        near = [] if target else lockfiles.near(scene.view)
        facts = (
            [f"the lock file is {target}"] if target else [f"a lock file lies at {path}" for path in near[:3]]
        )
        if held:
            facts += held
        elif not target:
            facts.append("it polls: no live holder could be shown; the file may be stale")
        yield say.finding(
            scene,
            chain,
            "hung",
            "file-lock",
            0.92 if held or wait.frame is not None else 0.8,
            f"{say.who(wait.thread)} waits at {say.place(wait.user)} for the lock file "
            f"{target or (near[0] if near else 'of this call')}: "
            f"{held[0] if held else 'no live holder was found, it may be stale'}.",
            evidence=facts,
            next_steps=[
                f"see what the holder does: ps -fp {held[0].split()[1]}"
                if held
                else "if no process uses it, on other machines too, remove the stale file"
            ],
        )


def children(scene: Scene) -> Iterator[Finding]:
    """child-wait: a subprocess that does not end; slow where it is seen to work."""
    for chain, wait in ends(scene, "child"):
        process = wait.thread.process
        call = wait.thread.syscall
        named = [
            each for each in process.children if call and call.arguments and each.pid in call.arguments[:2]
        ]
        child = next(iter(named or process.children), None)
        if child is not None and not child.alive and (far := _writers(scene, process)):
            yield _kept_open(scene, chain, wait, child, far)
            continue
        facts = [f"the child is {say.commands(child)}, state {child.state}"] if child is not None else []
        for below in [child, *descendants(child)] if child is not None else []:
            if below.main is not None:
                does = scene.wait(below.main)
                if does.kind == "unseen" and below.main.syscall is not None:
                    facts.append(
                        f"pid {below.pid} stands in {below.main.syscall.name}{_of_pipe(below, process)}"
                    )
                elif does.kind != "unseen":
                    facts.append(f"pid {below.pid} waits for {say.waits_for(does)}{_of_pipe(below, process)}")
        works = activity.works(scene, child) if child is not None else ""
        yield say.finding(
            scene,
            chain,
            "slow" if works else "hung",
            "child-wait",
            0.9 if child is not None else 0.7,
            f"{say.who(wait.thread)} waits for its subprocess "
            f"{say.commands(child) if child else ''}, at {say.place(wait.user)}"
            + (f"; it works: {works}." if works else "."),
            evidence=[*facts, works],
            next_steps=[
                f"harness diagnose {child.pid}" if child else "see which child it should be",
                "give the call a timeout",
            ],
        )


def _kept_open(scene: Scene, chain: Chain, wait: Wait, child: ProcessView, far: list[str]) -> Finding:
    """pipe-read: the subprocess has ended, and what it started keeps its pipe open."""
    words = ", ".join(far)
    return say.finding(
        scene,
        chain,
        "hung",
        "pipe-read",
        0.9,
        f"{say.who(wait.thread)} reads the output of its subprocess pid {child.pid}, at "
        f"{say.place(wait.user)}: that one has ended, but {words} keeps the pipe open.",
        evidence=[f"pid {child.pid} {child.ended} (a zombie)", f"at the pipe's other end: {words}"],
        next_steps=["send the output of what goes on in the background elsewhere: >/dev/null 2>&1 &"],
    )


def _writers(scene: Scene, reader: ProcessView) -> list[str]:
    """The processes that hold the writing end of a pipe that this one alone reads, its stdin left out."""
    found: dict[int, str] = {}
    pipes = scene.view.case.pipes
    stdin = {
        each.inode.value
        for each in (
            reader.process.descriptors.value if isinstance(reader.process.descriptors, Reading) else ()
        )
        if each.number < 3 and isinstance(each.inode, Reading)
    }
    for pipe in pipes.value if isinstance(pipes, Reading) else ():
        reads = {each.pid for each in pipe.ends if each.access in ("read", "both")}
        if reads == {reader.pid} and pipe.inode not in stdin:
            found |= {each.pid: each.command for each in pipe.ends if each.access == "write"}
    return [f"pid {pid} ({command})" for pid, command in sorted(found.items()) if pid != reader.pid]


def sleeping(scene: Scene) -> Iterator[Finding]:
    """Sleep and retry-sleep."""
    for chain, wait in ends(scene, "sleep", "retry", "native"):
        if wait.kind == "native" and rests(scene, wait) is None:
            continue
        frame = wait.user
        if words := _looked_after(scene, wait):
            does = f"looks now and then, at {say.place(frame)}, how far its workers are"
            yield activity.waits_for_workers(scene, chain, does, words)
            continue
        retries = wait.kind == "retry" or _retries(scene, wait)
        counted = [each.words for each in scene.motion(wait.thread).counters[:2]]
        if retries:
            yield say.finding(
                scene,
                chain,
                "hung",
                "retry-sleep",
                0.88,
                f"{say.who(wait.thread)} sleeps between retries, at {say.place(frame)}.",
                evidence=[f"`{scene.sources.line(frame)}`" if frame else "", *counted],
                next_steps=["see in its log why each try fails", "bound the number of tries"],
            )
        elif (round_of := rests(scene, wait)) is not None:
            often, _, seconds = runs.counted(wait.thread)
            yield say.finding(
                scene,
                chain,
                "slow",
                "slow-progress",
                0.58,
                f"{say.who(wait.thread)} rests as a part of its work, at {say.place(round_of)}; "
                "what it achieves between two rests cannot be seen from outside.",
                evidence=[f"`{scene.sources.line(frame)}`" if frame else "", _woke(often, seconds), *counted],
                next_steps=["let it log its steps, or start it with harness run: then steps are counted"],
            )
        else:
            unread = _unread_loop(scene, wait)
            yield say.finding(
                scene,
                chain,
                "hung",
                "sleep",
                0.5 if unread else 0.82,
                f"{say.who(wait.thread)} sleeps, at {say.place(frame)}.",
                evidence=[f"`{scene.sources.line(frame)}`" if frame else "", unread, *counted],
                next_steps=["see what it waits for: a sleep in a loop is a poll"],
            )


def _looked_after(scene: Scene, wait: Wait) -> str:
    """What shows that a worker process advances, where its parent only sleeps until it has got on."""
    if wait.kind != "sleep":
        return ""
    for frame in code_frames(wait.thread):
        if loops := scene.sources.loops(frame):
            polls = isinstance(loops[0], ast.While) and not scene.sources.handles_failure(frame)
            return activity.below_works(scene, wait.thread.process) if polls else ""
    return ""


def _retries(scene: Scene, wait: Wait) -> bool:
    """Whether it sleeps between two tries: in its own loop, or for a caller that has caught a failure."""
    for frame in code_frames(wait.thread):
        if scene.sources.loops(frame):
            own = frame is wait.user or frame is code_frames(wait.thread)[0]
            return scene.sources.retries(frame) if own else scene.sources.handles_failure(frame)
    return False


def _woke(often: int, seconds: float) -> str:
    return f"it woke up {often} times in {seconds:.1f} s" if often else ""


def _unread_loop(scene: Scene, wait: Wait) -> str:
    """Where it may well go on: its source, or the variables of a loop that it wakes up in, were not read."""
    if all(scene.sources.of(frame) is None for frame in code_frames(wait.thread)):
        return "its source, which tells whether it rests as a part of its work, could not be read"
    if wait.thread.process.has_trusted_locals or not runs_again(wait.thread):
        return ""
    looping = any(scene.sources.loops(frame) for frame in code_frames(wait.thread))
    return "it wakes up in a loop, and whether the loop advances could not be read" if looping else ""


def native(scene: Scene) -> Iterator[Finding]:
    """native-wait: asleep in native code, and no rule knows in what."""
    for chain, wait in ends(scene, "native", "signal", "native-futex", "gpu"):
        if wait.thread.stood_still is not True or wait.user is None or rests(scene, wait) is not None:
            continue
        _, worked, watched = runs.counted(wait.thread)
        if worked > _ASLEEP_SHARE * watched:
            continue  # it runs: it is being stopped and continued, or gets little of a CPU
        if ranks.operation(chain) and any(activity.goes_on(scene, each) for each in scene.chains):
            continue  # it waits for a rank that does its work
        frames = [each.function for each in wait.thread.native_frames[:4]]
        if wait.kind == "signal":
            yield say.finding(
                scene,
                chain,
                "hung",
                "event-wait",
                0.75,
                f"It waits for a signal, at {say.place(wait.user)}.",
                evidence=[wait.on],
            )
            continue
        yield say.finding(
            scene,
            chain,
            "hung",
            "native-wait",
            0.62,
            f"{say.who(wait.thread)} waits inside native code, called at {say.place(wait.user)}.",
            evidence=[f"native frames: {', '.join(frames)}"] if frames else [wait.on],
            next_steps=["harness diagnose --native always shows the C frames"],
        )


def _works(scene: Scene, far: list[str]) -> str:
    """What shows that a process at a pipe's other end advances; nothing where it is not of this tree."""
    pids = (int(each.split()[1]) for each in far if each.startswith("pid "))
    found = (scene.view.by_pid.get(pid) for pid in pids)
    return next((words for each in found if each is not None and (words := activity.works(scene, each))), "")


def _far_end(scene: Scene, wait: Wait) -> list[str]:
    pipes = scene.view.case.pipes
    if (
        wait.descriptor is None
        or not isinstance(pipes, Reading)
        or not isinstance(wait.descriptor.inode, Reading)
    ):
        return []
    wanted = "write" if wait.kind == "pipe-read" else "read"
    found = next((each for each in pipes.value if each.inode == wait.descriptor.inode.value), None)
    own = wait.thread.process.pid
    ends = (
        {(each.pid, each.command) for each in found.ends if each.access in (wanted, "both")}
        if found
        else set()
    )
    others = sorted((pid, command) for pid, command in ends if pid != own)
    return [f"pid {pid} ({command})" for pid, command in others] or (["this process itself"] if ends else [])


def _of_pipe(process: ProcessView, reader: ProcessView) -> str:
    """`: a pipe that only its parent reads`, where a child stands in a write."""
    main = process.main
    call = main.syscall if main is not None else None
    found = process.process.descriptors
    if call is None or call.name != "write" or not isinstance(found, Reading):
        return ""
    written = next((each for each in found.value if each.number == call.arguments[0]), None)
    if written is None or written.kind != "pipe" or not isinstance(written.inode, Reading):
        return ""
    pipes = reader.view.case.pipes
    for pipe in pipes.value if isinstance(pipes, Reading) else ():
        if pipe.inode == written.inode.value and any(each.pid == reader.pid for each in pipe.ends):
            return f": the pipe is full, and pid {reader.pid}, which waits for it, does not read it"
    return ""
