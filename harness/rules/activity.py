"""Work that shows in what is used, and in none of the user's variables: compilers, bytes, subprocesses.

Not covered: loops that advance (`working`), a CPU that is burnt for nothing (`spins`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from harness.evidence import Reading
from harness.rules import runs, say, spins
from harness.rules.progress import progress
from harness.rules.rests import rests
from harness.rules.view import descendants
from harness.rules.waits import IDLE_CORES
from harness.rules.workers import serves_proxies

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.findings import Finding
    from harness.rules.chain import Chain
    from harness.rules.scene import Scene
    from harness.rules.view import ProcessView

_MUCH_IO_BYTES_PER_SECOND = 256 * 1024
# A poll uses a fraction of this.
_WORKS_SHARE = 0.03
_COMPILERS = re.compile(r"(^|/)(nvcc|cicc|ptxas|cc1plus|cc1|g\+\+|gcc|clang(\+\+)?|ninja|ld|c\+\+)(-\d+)?$")


def compiling(scene: Scene) -> Iterator[Finding]:
    """compiling: torch.compile's own frames, or a compiler among the descendants that works."""
    for chain in scene.chains:
        process = chain.begin.thread.process
        compilers = [
            each for each in descendants(process) if each.command and _COMPILERS.search(each.command[0])
        ]
        wait = next((each for each in chain.waits if each.kind == "compile"), None)
        if wait is None and not (compilers and chain.end.kind in ("child", "pipe-read", "busy", "native")):
            continue
        working = spins.cpu(process) + sum(spins.cpu(each) for each in descendants(process))
        if working < 0.1 and not compilers:
            continue
        child = compilers[0] if compilers else None
        what = say.commands(child) if child is not None else "torch.compile"
        yield say.finding(
            scene,
            chain,
            "slow",
            "compiling",
            0.93,
            f"It compiles: {what}.",
            evidence=[
                f"{working:.1f} CPUs in use by it and its children",
                *([say.commands(child)] if child else []),
            ],
            next_steps=[
                "the first step with new shapes compiles; later ones do not. TORCH_LOGS=recompiles tells"
            ],
        )


def works(scene: Scene, process: ProcessView) -> str:
    """What shows that a subprocess, or one below it, advances; nothing where none is seen to."""
    seconds = scene.view.elapsed_seconds
    for each in (process, *descendants(process)):
        if each.main is not None and each.main.python_frames:
            chain = scene.chain(each.main)
            found = progress(scene, chain)
            if found is not None:
                return f"in pid {each.pid} {found.words}"
            found_spin = spins.spinning(scene, chain) if chain.end.kind == "busy" else None
            if found_spin is not None and found_spin.state != "hung":
                return f"pid {each.pid} uses {spins.cpu(each) * 100:.0f} % of a CPU, at other lines each time"
            often, worked, watched = runs.counted(each.main)
            if runs.runs_again(each.main) and worked >= _WORKS_SHARE * watched:
                return f"pid {each.pid} ran {often} times in {watched:.1f} s, for {worked * 1000:.0f} ms"
            if words := _now_and_then(each):
                return words
        elif words := _now_and_then(each):
            return words
        elif spins.cpu(each) >= IDLE_CORES:
            # No Python: that it uses a CPU is all that can be seen.
            return f"pid {each.pid} uses {spins.cpu(each) * 100:.0f} % of a CPU"
        elif seconds > 0 and spins.io_rate(scene, each) >= _MUCH_IO_BYTES_PER_SECOND:
            return f"pid {each.pid} moves {spins.io_rate(scene, each) / 1e6:.1f} MB a second"
    return ""


def one_works(scene: Scene, processes: Iterable[ProcessView]) -> str:
    """What shows that one of these that live advances, or nothing."""
    return next((words for each in processes if each.alive and (words := works(scene, each))), "")


def below_works(scene: Scene, process: ProcessView) -> str:
    """What shows that a process which this program started to work for it advances, or nothing."""
    workers = (each for each in process.children if each.by_multiprocessing and not serves_proxies(each))
    return one_works(scene, workers)


def waits_for_workers(scene: Scene, chain: Chain, does: str, words: str) -> Finding:
    """slow-progress: a thread that only waits, now and then, for workers of which one was seen to work."""
    return say.finding(
        scene,
        chain,
        "slow",
        "slow-progress",
        0.6,
        f"{say.who(chain.end.thread)} {does}; one of its workers works: {words}.",
        evidence=[words],
        next_steps=["look again: what the workers do should get on"],
    )


def _now_and_then(process: ProcessView) -> str:
    """What shows that a process which mostly waits reads or writes something again and again."""
    if process.main is None or not runs.runs_again(process.main) or not process.moved_between:
        return ""
    return f"pid {process.pid} reads and writes: {process.moved_between:,} bytes and more between our looks"


def slow_io(scene: Scene) -> Iterator[Finding]:
    """slow-io: bytes move, and the thread at the end stands in what moves them."""
    seconds = scene.view.elapsed_seconds
    for chain in scene.chains:
        process = chain.end.thread.process
        moved = process.io_bytes
        if progress(scene, chain) is not None or moved is None or not _moves_bytes(scene, chain):
            continue
        rate = moved / seconds
        files = _files(process)
        yield say.finding(
            scene,
            chain,
            "slow",
            "slow-io",
            0.8,
            f"It moves bytes: {rate / 1e6:.1f} MB a second{files}.",
            evidence=[f"pid {process.pid} moved {moved:,} bytes in {seconds:.1f} s"],
            next_steps=["see whether that is what the disk or the network can give"],
        )


def _moves_bytes(scene: Scene, chain: Chain) -> bool:
    """Whether its process moves many bytes, and it stands in what moves them."""
    enough = spins.MOSTLY_IO_BYTES_PER_SECOND if chain.end.kind == "busy" else _MUCH_IO_BYTES_PER_SECOND
    moving = chain.end.kind in ("busy", "disk", "native", "pipe-read", "pipe-write")
    return moving and spins.io_rate(scene, chain.end.thread.process) >= enough


def goes_on(scene: Scene, chain: Chain) -> bool:
    """Whether a chain ends in work that goes on: it counts, moves bytes, rests shortly, or computes."""
    if progress(scene, chain) is not None or _moves_bytes(scene, chain):
        return True
    if rests(scene, chain.end) is not None:
        return True
    found = spins.spinning(scene, chain) if chain.end.kind == "busy" else None
    return found is not None and found.state != "hung"


def _files(process: ProcessView) -> str:
    found = process.process.descriptors
    if not isinstance(found, Reading):
        return ""
    names = [each.target for each in found.value if each.kind == "file" and each.number > 2]
    return f", with {names[-1]} open" if names else ""
