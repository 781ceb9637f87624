"""The same hang in another thread or process."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.support.variants.program import Program, is_docstring
from tests.support.zoo import several_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


# What runs `{entry}` elsewhere, and how the main thread waits for it.
MOVED = {
    "thread": """
import threading as _threading
_moved = _threading.Thread(target={entry}, name='moved')
_moved.start()
_moved.join()""",
    "thread-polled": """
import threading as _threading
_moved = _threading.Thread(target={entry}, name='moved')
_moved.start()
while _moved.is_alive():
    _moved.join(0.5)""",
    "thread-class": """
import threading as _threading
class _Moved(_threading.Thread):
    def run(self):
        {entry}()
_moved = _Moved()
_moved.start()
_moved.join()""",
    "thread-beside": """
import threading as _threading
import time as _time
def work_on(steps):
    for step in range(steps):
        _time.sleep(0.05)
_threading.Thread(target={entry}, name='moved', daemon=True).start()
work_on(10**6)""",
    "event": """
import threading as _threading
_done = _threading.Event()
def _moved():
    {entry}()
    _done.set()
_threading.Thread(target=_moved, name='moved').start()
_done.wait()""",
    "queue-worker": """
import queue as _queue
import threading as _threading
def _work(tasks):
    while True:
        tasks.get()()
        tasks.task_done()
_tasks = _queue.Queue()
_threading.Thread(target=_work, args=(_tasks,), name='moved', daemon=True).start()
_tasks.put({entry})
_tasks.join()""",
    "executor": """
import concurrent.futures as _futures
with _futures.ThreadPoolExecutor(2) as _executor:
    _executor.submit({entry}).result()""",
    "executor-map": """
import concurrent.futures as _futures
def _moved(number):
    if number == 1:
        {entry}()
with _futures.ThreadPoolExecutor(2) as _executor:
    list(_executor.map(_moved, range(2)))""",
    "thread-pool": """
from multiprocessing.pool import ThreadPool as _ThreadPool
with _ThreadPool(2) as _pool:
    _pool.apply({entry})""",
    "to-thread": """
import asyncio as _asyncio
async def _moved():
    await _asyncio.to_thread({entry})
_asyncio.run(_moved())""",
    "fork": """
import multiprocessing as _multiprocessing
_moved = _multiprocessing.get_context('fork').Process(target={entry})
_moved.start()
_moved.join()""",
    "spawn": """
import multiprocessing as _multiprocessing
_moved = _multiprocessing.get_context('spawn').Process(target={entry})
_moved.start()
_moved.join()""",
    "pool": """
import multiprocessing as _multiprocessing
with _multiprocessing.get_context('fork').Pool(2) as _pool:
    _pool.apply({entry})""",
    "process-pool": """
import concurrent.futures as _futures
import multiprocessing as _multiprocessing
with _futures.ProcessPoolExecutor(1, mp_context=_multiprocessing.get_context('fork')) as _executor:
    _executor.submit({entry}).result()""",
}
_PROCESSES = ("fork", "spawn", "pool", "process-pool")
ENTRY = "begin_here"


def moved(where: str) -> Callable[[Program, random.Random], Program | None]:
    """What the module does at its end, moved there; the main thread waits for it, or works on."""

    def change(program: Program, chance: random.Random) -> Program | None:
        if program.says(r"signal\.signal\(|unshare"):  # of the main thread alone, or of one thread alone
            return None
        ranked = "ranks" in program.truth or "torchrun" in program.truth
        # A child of multiprocessing has no stdin, runs no hooks at its end, is no rank, and no parent of what
        # the module started before.
        in_process = where in _PROCESSES
        if in_process and (ranked or program.truth.get("stdin") or program.says(r"atexit|os\.wait|__file__")):
            return None
        # A daemon's threads are daemons: they hold nothing up. A Pool's workers may have no children.
        ends = "interpreter-exit" in several_of(program.truth["cause"])
        if ends and where in ("pool", "thread-pool", "queue-worker"):
            return None
        if where == "pool" and program.says("multiprocessing|num_workers"):
            return None
        # An idle loop in a process that listens may be a server's, which what it runs beside says nothing of.
        if where == "to-thread" and program.says(r"create_server|\.listen\(") and not ranked:
            return None
        progresses = {"healthy", "slow"} & set(several_of(program.truth["state"]))
        if where == "thread-beside" and (program.name.startswith("ranks/") or progresses):
            return None
        changed = tail(program, MOVED[where].format(entry=ENTRY))
        if changed is not None and where == "queue-worker" and progresses:
            # A loop within the worker's own loop: whether it is the training's cannot be told.
            states = [*several_of(changed.truth["state"]), "healthy", "slow"]
            changed = changed.told(state=states, cause=[*several_of(changed.truth["cause"]), "slow-progress"])
        if changed is None or where != "thread-beside":
            return changed
        # A stop, and C that keeps the GIL, hold up the thread that works on too: if in this very process.
        # What has exited is another process, and that is asked about.
        cause = program.truth["cause"]
        if cause in ("stopped", "exited") or (
            cause == "native-spin" and not program.says("DataLoader|multiprocessing")
        ):
            return changed
        truth = {key: value for key, value in changed.truth.items() if key not in ("blame", "facts")}
        truth |= {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress", "slow-io"]}
        if cause == "disk-wait":  # then no thread can be paused for its locals, which may be all that moves
            truth = {**truth, **{key: [*truth[key], "unknown"] for key in ("state", "cause")}}
        return replace(changed, truth=truth)

    return change


def tail(program: Program, runs: str, arguments: str = "", before: str = "") -> Program | None:
    """The module's last statements as a function, and what runs it instead."""
    body = list(program.tree.body)
    tail: list[ast.stmt] = []
    while body and isinstance(body[-1], (ast.Expr, ast.If)) and not is_docstring(body[-1]):
        tail.insert(0, body.pop())
    if not tail:
        return None
    inside: list[ast.stmt] = []
    for node in tail:
        inside += node.body if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) else [node]
    entry = ast.parse(f"def {ENTRY}({arguments}):\n    pass").body[0]
    assert isinstance(entry, ast.FunctionDef)
    entry.body = [*ast.parse(before).body, *inside]
    guard = ast.parse("if __name__ == '__main__':\n    pass").body[0]
    assert isinstance(guard, ast.If)
    guard.body = ast.parse(runs).body
    return replace(program, tree=ast.Module(body=[*body, entry, guard], type_ignores=[]))
