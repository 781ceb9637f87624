"""What the source says around a frame: its line, its loop, the `with` blocks and held locks it stands in.

Pure: the text is the Case's own (`evidence.Source`), parsed and never run. Where a function was not
recorded, or does not parse, there is no answer (None or nothing), and a rule that needs one abstains.

Not covered: how a loop ends (`harness.rules.loops`), names across modules, values.
"""

from __future__ import annotations

import ast
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.rules import loops

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.evidence import Case, Frame, Source
    from harness.rules.loops import Loop

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


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

    def loops(self, frame: Frame) -> tuple[Loop, ...]:
        """The loops of its function that a frame stands in, innermost first."""
        found = [
            node
            for node in self._nodes(frame)
            if isinstance(node, (ast.For, ast.AsyncFor, ast.While)) and _spans(node, frame.line)
        ]
        return tuple(reversed(found))

    def loop_on_line(self, frame: Frame) -> str | None:
        """The head of a loop over something that stands on a frame's line with all that it does."""
        for node in self._nodes(frame):
            if isinstance(node, (ast.For, ast.AsyncFor)):
                if node.lineno == frame.line == node.end_lineno and not loops.is_open_ended(node):
                    return f"for {ast.unparse(node.target)} in {ast.unparse(node.iter)}"
            elif isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
                first = node.generators[0]
                if _stands_on(node, frame.line) and not loops.is_endless(first.iter):
                    return f"for {ast.unparse(first.target)} in {ast.unparse(first.iter)}"
        return None

    def held(self, frame: Frame, called: str = "") -> tuple[Held, ...]:
        """What a frame holds by its own function: `with` blocks around its line, `acquire()` before it.

        `called` is the function that it has called: it tells a `with` of one line from its own block.
        """
        found: list[Held] = []
        released: dict[str, int] = {}
        acquired: list[Held] = []
        for node in self._nodes(frame):
            if isinstance(node, (ast.With, ast.AsyncWith)):
                inside = node.body[0].lineno <= frame.line <= (node.body[-1].end_lineno or 0)
                by_items = any(called in ast.unparse(item.context_expr) for item in node.items)
                in_block = bool(called) and called != "__enter__" and not by_items
                if inside and (node.lineno != frame.line or in_block):
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

    def function(self, frame: Frame) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        """A frame's function, where its source was seen whole."""
        found = next((node for node in self._nodes(frame) if isinstance(node, _FUNCTIONS)), None)
        return found if found is not None and found.name == frame.function else None

    def argument(self, frame: Frame, function: str) -> float | None:
        """What the only argument of a call on a frame's line is worth, with the frame's numbers."""
        for node in self._nodes(frame):
            if isinstance(node, ast.Call) and len(node.args) == 1 and _stands_on(node, frame.line):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
                if name == function:
                    return loops.number(ast.unparse(node.args[0]), frame)
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

    def targets(self, frame: Frame, name: str) -> bool:
        """Whether a loop of a frame's function counts by this name."""
        return any(
            isinstance(each, ast.Name) and each.id == name
            for node in self._nodes(frame)
            if isinstance(node, (ast.For, ast.AsyncFor))
            for each in ast.walk(node.target)
        )

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


def _calls(node: ast.AST, method: str, line: int) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == method
        and node.lineno <= line <= (node.end_lineno or node.lineno)
    )


def _stands_on(node: ast.expr, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)


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
