"""The types of a report: what is known of a run, frozen, ready for a page.

Text in here is the target's own, not yet made harmless: that is the renderer's business. What is not known
is None, or stands in `missing` with its reason. Not here: reading anything, words on a page.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from harness.report.history import History
    from harness.report.judge import Remark


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of time in one stage. No stage: the run was down."""

    stage: str | None
    begin_seconds: float
    end_seconds: float
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation that the trainer reported."""

    seconds: float
    step: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFacts:
    """One start of the command."""

    attempt: int
    begin_seconds: float
    end_seconds: float | None  # None: it runs, or nobody saw its end
    ending: str
    steps: tuple[int, int] | None  # the first and the last that were recorded
    repeated: int = 0  # steps that an earlier attempt had done already


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFacts:
    """One rank, as its record tells it."""

    rank: int
    state: str  # running, finished, stopped, gone
    stage: str
    step: int | None
    pid: int
    last_progress_seconds: float
    step_seconds: float | None = None  # median of the last steps
    tokens_per_second: float | None = None
    loss: float | None = None
    phase_seconds: Mapping[str, float] = field(default_factory=dict)  # a step's mean
    peak_bytes: int | None = None
    behind: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a diagnosis of an incident's evidence says, in lines."""

    heading: str
    state: str
    cause: str
    summary: str
    confidence: float
    where: str | None
    source: tuple[tuple[int, str], ...]
    line: int | None
    chain: tuple[str, ...]
    because: tuple[str, ...]
    next_steps: tuple[str, ...]
    others: tuple[str, ...]
    notes: tuple[str, ...]
    not_checked: tuple[str, ...]
    stacks: tuple[str, ...]
    stacks_left_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentFacts:
    """One incident and what its evidence says."""

    name: str  # 001, or on-host/001
    attempt: int
    begin_seconds: float
    lasted_seconds: float | None  # None: still open
    ending: str | None
    where: str
    step: int | None
    ranks: tuple[int, ...]
    why: str
    limit_seconds: float
    headline: str | None
    verdict: Verdict | None = None
    problem: str | None = None  # why there is no verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A configuration file, without secrets."""

    name: str
    text: str
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything on the page."""

    name: str
    run_id: str
    state: str
    sentence: str
    where: str
    host: str
    cwd: str
    command: tuple[str, ...]
    taken_seconds: float
    begin_seconds: float
    end_seconds: float  # now, while it runs
    target_steps: int | None
    schedule: Mapping[str, Any] | None
    history: History
    remarks: tuple[Remark, ...]
    attempts: tuple[AttemptFacts, ...]
    spans: tuple[Span, ...]
    evaluations: tuple[Evaluation, ...]
    checkpoints: tuple[tuple[float, int | None], ...]
    ranks: tuple[RankFacts, ...]
    rank_count: int
    incidents: tuple[IncidentFacts, ...]
    incident_count: int
    facts: tuple[tuple[str, str], ...]  # commit, versions, environment: name and value
    files: tuple[File, ...]
    log: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]  # what is not there, and why
    harness_version: str
