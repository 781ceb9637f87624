"""Stacks of many processes merged into one tree, with who stands at each node.

Pure. For reports: eight ranks in the same function are one branch. Not covered: native frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.rules.threads import ThreadView
    from harness.rules.view import View


@dataclass(slots=True)
class Node:
    """One function at one line, everybody who passes through, and who ends there."""

    label: str
    through: list[str] = field(default_factory=list)
    children: dict[str, Node] = field(default_factory=dict)


def merged(view: View) -> Node:
    """All Python threads of all processes."""
    root = Node(label="")
    for process in view.processes:
        for thread in process.threads:
            if thread.python_frames:
                _add(root, thread)
    return root


def _add(root: Node, thread: ThreadView) -> None:
    rank = thread.process.rank
    name = f"rank {rank}" if rank is not None and thread.is_main else f"{thread.process.pid}/{thread.name}"
    node = root
    for frame in reversed(thread.python_frames):
        label = f"{frame.function} ({frame.file.rsplit('/', 1)[-1]}:{frame.line})"
        node = node.children.setdefault(label, Node(label=label))
        node.through.append(name)


def lines(node: Node, depth: int = 0) -> Iterator[str]:
    """The tree as indented lines; who stands there is named where it changes."""
    for child in node.children.values():
        names = ", ".join(child.through[:8]) + (
            f" and {len(child.through) - 8} more" if len(child.through) > 8 else ""
        )
        told = f"   [{names}]" if child.through != node.through or not depth else ""
        yield f"{'  ' * depth}{child.label}{told}"
        yield from lines(child, depth + 1)
