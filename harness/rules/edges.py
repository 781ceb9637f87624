"""Whom a wait is for: the thread that it needs, and what shows that.

An edge is drawn only where it can be shown: the same object (its address in two frames), the same
expression in two functions, the thread that a `join` names. Where none can be shown, the edge says what is
missing (`gap`), and rules say so or abstain.

Not covered: executors, pools and worker processes (`harness.rules.workers`), following edges
(`harness.rules.scene`), ranks among each other (`harness.rules.ranks`).
"""

from __future__ import annotations

import ast
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from harness import frames as code
from harness.rules import workers
from harness.rules.chain import Edge
from harness.rules.loops import never_leaves, works_beside
from harness.rules.threads import code_frames, package_frames, user_frames
from harness.rules.view import serves_clients, workers_of

if TYPE_CHECKING:
    from harness.evidence import Frame
    from harness.rules.scene import Scene
    from harness.rules.threads import ThreadView
    from harness.rules.waits import Wait

Key: TypeAlias = tuple[str, object, str]

# Methods that nothing but a queue has; `get` and `set` are a dictionary's, a setting's, anybody's.
_OF_QUEUES = frozenset({"put", "put_nowait", "task_done"})
# Where one that only ticks, or that has nothing to do, does not stand.
_HELD_UP = frozenset(
    {"busy", "socket-read", "socket-write", "socket-connect", "dns", "pipe-read", "pipe-write", "stdin"}
    | {"file-lock", "lock", "child", "process-join", "queue-put", "retry", "disk", "future"}
)


def edge_of(scene: Scene, wait: Wait) -> Edge:
    """The thread that a wait is for, or why none is known."""
    return _behind_the_gil(wait, _by_kind(scene, wait))


def _by_kind(scene: Scene, wait: Wait) -> Edge:
    match wait.kind:
        case "lock":
            return _lock(scene, wait)
        case "event":
            return _counterpart(
                scene, wait, ("wait", "wait_for", "acquire"), ("set", "notify", "notify_all", "release")
            )
        case "queue-get":
            return _counterpart(scene, wait, ("get",), ("put", "put_nowait"))
        case "queue-put":
            return _counterpart(scene, wait, ("put",), ("get", "get_nowait"))
        case "queue-join":
            return _counterpart(scene, wait, ("join",), ("task_done", "get"))
        case "join":
            return _joined(wait)
        case "future":
            return workers.executor(scene, wait)
        case "gil":
            holder = next((each for each in wait.thread.process.threads if each.holds_gil), None)
            return Edge(to=holder, fact="another thread holds the GIL in every dump")
        case "exit":
            return _held_at_exit(scene, wait)
        case "pool":
            return workers.pool(scene, wait)
        case "dataloader" | "process-queue":
            return workers.processes(scene, wait)
        case "process-event" if wait.thread.process.children:
            return workers.processes(scene, wait)
        case "pipe-read" if workers.reads_from_worker(wait):
            return workers.processes(scene, wait)
        case "process-join":
            return workers.child(scene, wait)
        case "child" if workers_of(wait.thread.process):
            return workers.child(scene, wait)
        case "sync-over-async":
            return _loop(wait)
        case "async":
            return _offloaded(scene, wait)
        case "sleep":
            return _watched(scene, wait)
        case "native-futex":
            return _called_back(wait)
    return Edge()


def _behind_the_gil(wait: Wait, edge: Edge) -> Edge:
    """One call into C that never lets the GIL go holds up every other thread, whatever it waits for."""
    if edge.to is not None or wait.kind in ("disk", "stopped", "busy"):
        return edge
    for thread in wait.thread.process.threads:
        if thread is not wait.thread and thread.holds_gil and thread.stood_still and len(thread.shapes) > 1:
            return Edge(
                to=thread, fact=f"{thread.name} holds the GIL in every sample: no other thread can run"
            )
    return edge


