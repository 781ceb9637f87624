"""Variants of the zoo's programs, made by a program: the verdict on each must be that on its original.

    python -m tests.support.variants FOLDER [NAME...]     writes those whose name holds one of the words

Each changes how a program is written or started and nothing of why it hangs: names, imports, calls around the
hang, the thread or process that it is in, what starts it. Where the words of the design change the truth (a
main thread that works on is healthy; a caller put between is the deepest frame) it is derived here, by rule.
A variant is a file with its own TRUTH and is run like any victim. The same seed gives the same files.

Not covered: other causes (those are victims of their own).
"""

from __future__ import annotations

import ast
import random
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import zoo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEED = 20261123
HELPER = "pass_on"
_SEVERAL = frozenset(
    ("fork", "spawn", "pool", "process-pool", "launcher-2", "torchrun-2", "combined-1", "combined-2")
)
_WORDS = """
    alder amber birch cedar clover coral delta ember fable fern flint gable grove hazel heron iris
    ivory juniper kelp lark linden maple merle moss nettle oriole osprey pearl pine plover quartz
    reed robin rowan sable sedge slate sorrel spruce swift tansy teal thistle umber vetch violet
    walnut willow wren yarrow zephyr
""".split()  # noqa: SIM905 - one word a line is no easier to read


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A victim as source, with its truth."""

    name: str
    tree: ast.Module
    truth: dict[str, Any]

    def says(self, pattern: str) -> bool:
        return re.search(pattern, ast.unparse(self.tree)) is not None

    def told(self, **changes: Any) -> Program:
        return replace(self, truth={**self.truth, **changes})


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to change a program; `make` gives None where it does not apply."""

    name: str
    make: Callable[[Program, random.Random], Program | None]
    needs: tuple[str, ...] = ()


def load(path: Path) -> Program:
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not _is_truth(node)]
    return Program(name=zoo.name(path), tree=tree, truth=zoo.truth(path))


