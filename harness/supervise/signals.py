"""Signals as data: handlers do nothing but wake the loop, which acts on them.

By a wake-up descriptor, not signalfd: a blocked mask would be inherited by every helper that the harness
starts. Not here: what a signal means (`loop`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import Any

HANDLED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGTSTP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class SignalInbox:
    """Collects the signals in HANDLED between `__enter__` and `__exit__`; main thread only.

    A signal that was ignored when we started stays ignored: `nohup`, and `&` in a script, mean it.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup_before = -1

    def __enter__(self) -> SignalInbox:  # noqa: PYI034 -- Self is 3.11
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in HANDLED:
            if signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, _nothing)
        # Writing to the terminal from the background must not stop the supervisor (stty tostop).
        self._before[signal.SIGTTOU] = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        """To select on for reading."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Wake the loop from another thread."""
        with contextlib.suppress(OSError):  # full: it is awake anyway
            self._writer.send(b"\0")

    def drain(self) -> tuple[int, ...]:
        """The signals that came since, in order; returns at once."""
        try:
            return tuple(number for number in self._reader.recv(4096) if number)
        except OSError:
            return ()

    def stop_ourselves(self) -> None:
        """Stop as the terminal's Ctrl-Z would have, and return once continued.

        With SIGTSTP and not SIGSTOP: where no shell could continue us, the kernel drops it.
        """
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)


def _nothing(_number: int, _frame: object) -> None:
    """The wake-up descriptor carries it; this only keeps the default action away."""