def _lock(scene: Scene, wait: Wait) -> Edge:
    if wait.user is None:
        return Edge(gap="unproved")
    if wait.thread.python_frames[0].file.startswith("<frozen importlib"):
        return _import(scene, wait, wait.user)
    if wait.frame is not None and wait.frame.file.endswith("/logging/__init__.py"):
        return _log_handler(wait)
    if (within := _within_itself(wait)) is not None:
        fact = f"{wait.thread.name} was in {within.function}() of the same object already, which has its lock"
        return Edge(to=wait.thread, fact=fact)
    taker, wanted = wanted_lock(scene, wait)
    key = key_of(scene, wait.thread, taker, wanted) if taker is not None and wanted else None
    if key is None:
        return Edge(gap="unproved")
    for thread in wait.thread.process.threads:
        for frame in code_frames(thread):
            called = next((inner.function for inner, at in pairwise(thread.python_frames) if at is frame), "")
            for held in scene.sources.held(frame, called):
                if key_of(scene, thread, frame, held.expression) == key:
                    # The thread itself included: it waits for what it holds.
                    place = f"{frame.file.rsplit('/', 1)[-1]}:{held.line}"
                    fact = f"{wanted} is held by {thread.name}, which took it at {place} in {frame.function}"
                    return Edge(to=thread, fact=fact)
    return Edge(gap="nobody", fact=f"no thread of this process stands in a block that holds {wanted}")


def _within_itself(wait: Wait) -> Frame | None:
    """The call of a queue in the midst of which a signal handler, or a `__del__`, has called it again."""
    frames = wait.thread.python_frames
    wants = next((each for each in frames[:3] if each.file.endswith("/queue.py")), None)
    address = _self_of(wants) if wants is not None and wait.thread.process.has_trusted_locals else 0
    for inner, outer in pairwise(frames):
        # What waits in it has let its lock go.
        if outer.file.endswith("/queue.py") and _self_of(outer) == address != 0 and outer is not wants:
            return outer if code.owner(inner) != "stdlib" else None
    return None


def _self_of(frame: Frame) -> int:
    return next((each.address for each in frame.locals if each.name == "self"), 0)


def wanted_lock(scene: Scene, wait: Wait) -> tuple[Frame | None, str | None]:
    """The frame that takes the lock, and the lock by its source: a package may take it for the user."""
    for frame in (*code_frames(wait.thread)[:1], wait.user):
        if frame is not None and (name := scene.sources.asked(frame)) is not None:
            return frame, name
    return wait.user, None


def _log_handler(wait: Wait) -> Edge:
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


def _import(scene: Scene, wait: Wait, user: Frame) -> Edge:
    """The thread that runs the module whose import is waited for: it holds the lock until it is done."""
    names = scene.sources.imported(user)
    for thread in wait.thread.process.threads:
        for frame in thread.python_frames:
            path = frame.file.removesuffix("/__init__.py").removesuffix(".py")
            if frame.function == "<module>" and any(
                path.endswith("/" + name.replace(".", "/")) for name in names
            ):
                fact = f"{thread.name} still imports {frame.file.rsplit('/', 1)[-1]}, and holds its lock"
                return Edge(to=thread, fact=fact)
    return Edge(gap="unproved")


