"""Who waits for whom, as it was found: the edges between threads, and the chain that they make.

Types alone. How edges are found: `harness.rules.edges` and `harness.rules.workers`; how they are followed:
`harness.rules.scene`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from harness.rules.threads import ThreadView
    from harness.rules.waits import Wait

# Why a chain ends where it does; empty: its last wait is for something outside, or is none.
Gap: TypeAlias = Literal["", "nobody", "unproved", "starved", "idle", "dead", "unseen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """The thread that a wait is for, or why none is known; and what shows it."""

    to: ThreadView | None = None
    gap: Gap = ""
    fact: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """From a main thread to the end. `cycle` holds the waits that close on themselves."""

    waits: tuple[Wait, ...]
    gap: Gap
    facts: tuple[str, ...]
    cycle: tuple[Wait, ...] = ()

    @property
    def begin(self) -> Wait:
        """Where it starts."""
        return self.waits[0]

    @property
    def end(self) -> Wait:
        """Where it ends."""
        return self.waits[-1]
