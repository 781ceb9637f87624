"""Trainers that advance: their loops, how far they are and what they add up to.

Not covered: work that no variable tells (`activity`), a CPU that is burnt for nothing (`spins`).
"""

from __future__ import annotations

import ast
import dataclasses
import re
from typing import TYPE_CHECKING

from harness import frames as code
from harness.evidence import Frame, Reading
from harness.rules import rounds, say
from harness.rules.loops import advances as ends_by
from harness.rules.progress import Progress, by_record, progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.findings import Finding
    from harness.rules.chain import Chain
    from harness.rules.motion import Counter
    from harness.rules.scene import Scene
    from harness.rules.threads import ThreadView
    from harness.rules.view import ProcessView

_TRAINING_NAMES = re.compile(r"step|epoch|batch|iter|update|episode|micro", re.IGNORECASE)


def progressing(scene: Scene) -> Iterator[Finding]:
    """Healthy and slow-progress: something advances towards its end."""
    chains = scene.chains
    found = [(chain, progress(scene, chain)) for chain in chains]
    stand = [chain for chain, each in found if each is None]
    if len(stand) == len(found) or not all(_waits_for_a_rank(scene, chain) for chain in stand):
        # One rank that stands holds up all others, whatever they do meanwhile.
        return
    for chain, each in found:
        if each is not None:
            yield _advancing(scene, chain, each)


def _waits_for_a_rank(scene: Scene, chain: Chain) -> bool:
    """Whether it stands only in a collective, to which a rank that goes on may come yet."""
    return chain.begin.kind == "collective" and all(each.alive for each in scene.view.ranks)


def _advancing(scene: Scene, chain: Chain, found: Progress) -> Finding:
    counter = found.counter
    if found.flows:
        peer = f" ({say.waits_for(chain.end)})" if chain.end.socket is not None else ""
        return say.finding(
            scene,
            chain,
            "slow",
            "slow-io",
            0.8,
            f"Data moves, slowly, at {say.place(chain.end.user)}: {found.words}{peer}.",
            evidence=[found.words],
            next_steps=["compare the rate with what the peer or the disk should deliver"],
        )
    if counter is None or found.thread is None:
        return say.finding(
            scene, chain, "healthy", "healthy", 0.93, f"It progresses: {found.words}.", evidence=[found.words]
        )
    frame, rate = counter.frame, abs(counter.per_second)
    wait = next((each for each in chain.waits if each.thread is found.thread), chain.end)
    if wait.kind in ("socket-read", "socket-write", "pipe-read", "pipe-write") and wait.socket is not None:
        return say.finding(
            scene,
            chain,
            "slow",
            "slow-io",
            0.8,
            f"Data moves, slowly: {found.words} ({say.waits_for(wait)}).",
            evidence=[found.words, f"peer {wait.socket.peer}"],
            next_steps=["compare the rate with what the peer should deliver"],
        )
    # One step of it while we looked is no rate.
    counted = abs(counter.last - counter.first) > 1 and rate > 0
    speed = f"{rate:.3g} a second" if counted else "once while we looked"
    trains = bool(_TRAINING_NAMES.search(counter.name)) or any(
        code.owner(each) == "package" for each in found.thread.python_frames
    )
    of = f" of {found.total:,.0f}" if found.total is not None else ""
    if found.outermost and trains:
        summary = f"It progresses: {counter.name} is at {counter.last:,.0f}{of}, {speed}."
        return say.finding(scene, chain, "healthy", "healthy", 0.9, summary, evidence=[found.words])
    total = found.total if counted else None
    left = (total - counter.last) / rate if total is not None else None
    more = f": about {_time(left)} more" if left is not None and left > 0 else ""
    around = rounds.around(scene, found.thread, counter)
    return say.finding(
        scene,
        chain,
        "slow",
        "slow-progress",
        0.9 if counted else 0.68,  # below 0.7 a second look is taken, which may give a rate
        f"The loop at {say.place(frame)} has {counter.name} at {counter.last:,.0f}{of}, {speed}{more}."
        + _adds_up(around, total / rate if total is not None else None),
        evidence=[
            _samples_in(scene, found.thread, counter),
            counter.words,
            *_loops_around(around),
            *_reads_back(scene, counter),
            *_gpus(scene, found.thread.process),
        ],
        wait=dataclasses.replace(wait, user=frame),
        next_steps=[
            "replace the loop by one vectorised operation, or wait",
            *_watch(scene),
        ],
    )


def _watch(scene: Scene) -> list[str]:
    target = scene.view.case.target
    if isinstance(target.run_dir, Reading):
        return []  # somebody watches it already
    return [f"be told when it stands still: harness watch {target.pid}"]


