"""What a loop's source says of how it goes on and ends: by which names, how far, with which numbers.

Pure: about one loop's syntax, and the locals of the frame that stands in it. Not covered: finding the loop
(`harness.rules.source`), whether anything moved (`harness.rules.motion`).
"""

from __future__ import annotations

import ast
import contextlib
import re
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from harness.evidence import Frame
    from harness.rules.motion import Counter

Loop: TypeAlias = ast.For | ast.AsyncFor | ast.While

_IDLE_CALLS = re.compile(
    r"(^|\.)(sleep|print|write|flush|log|debug|info|warning|exists|is_alive|poll|"
    r"(perf_counter|monotonic|time)(_ns)?)$"
)
_CLOCK = re.compile(r"\b(time|monotonic|perf_counter|process_time|thread_time|now|utcnow|clock)(_ns)?\(")


def exit_names(loop: Loop) -> set[str]:
    """The names on which a loop's end depends: its test, its target, tests before break and return."""
    return {each.id for test in _tests(loop) for each in ast.walk(test) if isinstance(each, ast.Name)}


def _tests(loop: Loop) -> Iterator[ast.AST]:
    yield from [loop.test] if isinstance(loop, ast.While) else [loop.target, loop.iter]
    yield from (node.test for node in ast.walk(loop) if isinstance(node, ast.If) and _leaves(node))


def exit_words(loop: Loop) -> set[str]:
    """The same by the name that says most: `done` of `self.done`, `flag` of `flag[0]`."""
    return _words(each for test in _tests(loop) for each in ast.walk(test))


def written_words(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """What a function changes that others see: assigns to, in part too, or calls a method of; so named."""
    nodes = list(ast.walk(function))
    shared = {name for each in nodes if isinstance(each, (ast.Global, ast.Nonlocal)) for name in each.names}
    written = [
        each
        for each in nodes
        if isinstance(each, (ast.Name, ast.Attribute, ast.Subscript))
        and not isinstance(each.ctx, ast.Load)
        and (not isinstance(each, ast.Name) or each.id in shared)  # any other one is its own
    ]
    called = [
        each.func.value
        for each in nodes
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute)
    ]
    return _words(_last(each) for each in (*written, *called))


def _words(nodes: Iterable[ast.AST]) -> set[str]:
    seen = list(nodes)
    bases = {id(each.value) for each in seen if isinstance(each, ast.Attribute)}
    return {each.attr for each in seen if isinstance(each, ast.Attribute)} | {
        each.id for each in seen if isinstance(each, ast.Name) and id(each) not in bases
    }


def _last(node: ast.AST) -> ast.AST:
    while isinstance(node, (ast.Subscript, ast.Starred)):
        node = node.value
    return node


def ends_by_clock(loop: Loop) -> bool:
    """Whether a loop asks a clock when to end: then nothing but time has to change."""
    tests: list[ast.AST] = [loop.test] if isinstance(loop, ast.While) else []
    tests += [node.test for node in ast.walk(loop) if isinstance(node, ast.If) and _leaves(node)]
    return any(_CLOCK.search(ast.unparse(each)) for each in tests)


def _leaves(node: ast.If) -> bool:
    return any(
        isinstance(each, (ast.Break, ast.Return, ast.Raise)) for part in node.body for each in ast.walk(part)
    )


def touched(loop: Loop) -> set[str]:
    """Names that a loop's body may change: assigned to, in part too, called on, or given to a call."""
    found: set[str] = set()
    for statement in loop.body:
        for node in ast.walk(statement):
            if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)) and isinstance(
                node.ctx, (ast.Store, ast.Del)
            ):
                found.add(_root(node))
            if isinstance(node, ast.Call):
                # A part that is read from it (a slice, an item) is another object.
                found |= {
                    _root(each) for each in (node.func, *node.args) if not isinstance(each, ast.Subscript)
                }
    return found - {""}


def _root(node: ast.expr) -> str:
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def leaves_early(loop: Loop) -> bool:
    """Whether something inside a loop may end it."""
    return any(isinstance(each, (ast.Break, ast.Return)) for each in ast.walk(loop))


def never_leaves(loop: Loop) -> bool:
    """Whether it has no end and no way out (`while True`): its rounds are what the program is there for."""
    return _has_no_end(loop) and not any(_leads_out(each, loop) for each in loop.body)


def _has_no_end(loop: Loop) -> bool:
    if isinstance(loop, ast.While):
        return isinstance(loop.test, ast.Constant) and bool(loop.test.value)
    return is_open_ended(loop) and not ast.unparse(loop.iter).startswith("iter(")


def gives_each_round(loop: Loop) -> bool:
    """Whether it is a generator's loop that gives something in each round, whatever comes of it."""
    gives = any(
        isinstance(each, ast.Expr) and isinstance(each.value, (ast.Yield, ast.YieldFrom))
        for each in loop.body
    )
    skips = any(isinstance(each, ast.Continue) for part in loop.body for each in ast.walk(part))
    return gives and not skips and _has_no_end(loop)


