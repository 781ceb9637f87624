"""Waiting for descriptors, with a deadline.

By poll and not select: that one fails from descriptor 1,024 on, and a thousand ranks' records stay open.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    class HasFileno(Protocol):
        """A socket, or anything else that has a descriptor."""

        def fileno(self) -> int:
            """The descriptor."""


def wait_readable(files: Iterable[HasFileno], seconds: float) -> None:
    """Until one of `files` can be read or has been closed at its far end, or `seconds` have passed."""
    poll = select.poll()
    for file in files:
        poll.register(file.fileno(), select.POLLIN)
    poll.poll(max(0.0, seconds) * 1000)
