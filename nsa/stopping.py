"""SIGTERM and SIGINT ask the run to stop: the first lets it save its state, the second ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class WaitInterrupted(Exception):  # noqa: N818 — not an error: the way out of a wait
    """A stop was asked for in what may be broken off: a wait for data, an evaluation."""


class StopRequest:
    """Whether a signal asked for a stop; a context manager around the loop."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._waiting = False
        self._before: dict[signal.Signals, object] = {}

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def __enter__(self) -> StopRequest:  # noqa: PYI034 — Self needs Python 3.11
        # Python hands signals to the main thread alone: trained in another, a run leaves them to the program.
        for number in _SIGNALS if threading.current_thread() is threading.main_thread() else ():
            self._before[number] = signal.signal(number, self._asked)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _asked(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- as signal calls it
        if self.signal_name is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.signal_name = signal.Signals(number).name
        if self._waiting:
            raise WaitInterrupted

    @contextmanager
    def interrupting(self, *, allowed: bool) -> Iterator[None]:
        """Within, a signal raises WaitInterrupted instead of waiting for the step's end.

        Not `allowed` where other ranks are in the same step: they would wait in a collective for ever.
        """
        self._waiting = allowed
        try:
            if allowed and self.signal_name is not None:
                raise WaitInterrupted
            yield
        finally:
            self._waiting = False
