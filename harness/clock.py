"""The clock, passed in wherever time matters, so that tests and replays can bring their own.

Covers reading time. Not here: waiting; who waits, waits on something that can be woken.
"""

from __future__ import annotations

import time
from typing import Final, Protocol


class Clock(Protocol):
    """Two readings of now, in seconds."""

    def monotonic(self) -> float:
        """CLOCK_MONOTONIC: comparable between the processes of one boot, never goes back."""
        ...

    def wall(self) -> float:
        """Unix time: comparable between machines, may jump."""
        ...


class _System:
    __slots__ = ()

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


SYSTEM: Final[Clock] = _System()
