"""What was seen of one stage while it ran and after: facts alone, for expectations to judge.

Not here: how they are seen (`observe`), and what is expected of them (`expect`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

EndedBy: TypeAlias = Literal["itself", "budget", "stall", "interrupt"]
Scalar: TypeAlias = "float | int | str | bool | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One step of rank 0, as metrics.jsonl tells it."""

    step: int
    loss: float | None
    learning_rate: float | None
    tokens: int | None
    seconds: float | None  # since the step before


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenIncident:
    """A stall that the supervisor found."""

    cause: str
    headline: str
    found_after_seconds: float  # since the last progress
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """All of it. What was not to be seen is None or empty, never 0."""

    exit_status: int | None
    ended_by: EndedBy
    seconds: float
    last_line: str = ""  # of the log: where a command that fails says why
    ranks: int = 0
    stages: frozenset[str] = frozenset()
    rows: tuple[Row, ...] = ()
    rows_lost: int = 0
    schedule: Mapping[str, object] | None = None  # as the trainer declared it
    resident_peak_bytes: int | None = None  # of all its processes together
    resident_bytes: tuple[int, ...] = ()  # the same, sample by sample, since the first step
    gpu_peak_bytes: int | None = None  # of the rank that held most
    gpu_bytes: tuple[int, ...] = ()  # allocated, step by step
    scrapes: int = 0  # that were answered while it ran
    scraped_series: frozenset[str] = frozenset()
    incidents: tuple[SeenIncident, ...] = ()
    measured: Mapping[str, Scalar] = field(default_factory=dict)  # what the stage printed of itself
    files: Mapping[str, int] = field(default_factory=dict)  # by pattern: how many there are, empty ones apart
    log_lines: Mapping[str, str | None] = field(default_factory=dict)  # by pattern: the first line it matches
