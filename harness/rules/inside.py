"""Waits inside the training: queues, events, futures, event loops, workers.

Where the missing part could not be shown, a rule says less, or nothing. Not covered: locks (`locks`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from harness.rules import activity, flow, runs, say
from harness.rules.progress import ends, progress
from harness.rules.view import workers_of
from harness.rules.workers import results_lost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.findings import Finding
    from harness.rules.chain import Chain
    from harness.rules.scene import Scene
    from harness.rules.view import ProcessView
    from harness.rules.waits import Wait


# What worker processes are waited for by; by the last two, only those that died.
_OF_WORKERS = (
    "dataloader", "pool", "process-queue", "process-join", "future", "process-event", "pipe-read",
)  # fmt: skip


# A timer that is further off says nothing: a client's limit for its request is one as well.
_SOON_SECONDS = 5.0


def queues(scene: Scene) -> Iterator[Finding]:
    """queue-wait: nobody fills or drains the queue."""
    for chain in scene.chains:
        wait = chain.end
        if progress(scene, chain) is not None:
            continue
        cyclic = chain.cycle and not any(each.kind == "lock" for each in chain.cycle)
        in_queue = wait.kind in ("queue-get", "queue-put", "queue-join", "process-queue", "pool-worker")
        if (unmarked := _unmarked(chain)) is not None:
            joins, takes = unmarked
            yield say.finding(
                scene,
                chain,
                "hung",
                "queue-wait",
                0.92,
                f"{say.who(joins.thread)} waits at {say.place(joins.user)} for a queue to be worked off: "
                "every item was taken, but task_done() was not called for each.",
                evidence=[f"{takes.thread.name} waits for the next item at {say.place(takes.user)}"],
                next_steps=["call task_done() on every path after get(), in a finally"],
                wait=joins,
            )
            continue
        if cyclic and any(each.kind.startswith("queue") for each in chain.cycle):
            yield say.finding(
                scene,
                chain,
                "hung",
                "queue-wait",
                0.88,
                "Threads wait for each other's queues.",
                evidence=[
                    f"{each.thread.name} waits for {say.waits_for(each)} at {say.place(each.user)}"
                    for each in chain.cycle
                ],
                wait=chain.cycle[0],
            )
            continue
        if not in_queue or chain.cycle:
            continue
        does = {"queue-get": "fills", "queue-put": "drains", "queue-join": "works off"}.get(
            wait.kind, "fills"
        )
        if chain.gap == "dead":
            continue
        confidence = {"nobody": 0.9, "idle": 0.75, "": 0.7}.get(chain.gap, 0.68)
        joined = chain.begin if chain.begin.kind in ("exit", "process-join") else wait
        yield say.finding(
            scene,
            chain,
            "hung",
            "queue-wait",
            confidence,
            f"{say.who(joined.thread)} waits at {say.place(joined.user)} on a queue that nobody {does}.",
            evidence=[_others(joined)],
            next_steps=[f"find who should be the one that {does} it, and why that one is gone or done"],
            wait=wait if wait.user is not None else joined,
        )
    for chain in scene.chains:
        # A process that was joined before its queue was drained: its feeder cannot write, so it cannot end.
        kinds = [each.kind for each in chain.waits]
        at = next((at for at, two in enumerate(pairwise(kinds)) if two == ("process-join", "exit")), None)
        if at is not None and chain.end.kind in ("pipe-write", "native", "busy"):
            yield say.finding(
                scene,
                chain,
                "hung",
                "queue-wait",
                0.93,
                f"{say.who(chain.waits[at].thread)} joins pid {chain.waits[at + 1].thread.process.pid} at "
                f"{say.place(chain.waits[at].user)}, which cannot end before "
                "somebody takes what it put into its queue.",
                evidence=["the worker's feeder thread stands in a write to a full pipe"],
                next_steps=["get everything from the queue before you join the process"],
                wait=chain.waits[at],
            )


def _unmarked(chain: Chain) -> tuple[Wait, Wait] | None:
    """Who waits for a queue to be worked off, and who waits for more from the very same queue."""
    kinds = {"queue-join", "queue-get"}
    pairs = (
        [tuple(chain.cycle)]
        if len(chain.cycle) == len(kinds)
        else [
            each
            for each in pairwise(chain.waits)
            if each[0].object_address and each[0].object_address == each[1].object_address
        ]
    )
    for pair in pairs:
        if {each.kind for each in pair} == kinds:
            joins, takes = sorted(pair, key=lambda each: each.kind != "queue-join")
            return joins, takes
    return None


def events(scene: Scene) -> Iterator[Finding]:
    """event-wait: an event, a condition or a thread that cannot come."""
    for chain in scene.chains:
        wait = chain.end
        if progress(scene, chain) is not None:
            continue
        if results_lost(wait):
            yield _results_lost(scene, chain)
            continue
        cyclic = chain.cycle and all(each.kind in ("event", "join") for each in chain.cycle)
        if not cyclic and (chain.cycle or wait.kind not in ("event", "process-event", "join")):
            continue
        if chain.gap == "dead":
            continue  # who should have set it has died: `workers`
        what = "a thread's end" if wait.kind == "join" else _awaited(wait)
        call = wait.thread.syscall
        timed = wait.kind == "event" and call is not None and flow.has_limit(call)
        if timed and (words := activity.below_works(scene, wait.thread.process)):
            does = f"waits for {what} at {say.place(wait.user)}, each time for a while"
            yield activity.waits_for_workers(scene, chain, does, words)
            continue
        by = "the threads wait for each other" if cyclic else _others(wait)
        yield say.finding(
            scene,
            chain,
            "hung",
            "event-wait",
            0.9 if chain.gap == "nobody" or cyclic else 0.72,
            f"{say.who(wait.thread)} waits for {what}, which does not come, at {say.place(wait.user)}.",
            evidence=[by, *_parties(wait)],
            next_steps=["see who should set it, and on which path that is left out", "wait with a timeout"],
            wait=chain.cycle[0] if cyclic else None,
        )


def _results_lost(scene: Scene, chain: Chain) -> Finding:
    """event-wait: the thread that should hand over a pool's results is gone."""
    wait = chain.end
    return say.finding(
        scene,
        chain,
        "hung",
        "event-wait",
        0.9,
        f"{say.who(wait.thread)} waits at {say.place(wait.user)} for a pool whose thread that takes results "
        "has ended: none comes any more.",
        evidence=["its other threads run, and no thread is in _handle_results of multiprocessing/pool.py"],
        next_steps=[
            "see its log for that thread's traceback: most often a result or an exception was not unpickled",
            "give such an exception a __reduce__, or all its arguments to super().__init__()",
        ],
    )


