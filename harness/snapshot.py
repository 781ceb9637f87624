"""One run at one moment, as metrics and the terminal see it: a frozen snapshot, made by whoever observes.

Facts only. What is not known is None or missing, never 0. Not here: putting one together
(`harness.supervise.viewing`, `harness.top.gather`), and how it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.wire import COMMAND_STAGE, ENDED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harness.watch.heartbeat import Heartbeat


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How many values fell into each bucket, not summed up yet; the last bucket has no bound."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTotals:
    """What a rank has added up to, over all attempts that were seen; and how fast it is going now."""

    tokens: int
    nonfinite: int
    phase_seconds: Mapping[str, float]
    durations: Histogram
    rows_lost: int = 0
    step_seconds: float | None = None  # median of the last steps
    tokens_per_second: float | None = None  # of this rank, pauses included
    steps_per_second: float | None = None
    first_loss: float | None = None  # of this attempt, as far as it was seen


@dataclass(frozen=True, slots=True, kw_only=True)
class RankState:
    """One rank's record and its process."""

    heartbeat: Heartbeat
    alive: bool  # the very process that wrote the record: pid, start time and boot
    resident_bytes: int | None
    cpu_seconds: float | None
    totals: RankTotals

    @property
    def rank(self) -> int:
        """The rank's number."""
        return self.heartbeat.rank

    @property
    def finished(self) -> bool:
        """Whether it said that it is done, or stopped on request: it did not just die."""
        return self.heartbeat.closed_status in ("finished", "stopped")

    @property
    def left(self) -> bool:
        """Whether it came to an end of its own at least; a `sys.exit(1)` is one too."""
        return self.finished or self.heartbeat.closed_status == ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandView:
    """The command itself, for one that never emits."""

    alive: bool
    finished: bool
    started_wall_seconds: float
    last_progress_wall_seconds: float | None = None
    resident_bytes: int | None = None  # of the whole tree
    cpu_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One GPU as NVML tells it, read beside the trainer; None where it does not tell."""

    gpu: str
    name: str = ""
    used_bytes: int | None = None
    total_bytes: int | None = None
    utilization_ratio: float | None = None
    power_watts: float | None = None
    pids: tuple[int, ...] = ()  # who has memory on it


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """Everything that /metrics, /healthz and the live line tell."""

    run_id: str
    name: str
    taken_wall_seconds: float
    attempt: int
    started_wall_seconds: float  # of this attempt
    status: str = "running"  # running, finished, failed, stopped: in words, for people
    host: str | None = None
    target_steps: int | None = None  # where the record declares none
    info: Mapping[str, str] = field(default_factory=dict)  # name, config_hash, git, host, torch, device
    ranks: tuple[RankState, ...] = ()
    command: CommandView | None = None
    log_bytes: int | None = None
    log_growth_wall_seconds: float | None = None
    limits_seconds: Mapping[int | None, float] = field(default_factory=dict)  # by rank; None: the command
    stalls: Mapping[tuple[str, str], int] = field(default_factory=dict)  # incidents by stage and cause
    last_incident_wall_seconds: float | None = None
    stalled_since_wall_seconds: float | None = None  # an incident is open
    last_checkpoint_wall_seconds: float | None = None
    checkpoint_interval_seconds: float | None = None
    gpus: tuple[GpuReading, ...] = ()
    collect_errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def lead(self) -> RankState | None:
        """The rank whose step and loss stand for the run: the lowest one here that lives, else the lowest."""
        return next((state for state in self.ranks if state.alive), self.ranks[0] if self.ranks else None)

    @property
    def laggard(self) -> RankState | None:
        """The living, unfinished rank that has been without progress for longest."""
        going = [state for state in self.ranks if state.alive and state.heartbeat.closed_status is None]
        return min(going, key=lambda state: state.heartbeat.last_progress_wall_seconds, default=None)

    @property
    def last_progress_wall_seconds(self) -> float | None:
        """When the slowest one last moved."""
        state = self.laggard or self.lead
        if state is not None:
            moved = state.heartbeat.last_progress_wall_seconds
            # A trainer that says nothing of where it is shows that it lives in its log.
            unsaid = state.heartbeat.stage == COMMAND_STAGE and self.log_growth_wall_seconds is not None
            return max(moved, self.log_growth_wall_seconds or 0.0) if unsaid else moved
        if self.command is not None and self.command.last_progress_wall_seconds is not None:
            return self.command.last_progress_wall_seconds
        return self.log_growth_wall_seconds

    @property
    def limit_seconds(self) -> float | None:
        """The limit that holds for the slowest one."""
        state = self.laggard or self.lead
        return self.limits_seconds.get(state.rank if state is not None else None)

    @property
    def steps(self) -> int | None:
        """How many steps the run is to have."""
        declared = self.lead.heartbeat.total_steps if self.lead is not None else None
        return declared if declared is not None else self.target_steps


def stage_seconds(state: RankState, now_wall_seconds: float) -> float:
    """For how long a rank has been in its innermost stage."""
    return max(0.0, now_wall_seconds - state.heartbeat.stages[-1].entered_wall_seconds)


def tokens_per_second(ranks: Iterable[RankState]) -> float | None:
    """Of all local ranks together; None while any living one does not know."""
    rates = [state.totals.tokens_per_second for state in ranks if state.alive]
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known and len(known) == len(rates) else None
