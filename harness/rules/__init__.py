"""Rules: pure functions from a Case to a Diagnosis.

`RULES` and `NOTES` are explicit: each entry names the causes it may give, so that a test can walk them. A
rule that lacks a reading abstains; where nothing carries, the verdict is `unknown` and says what was seen.

What rules stand on, each on those before it: `loops`, `source` (what the source says); `calls`, `threads`,
`roles`, `spawned`, `view` (the Case from above); `motion`, `turning`, `runs`, `rounds` (what moved);
`signatures`, `lockfiles`, `waits` (what a thread waits for); `chain`, `workers`, `edges`, `scene` (who waits
for whom); `say` (words); `flow`, `rests`, `progress`, `tries` (does it advance). `enough`, `unknown` and
`unchecked` say what all of it is worth. All other modules are rules, one a family of causes.

Not covered: reading anything, showing anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.evidence import Reading
from harness.findings import Diagnosis, Finding
from harness.render.text import spoken
from harness.rules import (
    activity,
    endings,
    enough,
    flights,
    gpus,
    inside,
    learning,
    limits,
    locks,
    network,
    notes,
    outside,
    ranks,
    rates,
    rendezvous,
    spins,
    working,
)
from harness.rules.scene import Scene
from harness.rules.unchecked import not_checked
from harness.rules.unknown import unknown
from harness.rules.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harness.evidence import Case
    from harness.findings import Note

# Below this a finding is a guess, and is not made a verdict.
CARRIES = 0.55


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One judge, and the causes that it may give."""

    judge: Callable[[Scene], Iterable[Finding]]
    causes: tuple[str, ...]
    # False where no real process was there to try it on.
    verified: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteRule:
    """One note-maker, and the notes that it may make."""

    judge: Callable[[Scene], Iterable[Note]]
    causes: tuple[str, ...]


RULES: tuple[Rule, ...] = (
    Rule(judge=endings.exited, causes=("exited",)),
    Rule(judge=endings.stopped, causes=("stopped",)),
    Rule(judge=endings.disk_wait, causes=("disk-wait",)),
    Rule(judge=limits.throttled, causes=("memory-pressure",)),
    Rule(judge=limits.memory_pressure, causes=("memory-pressure",), verified=False),
    Rule(judge=endings.interpreter_exit, causes=("interpreter-exit",)),
    Rule(judge=ranks.collectives, causes=("collective-mismatch", "collective-straggler", "rank-dead")),
    Rule(judge=flights.recorded, causes=("collective-mismatch", "collective-straggler")),
    Rule(judge=rendezvous.rendezvous, causes=("rendezvous-wait",)),
    Rule(judge=gpus.gpu_wait, causes=("gpu-wait",), verified=False),
    Rule(judge=locks.lock_deadlock, causes=("lock-deadlock",)),
    Rule(judge=locks.fork_deadlock, causes=("fork-deadlock",)),
    Rule(judge=locks.lock_wait, causes=("lock-wait",)),
    Rule(judge=inside.queues, causes=("queue-wait",)),
    Rule(judge=inside.events, causes=("event-wait",)),
    Rule(judge=inside.futures, causes=("future-wait",)),
    Rule(judge=inside.loops, causes=("async-wait",)),
    Rule(judge=inside.workers, causes=("worker-dead", "worker-stuck")),
    Rule(judge=network.sockets, causes=("socket-read", "socket-write", "socket-connect", "dns")),
    Rule(judge=network.serving, causes=("healthy",)),
    Rule(judge=outside.pipes, causes=("pipe-read", "pipe-write", "stdin-read")),
    Rule(judge=outside.file_locks, causes=("file-lock",)),
    Rule(judge=outside.children, causes=("child-wait",)),
    Rule(judge=outside.sleeping, causes=("sleep", "retry-sleep")),
    Rule(judge=outside.native, causes=("native-wait", "event-wait")),
    Rule(judge=activity.compiling, causes=("compiling",)),
    Rule(judge=activity.slow_io, causes=("slow-io",)),
    Rule(judge=spins.busy, causes=("python-spin", "native-spin", "healthy", "slow-progress")),
    Rule(judge=working.progressing, causes=("healthy", "slow-progress", "slow-io")),
    Rule(judge=working.stands_elsewhere, causes=("healthy",)),
)

NOTES: tuple[NoteRule, ...] = (
    NoteRule(judge=notes.log_buffered, causes=("log-buffered",)),
    NoteRule(judge=rates.learning_rate, causes=("lr-warmup", "lr-zero", "lr-off-schedule")),
    NoteRule(judge=learning.loss, causes=("loss-nonfinite", "loss-flat")),
    NoteRule(judge=learning.throughput, causes=("throughput-drop",)),
    NoteRule(judge=notes.stale, causes=("stale-artifacts", "stale-checkpoint")),
    NoteRule(judge=notes.log_silent, causes=("log-silent",)),
    NoteRule(judge=notes.disk_full, causes=("disk-full",)),
    NoteRule(judge=notes.tokenizer_warning, causes=("tokenizer-warning",)),
)


def diagnose(case: Case) -> Diagnosis:
    """What a Case says: findings by confidence, notes, and what could not be checked."""
    scene = Scene(View(case))
    found = [enough.weighed(scene, finding) for rule in RULES for finding in rule.judge(scene)]
    found.sort(key=lambda each: -each.confidence)
    kept = _distinct(found)
    if not kept or kept[0].confidence < CARRIES:
        guess = kept[0] if kept and kept[0].confidence == enough.GUESS else None
        kept = [unknown(scene, guess), *kept]
    target = scene.view.target
    age = target.process.age_seconds if target is not None else None
    return Diagnosis(
        pid=case.target.pid,
        taken_at_seconds=case.taken_at_seconds,
        took_seconds=case.took_seconds,
        findings=tuple(
            replace(each, evidence=_clean(each.evidence), next_steps=_clean(each.next_steps)) for each in kept
        ),
        notes=tuple(note for rule in NOTES for note in rule.judge(scene)),
        not_checked=tuple(not_checked(case)),
        headline=f"{target.command_text if target is not None else 'no such process'}"
        + (f" · {spoken(age.value)} old" if isinstance(age, Reading) else ""),
    )


def _distinct(found: list[Finding]) -> list[Finding]:
    """Each cause once per blamed line, the most certain first."""
    seen: set[tuple[object, ...]] = set()
    kept = []
    for each in found:
        key = (each.cause, each.blame.pid if each.blame else 0, each.blame.line if each.blame else 0)
        if key not in seen:
            seen.add(key)
            kept.append(each)
    return kept[:8]


def _clean(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line for line in lines if line))