def _counterpart(scene: Scene, wait: Wait, own: tuple[str, ...], opposite: tuple[str, ...]) -> Edge:
    threads = wait.thread.process.threads
    # A trainer that is installed as a package has no frame of "the user's": then its own count.
    frames_of = user_frames if any(map(user_frames, threads)) else package_frames
    others = [each for each in threads if each is not wait.thread and frames_of(each)]
    # What is called from a package's line is shown by that line, whoever calls the package.
    packaged = [each for each in threads if each is not wait.thread and each not in others]
    packaged = [each for each in packaged if package_frames(each)]
    if not others and not packaged:
        return Edge(gap="nobody", fact="no other thread of the process runs the user's code")
    keys: set[Key] = set()
    if wait.object_address:
        keys.add(("at", wait.object_address, ""))
    for frame in (*code_frames(wait.thread)[:1], wait.user):
        expression = scene.sources.receiver(frame, *own) if frame is not None else None
        if frame is not None and expression and (key := key_of(scene, wait.thread, frame, expression)):
            keys.add(key)
    proved: list[ThreadView] = []
    for thread in (*others, *packaged):
        for frame in code_frames(thread):
            calls = {each for method in opposite for each in scene.sources.calls(frame, method)}
            if any(key_of(scene, thread, frame, each) in keys for each in calls):
                proved.append(thread)
                break
    if not proved and not others:
        return Edge(gap="nobody", fact="no other thread of the process runs the user's code")
    if not proved and (edge := _by_attribute(scene, wait, others, own, opposite)) is not None:
        return edge
    if not proved and (edge := _of_one_object(scene, wait, others)) is not None:
        return edge
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
            and all(scene.sources.of(f) for t in others for f in frames_of(t))
        )
        return Edge(gap="nobody" if known else "unproved")
    # Of several: one that cannot go on says more than one that waits for the same thing.
    order: dict[str, int] = {"queue-get" if wait.kind == "queue-join" else wait.kind: 2, "busy": 1}
    chosen = min(proved, key=lambda each: order.get(scene.wait(each).kind, 0))
    return Edge(to=chosen, fact=f"{chosen.name} is the one that calls {'/'.join(opposite[:2])} on it")


def _of_one_object(scene: Scene, wait: Wait, others: list[ThreadView]) -> Edge | None:
    """A thread at work in methods of the object whose method waits: it may give it in one of the others."""
    waiting = {
        local.address
        for frame in user_frames(wait.thread)
        for local in frame.locals
        if local.name == "self" and local.argument and local.kind == "object"
    }
    for thread in others:
        works = scene.wait(thread).kind == "busy" and wait.thread.process.has_trusted_locals
        for frame in user_frames(thread) if works else ():
            if any(local.name == "self" and local.address in waiting for local in frame.locals):
                return Edge(to=thread, fact=f"{thread.name} works for the object that waits")
    return None


def _by_attribute(
    scene: Scene, wait: Wait, others: list[ThreadView], own: tuple[str, ...], opposite: tuple[str, ...]
) -> Edge | None:
    """One thread calls it on an attribute: which object that is cannot be read from outside.

    It is taken for the one that is waited for where it stands in the very same object, has it by the same
    name, or, of a queue, stands where neither a thread that ticks nor one without work does.
    """
    frames = (*code_frames(wait.thread)[:1], wait.user)
    asked = {_last_word(each) for frame in frames if frame and (each := scene.sources.receiver(frame, *own))}
    found: dict[int, tuple[ThreadView, str]] = {}
    for thread in others:
        for method in opposite if not thread.is_main else ():
            calls = {each for frame in code_frames(thread) for each in scene.sources.calls(frame, method)}
            for call in sorted(each for each in calls if "." in each):
                if _last_word(call) in asked or method in _OF_QUEUES:
                    found.setdefault(id(thread), (thread, call))
    if not found:
        return None
    same = [
        (thread, call)
        for thread, call in found.values()
        if wait.object_address and scene.wait(thread).object_address == wait.object_address
    ]
    named = [(thread, call) for thread, call in found.values() if _last_word(call) in asked]
    stuck = [(thread, call) for thread, call in found.values() if scene.wait(thread).kind in _HELD_UP]
    for group in (same, named, stuck):
        if len({_where(each) for each, _ in group}) == 1:
            thread, call = group[0]
            fact = f"{thread.name} is the one that calls {'/'.join(opposite[:2])}, on its {call}"
            return Edge(to=thread, fact=fact)
    return Edge(gap="unproved")


def _where(thread: ThreadView) -> tuple[str, int]:
    frame = thread.user_frame
    return (frame.file, frame.line) if frame is not None else ("", 0)


def _last_word(expression: str) -> str:
    return expression.rpartition(".")[2].lstrip("_")


def _joined(wait: Wait) -> Edge:
    others = [each for each in wait.thread.process.threads if each is not wait.thread and each.python_frames]
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


