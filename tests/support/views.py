"""Facts about runs, built in a line: heartbeats, ranks and snapshots as tests want them."""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.snapshot import Histogram, RankState, RankTotals, RunView
from harness.watch.drain import DURATION_BOUNDS
from harness.watch.heartbeat import Drained, Heartbeat, StageEntry, StepRow

NOW = 1_800_000_000.0


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return NOW + self.now - 1000.0


def row(index: int = 0, **changes: Any) -> StepRow:
    fields: dict[str, Any] = {
        "index": index,
        "step": index + 1,
        "wall_seconds": NOW + index * 0.1,
        "monotonic_seconds": 1000.0 + index * 0.1,
        "step_seconds": 0.1,
        "loss": 4.812,
        "learning_rates": (1e-3,),
        "grad_norm": 1.0,
        "tokens": 940,
        "phase_seconds": {"forward": 0.04, "data": 0.01},
        "memory": None,
    }
    return StepRow(**{**fields, **changes})


def rows(*indices: int) -> tuple[StepRow, ...]:
    return tuple(row(index) for index in indices)


def drained(*given: StepRow, lost: tuple[int, int] | None = None) -> Drained:
    return Drained(rows=given, lost=lost, stages=())


def stage(name: str, entered: float = NOW) -> StageEntry:
    return StageEntry(
        stage=name, entered_wall_seconds=entered, entered_monotonic_seconds=entered - NOW + 1000.0
    )


def heartbeat(**changes: Any) -> Heartbeat:
    name = changes.pop("stage", "train")
    fields: dict[str, Any] = {
        "rank": 0,
        "world_size": 1,
        "pid": 4711,
        "start_time_ticks": 99,
        "boot_id": "b",
        "run_id": "run-1",
        "attempt": 1,
        "opened_wall_seconds": NOW - 60,
        "opened_monotonic_seconds": 940.0,
        "traceback_signal": None,
        "total_steps": 400,
        "schedule": {"kind": "cosine", "peak": 1e-3, "warmup": 10, "total": 400, "floor": 0.1},
        "stages": (stage(name, NOW - 20),),
        "stage": name,
        "phase": None,
        "phase_entered_monotonic_seconds": None,
        "step": 128,
        "last_progress_wall_seconds": NOW - 0.1,
        "last_progress_monotonic_seconds": 999.9,
        "progress_count": 0,
        "detail": None,
        "steps_written": 128,
        "tokens_total": 128 * 940,
        "last": row(127, step=128),
        "closed_status": None,
        "closed_wall_seconds": None,
        "phase_totals": {"forward": 5.12, "data": 1.28},
    }
    return Heartbeat(**{**fields, **changes})


def totals(**changes: Any) -> RankTotals:
    counts = [0] * (len(DURATION_BOUNDS) + 1)
    counts[5] = 127
    fields: dict[str, Any] = {
        "tokens": 128 * 940,
        "nonfinite": 0,
        "phase_seconds": {"forward": 5.12, "data": 1.28},
        "durations": Histogram(bounds=DURATION_BOUNDS, counts=tuple(counts), total=12.7),
        "step_seconds": 0.1,
        "tokens_per_second": 9400.0,
        "steps_per_second": 272 / 72,
        "first_loss": 6.93,
    }
    return RankTotals(**{**fields, **changes})


def state(rank: int = 0, **changes: Any) -> RankState:
    fields: dict[str, Any] = {
        "heartbeat": heartbeat(rank=rank),
        "alive": True,
        "resident_bytes": 900_000_000,
        "cpu_seconds": 31.5,
        "totals": totals(),
    }
    return RankState(**{**fields, **changes})


def view(*states: RankState, **changes: Any) -> RunView:
    fields: dict[str, Any] = {
        "run_id": "run-1",
        "name": "quickstart",
        "taken_wall_seconds": NOW,
        "attempt": 1,
        "started_wall_seconds": NOW - 60,
        "ranks": states or (state(),),
        "limits_seconds": {0: 6.0},
    }
    return RunView(**{**fields, **changes})


def with_beat(given: RankState, **changes: Any) -> RankState:
    return dataclasses.replace(given, heartbeat=dataclasses.replace(given.heartbeat, **changes))
