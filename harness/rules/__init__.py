"""Rules: pure functions from a Case to a Diagnosis.

`RULES` and `NOTES` are explicit: each entry names the causes it may give, so that a test can walk them. A
rule that lacks a reading abstains; where nothing carries, the verdict is `unknown` and says what was seen.

Not covered: reading anything, showing anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.evidence import Missing, Reading
from harness.findings import Diagnosis, Finding, Unchecked
from harness.rules import (
    endings,
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
    say,
    spins,
    working,
)
from harness.rules.scene import Scene
from harness.rules.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from harness.evidence import Case, Piece
    from harness.findings import Note
    from harness.rules.view import ProcessView

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
    Rule(judge=working.compiling, causes=("compiling",)),
    Rule(judge=working.slow_io, causes=("slow-io",)),
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
    found = [finding for rule in RULES for finding in rule.judge(scene)]
    found.sort(key=lambda each: -each.confidence)
    kept = _distinct(found)
    if not kept or kept[0].confidence < CARRIES:
        kept = [_unknown(scene), *kept]
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
        + (f" · {_age(age.value)} old" if isinstance(age, Reading) else ""),
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


def _unknown(scene: Scene) -> Finding:
    """What was seen, though it does not carry a verdict."""
    evidence = []
    for chain in scene.chains[:4]:
        for wait in [each for each in chain.waits if each.kind != "unseen"][:3]:
            at = f" at {say.place(wait.user)}" if wait.user is not None else ""
            evidence.append(f"{say.who(wait.thread)} waits for {say.waits_for(wait)}{at}")
        if chain.end.kind != "unseen":
            evidence += [*chain.facts, *say.stillness(scene, chain.end.thread)]
    for process in scene.subjects[:4]:
        if process.main is None or not process.main.frames:
            evidence += _from_outside(process)
    unseen = next((each for each in not_checked(scene.view.case) if each.what == "Python stacks"), None)
    remedies = unseen.detail.partition(". ")[2].split("; ") if unseen and unseen.reason == "denied" else []
    again: tuple[str, ...] = (
        "look again, longer: --samples 8 --duration 6",
        "let it look into C code: --native always",
    )
    if unseen is not None and unseen.detail.startswith("not a Python"):
        again = ("find the pid of the training: pgrep -af python",)
    elif unseen is not None and unseen.detail == "a kernel thread":
        again = ()
    return Finding(
        state="unknown",
        cause="unknown",
        confidence=0.0,
        summary="What could be seen does not tell why."
        if not remedies
        else "Without a look into its Python there is no telling why.",
        blame=next(
            (say.blame(each.end.thread, each.end.user) for each in scene.chains if each.end.user is not None),
            None,
        ),
        evidence=tuple(evidence),
        next_steps=tuple(f"to allow it: {each}" for each in remedies) or again,
    )


def _from_outside(process: ProcessView) -> list[str]:
    """What /proc and the heartbeat tell of a process whose Python cannot be seen."""
    main = process.main
    states = "".join(dict.fromkeys(each.state for each in main.samples if each is not None)) if main else ""
    call = (
        f", in the system call {main.syscall.name}" if main is not None and main.syscall is not None else ""
    )
    names = {"R": "running", "S": "asleep", "D": "asleep in the kernel", "T": "stopped", "Z": "a zombie"}
    told = " and ".join(names.get(each, each) for each in states or process.state)
    cpu = f", {process.cpu_cores * 100:.0f} % of a CPU" if process.cpu_cores is not None else ""
    count = f"{len(process.threads)} thread{'' if len(process.threads) == 1 else 's'}"
    facts = [f"pid {process.pid}: {told}{call}, {count}{cpu}"]
    record = process.record
    if record is not None:
        step = f", step {record['step']}" if record.get("step") is not None else ""
        wall = record.get("last_progress_wall_seconds")
        ago = process.view.case.taken_at_seconds - wall if isinstance(wall, (int, float)) else None
        when = f", last progress {_age(max(0.0, ago))} ago" if ago is not None else ""
        facts.append(f"its heartbeat: stage {record.get('stage')}{step}{when}")
    return facts


def not_checked(case: Case) -> Iterator[Unchecked]:
    """Each kind of evidence that is missing, once, with its reason."""
    pieces: list[tuple[str, Piece[object]]] = [
        ("gpu", case.gpus),
        ("file locks", case.locks),
        ("pipes", case.pipes),
    ]
    for sample in case.samples[-1:]:
        pieces += [("Python stacks", each.stacks) for each in sample.processes]
        pieces += [
            ("locals and C frames", Missing(reason="denied", detail=each.stacks.value.limits))
            for each in sample.processes
            if isinstance(each.stacks, Reading) and each.stacks.value.method == "faulthandler"
        ]
        pieces += [
            ("system calls", call.syscall)
            for each in sample.processes
            if isinstance(each.threads, Reading)
            for call in each.threads.value
        ]
    for process in case.processes:
        pieces += [("descriptors", process.descriptors), ("environment", process.environment)]
    seen: set[tuple[str, str]] = set()
    helpers = ("not a Python process", "a zombie", "has ended", "not there")
    for what, piece in pieces:
        if isinstance(piece, Missing) and (what, piece.reason) not in seen:
            if (
                piece.reason == "unavailable"
                and any(word in piece.detail for word in helpers)
                and len(case.processes) > 1
            ):
                continue  # a shell in the tree has no Python stack, and nobody misses it
            seen.add((what, piece.reason))
            yield Unchecked(what=what, reason=piece.reason, detail=piece.detail)
    if isinstance(case.flight, Missing) and _several_ranks(case):
        yield Unchecked(what="flight recorder", reason=case.flight.reason, detail=case.flight.detail)
    for error in case.errors:
        if error.collector in ("tree", "samples", "sources"):
            yield Unchecked(what=error.collector, reason="unavailable", detail=error.detail)


def _several_ranks(case: Case) -> bool:
    environments = (each.environment for each in case.processes)
    return any(
        each.value.get("WORLD_SIZE", "1") not in ("", "1")
        for each in environments
        if isinstance(each, Reading)
    )


def _age(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
