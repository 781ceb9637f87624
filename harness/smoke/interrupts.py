"""Signals to `harness smoke` itself: those that ask to end are counted; Ctrl-Z is noted, and obeyed later.

A signal that was ignored when we started stays ignored: `nohup`, and `&` in a script, mean it. Not here:
ending or stopping what runs meanwhile (`execution`).
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Notes signals instead of obeying them at once; a context manager, in the main thread."""

    def __init__(self) -> None:
        self.count = 0  # of those that ask to end
        self.rest_asked = False
        self.rested_seconds = 0.0  # in all
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:  # noqa: PYI034 -- Self is 3.11
        for number, handler in (*((each, self._end) for each in _ENDING), (signal.SIGTSTP, self._rest)):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def rest(self) -> None:
        """Stop as Ctrl-Z would have, and return once continued.

        With SIGTSTP and not SIGSTOP: where no shell could continue us, the kernel drops it.
        """
        began = time.monotonic()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self.rest_asked = False
        self.rested_seconds += time.monotonic() - began

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1

    def _rest(self, _number: int, _frame: FrameType | None) -> None:
        self.rest_asked = True
