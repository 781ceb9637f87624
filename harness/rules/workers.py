"""Whom a wait is for among those that work for others: executors, pools, worker processes.

Into another process an edge leads only if that is a worker of this training. Not covered: all other waits
(`harness.rules.edges`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from harness import frames as code
from harness.rules.chain import Edge
from harness.rules.threads import code_frames
from harness.rules.view import workers_of

if TYPE_CHECKING:
    from harness.rules.scene import Scene
    from harness.rules.threads import ThreadView
    from harness.rules.view import ProcessView
    from harness.rules.waits import Wait

# What a worker's main thread waits in while there is no work.
_WAITS_OF_THE_IDLE = {"process-queue", "process-lock", "pipe-read", "pool-worker", "lock"}


def executor(scene: Scene, wait: Wait) -> Edge:
    """The work of an executor that a future is for: a thread of it, or one of its processes."""
    threads = wait.thread.process.threads
    workers = [each for each in threads if each.frame_in("_worker", module="futures/thread.py")]
    # The thread that manages an executor's processes.
    managed = any(each.frame_in("run", module="futures/process.py") for each in threads)
    other = processes(scene, wait) if managed else Edge()
    working = [each for each in workers if at_work(each) and each is not wait.thread]
    starved = [each for each in workers if scene.wait(each).kind == "future"]
    if starved and len(starved) == len([each for each in workers if at_work(each)]):
        fact = f"all {len(starved)} workers of the executor wait for futures themselves"
        if wait.thread not in workers:
            # Of executors within executors the youngest worker is the one that all others wait for.
            return Edge(to=max(starved, key=lambda each: each.tid or 0), fact=fact)
        return other if other.to is not None else Edge(gap="starved", fact=fact)
    if working:
        chosen = min(working, key=lambda each: scene.wait(each).kind in ("busy", "future"))
        return Edge(to=chosen, fact=f"{chosen.name} runs work of the executor")
    if workers and other.to is None and other.gap != "dead":
        return Edge(gap="idle", fact=f"the executor's {len(workers)} workers are idle")
    if wait.thread.process.children:
        return processes(scene, wait)
    return Edge(gap="nobody", fact="there is no executor thread in the process")


def at_work(thread: ThreadView) -> bool:
    """Whether a thread of an executor runs what was given to it, and does not wait for more."""
    return thread.frame_in("run", module="concurrent/futures/thread.py") is not None


def pool(scene: Scene, wait: Wait) -> Edge:
    """The work of a pool that is waited for: a thread of it, or one of its processes."""
    threads = wait.thread.process.threads
    workers = [each for each in threads if each.frame_in("worker", module="multiprocessing/pool.py")]
    if not workers:
        return processes(scene, wait)
    working = [each for each in workers if code_frames(each) and each is not wait.thread]
    if not working and workers_of(wait.thread.process):
        return processes(scene, wait)  # a pool of processes beside the one of threads
    if not working:
        return Edge(gap="unproved", fact=f"the pool's {len(workers)} threads wait for work")
    chosen = min(working, key=lambda each: scene.wait(each).kind in ("busy", "pool"))
    return Edge(to=chosen, fact=f"{chosen.name} runs work of the pool")


def results_lost(wait: Wait) -> bool:
    """Whether the pool's thread that takes results has ended, before the pool was told to."""
    threads = wait.thread.process.threads
    seen = {
        frame.function
        for each in threads
        for frame in each.python_frames
        if frame.file.endswith("multiprocessing/pool.py")
    }
    joins = wait.frame is not None and wait.frame.function == "join"
    return wait.kind == "pool" and not joins and "_handle_workers" in seen and "_handle_results" not in seen