def _watched(scene: Scene, wait: Wait) -> Edge:
    """The thread that does the work, where this one only sleeps in a loop as long as that one lives."""
    loop = next(iter(scene.sources.loops(wait.user)), None) if wait.user is not None else None
    if not isinstance(loop, ast.While) or works_beside(loop):
        return Edge()
    asks = ".is_alive()" in ast.unparse(loop.test)
    if not asks and not never_leaves(loop):
        return Edge()
    others = [each for each in wait.thread.process.threads if each is not wait.thread and user_frames(each)]
    # What ticks (a heartbeat, a monitor) waits by the clock.
    others = [each for each in others if scene.wait(each).kind != "sleep" or asks]
    if not asks:
        others = [each for each in others if scene.wait(each).kind not in ("event", "queue-get", "serve")]
    working = [each for each in others if scene.wait(each).kind == "busy"] or others
    if len(working) != 1:
        return Edge()
    return Edge(to=working[0], fact=f"{wait.thread.name} only looks after {working[0].name}")


def _offloaded(scene: Scene, wait: Wait) -> Edge:
    """An idle loop whose program runs something in a thread of an executor, and serves nobody."""
    process = wait.thread.process
    # What a server runs beside its loop says nothing of what it waits for; ranks listen as well.
    serves = serves_clients(process) and process.rank is None
    for thread in process.threads:
        # A name is looked up by the loop's own executor, with no line of the user's on its stack.
        if thread is wait.thread or not workers.at_work(thread):
            continue
        if not serves or scene.wait(thread).kind in ("collective", "rendezvous"):
            return Edge(to=thread, fact=f"{thread.name} runs what the event loop gave to an executor")
    return Edge()


def _held_at_exit(scene: Scene, wait: Wait) -> Edge:
    process = wait.thread.process
    if wait.thread.frame_in("join", module="multiprocessing/process.py"):
        return workers.child(scene, wait)
    for thread in process.threads:
        if thread.frame_in("_feed", module="multiprocessing/queues.py"):
            return Edge(to=thread, fact="a queue's feeder thread has not written all that was put")
    others = [each for each in process.threads if each is not wait.thread]
    held = [each for each in others if user_frames(each)] or [each for each in others if code_frames(each)]
    if wait.thread.frame_in("_python_exit", module="futures/thread.py"):
        held = [each for each in held if each.frame_in("_worker", module="futures/thread.py")] or held
    if held:
        return Edge(to=held[0], fact=f"{held[0].name} still runs")
    if workers_of(process):
        return workers.processes(scene, wait)
    return Edge(gap="unproved")


def _called_back(wait: Wait) -> Edge:
    """The thread in which a library in C runs what the user gave to it (an iterator, a hook)."""
    others = [each for each in wait.thread.process.threads if each is not wait.thread and user_frames(each)]
    # What Python itself has started begins with a frame of `threading`; a main thread with its module.
    begun = [each for each in others if not each.is_main and user_frames(each)[-1] is each.python_frames[-1]]
    if len(begun) != 1:
        return Edge()
    return Edge(
        to=begun[0], fact=f"native code runs {begun[0].python_frames[-1].function} in {begun[0].name}"
    )


def _loop(wait: Wait) -> Edge:
    for thread in wait.thread.process.threads:
        if thread is not wait.thread and thread.frame_in("run_forever", "_run_once", module="base_events.py"):
            return Edge(to=thread, fact=f"the event loop runs in {thread.name}")
    return Edge(gap="nobody", fact="no thread of this process runs an event loop")


def key_of(scene: Scene, thread: ThreadView, frame: Frame, expression: str) -> Key | None:
    """What an expression in a frame stands for, so that two frames can be compared; None if unknown."""
    root, _, rest = expression.partition(".")
    if not root.isidentifier() or "(" in rest:
        return None
    local = next((each for each in frame.locals if each.name == root), None)
    if local is not None:
        return ("at", local.address, rest)
    # No local of that name: it is the module's. Where locals could not be read, the source tells.
    module_wide = frame.function == "<module>" or scene.sources.binds(frame, root) is False
    return ("name", frame.file, expression) if module_wide or thread.process.has_trusted_locals else None
