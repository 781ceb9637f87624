"""How a process ended, in words. Not here: finding it out."""

from __future__ import annotations

import signal


def signal_name(number: int) -> str:
    """`SIGSEGV`, or `signal 40` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
