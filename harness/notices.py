"""What an observer tells of stalls, for the terminal, the metrics and the policy. Facts only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    from harness.detect import Suspicion


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspected:
    """A silence went over its limit; evidence is being taken."""

    suspicion: Suspicion


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentOpened:
    """The silence outlasted the taking of evidence: a stall.

    `path` is None where nothing could be written; `problem` says what went wrong with the evidence.
    """

    number: int
    path: Path | None
    suspicion: Suspicion
    headline: str | None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentDismissed:
    """Progress came while evidence was taken: no stall, nothing kept."""

    suspicion: Suspicion
    after_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentClosed:
    """A stall is over. `how`: "progress", or what ended the command."""

    number: int
    path: Path | None
    after_seconds: float
    how: str


Notice: TypeAlias = Suspected | IncidentOpened | IncidentDismissed | IncidentClosed