def _awaited(wait: Wait) -> str:
    """`an event`, or what else of `threading` it is: by the class of the object that is waited on."""
    frames = [wait.frame, *wait.thread.python_frames[:4]] if wait.frame is not None else []
    classes = {
        local.value.rpartition(".")[2]
        for frame in frames
        if frame is not None and frame.file.endswith("/threading.py")
        for local in frame.locals
        if local.name == "self" and local.kind == "object"
    }
    if classes & {"Semaphore", "BoundedSemaphore"}:
        return "a semaphore's release"
    if "Barrier" in classes:
        return "a barrier's last party"
    return "an event" if "Event" in classes or "Condition" not in classes else "a condition"


def _parties(wait: Wait) -> list[str]:
    """Of what processes share: those that ended, and where the others are that may have a part in it."""
    shared = any(
        frame.file.endswith(("multiprocessing/synchronize.py", "multiprocessing/managers.py"))
        for frame in wait.thread.python_frames
    )
    if not shared:
        return []
    own = wait.thread.process
    near = [*own.children, *(own.parent.children if own.parent is not None else ())]
    facts = []
    for each in [*near, *([own.parent] if own.parent is not None else [])]:
        if each is own or each.role == "helper":
            continue
        if not each.alive or each.state == "Z":
            facts.append(f"pid {each.pid}, which may have a part in it, {each.ended}")
        elif each.main is not None and each.main.user_frame is not None:
            facts.append(f"pid {each.pid} is at {say.place(each.main.user_frame)}")
    return facts[:4]


def futures(scene: Scene) -> Iterator[Finding]:
    """future-wait: a future that cannot complete."""
    for chain in scene.chains:
        wait = chain.end
        if wait.kind != "future" or progress(scene, chain) is not None:
            continue
        starved = chain.gap == "starved" or bool(chain.cycle)
        yield say.finding(
            scene,
            chain,
            "hung",
            "future-wait",
            {"starved": 0.93, "idle": 0.85, "nobody": 0.8}.get(chain.gap, 0.7),
            f"{say.who(wait.thread)} waits for a future that cannot complete, at {say.place(wait.user)}"
            + (": every worker of the executor waits for one itself." if starved else "."),
            next_steps=["do not wait for futures inside tasks of the same executor, or give it more workers"],
        )


