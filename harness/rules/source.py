"""What the source says around a frame: its line, its loop, the `with` blocks and held locks it stands in.

Pure: the text is the Case's own (`evidence.Source`), parsed and never run. Where a function was not
recorded, or does not parse, there is no answer (None or nothing), and a rule that needs one abstains.

Not covered: names across modules, values.
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.evidence import Case, Frame, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A `with` or an `acquire()` whose block a frame stands in: the expression, and where it was taken."""

    expression: str
    line: int


class Sources:
    """The recorded source of one Case."""

    def __init__(self, case: Case) -> None:
        self._sources = case.sources
        self._trees: dict[int, ast.Module | None] = {}

    def of(self, frame: Frame) -> Source | None:
        """The recorded lines around a frame, the tightest first."""
        holding = [
            each
            for each in self._sources
            if each.file == frame.file and each.first_line <= frame.line <= each.last_line
        ]
        return min(holding, key=lambda each: len(each.lines), default=None)

    def line(self, frame: Frame) -> str:
        """The text of a frame's line, or nothing."""
        source = self.of(frame)
        return source.lines[frame.line - source.first_line].strip() if source else ""

    def statement(self, frame: Frame) -> str:
        """The text of the whole statement that a frame stands in: a call may take several lines."""
        found: ast.stmt | None = None
        for node in self._nodes(frame):
            if isinstance(node, ast.stmt) and _spans(node, frame.line):
                found = node  # walked from outside in: the last is the innermost
        if found is None or isinstance(found, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            return self.line(frame)
        if hasattr(found, "body"):
            return self.line(frame)
        return ast.unparse(found)

    def window(self, frame: Frame, around: int = 1) -> tuple[tuple[int, str], ...]:
        """Lines around a frame, with their numbers."""
        source = self.of(frame)
        if source is None:
            return ()
        numbers = range(
            max(source.first_line, frame.line - around), min(source.last_line, frame.line + around) + 1
        )
        return tuple((number, source.lines[number - source.first_line]) for number in numbers)

    def text(self, frame: Frame) -> str:
        """All that was recorded of a frame's function."""
        source = self.of(frame)
        return "\n".join(source.lines) if source else ""

    def loops(self, frame: Frame) -> tuple[ast.For | ast.AsyncFor | ast.While, ...]:
        """The loops of its function that a frame stands in, innermost first."""
        found = [
            node
            for node in self._nodes(frame)
            if isinstance(node, (ast.For, ast.AsyncFor, ast.While)) and _spans(node, frame.line)
        ]
        return tuple(reversed(found))

    def held(self, frame: Frame) -> tuple[Held, ...]:
        """What a frame holds by its own function: `with` blocks around its line, `acquire()` before it."""
        found: list[Held] = []
        released: dict[str, int] = {}
        acquired: list[Held] = []
        for node in self._nodes(frame):
            if isinstance(node, (ast.With, ast.AsyncWith)):
                inside = node.body[0].lineno <= frame.line <= (node.body[-1].end_lineno or 0)
                if inside and node.lineno != frame.line:
                    found += [
                        Held(expression=ast.unparse(item.context_expr), line=node.lineno)
                        for item in node.items
                    ]
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.lineno < frame.line
            ):
                name = ast.unparse(node.func.value)
                if node.func.attr == "acquire":
                    acquired.append(Held(expression=name, line=node.lineno))
                elif node.func.attr == "release":
                    released[name] = max(released.get(name, 0), node.lineno)
        found += [each for each in acquired if released.get(each.expression, 0) < each.line]
        return tuple(found)

    def asked(self, frame: Frame) -> str | None:
        """The lock that a frame's line wants: the expression of `with X:` or of `X.acquire(…)`."""
        for node in self._nodes(frame):
            if isinstance(node, (ast.With, ast.AsyncWith)) and len(node.items) == 1:
                first = node.items[0].context_expr
                if first.lineno <= frame.line <= (first.end_lineno or 0) or node.lineno == frame.line:
                    return ast.unparse(first)
            if _calls(node, "acquire", frame.line):
                assert isinstance(node, ast.Call)
                assert isinstance(node.func, ast.Attribute)
                return ast.unparse(node.func.value)
        return None

    def imported(self, frame: Frame) -> tuple[str, ...]:
        """The modules that a frame's line imports, with the packages that they are in."""
        names: list[str] = []
        for node in self._nodes(frame):
            if isinstance(node, (ast.Import, ast.ImportFrom)) and _spans(node, frame.line):
                inside = [each.name for each in node.names]
                module = node.module if isinstance(node, ast.ImportFrom) else None
                names += [module, *(f"{module}.{each}" for each in inside)] if module else inside
        parts = [name.split(".") for name in names]
        return tuple(dict.fromkeys(".".join(each[:at]) for each in parts for at in range(len(each), 0, -1)))

    def receiver(self, frame: Frame, *methods: str) -> str | None:
        """`x.y` of a call `x.y.method(…)` on a frame's line."""
        for node in self._nodes(frame):
            for method in methods:
                if _calls(node, method, frame.line):
                    assert isinstance(node, ast.Call)
                    assert isinstance(node.func, ast.Attribute)
                    return ast.unparse(node.func.value)
        return None

    def calls(self, frame: Frame, method: str) -> Iterator[str]:
        """The receivers of every `x.method` in a frame's function: called there, or passed on."""
        for node in self._nodes(frame):
            if isinstance(node, ast.Attribute) and node.attr == method:
                yield ast.unparse(node.value)

    def binds(self, frame: Frame, name: str) -> bool | None:
        """Whether a frame's function has a local of this name; None where its source was not seen whole."""
        function = next((node for node in self._nodes(frame) if isinstance(node, _FUNCTIONS)), None)
        if function is None or function.name != frame.function:
            return None
        inner = list(ast.walk(function))
        if any(isinstance(node, (ast.Global, ast.Nonlocal)) and name in node.names for node in inner):
            return False
        return any(
            (isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load))
            or (isinstance(node, ast.arg) and node.arg == name)
            or (isinstance(node, ast.alias) and (node.asname or node.name).partition(".")[0] == name)
            for node in inner
        )

    def line_has_call(self, frame: Frame) -> bool:
        """Whether anything is called on a frame's line."""
        return any(isinstance(node, ast.Call) and node.lineno == frame.line for node in self._nodes(frame))

    def retries(self, frame: Frame) -> bool:
        """Whether a frame's line is the pause between two tries: in a loop, with a failure caught in it."""
        for loop in self.loops(frame):
            for node in ast.walk(loop):
                if isinstance(node, ast.Try) and node.handlers:
                    return True
            named = ast.unparse(loop).lower()
            if any(word in named for word in ("retry", "retries", "attempt", "backoff")):
                return True
        return False

    def yields(self, frame: Frame) -> bool:
        """Whether a frame's function is a generator."""
        return any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in self._nodes(frame))

    def handles_failure(self, frame: Frame) -> bool:
        """Whether a frame's line is in an `except` block of a loop: what it calls follows a failure."""
        return any(
            isinstance(node, ast.ExceptHandler) and node.lineno <= frame.line <= (node.end_lineno or 0)
            for loop in self.loops(frame)
            for node in ast.walk(loop)
        )

    def _nodes(self, frame: Frame) -> Iterator[ast.AST]:
        source = self.of(frame)
        if source is None:
            return
        key = id(source)
        if key not in self._trees:
            self._trees[key] = _parse(source)
        tree = self._trees[key]
        if tree is None:
            return
        yield from ast.walk(tree)


