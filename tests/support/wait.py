"""Waiting for a condition, with a deadline: what tests do instead of sleeping for luck."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def wait_for(
    condition: Callable[[], T | None],
    deadline_seconds: float = 20.0,
    what: str = "",
    poll_seconds: float = 0.01,
) -> T:
    """Return the first truthy value of `condition()`; AssertionError naming `what` at the deadline."""
    end = time.monotonic() + deadline_seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_seconds} s: {what or condition}")
        time.sleep(poll_seconds)