def _adds_up(around: tuple[rounds.Round, ...], seconds: float | None) -> str:
    """What the loops around it make of one run of the slow loop."""
    found = rounds.step(around)
    if found is None or seconds is None:
        return ""
    outer, inner = found
    whole = _time(seconds * rounds.times(inner))
    often = [each for each in inner if each.total is not None and each.total > 1]
    if not often:
        return f" Each round of {outer.name} runs it: a round takes at least {whole}."
    again = " and ".join(
        f"{each.total:,.0f} {'rounds ' if not at else ''}of {each.name}" for at, each in enumerate(often)
    )
    return f" It runs again in each of {again}: one round of {outer.name} takes at least {whole}."


def _samples_in(scene: Scene, thread: ThreadView, counter: Counter) -> str:
    """How many of the samples stand in the counter's loop."""
    loop = next((each for each in scene.sources.loops(counter.frame) if ends_by(each, counter)), None)
    if loop is None:
        return ""
    here = [
        any(
            (file, function) == (counter.frame.file, counter.frame.function)
            and loop.lineno <= line <= (loop.end_lineno or line)
            for file, function, line in shape
        )
        for shape in thread.shapes
    ]
    return f"{sum(here)} of {len(here)} samples are in this loop (line {loop.lineno})"


def _loops_around(around: tuple[rounds.Round, ...]) -> list[str]:
    known = [each for each in around if each.at is not None]
    if not known:
        return ["the loop around it did not advance meanwhile"] if around else []
    places = [f"{each.words} ({_file(each.frame)}:{each.line})" for each in known]
    facts = [f"around it: {', '.join(places)}"]
    if known[-1].in_its_first:
        facts.append(f"no round of {known[-1].name} has ended since the start: it is still in its first")
    return facts


def _reads_back(scene: Scene, counter: Counter) -> list[str]:
    """Calls in the loop that make a GPU wait in every round."""
    loop = next((each for each in scene.sources.loops(counter.frame) if ends_by(each, counter)), None)
    calls = re.findall(r"\.(tolist|item|cpu|numpy|nonzero)\(", ast.unparse(loop)) if loop is not None else []
    if not calls:
        return []
    return [f"it calls .{calls[0]}() in every round: on a GPU each such call waits for the device"]


def _gpus(scene: Scene, process: ProcessView) -> list[str]:
    """How busy the GPUs are that this process holds memory of, and how much that is."""
    found = scene.view.case.gpus
    facts = []
    for gpu in found.value if isinstance(found, Reading) else ():
        mine = [
            each
            for each in (gpu.processes.value if isinstance(gpu.processes, Reading) else ())
            if each.pid == process.pid
        ]
        if mine and isinstance(gpu.utilization_ratio, Reading):
            held = mine[0].used_bytes
            memory = f", {held.value / 1e9:.1f} GB held" if isinstance(held, Reading) else ""
            facts.append(f"GPU {gpu.index} {gpu.utilization_ratio.value:.0%} busy{memory}")
    return facts


def _file(frame: Frame) -> str:
    return frame.file.rsplit("/", 1)[-1]


def stands_elsewhere(scene: Scene) -> Iterator[Finding]:
    """healthy: the log grows, or an idle trainer was seen at other lines; compiling or importing."""
    if any(by_record(scene, each) is None and each.record is not None for each in scene.subjects):
        return  # its heartbeat says more than any guess
    for chain in scene.chains:
        if progress(scene, chain) is not None or chain.cycle:
            continue
        wait, motion = chain.end, scene.motion(chain.end.thread)
        if wait.kind in ("busy", "compile", "sleep", "retry", "stopped", "unseen", "disk"):
            continue
        if wait.kind in ("collective", "rendezvous", "exit", "dns", "socket-connect", "file-lock"):
            continue
        retried = wait.user is not None and scene.sources.retries(wait.user)
        begins = scene.motion(chain.begin.thread)
        if (motion.user_lines_changed or begins.user_lines_changed) and not retried:
            yield say.finding(
                scene,
                chain,
                "healthy",
                "healthy",
                0.6,
                "It stands at other lines in other samples: it moves.",
                evidence=["the user's lines changed between the samples"],
            )
    grown = _log_grown(scene)
    # A heartbeat writes lines as well: they say nothing where nobody is left who could go on, or where a loop
    # that only waits for its tasks may have written them itself.
    told = any(chain.end.kind in ("retry", "sleep", "async") for chain in scene.chains)
    told = told or any(chain.gap in ("idle", "dead") for chain in scene.chains)
    if grown > 0 and not told:
        for chain in scene.chains[:1]:
            yield say.finding(
                scene,
                chain,
                "healthy",
                "healthy",
                0.8,
                f"Its log grows: {grown} bytes while we looked.",
                evidence=[f"the log grew by {grown} bytes"],
            )


def _log_grown(scene: Scene) -> int:
    sizes = [each.log_bytes.value for each in scene.view.case.samples if isinstance(each.log_bytes, Reading)]
    return sizes[-1] - sizes[0] if len(sizes) > 1 else 0


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} days"
