"""The nouns of an answer: findings, notes, what was not checked, and the Diagnosis that holds them.

Covered: the types and the vocabulary (states, causes, exit statuses), nothing that judges. A Diagnosis is a
pure function of a Case (`harness.rules.diagnose`); each renderer turns one into text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from harness.evidence import Reason

SCHEMA = "harness.diagnosis/1"

State: TypeAlias = Literal["healthy", "slow", "hung", "stopped", "exited", "unknown"]
Role: TypeAlias = Literal["trainer", "worker", "launcher", "helper"]

# What a finding may name, in the order of the documentation; each has a page docs/causes/<cause>.md.
CAUSES: tuple[str, ...] = (
    "healthy",
    "slow-progress",
    "slow-io",
    "compiling",
    "stopped",
    "exited",
    "python-spin",
    "native-spin",
    "native-wait",
    "lock-deadlock",
    "fork-deadlock",
    "lock-wait",
    "queue-wait",
    "event-wait",
    "future-wait",
    "async-wait",
    "socket-read",
    "socket-write",
    "socket-connect",
    "dns",
    "pipe-read",
    "pipe-write",
    "stdin-read",
    "file-lock",
    "child-wait",
    "worker-dead",
    "worker-stuck",
    "retry-sleep",
    "sleep",
    "disk-wait",
    "collective-mismatch",
    "collective-straggler",
    "rank-dead",
    "rendezvous-wait",
    "gpu-wait",
    "memory-pressure",
    "interpreter-exit",
)
NOTES: tuple[str, ...] = (
    "log-buffered",
    "lr-warmup",
    "lr-zero",
    "lr-off-schedule",
    "loss-nonfinite",
    "loss-flat",
    "throughput-drop",
    "stale-artifacts",
    "stale-checkpoint",
    "disk-full",
    "log-silent",
    "tokenizer-warning",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """The line to look at. `tid` is None where the dump did not tell it."""

    pid: int
    tid: int | None
    thread: str
    file: str
    line: int
    function: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One waiter of a wait chain: where it stands, and what it waits for."""

    pid: int
    tid: int | None
    thread: str
    waits_for: str
    file: str = ""
    line: int = 0
    function: str = ""
    rank: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One cause, how sure we are, and what that stands on."""

    state: State
    cause: str
    confidence: float
    summary: str
    blame: Blame | None = None
    chain: tuple[Link, ...] = ()
    evidence: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A true thing that misleads people; no cause by itself."""

    cause: str
    summary: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchecked:
    """What was not looked at, and why."""

    what: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What a Case says: the verdict is the first finding."""

    pid: int
    taken_at_seconds: float
    took_seconds: float
    findings: tuple[Finding, ...]
    notes: tuple[Note, ...] = ()
    not_checked: tuple[Unchecked, ...] = ()
    headline: str = field(default="")  # the process in a few words: command and age

    @property
    def verdict(self) -> Finding:
        """What to act on."""
        return self.findings[0]

    @property
    def exit_status(self) -> int:
        """0 progressing, 1 not progressing, 3 could not tell (causes: exit statuses)."""
        return {"healthy": 0, "slow": 0, "unknown": 3}.get(self.verdict.state, 1)
