"""What one look at a run found: a frozen snapshot, which `render.top` draws.

Not here: reading (`top.gather`), drawing (`render.top`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.snapshot import RunView


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The last steps of rank 0, oldest first; all columns are equally long. None: a step said nothing."""

    steps: tuple[int, ...] = ()
    loss: tuple[float | None, ...] = ()
    learning_rate: tuple[float | None, ...] = ()
    grad_norm: tuple[float | None, ...] = ()
    tokens_per_second: tuple[float | None, ...] = ()
    step_seconds: tuple[float | None, ...] = ()
    phase_seconds: Mapping[str, float] = field(default_factory=dict)  # summed up over `phase_steps` steps
    phase_steps: int = 0
    phase_step_seconds: float = 0.0  # what those steps took


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentLine:
    """One incident in a few words."""

    name: str  # 001
    where: str
    verdict: str  # the headline, or what is known
    age_seconds: float  # since it was opened
    open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TopView:
    """One run at one moment."""

    state: str  # of `harness status`
    sentence: str
    path: str
    name: str
    command: str
    attempt: int
    view: RunView
    scheduled_rate: float | None = None  # of the last step of `history`, by the declared schedule
    history: History = field(default_factory=History)
    incidents: tuple[IncidentLine, ...] = ()  # newest first
    incident_count: int = 0
    log_path: str = ""
    log: tuple[str, ...] = ()  # its last lines, as they were written
    notes: tuple[str, ...] = ()
    metrics_address: str | None = None

    @property
    def going(self) -> bool:
        """Whether its command runs."""
        return self.state in ("starting", "running", "stalled", "unsupervised")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """One run of many, for `--all`."""

    path: str
    name: str
    state: str
    where: str
    step: int | None
    target_steps: int | None
    loss: float | None
    progress_age_seconds: float | None
    open_incidents: int
    incidents: int
    begun_wall_seconds: float | None = None
