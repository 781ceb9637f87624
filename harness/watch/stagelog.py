"""Rank 0's changes of stage, kept for good: one line each in events/stages.jsonl.

    {"time": 1795421903.1, "event": "stage", "rank": 0, "attempt": 1, "stage": "train"}

The record holds the last 32 alone. Never raises, and is no place for a trainer that changes its stage every
millisecond: the file has a bound. A later supervisor may write the last changes again: readers pass over what
they know already. Not here: reading records (`heartbeat`).
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from harness.watch.heartbeat import StageEntry

MAX_BYTES = 16 << 20


class StageLog:
    """Appends to one file; each drain is one write."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, entries: Iterable[StageEntry], attempt: int) -> None:
        """Write these changes; where that cannot be, they are lost."""
        lines = [
            json.dumps(
                {
                    "time": round(entry.entered_wall_seconds, 3),
                    "event": "stage",
                    "rank": 0,
                    "attempt": attempt,
                    "stage": entry.stage,
                }
            )
            for entry in entries
        ]
        if not lines:
            return
        with suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if os.fstat(descriptor).st_size < MAX_BYTES:
                    os.write(descriptor, "".join(f"{line}\n" for line in lines).encode())
            finally:
                os.close(descriptor)