def loops(scene: Scene) -> Iterator[Finding]:
    """async-wait: an idle event loop."""
    for chain, wait in ends(scene, "async"):
        call = wait.thread.syscall
        timed = call is not None and flow.has_limit(call) and runs.counted(wait.thread)[0] > 0
        if timed or runs.runs_again(wait.thread) or flow.ends_within(call, _SOON_SECONDS):
            continue  # its timers go off: which task waits for what cannot be seen from outside
        if words := activity.one_works(scene, wait.thread.process.children):
            yield say.finding(
                scene,
                chain,
                "slow",
                "child-wait",
                0.6,
                f"{say.who(wait.thread)} sits in an event loop, run at "
                f"{say.place(say.at_end(chain).user)}; what it started works: {words}.",
                evidence=[words],
                next_steps=["look again: what the subprocess does should get on"],
            )
            continue
        yield say.finding(
            scene,
            chain,
            "hung",
            "async-wait",
            0.72,
            f"{say.who(wait.thread)} sits in an idle event loop, run at {say.place(say.at_end(chain).user)}.",
            next_steps=["PYTHONASYNCIODEBUG=1, or asyncio.all_tasks(), tells which tasks are pending"],
        )
    for chain, wait in ends(scene, "sync-over-async"):
        if chain.gap != "nobody" or not wait.thread.process.forked:
            yield say.finding(
                scene,
                chain,
                "hung",
                "async-wait",
                0.66,
                f"{say.who(wait.thread)} waits for a coroutine in another thread, at {say.place(wait.user)}.",
            )


def workers(scene: Scene) -> Iterator[Finding]:
    """worker-dead and worker-stuck: a worker that died, or that could not be looked into."""
    for chain in scene.chains:
        wait = chain.end
        if wait.kind not in _OF_WORKERS or results_lost(wait):
            continue
        if progress(scene, chain) is not None:
            continue
        process = wait.thread.process
        fact = chain.facts[-1] if chain.facts else ""
        replaced = _replaced(process)
        if chain.gap == "dead" or (chain.gap == "idle" and wait.kind == "pool"):
            replaced += _lock_lost(process) if wait.kind == "pool" else []
            known = chain.gap == "dead" or bool(replaced)
            yield say.finding(
                scene,
                chain,
                "hung",
                "worker-dead",
                0.9 if known else 0.7,
                f"{say.who(wait.thread)} waits at {say.place(wait.user)} for work that a dead "
                f"worker had taken.",
                evidence=[fact, *replaced, _forgets(chain), *_oom(process)],
                next_steps=[
                    "dmesg | grep -i 'killed process' tells whether it was the OOM killer",
                    (
                        "concurrent.futures.ProcessPoolExecutor notices dead workers, "
                        "multiprocessing.Pool does not"
                    ),
                ],
            )
        elif wait.kind in ("dataloader", "pool"):
            stuck = chain.gap in ("unseen", "idle")
            yield say.finding(
                scene,
                chain,
                "hung",
                "worker-stuck",
                0.75 if stuck else 0.6,
                f"{say.who(wait.thread)} waits at {say.place(wait.user)} for a worker that could "
                f"not be seen into.",
                evidence=[f"{len(workers_of(process))} workers"],
                next_steps=[f"harness diagnose {each.pid}" for each in workers_of(process)[:2]],
            )
        elif chain.gap == "unseen":
            yield say.finding(
                scene,
                chain,
                "hung",
                "worker-stuck",
                0.75,
                f"{say.who(wait.thread)} waits at {say.place(wait.user)} for a worker that could "
                f"not be seen into.",
                next_steps=["look at that process with its own tools: ps, strace, gdb"],
            )


def _forgets(chain: Chain) -> str:
    """Why idle workers show that one died."""
    if chain.gap != "idle" or chain.end.kind != "pool":
        return ""
    return "multiprocessing.Pool replaces a worker that dies, but not the task that it had"


def _replaced(process: ProcessView) -> list[str]:
    """Workers that are much younger than their siblings: a pool puts new ones in the place of the dead."""
    ticks = sorted((each.process.start_time_ticks, each.pid) for each in workers_of(process))
    per_second = process.view.case.host.clock_ticks_per_second
    if len(ticks) < 2 or ticks[-1][0] - ticks[0][0] < 0.3 * per_second:
        return []
    younger = (ticks[-1][0] - ticks[0][0]) / per_second
    return [
        f"worker pid {ticks[-1][1]} is {younger:.1f} s younger than the others: it replaces one that died"
    ]


def _lock_lost(process: ProcessView) -> list[str]:
    """All workers of a pool wait for the lock of its queue, so that none of them holds it."""
    mains = [each.main for each in workers_of(process)]
    lost = all(
        main is not None and main.frame_in("__enter__", module="multiprocessing/synchronize.py")
        for main in mains
    )
    if not mains or not lost:
        return []
    return ["every worker waits for the lock of the task queue: one that died held it"]


def _oom(process: ProcessView) -> list[str]:
    group = process.process.cgroup
    kills = group.value.oom_kills if hasattr(group, "value") else None
    if kills is not None and hasattr(kills, "value") and kills.value > 0:
        return [f"its control group has seen {kills.value} OOM kills"]
    return []


def _others(wait: Wait) -> str:
    others = [each for each in wait.thread.process.threads if each is not wait.thread and each.python_frames]
    if not others:
        return "no other thread of the process runs Python"
    return "the other threads: " + ", ".join(
        f"{each.name} at {say.place(each.user_frame)}" for each in others[:4]
    )
