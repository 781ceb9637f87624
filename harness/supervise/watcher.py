"""What the main thread tells the observing side, and is told by it: the seam between the two.

Not here: how it is done (`observing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import queue

    from harness.supervise import policy
    from harness.supervise.child import Child, Ended


class Watcher(Protocol):
    """What the main thread tells the observing side; every method returns at once, except `finish`."""

    @property
    def demands(self) -> queue.SimpleQueue[tuple[int, policy.EndTree]]:
        """What the policy decided, and of which attempt: to be obeyed by the main thread."""

    def attempt_started(self, child: Child, attempt: int) -> None:
        """From now on this is the command."""

    def attempt_ended(self, ended: Ended) -> None:
        """The command ended; what it left behind is being cleared away."""

    def resumed(self, seconds: float) -> None:
        """All stood still for so long, on the user's wish."""

    def say(self, line: str) -> None:
        """A line of ours for the terminal."""

    def failed(self, part: str, error: Exception) -> None:
        """A part of ours broke: one line for the user, the traceback for the harness's log."""

    def hang_up(self) -> None:
        """The terminal is gone."""

    def suspend(self) -> None:
        """We are about to be stopped: leave the terminal in order. Bounded."""

    def finish(self, ended: Ended, ended_by: str, deadline_seconds: float) -> None:
        """Look a last time and print the summary."""

    def last_step(self) -> int | None:
        """The last step that the command reported."""

    def lingers(self) -> bool:
        """Whether the metrics are to be served a little longer."""
