"""Who waits for whom: from each trainer's main thread to the end of its wait, across threads and workers.

An edge is drawn only where it can be shown: the same object (its address in two frames), the same
expression in two functions, the thread that a `join` names, the worker that a pid names. Where none can be
shown the chain ends with what is missing (`gap`), and rules say so or abstain. Into another process it
leads only if that is a worker of this training.

Not covered: ranks among each other (`harness.rules.ranks`), causes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

from harness import frames as code
from harness.evidence import Reading
from harness.rules.motion import Motion
from harness.rules.source import Sources
from harness.rules.waits import Wait, wait_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.evidence import Frame
    from harness.rules.view import ProcessView, ThreadView, View

# Why a chain ends where it does; empty: its last wait is for something outside, or is none.
Gap: TypeAlias = Literal["", "nobody", "unproved", "starved", "idle", "dead", "unseen"]
Key: TypeAlias = tuple[str, object, str]

MAX_LINKS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """The thread that a wait is for, or why none is known; and what shows it."""

    to: ThreadView | None = None
    gap: Gap = ""
    fact: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """From a main thread to the end. `cycle` holds the waits that close on themselves."""

    waits: tuple[Wait, ...]
    gap: Gap
    facts: tuple[str, ...]
    cycle: tuple[Wait, ...] = ()

    @property
    def begin(self) -> Wait:
        """Where it starts."""
        return self.waits[0]

    @property
    def end(self) -> Wait:
        """Where it ends."""
        return self.waits[-1]


class Scene:
    """A view with what rules share: sources, motion and waits of every thread, chains of every trainer."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.sources = Sources(view.case)
        self._waits: dict[int, Wait] = {}
        self._motions: dict[int, Motion] = {}

    def wait(self, thread: ThreadView) -> Wait:
        """What a thread waits for."""
        key = id(thread)
        if key not in self._waits:
            self._waits[key] = wait_of(thread, self.sources)
        return self._waits[key]

    def motion(self, thread: ThreadView) -> Motion:
        """What moved in a thread."""
        key = id(thread)
        if key not in self._motions:
            self._motions[key] = Motion(thread)
        return self._motions[key]

    @cached_property
    def subjects(self) -> tuple[ProcessView, ...]:
        """The processes to judge: all ranks, else what was asked about, else what its launcher started."""
        if self.view.ranks:
            return tuple(each for each in self.view.ranks if each.alive)
        target = self.view.target
        if target is not None and target.role != "launcher" and target.alive:
            return (target,)
        found = [each for each in self.view.trainers if each.alive and each.python and each is not target]
        below = [each for each in found if target is None or _is_below(each, target)]
        # The outermost one: what it started in its turn is its own affair.
        first = [
            each for each in below if not any(_is_below(each, other) for other in below if other is not each)
        ]
        if first or target is None:
            return tuple(first)
        # Nothing that trains yet: a launcher that waits may stand below a script.
        launchers = (each for each in self.view.processes if each.role == "launcher" and each.python)
        waiting = [each for each in launchers if each.alive and _is_below(each, target)]
        return (*waiting[:1],) or ((target,) if target.alive else ())

    @cached_property
    def chains(self) -> tuple[Chain, ...]:
        """One per subject that has a main thread."""
        return tuple(self.chain(each.main) for each in self.subjects if each.main is not None)

    def chain(self, thread: ThreadView) -> Chain:
        """Follow one thread's wait to its end."""
        waits: list[Wait] = []
        facts: list[str] = []
        current: ThreadView | None = thread
        gap: Gap = ""
        while current is not None and len(waits) < MAX_LINKS:
            met = next((at for at, wait in enumerate(waits) if wait.thread is current), None)
            if met is not None:
                return Chain(waits=tuple(waits), gap="", facts=tuple(facts), cycle=tuple(waits[met:]))
            waits.append(self.wait(current))
            edge = self._behind_the_gil(waits[-1], self._edge(waits[-1]))
            facts += [edge.fact] if edge.fact else []
            current, gap = edge.to, edge.gap
        return Chain(waits=tuple(waits), gap=gap, facts=tuple(facts))

    # ── edges ───────────────────────────────────────────────────────────────────────────────────────────────

    def _edge(self, wait: Wait) -> Edge:
        match wait.kind:
            case "lock":
                return self._lock(wait)
            case "event":
                return self._counterpart(
                    wait, ("wait", "wait_for", "acquire"), ("set", "notify", "notify_all", "release")
                )
            case "queue-get":
                return self._counterpart(wait, ("get",), ("put", "put_nowait"))
            case "queue-put":
                return self._counterpart(wait, ("put",), ("get", "get_nowait"))
            case "queue-join":
                return self._counterpart(wait, ("join",), ("task_done", "get"))
            case "join":
                return self._joined(wait)
            case "future":
                return self._executor(wait)
            case "gil":
                holder = next((each for each in wait.thread.process.threads if each.holds_gil), None)
                return Edge(to=holder, fact="another thread holds the GIL in every dump")
            case "exit":
                return self._held_at_exit(wait)
            case "pool":
                return self._pool(wait)
            case "dataloader" | "process-queue":
                return self._workers(wait)
            case "process-join":
                return self._child(wait)
            case "child" if workers_of(wait.thread.process):
                return self._child(wait)
            case "sync-over-async":
                return self._loop(wait)
            case "async":
                return self._offloaded(wait)
        return Edge()

    def _behind_the_gil(self, wait: Wait, edge: Edge) -> Edge:
        """One call into C that never lets the GIL go holds up every other thread, whatever it waits for."""
        if edge.to is not None or wait.kind in ("disk", "stopped", "busy"):
            return edge
        for thread in wait.thread.process.threads:
            if (
                thread is not wait.thread
                and thread.holds_gil
                and thread.stood_still
                and len(thread.shapes) > 1
            ):
                return Edge(
                    to=thread, fact=f"{thread.name} holds the GIL in every sample: no other thread can run"
                )
        return edge

    def _lock(self, wait: Wait) -> Edge:
        if wait.user is None:
            return Edge(gap="unproved")
        if wait.thread.python_frames[0].file.startswith("<frozen importlib"):
            return self._import(wait, wait.user)
        if wait.frame is not None and wait.frame.file.endswith("/logging/__init__.py"):
            return self._log_handler(wait)
        wanted = self.sources.asked(wait.user)
        key = self.key(wait.thread, wait.user, wanted) if wanted else None
        if key is None:
            return Edge(gap="unproved")
        for thread in wait.thread.process.threads:
            for frame in user_frames(thread):
                for held in self.sources.held(frame):
                    if self.key(thread, frame, held.expression) == key:
                        # The thread itself included: it waits for what it holds.
                        place = f"{frame.file.rsplit('/', 1)[-1]}:{held.line}"
                        fact = (
                            f"{wanted} is held by {thread.name}, which took it at {place} in {frame.function}"
                        )
                        return Edge(to=thread, fact=fact)
        return Edge(gap="nobody", fact=f"no thread of this process stands in a block that holds {wanted}")

    def _log_handler(self, wait: Wait) -> Edge:
        """The thread that is in the same handler: it holds the handler's lock while it writes its line."""
        for thread in wait.thread.process.threads:
            frame = thread.frame_in("handle", module="/logging/__init__.py")
            same = frame is not None and any(
                each.name == "self" and each.address == wait.object_address for each in frame.locals
            )
            if same and wait.object_address and frame is not thread.python_frames[0]:
                acquires = thread.python_frames[0].function == "acquire"
                if not acquires or thread.python_frames.index(frame) > 1:
                    return Edge(to=thread, fact=f"{thread.name} is in that handler, and holds its lock")
        return Edge(gap="unproved")

    def _import(self, wait: Wait, user: Frame) -> Edge:
        """The thread that runs the module whose import is waited for: it holds the lock until it is done."""
        names = self.sources.imported(user)
        for thread in wait.thread.process.threads:
            for frame in thread.python_frames:
                path = frame.file.removesuffix("/__init__.py").removesuffix(".py")
                if frame.function == "<module>" and any(
                    path.endswith("/" + name.replace(".", "/")) for name in names
                ):
                    fact = f"{thread.name} still imports {frame.file.rsplit('/', 1)[-1]}, and holds its lock"
                    return Edge(to=thread, fact=fact)
        return Edge(gap="unproved")

    def _counterpart(self, wait: Wait, own: tuple[str, ...], opposite: tuple[str, ...]) -> Edge:
        threads = wait.thread.process.threads
        # A trainer that is installed as a package has no frame of "the user's": then its own count.
        frames_of = user_frames if any(map(user_frames, threads)) else package_frames
        others = [each for each in threads if each is not wait.thread and frames_of(each)]
        if not others:
            return Edge(gap="nobody", fact="no other thread of the process runs the user's code")
        keys: set[Key] = set()
        if wait.object_address:
            keys.add(("at", wait.object_address, ""))
        expression = self.sources.receiver(wait.user, *own) if wait.user else None
        if expression and wait.user and (key := self.key(wait.thread, wait.user, expression)):
            keys.add(key)
        proved: list[ThreadView] = []
        for thread in others:
            for frame in frames_of(thread):
                calls = {each for method in opposite for each in self.sources.calls(frame, method)}
                if any(self.key(thread, frame, each) in keys for each in calls):
                    proved.append(thread)
                    break
        if not proved:
            refers = any(
                local.address == wait.object_address
                for thread in others
                for frame in frames_of(thread)
                for local in frame.locals
                if wait.object_address
            )
            # Under another name, by an argument, it is known by its address alone.
            known = (
                wait.thread.process.has_trusted_locals
                and bool(keys)
                and not refers
                and all(self.sources.of(f) for t in others for f in frames_of(t))
            )
            return Edge(gap="nobody" if known else "unproved")
        # Of several: one that cannot go on says more than one that waits for the same thing.
        chosen = min(proved, key=lambda each: self.wait(each).kind in ("busy", wait.kind))
        return Edge(to=chosen, fact=f"{chosen.name} is the one that calls {'/'.join(opposite[:2])} on it")

    def _joined(self, wait: Wait) -> Edge:
        others = [
            each for each in wait.thread.process.threads if each is not wait.thread and each.python_frames
        ]
        address = wait.object_address
        for thread in others:
            for frame in thread.python_frames[::-1][:3]:
                if address and any(each.name == "self" and each.address == address for each in frame.locals):
                    return Edge(to=thread, fact=f"{thread.name} is the thread that is joined")
        return (
            Edge(to=others[0], fact=f"{others[0].name} is the only other thread")
            if len(others) == 1
            else Edge(gap="unproved")
        )

    def _executor(self, wait: Wait) -> Edge:
        threads = wait.thread.process.threads
        workers = [each for each in threads if each.frame_in("_worker", module="futures/thread.py")]
        # The thread that manages an executor's processes.
        managed = any(each.frame_in("run", module="futures/process.py") for each in threads)
        other = self._workers(wait) if managed else Edge()
        working = [each for each in workers if user_frames(each) and each is not wait.thread]
        starved = [each for each in workers if self.wait(each).kind == "future"]
        if starved and len(starved) == len([each for each in workers if user_frames(each)]):
            fact = f"all {len(starved)} workers of the executor wait for futures themselves"
            if wait.thread not in workers:
                # Of executors within executors the youngest worker is the one that all others wait for.
                return Edge(to=max(starved, key=lambda each: each.tid or 0), fact=fact)
            return other if other.to is not None else Edge(gap="starved", fact=fact)
        if working:
            chosen = min(working, key=lambda each: self.wait(each).kind in ("busy", "future"))
            return Edge(to=chosen, fact=f"{chosen.name} runs work of the executor")
        if workers and other.to is None and other.gap != "dead":
            return Edge(gap="idle", fact=f"the executor's {len(workers)} workers are idle")
        if wait.thread.process.children:
            return self._workers(wait)
        return Edge(gap="nobody", fact="there is no executor thread in the process")

    def _offloaded(self, wait: Wait) -> Edge:
        """An idle loop whose program runs something in a thread of an executor, and serves nobody."""
        process = wait.thread.process
        # What a server runs beside its loop says nothing of what it waits for; ranks listen as well.
        serves = connected(process, "LISTEN") and process.rank is None
        for thread in process.threads:
            offloaded = thread is not wait.thread and thread.frame_in("_worker", module="futures/thread.py")
            # A name is looked up by the loop's own executor, with no line of the user's on its stack.
            if not offloaded or not (user_frames(thread) or self.wait(thread).kind == "dns"):
                continue
            if not serves or self.wait(thread).kind in ("collective", "rendezvous"):
                return Edge(to=thread, fact=f"{thread.name} runs what the event loop gave to an executor")
        return Edge()

    def _held_at_exit(self, wait: Wait) -> Edge:
        process = wait.thread.process
        if wait.thread.frame_in("join", module="multiprocessing/process.py"):
            return self._child(wait)
        for thread in process.threads:
            if thread.frame_in("_feed", module="multiprocessing/queues.py"):
                return Edge(to=thread, fact="a queue's feeder thread has not written all that was put")
        held = [each for each in process.threads if each is not wait.thread and user_frames(each)]
        if wait.thread.frame_in("_python_exit", module="futures/thread.py"):
            held = [each for each in held if each.frame_in("_worker", module="futures/thread.py")] or held
        if held:
            return Edge(to=held[0], fact=f"{held[0].name} still runs")
        if workers_of(process):
            return self._workers(wait)
        return Edge(gap="unproved")

    def _pool(self, wait: Wait) -> Edge:
        threads = wait.thread.process.threads
        workers = [each for each in threads if each.frame_in("worker", module="multiprocessing/pool.py")]
        if not workers:
            return self._workers(wait)
        working = [each for each in workers if user_frames(each) and each is not wait.thread]
        if not working and workers_of(wait.thread.process):
            return self._workers(wait)  # a pool of processes beside the one of threads
        if not working:
            return Edge(gap="unproved", fact=f"the pool's {len(workers)} threads wait for work")
        chosen = min(working, key=lambda each: self.wait(each).kind in ("busy", "pool"))
        return Edge(to=chosen, fact=f"{chosen.name} runs work of the pool")

    def _workers(self, wait: Wait) -> Edge:
        process = wait.thread.process
        dead = [each for each in process.children if each.process.state in "ZX" or not each.alive]
        # One that ended as it should owes a queue nothing any more; a pool, it still does.
        done = [each for each in dead if each.exit_code == 0 and wait.kind == "process-queue"]
        dead = [each for each in dead if each not in done]
        if dead:
            return Edge(gap="dead", fact=f"worker pid {dead[0].pid} {dead[0].ended} (a zombie)")
        workers = [each for each in workers_of(process) if not _serves_proxies(each)]
        if not workers:
            gone = f"worker pid {done[0].pid} {done[0].ended}: " if done else ""
            return Edge(gap="nobody", fact=f"{gone}there is no worker process (any more)")
        unseen = [each for each in workers if each.main is None or not each.main.frames]
        active = [
            each.main
            for each in workers
            if each.main is not None and each.main.frames and not self.idle(each.main)
        ]
        stopped = [each.main for each in workers if each.main is not None and each.state in ("T", "t")]
        if stopped:
            return Edge(to=stopped[0], fact=f"worker pid {stopped[0].process.pid} is stopped")
        if active:
            chosen = min(active, key=lambda each: self.wait(each).kind == "busy")
            return Edge(to=chosen, fact=f"worker pid {chosen.process.pid} is the one that has not answered")
        if unseen:
            return Edge(gap="unseen", fact=f"worker pid {unseen[0].pid} could not be looked into")
        return Edge(gap="idle", fact=f"all {len(workers)} workers wait for work")

    def idle(self, thread: ThreadView) -> bool:
        """Whether a worker's main thread waits for work to be given to it."""
        first = next((each for each in thread.python_frames if code.owner(each) != "stdlib"), None)
        waits = self.wait(thread).kind in {
            "process-queue",
            "process-lock",
            "pipe-read",
            "pool-worker",
            "lock",
        }
        if first is None or asks_queue(self.wait(thread)):
            return waits
        return waits and bool(re.search(r"torch/utils/data/_utils/worker\.py$", first.file))

    def _child(self, wait: Wait) -> Edge:
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
            return self._workers(wait) if children else Edge(gap="unproved")
        if named[0].main is None or not named[0].main.frames:
            what = f"worker pid {named[0].pid} ({named[0].command_text[:80]})"
            return Edge(gap="unseen", fact=f"{what} could not be looked into")
        return Edge(to=named[0].main, fact=f"pid {named[0].pid} is the process that is joined")

    def _loop(self, wait: Wait) -> Edge:
        for thread in wait.thread.process.threads:
            if thread is not wait.thread and thread.frame_in(
                "run_forever", "_run_once", module="base_events.py"
            ):
                return Edge(to=thread, fact=f"the event loop runs in {thread.name}")
        return Edge(gap="nobody", fact="no thread of this process runs an event loop")

    # ── identity ────────────────────────────────────────────────────────────────────────────────────────────

    def key(self, thread: ThreadView, frame: Frame, expression: str) -> Key | None:
        """What an expression in a frame stands for, so that two frames can be compared; None if unknown."""
        root, _, rest = expression.partition(".")
        if not root.isidentifier() or "(" in rest:
            return None
        local = next((each for each in frame.locals if each.name == root), None)
        if local is not None:
            return ("at", local.address, rest)
        # No local of that name: it is the module's. Where locals could not be read, the source tells.
        module_wide = frame.function == "<module>" or self.sources.binds(frame, root) is False
        return ("name", frame.file, expression) if module_wide or thread.process.has_trusted_locals else None


