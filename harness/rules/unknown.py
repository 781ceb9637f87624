"""What was seen, where nothing carries a verdict. Not covered: what could not be seen (`unchecked`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.findings import Finding
from harness.render.text import spoken
from harness.rules import say
from harness.rules.unchecked import not_checked

if TYPE_CHECKING:
    from harness.rules.scene import Scene
    from harness.rules.view import ProcessView


def unknown(scene: Scene, guess: Finding | None = None) -> Finding:
    """What was seen, though it does not carry a verdict; `guess` is what it looks like."""
    evidence = []
    if guess is not None and guess.evidence:
        evidence.append(f"it looks like {guess.cause}, but {guess.evidence[0]}")
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
    elif any(each.dumps and not each.has_trusted_locals for each in scene.subjects):
        again = ("let it read variables: without --no-locals", *again)
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
        when = f", last progress {spoken(ago)} ago" if ago is not None else ""
        facts.append(f"its heartbeat: stage {record.get('stage')}{step}{when}")
    return facts
