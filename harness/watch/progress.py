"""Progress: what moved in one process of a run, and when it last did.

From a heartbeat it is exact; for a command that never emits it is the log's growth, and, where no log can
be followed, its processes' activity (`watch/activity.py` measures both). Judging how long is too long is
`detect.py`'s job.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.wire import COMMAND_STAGE

if TYPE_CHECKING:
    from harness.watch.heartbeat import Heartbeat

Source = Literal["heartbeat", "log", "activity"]

__all__ = ["COMMAND_STAGE", "Progress", "Source", "from_heartbeat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What one rank (or, without a heartbeat, the whole command) has done so far.

    Times are CLOCK_MONOTONIC of this machine. `incarnation` tells one process from the next under the same
    rank. `step_seconds` is what the last step took, nested stages left out. `idle_since` is for commands
    without a heartbeat only: since when the tree has used no CPU.
    """

    source: Source
    rank: int | None
    incarnation: tuple[int, int]
    stages: tuple[str, ...]
    phase: str | None
    step: int | None
    steps: int
    count: int
    moved_at_monotonic_seconds: float
    moved_at_wall_seconds: float
    step_seconds: float | None = None
    closed: bool = False
    idle_since_monotonic_seconds: float | None = None

    @property
    def stage(self) -> str:
        """The innermost stage: the one whose limit counts."""
        return self.stages[-1] if self.stages else COMMAND_STAGE


def from_heartbeat(
    beat: Heartbeat, *, boot_id: str, now_monotonic_seconds: float, now_wall_seconds: float
) -> Progress:
    """Progress as a heartbeat tells it.

    Where the record was written under another boot (a container restored, a record copied), its monotonic
    clock means nothing here, and the wall clock's age is used.
    """
    if beat.boot_id == boot_id:
        moved_at = beat.last_progress_monotonic_seconds
    else:
        moved_at = now_monotonic_seconds - max(0.0, now_wall_seconds - beat.last_progress_wall_seconds)
    return Progress(
        source="heartbeat",
        rank=beat.rank,
        incarnation=(beat.pid, beat.start_time_ticks),
        stages=tuple(entry.stage for entry in beat.stages),
        phase=beat.phase,
        step=beat.step,
        steps=beat.steps_written,
        count=beat.progress_count,
        moved_at_monotonic_seconds=moved_at,
        moved_at_wall_seconds=beat.last_progress_wall_seconds,
        step_seconds=beat.last.step_seconds if beat.last else None,
        closed=beat.closed_status is not None,
    )
