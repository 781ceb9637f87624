"""A victim as source, with its truth, and what its source defines."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tests.support import zoo

if TYPE_CHECKING:
    from pathlib import Path


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


def load(path: Path) -> Program:
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not is_truth(node)]
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


def functions_of(tree: ast.Module) -> set[str]:
    """Functions that are no methods."""
    methods = {id(each) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for each in node.body}
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and id(node) not in methods
    }


def methods_of(tree: ast.Module) -> set[str]:
    """Methods of classes that stand alone: what a library's class calls must keep its name."""
    return {
        each.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not node.bases
        for each in node.body
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)) and not each.name.startswith("__")
    }


def imported_by(tree: ast.Module) -> set[str]:
    return {
        (name.asname or name.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }


def is_truth(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "TRUTH"
    )


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
