"""The same program under other names."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.support.variants.program import Program, functions_of, imported_by, methods_of
from tests.support.zoo import several_of

if TYPE_CHECKING:
    import random


_WORDS = """
    alder amber birch cedar clover coral delta ember fable fern flint gable grove hazel heron iris
    ivory juniper kelp lark linden maple merle moss nettle oriole osprey pearl pine plover quartz
    reed robin rowan sable sedge slate sorrel spruce swift tansy teal thistle umber vetch violet
    walnut willow wren yarrow zephyr
""".split()  # noqa: SIM905 - one word a line is no easier to read


def renamed(program: Program, chance: random.Random) -> Program:
    """The user's functions and methods under other names."""
    return _with_names(program, chance, {*functions_of(program.tree), *methods_of(program.tree)})


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
    wanted = {*functions_of(tree), *methods_of(tree), *classes, *variables, *arguments} - {"self", "cls"}
    changed = _with_names(program, chance, wanted)
    if "healthy" in several_of(changed.truth["state"]) or "slow" in several_of(changed.truth["state"]):
        # That a loop is the training's, and no computation inside of it, may be told by its names alone.
        changed = changed.told(
            state=["healthy", "slow"],
            cause=sorted({*several_of(changed.truth["cause"]), "healthy", "slow-progress"}),
        )
    return changed


def _with_names(program: Program, chance: random.Random, wanted: set[str]) -> Program:
    names = sorted(each for each in wanted - imported_by(program.tree) if not each.startswith("__"))
    words = chance.sample(_WORDS, len(_WORDS)) + [f"{a}_{b}" for a in _WORDS for b in _WORDS[:4]]
    given = dict(zip(names, words, strict=False))
    tree = _Names(
        given, methods_of(program.tree), imported_by(program.tree), functions_of(program.tree)
    ).visit(program.tree)
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
