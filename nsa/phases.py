"""How long each phase of a step takes.

On the CPU the host's clock tells, and whoever is told of each switch keeps it. On CUDA the host runs ahead of
the device, so phases are measured by events on the stream, polled and read late: a step's figures come with
the first later step that finds its events passed. Nothing here ever waits for the device.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

# Steps whose events may be outstanding; older ones are dropped, unmeasured.
_OUTSTANDING_STEPS = 4


class Phases:
    """Told of each switch, tells it on; measures nothing itself (the host's clock is the listener's)."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def enter(self, phase: str) -> None:
        """A new phase begins, the one before ends."""
        self._tell(phase)

    def end_step(self) -> None:
        """The step's last phase ends."""

    def seconds(self, *, data_wait_seconds: float) -> dict[str, float] | None:  # noqa: ARG002 -- as a device's
        """What was measured here since last asked; None where the host's clock is right."""
        return None


class CudaPhases(Phases):
    """Also records an event at each switch."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(tell)
        self._marks: list[tuple[str, torch.cuda.Event]] = []
        self._outstanding: deque[list[tuple[str, torch.cuda.Event]]] = deque(maxlen=_OUTSTANDING_STEPS)
        self._spare: list[torch.cuda.Event] = []

    def _event(self) -> torch.cuda.Event:
        event = self._spare.pop() if self._spare else torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def enter(self, phase: str) -> None:
        """A new phase begins: tell, and mark the stream."""
        super().enter(phase)
        self._marks.append((phase, self._event()))

    def end_step(self) -> None:
        """Close the step; its times are read once the device has passed its last mark."""
        self._marks.append(("", self._event()))
        self._outstanding.append(self._marks)
        self._marks = []

    def seconds(self, *, data_wait_seconds: float) -> dict[str, float] | None:
        """Seconds a phase, of the steps that finished on the device since last asked.

        The wait for data is the host's own, and is counted by its clock.
        """
        spent = {"data": data_wait_seconds}
        while self._outstanding and self._outstanding[0][-1][1].query():  # type: ignore[no-untyped-call]
            marks = self._outstanding.popleft()
            for (phase, begin), (_, end) in itertools.pairwise(marks):
                if phase != "data":
                    spent[phase] = spent.get(phase, 0.0) + begin.elapsed_time(end) / 1e3
            self._spare.extend(event for _, event in marks)
        return spent
