"""The same hang behind one more call."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.support.variants.program import Program


HELPER = "pass_on"


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
