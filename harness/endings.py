"""How a process ended, in words. Not here: finding it out."""

from __future__ import annotations

import signal


def signal_name(number: int) -> str:
    """`SIGSEGV`, or `signal 40` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def ended_words(exit_code: int) -> str:
    """An exit code as a user would say it."""
    if exit_code >= 0:
        return f"has ended with status {exit_code}"
    return f"has ended by {signal_name(-exit_code)}"
