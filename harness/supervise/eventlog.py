"""The supervisor's own rare events: one JSON line each in `events/supervisor.jsonl`.

Never raises: a full disk costs the line, not the run. Readers skip a last line that was cut short.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from harness.clock import Clock


class EventLog:
    """Appends lines; several processes may, since each line is one write to an O_APPEND file."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self.lost = 0

    def write(self, event: str, **fields: object) -> None:
        """Add one event."""
        line = json.dumps({"time": round(self._clock.wall(), 3), "event": event, **fields}, default=str)
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                os.write(descriptor, line.encode() + b"\n")
            finally:
                os.close(descriptor)
        except OSError:
            self.lost += 1