def user_frames(thread: ThreadView) -> tuple[Frame, ...]:
    """The frames of the user's own code, innermost first."""
    return tuple(frame for frame in thread.python_frames if code.owner(frame) == "user")


def package_frames(thread: ThreadView) -> tuple[Frame, ...]:
    """The frames of installed packages, innermost first."""
    return tuple(frame for frame in thread.python_frames if code.owner(frame) == "package")


def asks_queue(wait: Wait) -> bool:
    """Whether a worker asks a queue between processes for what to do next."""
    return wait.kind == "process-queue" and wait.frame is not None and wait.frame.function == "get"


def _serves_proxies(process: ProcessView) -> bool:
    """Whether it is a Manager's process, which keeps what others put into it and does nothing itself."""
    main = process.main
    return (
        main is not None and main.frame_in("serve_forever", module="multiprocessing/managers.py") is not None
    )


def workers_of(process: ProcessView) -> tuple[ProcessView, ...]:
    """The live worker processes of a trainer."""
    return tuple(each for each in process.children if each.role == "worker" and each.alive)


def descendants(process: ProcessView) -> Iterator[ProcessView]:
    """All processes below one, nearest first."""
    todo = list(process.children)
    for each in todo:
        yield each
        todo.extend(each.children)


def _is_below(process: ProcessView, other: ProcessView) -> bool:
    return any(each is other for each in process.ancestors)


def connected(process: ProcessView, state: str) -> int:
    """How many TCP sockets a process has in this state."""
    sockets = process.process.sockets
    if not isinstance(sockets, Reading):
        return 0
    return sum(each.state == state for each in sockets.value if each.family.startswith("tcp"))
