"""When a checkpoint was last written, and how far apart they are: from rank 0's events, or its stages.

A trainer that says `emit.event("checkpoint", ...)` is believed alone: its event comes after a checkpoint that
was written whole. Of others the end of a stage named "checkpoint" counts. Not here: what is in a checkpoint.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from harness.watch.lines import LineSplitter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from harness.watch.heartbeat import StageEntry

_FIRST_BYTES = 1 << 20  # of a long run's events the newest are enough
_POLL_BYTES = 1 << 20


class CheckpointTimes:
    """Follows one events file and one rank's stages."""

    def __init__(self, events_path: Path) -> None:
        self._path = events_path
        self._offset: int | None = None
        self._lines = LineSplitter()
        self._from_events: list[float] = []
        self._from_stages: list[float] = []
        self._in_stage = False

    @property
    def last_wall_seconds(self) -> float | None:
        """When the last one was done."""
        times = self._from_events or self._from_stages
        return times[-1] if times else None

    @property
    def interval_seconds(self) -> float | None:
        """Between the last two."""
        times = self._from_events or self._from_stages
        return times[-1] - times[-2] if len(times) > 1 else None

    def see_stages(self, entries: Iterable[StageEntry]) -> None:
        """Stage changes of the rank, in order."""
        for entry in entries:
            if self._in_stage and entry.stage != "checkpoint":
                self._note(self._from_stages, entry.entered_wall_seconds)
            self._in_stage = entry.stage == "checkpoint"

    def poll(self) -> None:
        """Read what is new in the events; never raises."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            return
        try:
            size = os.fstat(descriptor).st_size
            if self._offset is None or size < self._offset:
                self._offset = max(0, size - _FIRST_BYTES)
            data = os.pread(descriptor, _POLL_BYTES, self._offset) if size > self._offset else b""
        except OSError:
            return
        finally:
            os.close(descriptor)
        self._offset += len(data)
        for line in self._lines.feed(data):
            if b'"checkpoint"' in line:
                self._parse(line)

    def _parse(self, line: bytes) -> None:
        try:
            document = json.loads(line)
            if document["event"] == "checkpoint":
                self._note(self._from_events, float(document["time"]))
        except (ValueError, KeyError, TypeError):
            return  # somebody else's line

    @staticmethod
    def _note(times: list[float], wall_seconds: float) -> None:
        if not times or wall_seconds > times[-1]:
            times.append(wall_seconds)
            del times[:-2]