def exit_names(loop: ast.For | ast.AsyncFor | ast.While) -> set[str]:
    """The names on which a loop's end depends: its test, its target, tests before break and return."""
    tests: list[ast.AST] = []
    if isinstance(loop, ast.While):
        tests.append(loop.test)
    else:
        tests += [loop.target, loop.iter]
    for node in ast.walk(loop):
        if isinstance(node, ast.If) and _leaves(node):
            tests.append(node.test)
    return {each.id for test in tests for each in ast.walk(test) if isinstance(each, ast.Name)}


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_CLOCK = re.compile(r"\b(time|monotonic|perf_counter|process_time|thread_time|now|utcnow|clock)(_ns)?\(")


def ends_by_clock(loop: ast.For | ast.AsyncFor | ast.While) -> bool:
    """Whether a loop asks a clock when to end: then nothing but time has to change."""
    tests: list[ast.AST] = [loop.test] if isinstance(loop, ast.While) else []
    tests += [node.test for node in ast.walk(loop) if isinstance(node, ast.If) and _leaves(node)]
    return any(_CLOCK.search(ast.unparse(each)) for each in tests)


def _leaves(node: ast.If) -> bool:
    return any(
        isinstance(each, (ast.Break, ast.Return, ast.Raise)) for part in node.body for each in ast.walk(part)
    )


def touched(loop: ast.For | ast.AsyncFor | ast.While) -> set[str]:
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


def leaves_early(loop: ast.For | ast.AsyncFor | ast.While) -> bool:
    """Whether something inside a loop may end it."""
    return any(isinstance(each, (ast.Break, ast.Return)) for each in ast.walk(loop))


def is_open_ended(loop: ast.For | ast.AsyncFor | ast.While) -> bool:
    """Whether a loop has no end of its own: `while`, or `for` over itertools.count and the like."""
    if isinstance(loop, ast.While):
        return True
    text = ast.unparse(loop.iter)
    return "count(" in text or "cycle(" in text or "repeat(" in text or text.startswith("iter(")


def bound(loop: ast.For | ast.AsyncFor | ast.While) -> str | None:
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


def _calls(node: ast.AST, method: str, line: int) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == method
        and node.lineno <= line <= (node.end_lineno or node.lineno)
    )


def _spans(node: ast.stmt, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)


def _parse(source: Source) -> ast.Module | None:
    lines = list(source.lines)
    # What was cut at its end may not parse: with some lines less it does.
    for _ in range(12):
        try:
            tree = ast.parse(textwrap.dedent("\n".join(lines)))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            if len(lines) <= 2:
                return None
            lines = lines[:-1]
            continue
        ast.increment_lineno(tree, source.first_line - 1)
        return tree
    return None
