"""What all rules of a Case share: its view, its sources, its threads' waits, and the chains that they make.

A chain leads from a trainer's main thread to the end of its wait, across threads and workers. Each is derived
once. Not covered: whom a wait is for (`harness.rules.edges`), ranks among each other (`harness.rules.ranks`).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from harness.rules.chain import Chain
from harness.rules.edges import edge_of
from harness.rules.motion import Motion
from harness.rules.source import Sources
from harness.rules.waits import Wait, wait_of

if TYPE_CHECKING:
    from harness.rules.chain import Gap
    from harness.rules.threads import ThreadView
    from harness.rules.view import ProcessView, View

MAX_LINKS = 12


class Scene:
    """A view with what rules share: sources, motion and waits of every thread, chains of every trainer."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.sources = Sources(view.case)
        self._waits: dict[int, Wait] = {}
        self._motions: dict[int, Motion] = {}

    def wait(self, thread: ThreadView) -> Wait:
        """What a thread waits for."""
        key = id(thread)
        if key not in self._waits:
            self._waits[key] = wait_of(thread, self.sources)
        return self._waits[key]

    def motion(self, thread: ThreadView) -> Motion:
        """What moved in a thread."""
        key = id(thread)
        if key not in self._motions:
            self._motions[key] = Motion(thread)
        return self._motions[key]

    @cached_property
    def subjects(self) -> tuple[ProcessView, ...]:
        """The processes to judge: all ranks, else what was asked about, else what its launcher started."""
        if self.view.ranks:
            return tuple(each for each in self.view.ranks if each.alive)
        target = self.view.target
        if target is not None and target.role != "launcher" and target.alive:
            return (target,)
        found = [each for each in self.view.trainers if each.alive and each.python and each is not target]
        below = [each for each in found if target is None or _is_below(each, target)]
        # The outermost one: what it started in its turn is its own affair.
        first = [
            each for each in below if not any(_is_below(each, other) for other in below if other is not each)
        ]
        if first or target is None:
            return tuple(first)
        # Nothing that trains yet: a launcher that waits may stand below a script.
        launchers = (each for each in self.view.processes if each.role == "launcher" and each.python)
        waiting = [each for each in launchers if each.alive and _is_below(each, target)]
        return (*waiting[:1],) or ((target,) if target.alive else ())

    @cached_property
    def chains(self) -> tuple[Chain, ...]:
        """One per subject that has a main thread."""
        return tuple(self.chain(each.main) for each in self.subjects if each.main is not None)

    def chain(self, thread: ThreadView) -> Chain:
        """Follow one thread's wait to its end."""
        waits: list[Wait] = []
        facts: list[str] = []
        current: ThreadView | None = thread
        gap: Gap = ""
        while current is not None and len(waits) < MAX_LINKS:
            met = next((at for at, wait in enumerate(waits) if wait.thread is current), None)
            if met is not None:
                return Chain(waits=tuple(waits), gap="", facts=tuple(facts), cycle=tuple(waits[met:]))
            waits.append(self.wait(current))
            edge = edge_of(self, waits[-1])
            facts += [edge.fact] if edge.fact else []
            current, gap = edge.to, edge.gap
        return Chain(waits=tuple(waits), gap=gap, facts=tuple(facts))


def _is_below(process: ProcessView, other: ProcessView) -> bool:
    return any(each is other for each in process.ancestors)
