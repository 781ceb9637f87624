"""The loops around a loop: which round each is in, of how many, and what the slow loop's runs add up to.

Counted from the source and the locals of one thread's frames, so only what stands there in numbers is told;
a loop over something that shows no length counts once. Hence every sum is an "at least".
Not covered: what else a round does.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import frames as code
from harness.rules import loops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.evidence import Frame
    from harness.rules.motion import Counter
    from harness.rules.scene import Scene
    from harness.rules.threads import ThreadView

# What people call the loop of which one round is a step of the training.
_STEP = re.compile(r"^(?!.*(micro|accum|sub|mini)).*(step|iter|update|batch|epoch)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A loop that a thread stands in. `at`, `total` and `first` are None where no number tells them."""

    name: str
    at: float | None
    total: float | None
    first: float | None
    frame: Frame
    line: int

    @property
    def words(self) -> str:
        """`layer is at 0 of 12`."""
        at = "somewhere" if self.at is None else f"at {self.at:,.0f}"
        return f"{self.name} is {at}" + (f" of {self.total:,.0f}" if self.total is not None else "")

    @property
    def in_its_first(self) -> bool:
        """Whether none of its rounds has ended yet."""
        return self.at is not None and self.at == self.first


def around(scene: Scene, thread: ThreadView, counter: Counter) -> tuple[Round, ...]:
    """The loops around the one that `counter` counts, innermost first."""
    frames = list(thread.python_frames)
    inner = next(
        (at for at, each in enumerate(frames) if _same_function(each, counter.frame)),
        None,
    )
    if inner is None:
        return ()
    found: list[Round] = []
    for frame in frames[inner:]:
        if code.owner(frame) != code.owner(counter.frame):
            continue
        for loop in scene.sources.loops(frame):
            if _same_function(frame, counter.frame) and not loops.holds(loop, counter):
                continue  # the counter's own loop, and those inside it
            if (known := of(loop, frame)) is not None:
                found.append(known)
    return tuple(found)


def of(loop: loops.Loop, frame: Frame) -> Round | None:
    """A loop as its frame shows it; None for one that counts nothing by name."""
    if isinstance(loop, ast.While):
        test = loop.test
        if (
            loops.bound(loop) is None
            or not isinstance(test, ast.Compare)
            or not isinstance(test.left, ast.Name)
        ):
            return None
        name, first = test.left.id, None
    else:
        name = next((each.id for each in ast.walk(loop.target) if isinstance(each, ast.Name)), "")
        first = loops.start(loop, frame)
        if not name:
            return None
    return Round(
        name=name,
        at=loops.number(name, frame),
        total=loops.total(loop, frame),
        first=first,
        frame=frame,
        line=loop.lineno,
    )


def step(rounds: Sequence[Round]) -> tuple[Round, tuple[Round, ...]] | None:
    """The loop of which one round is a step, by its name or as the outermost; and those inside it."""
    for at, each in enumerate(rounds):
        if _STEP.match(each.name):
            return each, tuple(rounds[:at])
    return (rounds[-1], tuple(rounds[:-1])) if rounds else None


def times(rounds: Sequence[Round]) -> float:
    """How often all of these together run what is inside them, at least."""
    product = 1.0
    for each in rounds:
        product *= max(1.0, each.total or 1.0)
    return product


def _same_function(one: Frame, other: Frame) -> bool:
    return (one.file, one.function) == (other.file, other.function)