def write(program: Program, variant: str, folder: Path) -> Path:
    """FOLDER/<variant>/<family>_<name>.py, runnable by `zoo.outcome`."""
    body = [ast.parse(f"TRUTH = {program.truth!r}").body[0], *program.tree.body]
    future = [node for node in body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    body = [*future, *(node for node in body if node not in future)]
    tree = ast.fix_missing_locations(ast.Module(body=body, type_ignores=[]))
    path = folder / variant.replace("-", "_") / f"{program.name.replace('/', '_')}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ast.unparse(tree) + "\n")
    return path


def variants_of(path: Path, *, seed: int = SEED) -> Iterator[tuple[str, Program]]:
    """Every variant that applies to a victim."""
    for variant in VARIANTS:
        made = make(path, variant, seed=seed)
        if made is not None:
            yield variant.name, made


def make(path: Path, variant: Variant, *, seed: int = SEED) -> Program | None:
    program = load(path)
    if program.truth.get("variants") is False:
        return None  # it starts what lies beside it
    made = variant.make(program, random.Random(f"{seed}/{program.name}/{variant.name}"))
    if made is None:
        return None
    needs = tuple(dict.fromkeys((*made.truth.get("needs", ()), *variant.needs)))
    made = made.told(needs=list(needs)) if needs else made
    # READY may be one process's word while others still start.
    settle = max(0.5, made.truth.get("settle_seconds", 0.0))
    return made.told(settle_seconds=settle) if variant.name in _SEVERAL else made


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────


def renamed(program: Program, chance: random.Random) -> Program:
    """The user's functions and methods under other names."""
    return _with_names(program, chance, {*_functions(program.tree), *_methods(program.tree)})


def other_names(program: Program, chance: random.Random) -> Program:
    """Every name that the user gave: functions, classes, variables."""
    tree = program.tree
    classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    # What a class's body sets is reached as an attribute.
    attributes = {
        id(name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for each in node.body
        if isinstance(each, (ast.Assign, ast.AnnAssign))
        for name in ast.walk(each)
    }
    stored = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in attributes)
    variables = {node.id for node in stored if isinstance(node.ctx, ast.Store)}
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    wanted = {*_functions(tree), *_methods(tree), *classes, *variables, *arguments} - {"self", "cls"}
    changed = _with_names(program, chance, wanted)
    if "healthy" in _several(changed.truth["state"]) or "slow" in _several(changed.truth["state"]):
        # That a loop is the training's, and no computation inside of it, may be told by its names alone.
        changed = changed.told(
            state=["healthy", "slow"],
            cause=sorted({*_several(changed.truth["cause"]), "healthy", "slow-progress"}),
        )
    return changed


def _with_names(program: Program, chance: random.Random, wanted: set[str]) -> Program:
    names = sorted(each for each in wanted - _imported(program.tree) if not each.startswith("__"))
    words = chance.sample(_WORDS, len(_WORDS)) + [f"{a}_{b}" for a in _WORDS for b in _WORDS[:4]]
    given = dict(zip(names, words, strict=False))
    tree = _Names(given, _methods(program.tree), _imported(program.tree), _functions(program.tree)).visit(
        program.tree
    )
    truth = dict(program.truth)
    for key in ("blame", "facts"):
        if key in truth:
            truth[key] = [given.get(each, each) for each in truth[key]]
    return replace(program, tree=tree, truth=truth)


class _Names(ast.NodeTransformer):
    def __init__(
        self, given: dict[str, str], methods: set[str], imported: set[str], functions: set[str]
    ) -> None:
        self.given, self.methods, self.imported, self.functions = given, methods, imported, functions
        self.kept: set[int] = set()

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self.given.get(node.id, node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self.given.get(node.arg, node.arg)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: Any) -> ast.AST:
        if id(node) not in self.kept:
            node.name = self.given.get(node.name, node.name)
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.name = self.given.get(node.name, node.name)
        self.kept |= {id(each) for each in node.body if getattr(each, "name", "") not in self.methods}
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        of_library = isinstance(node.value, ast.Name) and node.value.id in self.imported
        if node.attr in self.methods and not of_library:
            node.attr = self.given.get(node.attr, node.attr)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        ours = isinstance(node.func, ast.Name) and node.func.id in self.functions
        for keyword in node.keywords if ours else ():
            keyword.arg = self.given.get(keyword.arg or "", keyword.arg)
        return self.generic_visit(node)

    def visit_Global(self, node: Any) -> ast.AST:
        node.names = [self.given.get(each, each) for each in node.names]
        return node

    visit_Nonlocal = visit_Global

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        node.name = self.given.get(node.name or "", node.name)
        return self.generic_visit(node)


def aliased(program: Program, chance: random.Random) -> Program | None:
    """`import threading as t1`, `from x import y as z`."""
    given: dict[str, str] = {}
    for node in ast.walk(program.tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)) or getattr(node, "module", "") == "__future__":
            continue
        for name in node.names:
            if isinstance(node, ast.Import) and "." in name.name and name.asname is None:
                continue  # it binds the package, which other imports may bind as well
            old = name.asname or name.name
            given.setdefault(old, f"{old[0]}{len(given) + 1}")
    dotted = {
        name.name.partition(".")[0]
        for node in ast.walk(program.tree)
        if isinstance(node, ast.Import)
        for name in node.names
        if "." in name.name and name.asname is None
    }
    given = {old: new for old, new in given.items() if old not in dotted}
    if not given:
        return None
    for node in ast.walk(program.tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for name in node.names:
                if (name.asname or name.name) in given:
                    name.asname = given[name.asname or name.name]
        elif isinstance(node, ast.Name) and node.id in given:
            node.id = given[node.id]
    return program


# ── calls around the hang ───────────────────────────────────────────────────────────────────────────────────


def wrapped(how: str) -> Callable[[Program, random.Random], Program | None]:
    """The functions that may be blamed, called through one more call."""

    def change(program: Program, chance: random.Random) -> Program | None:
        blamed = set(program.truth.get("blame", ()))
        body: list[ast.stmt] = []
        inner: dict[str, str] = {}
        for node in program.tree.body:
            body.append(node)
            if not isinstance(node, ast.FunctionDef) or node.name not in blamed or node.decorator_list:
                continue
            old = node.name
            inner[old] = node.name = f"{old}_itself"
            body += ast.parse(_AROUND[how].format(old=old, new=node.name)).body
        if not inner:
            return None
        tree = ast.Module(
            body=[*ast.parse("import contextlib\nimport functools").body, *body], type_ignores=[]
        )
        # Recursion and the like goes to the outer name: it is looked up when it is called.
        blame = [inner.get(each, each) for each in program.truth["blame"]]
        return replace(program, tree=tree).told(blame=blame)

    return change


_AROUND = {
    "call": "def {old}(*args, **options):\n    return {new}(*args, **options)",
    "partial": "{old} = functools.partial({new})",
    "method": """
class Caller_{old}:
    def call(self, *args, **options):
        return {new}(*args, **options)
{old} = Caller_{old}().call""",
    "context": """
class noted_{old}(contextlib.ContextDecorator):
    def __enter__(self):
        return self
    def __exit__(self, *failure):
        return False
{old} = noted_{old}()({new})
{old}.__qualname__ = {old}.__name__ = '{old}'""",
    "decorator": """
def noted_{old}(function):
    @functools.wraps(function)
    def called(*args, **options):
        return function(*args, **options)
    return called
{old} = noted_{old}({new})
{old}.__qualname__ = {old}.__name__ = '{old}'""",
}


def passed_on(program: Program, chance: random.Random) -> Program | None:
    """`x.get(…)` in what may be blamed becomes `pass_on(x.get, …)`: that caller is the deepest frame then."""
    blamed = set(program.truth.get("blame", ()))
    changed = False

    class Pass(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            nonlocal changed
            self.generic_visit(node)
            if not isinstance(node.func, ast.Attribute):
                return node
            changed = True
            return ast.Call(
                func=ast.Name(id=HELPER, ctx=ast.Load()), args=[node.func, *node.args], keywords=node.keywords
            )

        def visit_Await(self, node: ast.Await) -> ast.AST:
            return node  # who waits is the event loop

    for node in ast.walk(program.tree):
        if isinstance(node, ast.FunctionDef) and node.name in blamed:
            node.body = [Pass().visit(each) for each in node.body]
    if not changed:
        return None
    helper = ast.parse(f"def {HELPER}(call, *args, **options):\n    return call(*args, **options)").body
    tree = ast.Module(body=[*helper, *program.tree.body], type_ignores=[])
    return replace(program, tree=tree).told(blame=[*program.truth["blame"], HELPER])


# ── another thread, another process ─────────────────────────────────────────────────────────────────────────

# What runs `{entry}` elsewhere, and how the main thread waits for it.
_MOVED = {
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
_ENTRY = "begin_here"


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
        ends = "interpreter-exit" in _several(program.truth["cause"])
        if ends and where in ("pool", "thread-pool", "queue-worker"):
            return None
        if where == "pool" and program.says("multiprocessing|num_workers"):
            return None
        # An idle loop in a process that listens may be a server's, which what it runs beside says nothing of.
        if where == "to-thread" and program.says(r"create_server|\.listen\(") and not ranked:
            return None
        progresses = {"healthy", "slow"} & set(_several(program.truth["state"]))
        if where == "thread-beside" and (program.name.startswith("ranks/") or progresses):
            return None
        changed = _tail(program, _MOVED[where].format(entry=_ENTRY))
        if changed is not None and where == "queue-worker" and progresses:
            # A loop within the worker's own loop: whether it is the training's cannot be told.
            states = [*_several(changed.truth["state"]), "healthy", "slow"]
            changed = changed.told(state=states, cause=[*_several(changed.truth["cause"]), "slow-progress"])
        if changed is None or where != "thread-beside":
            return changed
        # A stop, and C that keeps the GIL, hold up the thread that works on too: if in this very process.
        cause = program.truth["cause"]
        if cause == "stopped" or (cause == "native-spin" and not program.says("DataLoader|multiprocessing")):
            return changed
        truth = {key: value for key, value in changed.truth.items() if key not in ("blame", "facts")}
        truth |= {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress", "slow-io"]}
        if cause == "disk-wait":  # then no thread can be paused for its locals, which may be all that moves
            truth = {**truth, **{key: [*truth[key], "unknown"] for key in ("state", "cause")}}
        return replace(changed, truth=truth)

    return change


def _tail(program: Program, runs: str, arguments: str = "", before: str = "") -> Program | None:
    """The module's last statements as a function, and what runs it instead."""
    body = list(program.tree.body)
    tail: list[ast.stmt] = []
    while body and isinstance(body[-1], (ast.Expr, ast.If)) and not _is_docstring(body[-1]):
        tail.insert(0, body.pop())
    if not tail:
        return None
    inside: list[ast.stmt] = []
    for node in tail:
        inside += node.body if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) else [node]
    entry = ast.parse(f"def {_ENTRY}({arguments}):\n    pass").body[0]
    assert isinstance(entry, ast.FunctionDef)
    entry.body = [*ast.parse(before).body, *inside]
    guard = ast.parse("if __name__ == '__main__':\n    pass").body[0]
    assert isinstance(guard, ast.If)
    guard.body = ast.parse(runs).body
    return replace(program, tree=ast.Module(body=[*body, entry, guard], type_ignores=[]))


# ── what starts it ──────────────────────────────────────────────────────────────────────────────────────────


def under(launcher: str, count: int) -> Callable[[Program, random.Random], Program | None]:
    """So many ranks under a launcher; where the victim has ranks, as many as it says."""

    def change(program: Program, chance: random.Random) -> Program | None:
        # Ranks that start ranks are another program.
        starts_ranks = "torchrun" in program.truth or (
            program.name.startswith("ranks/") and "ranks" not in program.truth
        )
        # Of two in one folder one would get the file, or the terminal, and the other would wait for it.
        shared = program.truth.get("stdin") or program.says(r"open\('\w+\.lock")
        if starts_ranks or (shared and count > 1):
            return None
        ranks = program.truth.get("ranks", 0)
        if ranks and (launcher, count) != ("torchrun", 2):
            return None
        ready = program.truth.get("ready", 1) if ranks else count
        if launcher == "launcher":
            return program.told(ranks=count, ready=ready)
        number = str(ranks or count)
        return program.told(ranks=0, torchrun=["--standalone", "--nproc-per-node", number], ready=ready)

    return change


def started(how: str) -> Callable[[Program, random.Random], Program | None]:
    """By a shell script, as a module, by a program that is no Python, by being imported."""

    def change(program: Program, chance: random.Random) -> Program | None:
        if how == "program" and program.truth.get("stdin"):
            return None
        if how == "import" and ("torchrun" in program.truth or "ranks" in program.truth):
            return None
        if how == "import" and program.says("__name__|multiprocessing|num_workers"):
            return None
        return program.told(started=how)

    return change


def spawned(program: Program, chance: random.Random) -> Program | None:
    """Ranks as torch.multiprocessing.spawn starts them: their environment does not show from outside."""
    ranks = program.truth.get("ranks", 0)
    if not ranks:
        return None
    changed = _tail(
        program,
        "import socket as _socket\nimport torch.multiprocessing as _spawning\n"
        "with _socket.socket() as _free:\n    _free.bind(('127.0.0.1', 0))\n"
        "    _port = _free.getsockname()[1]\n"
        f"_spawning.spawn({_ENTRY}, args=(_port,), nprocs={ranks})",
        arguments="rank, port",
        before="import os as _os\n_os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), "
        f"WORLD_SIZE='{ranks}', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))",
    )
    return changed.told(ranks=0) if changed is not None else None


# ── several at once ─────────────────────────────────────────────────────────────────────────────────────────


def combined(program: Program, chance: random.Random) -> Program | None:
    """One of each sort, by chance."""
    chains = (
        (renamed, other_names),
        (aliased,),
        (wrapped("call"), wrapped("partial"), wrapped("method"), wrapped("decorator")),
        tuple(moved(where) for where in _MOVED if where != "thread-beside"),
        (under("launcher", 1), under("launcher", 2), *map(started, ("shell", "module", "program"))),
    )
    for several in chains:
        program = chance.choice(several)(program, chance) or program
    return program


VARIANTS: tuple[Variant, ...] = (
    Variant(name="renamed", make=renamed),
    Variant(name="other-names", make=other_names),
    Variant(name="aliased", make=aliased),
    Variant(name="in-call", make=wrapped("call")),
    Variant(name="in-partial", make=wrapped("partial")),
    Variant(name="in-method", make=wrapped("method")),
    Variant(name="in-decorator", make=wrapped("decorator")),
    Variant(name="in-context", make=wrapped("context")),
    Variant(name="passed-on", make=passed_on),
    Variant(name="thread", make=moved("thread")),
    Variant(name="thread-polled", make=moved("thread-polled")),
    Variant(name="thread-class", make=moved("thread-class")),
    Variant(name="thread-beside", make=moved("thread-beside")),
    Variant(name="event", make=moved("event")),
    Variant(name="queue-worker", make=moved("queue-worker")),
    Variant(name="executor", make=moved("executor")),
    Variant(name="executor-map", make=moved("executor-map")),
    Variant(name="thread-pool", make=moved("thread-pool")),
    Variant(name="to-thread", make=moved("to-thread")),
    Variant(name="fork", make=moved("fork")),
    Variant(name="spawn", make=moved("spawn")),
    Variant(name="pool", make=moved("pool")),
    Variant(name="process-pool", make=moved("process-pool")),
    Variant(name="launcher-1", make=under("launcher", 1)),
    Variant(name="launcher-2", make=under("launcher", 2)),
    Variant(name="torchrun-1", make=under("torchrun", 1), needs=("torch",)),
    Variant(name="torchrun-2", make=under("torchrun", 2), needs=("torch",)),
    Variant(name="shell", make=started("shell")),
    Variant(name="module", make=started("module")),
    Variant(name="program", make=started("program")),
    Variant(name="import", make=started("import")),
    Variant(name="mp-spawn", make=spawned, needs=("torch",)),
    Variant(name="combined-1", make=combined),
    Variant(name="combined-2", make=combined),
)


def _functions(tree: ast.Module) -> set[str]:
    """Functions that are no methods."""
    methods = {id(each) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for each in node.body}
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and id(node) not in methods
    }


def _methods(tree: ast.Module) -> set[str]:
    """Methods of classes that stand alone: what a library's class calls must keep its name."""
    return {
        each.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not node.bases
        for each in node.body
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)) and not each.name.startswith("__")
    }


def _imported(tree: ast.Module) -> set[str]:
    return {
        (name.asname or name.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }


def _is_truth(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "TRUTH"
    )


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def main() -> None:
    folder, *words = sys.argv[1:]
    for path in zoo.programs():
        for variant, program in variants_of(path):
            if not words or any(word in f"{variant}/{program.name}" for word in words):
                print(write(program, variant, Path(folder)))


if __name__ == "__main__":
    main()