def processes(scene: Scene, wait: Wait) -> Edge:
    """The worker process that has not answered."""
    process = wait.thread.process
    dead = [each for each in process.children if each.process.state in "ZX" or not each.alive]
    # One that ended as it should owes a queue nothing any more; a pool, it still does.
    owes_nothing = wait.kind in ("process-queue", "process-event", "pipe-read")
    done = [each for each in dead if each.exit_code == 0 and owes_nothing]
    dead = [each for each in dead if each not in done]
    workers = [each for each in workers_of(process) if not serves_proxies(each)]
    # Of several workers with a pipe or an event each, one that is at work may be the one that is waited for.
    of_one = wait.kind in ("process-event", "pipe-read") and not all(_rests(scene, each) for each in workers)
    if dead and not of_one:
        return Edge(gap="dead", fact=f"worker pid {dead[0].pid} {dead[0].ended} (a zombie)")
    if not workers:
        gone = f"worker pid {done[0].pid} {done[0].ended}: " if done else ""
        return Edge(gap="nobody", fact=f"{gone}there is no worker process (any more)")
    unseen = [each for each in workers if each.main is None or not each.main.frames]
    active = [
        each.main
        for each in workers
        if each.main is not None and each.main.frames and not _idle(scene, each.main)
    ]
    stopped = [each.main for each in workers if each.main is not None and each.state in ("T", "t")]
    if stopped:
        return Edge(to=stopped[0], fact=f"worker pid {stopped[0].process.pid} is stopped")
    if active:
        chosen = min(active, key=lambda each: scene.wait(each).kind == "busy")
        return Edge(to=chosen, fact=f"worker pid {chosen.process.pid} is the one that has not answered")
    if unseen:
        return Edge(gap="unseen", fact=f"worker pid {unseen[0].pid} could not be looked into")
    return Edge(gap="idle", fact=f"all {len(workers)} workers wait for work")


def _rests(scene: Scene, process: ProcessView) -> bool:
    """Whether a worker was seen to wait for work."""
    return process.main is not None and bool(process.main.frames) and _idle(scene, process.main)


def _idle(scene: Scene, thread: ThreadView) -> bool:
    """Whether a worker's main thread waits for work to be given to it."""
    first = next((each for each in thread.python_frames if code.owner(each) != "stdlib"), None)
    waits = scene.wait(thread).kind in _WAITS_OF_THE_IDLE
    if first is None or _asks_queue(scene.wait(thread)) or _asks_pipe(scene.wait(thread)):
        return waits
    return waits and bool(re.search(r"torch/utils/data/_utils/worker\.py$", first.file))


def child(scene: Scene, wait: Wait) -> Edge:
    """The process that is joined, or read from."""
    call = wait.thread.syscall
    process = wait.thread.process
    children = workers_of(process)
    named = [
        each
        for each in process.children
        if each.alive and call is not None and call.arguments and call.arguments[0] == each.pid
    ]
    if not named and len(children) == 1:
        named = list(children)
    if not named:
        return processes(scene, wait) if children else Edge(gap="unproved")
    if named[0].main is None or not named[0].main.frames:
        what = f"worker pid {named[0].pid} ({named[0].command_text[:80]})"
        return Edge(gap="unseen", fact=f"{what} could not be looked into")
    return Edge(to=named[0].main, fact=f"pid {named[0].pid} is the process that is joined")


def _asks_queue(wait: Wait) -> bool:
    """Whether a worker asks a queue between processes for what to do next."""
    return wait.kind == "process-queue" and wait.frame is not None and wait.frame.function == "get"


def _asks_pipe(wait: Wait) -> bool:
    """Whether it waits for what another process sends it through a multiprocessing Pipe."""
    return (
        wait.kind == "pipe-read"
        and wait.frame is not None
        and wait.frame.file.endswith("multiprocessing/connection.py")
    )


def reads_from_worker(wait: Wait) -> bool:
    """Whether what it waits for, through a Pipe, only its workers can send."""
    return _asks_pipe(wait) and bool(wait.thread.process.children)


def serves_proxies(process: ProcessView) -> bool:
    """Whether it is a Manager's process, which keeps what others put into it and does nothing itself."""
    main = process.main
    return (
        main is not None and main.frame_in("serve_forever", module="multiprocessing/managers.py") is not None
    )