def _leads_out(node: ast.AST, loop: Loop) -> bool:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
        return False
    if isinstance(node, (ast.Return, ast.Raise, ast.Yield, ast.YieldFrom)):
        return True
    if isinstance(node, ast.Break):
        return True
    inner = isinstance(node, (ast.For, ast.AsyncFor, ast.While))
    below = (each for each in ast.iter_child_nodes(node))
    return any(_leads_out(each, loop) for each in below if not (inner and isinstance(each, ast.Break)))


def does_nothing(loop: Loop) -> bool:
    """Whether nothing is called, multiplied or gone over in it that could be work."""
    work = (ast.Call, ast.Await, ast.MatMult, ast.ListComp, ast.SetComp, ast.DictComp)
    return not any(isinstance(each, work) for part in loop.body for each in ast.walk(part))


def works_beside(loop: Loop) -> bool:
    """Whether each of its rounds calls something besides sleeping, printing and asking whether to."""
    simple = (each for each in loop.body if isinstance(each, (ast.Expr, ast.Assign, ast.AugAssign, ast.With)))
    return any(
        isinstance(each, ast.Call) and not _IDLE_CALLS.search(ast.unparse(each.func))
        for part in simple
        for each in ast.walk(part)
    )


def is_open_ended(loop: Loop) -> bool:
    """Whether a loop has no end of its own: `while`, or `for` over itertools.count and the like."""
    return isinstance(loop, ast.While) or is_endless(loop.iter)


def is_endless(iterable: ast.expr) -> bool:
    """Whether going over it has no end of its own: itertools.count and the like."""
    text = ast.unparse(iterable)
    return "count(" in text or "cycle(" in text or "repeat(" in text or text.startswith("iter(")


def bound(loop: Loop) -> str | None:
    """`total` of `for x in range(total)`, or of `while x < total`; None for other loops."""
    if isinstance(loop, ast.While):
        test = loop.test
        if (
            isinstance(test, ast.Compare)
            and len(test.ops) == 1
            and isinstance(test.ops[0], (ast.Lt, ast.LtE))
        ):
            return ast.unparse(test.comparators[0])
        return None
    call = loop.iter
    if (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "range"
        and call.args
    ):
        return ast.unparse(call.args[0] if len(call.args) == 1 else call.args[1])
    return None


def advances(loop: Loop, counter: Counter) -> bool:
    """Whether this loop's end depends on this counter."""
    if isinstance(loop, ast.While):
        return counter.name in exit_names(loop) and counter.name != bound(loop)
    targets = {each.id for each in ast.walk(loop.target) if isinstance(each, ast.Name)}
    if counter.name in targets:
        return not is_open_ended(loop) or counter.name in exit_names(loop)
    return False


def holds(loop: Loop, counter: Counter) -> bool:
    """Whether a loop stands around one that moves by this counter."""
    return any(
        isinstance(each, (ast.For, ast.AsyncFor, ast.While)) and each is not loop and advances(each, counter)
        for each in ast.walk(loop)
    )


def total(loop: Loop, frame: Frame) -> float | None:
    """How far a loop's variable goes: as many as there are rounds where it counts from 0 or 1."""
    text = bound(loop)
    if text is None:
        return None
    found, first = number(text, frame), start(loop, frame)
    return found - 1 if found is not None and first == 1 and not isinstance(loop, ast.While) else found


def start(loop: Loop, frame: Frame) -> float | None:
    """The first value of a loop's variable, of `range` and of `enumerate`."""
    call = None if isinstance(loop, ast.While) else loop.iter
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return None
    if call.func.id == "range" and call.args:
        return 0.0 if len(call.args) == 1 else number(ast.unparse(call.args[0]), frame)
    if call.func.id == "enumerate":
        given = call.args[1] if len(call.args) > 1 else next((each.value for each in call.keywords), None)
        return 0.0 if given is None else number(ast.unparse(given), frame)
    return None


def number(text: str, frame: Frame) -> float | None:
    """What a small expression is worth, with the numbers among a frame's locals; None if it has others."""
    names = {}
    for local in frame.locals:
        if local.kind == "number":
            with contextlib.suppress(ValueError):
                names[local.name] = float(local.value.replace("_", ""))
    try:
        return float(_worth(ast.parse(text, mode="eval").body, names))
    except (ValueError, TypeError, SyntaxError, OverflowError, ZeroDivisionError, KeyError):
        return None


def _worth(node: ast.expr, names: Mapping[str, float]) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.BinOp):
        left, right = _worth(node.left, names), _worth(node.right, names)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.FloorDiv):
            return left // right
        if isinstance(node.op, ast.Pow) and 0 <= right <= 18:
            return float(left**right)
    raise ValueError
