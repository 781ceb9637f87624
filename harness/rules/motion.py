"""What moved in one thread between the dumps: counters of its loops, lines, functions.

Pure facts. Numbers come only from dumps that were taken while the process was paused. Not covered: what
movement means (families).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from harness import frames as code

if TYPE_CHECKING:
    from harness.evidence import Frame
    from harness.rules.threads import ThreadView

_NUMBER = re.compile(r"[+-]?\d[\d_]*(\.\d*)?([eE][+-]?\d+)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """A number in one of the user's frames that changed."""

    name: str
    first: float
    last: float
    seconds: float
    frame: Frame
    monotonic: bool
    argument: bool = False

    @property
    def per_second(self) -> float:
        """How fast it went."""
        return (self.last - self.first) / self.seconds if self.seconds > 0 else 0.0

    @property
    def words(self) -> str:
        """`t went 398 → 412 in 2.4 s`."""
        return f"{self.name} went {self.first:g} → {self.last:g} in {self.seconds:.1f} s"


class Motion:
    """Of one thread."""

    def __init__(self, thread: ThreadView) -> None:
        self.thread = thread

    @cached_property
    def counters(self) -> tuple[Counter, ...]:
        """Numbers that changed in the user's frames that all trusted dumps share, outermost first."""
        return self._counters("user")

    @cached_property
    def library_counters(self) -> tuple[Counter, ...]:
        """The same of frames of packages: a trainer's own loop may be a library's."""
        return self._counters("package")

    def _counters(self, owner: code.Owner) -> tuple[Counter, ...]:
        found: list[Counter] = []
        for level, seconds in self._shared:
            if code.owner(level[0]) != owner:
                continue
            for local in level[-1].locals:
                values = [_number(frame, local.name) for frame in level]
                numbers = [value for value in values if value is not None]
                if len(numbers) == len(values) and numbers[0] != numbers[-1]:
                    rising = all(a <= b for a, b in pairwise(numbers))
                    falling = all(a >= b for a, b in pairwise(numbers))
                    found.append(
                        Counter(
                            name=local.name,
                            first=numbers[0],
                            last=numbers[-1],
                            seconds=seconds,
                            frame=level[-1],
                            monotonic=rising or falling,
                            argument=local.argument,
                        )
                    )
        return tuple(found)

    @cached_property
    def replaced(self) -> tuple[tuple[str, Frame], ...]:
        """Names in the user's frames that stood for another object in every dump."""
        found = []
        for level, _ in self._levels:
            for local in level[-1].locals:
                # Where one object is freed the next may be made: then only its text's mark tells them apart.
                found_here = [
                    (each.address, each.mark)
                    for frame in level
                    for each in frame.locals
                    if each.name == local.name
                ]
                if (
                    local.kind != "none"
                    and len(found_here) == len(level)
                    and len(set(found_here)) == len(level)
                ):
                    found.append((local.name, level[-1]))
        return tuple(found)

    @property
    def _levels(self) -> tuple[tuple[tuple[Frame, ...], float], ...]:
        """The user's frames that all trusted dumps share, outermost first, and the seconds between."""
        return tuple(each for each in self._shared if code.owner(each[0][0]) == "user")

    @cached_property
    def _shared(self) -> tuple[tuple[tuple[Frame, ...], float], ...]:
        """All frames that all trusted dumps share."""
        times = self.thread.process.view.times
        dumps = [
            (when, stack.frames)
            for when, stack, trusted in zip(times, self.thread.stacks, self.thread.trusted, strict=True)
            if stack is not None and trusted and stack.frames
        ]
        if len(dumps) < 2:
            return ()
        stacks = [[frame for frame in reversed(frames) if not frame.native] for _, frames in dumps]
        found: list[tuple[tuple[Frame, ...], float]] = []
        for level in zip(*stacks, strict=False):
            if len({(frame.file, frame.function) for frame in level}) != 1:
                break
            found.append((level, dumps[-1][0] - dumps[0][0]))
        return tuple(found)

    @property
    def seen_twice(self) -> bool:
        """Whether there are two stacks to compare."""
        return len(self.thread.shapes) > 1

    @cached_property
    def user_lines_changed(self) -> bool:
        """Whether the user's frames stood at different lines."""
        return len({self._user(shape) for shape in self.thread.shapes}) > 1

    @cached_property
    def functions(self) -> frozenset[tuple[str, str]]:
        """All functions that were seen below the part of the stack that all dumps share."""
        depth = max(0, len(self.thread.common) - 1)
        return frozenset(
            (file, function)
            for shape in self.thread.shapes
            for file, function, _ in shape[: max(0, len(shape) - depth)]
        )

    @cached_property
    def pivot(self) -> Frame | None:
        """The deepest of the user's frames that it never left while we looked, as the last dump shows it."""
        shared = self.thread.common
        found = None
        for frame, (file, function) in zip(reversed(self.thread.python_frames), shared, strict=False):
            if (frame.file, frame.function) != (file, function):
                break
            if code.owner(frame) == "user":
                found = frame
        return found

    def _user(self, shape: tuple[tuple[str, str, int], ...]) -> tuple[tuple[str, str, int], ...]:
        users = {
            frame.file
            for stack in self.thread.stacks
            if stack is not None
            for frame in stack.frames
            if code.owner(frame) == "user"
        }
        return tuple(each for each in shape if each[0] in users)


def _number(frame: Frame, name: str) -> float | None:
    for local in frame.locals:
        if local.name == name and local.kind == "number" and _NUMBER.match(local.value):
            return float(local.value.replace("_", ""))
    return None
