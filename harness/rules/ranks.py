"""Ranks that wait for each other: different collectives, one that is elsewhere, or dead.

Judged by the Python frames of all ranks of this machine. Not covered: ranks on other machines, and what a
flight recorder tells (`flights`); ranks that never came (`rendezvous`).
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from harness.evidence import Reading
from harness.rules import activity, flights, say, spawned
from harness.rules.progress import by_counter, by_record
from harness.wire import ENDED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.findings import Finding
    from harness.rules.chain import Chain
    from harness.rules.scene import Scene
    from harness.rules.view import ProcessView
    from harness.rules.waits import Wait

_BACKWARD = re.compile(r"torch/(_tensor|autograd/.*)\.py$")
_GONE = frozenset({"exit"})


def collectives(scene: Scene) -> Iterator[Finding]:
    """collective-mismatch, collective-straggler and rank-dead."""
    chains = {id(chain.begin.thread.process): chain for chain in scene.chains}
    waiting = {key: op for key, chain in chains.items() if (op := operation(chain))}
    if not waiting or _any_moves(scene):
        return
    absent_chains = [each for each in scene.chains if id(each.begin.thread.process) not in waiting]
    if any(activity.goes_on(scene, each) for each in absent_chains):
        return  # the others wait for one that does its work
    if any(_came(scene, each) for each in scene.chains if id(each.begin.thread.process) in waiting):
        return  # the collective before this one was seen to end
    ranks = [each for each in scene.view.ranks if id(each) in chains]
    in_it = [chains[id(each)] for each in ranks if id(each) in waiting]
    absent = [each for each in ranks if id(each) not in waiting]
    dead = dead_ranks(scene)
    if not in_it:
        return
    if dead:
        yield rank_dead(scene, in_it[0], dead)
        return
    left = [each for each in absent if chains[id(each)].begin.kind in _GONE]
    if left:
        chain = chains[id(left[0])]
        yield _mismatch(
            scene, chain, in_it, f"{say.who(chain.begin.thread)} has left the loop and is at its end"
        )
        return
    if absent:
        for each in absent:
            chain = chains[id(each)]
            where = say.at_end(chain)
            yield say.finding(
                scene,
                chain,
                "hung",
                "collective-straggler",
                0.98 if _seen(each) else 0.7,
                f"{say.who(chain.begin.thread)} never came to the "
                f"{waiting[id(in_it[0].begin.thread.process)]} that "
                f"{_names(in_it)} wait{'s' if len(in_it) == 1 else ''} in: "
                f"it is at {say.place(where.user)}, and {say.doing(chain.end)}.",
                evidence=[_stands(other, waiting) for other in in_it[:4]]
                + [
                    (f"{say.who(chain.begin.thread)} {say.doing(chain.end)} at {say.place(where.user)}"),
                    *flights.facts(scene),
                ],
                next_steps=["see the second finding: what holds the absent rank there"],
            )
        return
    operations = Counter(waiting.values())
    places = Counter(_place(each) for each in in_it)
    if len(operations) > 1 or (len(places) > 1 and len(in_it) > 1):
        odd = _odd(in_it, waiting)
        its = waiting[id(odd.begin.thread.process)]
        others = [each for each in in_it if each is not odd]
        elsewhere = Counter(waiting[id(each.begin.thread.process)] for each in others).most_common(1)[0][0]
        words = f"{say.who(odd.begin.thread)} is in {its}, {_names(others)} in {elsewhere}"
        if elsewhere == its:
            words += ", at another line"
        yield _mismatch(scene, odd, in_it, words)
        return
    size = world_size(scene)
    if set(operations) == {"recv"} and len(in_it) > 1 and len(in_it) == (size or len(ranks)):
        yield _mismatch(scene, in_it[0], in_it, "each of them waits to receive, and none sends")
        return
    if size is not None and len(ranks) < size:
        yield say.finding(
            scene,
            in_it[0],
            "hung",
            "rank-dead" if _same_host(scene, size) else "collective-straggler",
            0.7,
            f"All ranks here wait in the same {next(iter(operations))}; {size - len(ranks)} of "
            f"{size} ranks are not here.",
            evidence=[_stands(each, waiting) for each in in_it[:4]],
            next_steps=["run harness diagnose on the other machines"],
        )


def _came(scene: Scene, chain: Chain) -> bool:
    """Whether a rank came to its collective while we looked."""
    return scene.motion(_place_in(chain).thread).user_lines_changed


def operation(chain: Chain) -> str:
    """The collective that a rank waits in, by its main thread or by one that this waits for; or nothing."""
    return _operation(_place_in(chain))


def _place_in(chain: Chain) -> Wait:
    """The wait in a collective, of the rank's own threads; else where its main thread is."""
    own = [each for each in chain.waits if each.thread.process is chain.begin.thread.process]
    return next((each for each in own if _operation(each)), chain.begin)


def _operation(wait: Wait) -> str:
    if wait.kind == "collective" and wait.frame is not None:
        if "distributed_c10d" in wait.frame.file:
            return wait.frame.function
        return "DDP's reduction" if "nn/parallel" in wait.frame.file else "a functional collective"
    process = wait.thread.process
    several = process.environment.get("WORLD_SIZE", "1") != "1" or len(process.view.ranks) > 1
    ranked = process.rank is not None and several
    if not ranked or wait.kind not in ("native", "native-futex", "lock", "busy"):
        return ""
    native = " ".join(each.function for each in wait.thread.native_frames)
    if "c10d::" in native:
        return "backward (DDP)" if "Reducer" in native or "Engine" in native else "a collective's wait()"
    backward = any(
        _BACKWARD.search(each.file) and "backward" in each.function for each in wait.thread.python_frames
    )
    if backward and wait.kind != "busy" and wait.thread.stood_still:
        return "backward (DDP)"
    return ""


def dead_ranks(scene: Scene) -> list[str]:
    """Ranks that are zombies, or gone, though they are known: by the tree, by their heartbeats."""
    size, alive = world_size(scene), [each for each in scene.view.ranks if each.alive]
    if size is not None and len(alive) >= size:
        return []  # all are here: whatever ended beside them was no rank
    ended = [
        each
        for each in scene.view.processes
        if (not each.alive or each.process.state in "ZX")
        and (each.rank is not None or _beside_ranks(scene, each))
    ]
    gone = [f"{_rank_of(scene, each, len(ended))} (pid {each.pid}) {each.ended}" for each in ended]
    here = {each.pid for each in scene.view.processes}
    for sample in scene.view.case.samples[-1:]:
        if isinstance(sample.records, Reading):
            gone += [
                f"rank {record.get('rank')} (pid {record.get('pid')}) has ended"
                for record in sample.records.value
                if record.get("pid") not in here and record.get("closed_status") in (None, ENDED)
            ]
    return gone


def _rank_of(scene: Scene, process: ProcessView, ended: int) -> str:
    """Its rank; of the only one that ended, the only one that is missing."""
    if process.rank is not None:
        return f"rank {process.rank}"
    size, here = world_size(scene), {each.rank for each in scene.view.ranks}
    missing = set(range(size)) - here if size is not None else set()
    return f"rank {missing.pop()}" if ended == len(missing) == 1 else "a rank"


def _beside_ranks(scene: Scene, process: ProcessView) -> bool:
    """Whether a process that ended was a sibling of ranks: a zombie has no environment to tell its rank."""
    return any(each.process.ppid == process.process.ppid for each in scene.view.ranks if each is not process)


def world_size(scene: Scene) -> int | None:
    """How many ranks there should be."""
    for each in scene.view.ranks:
        if (text := each.environment.get("WORLD_SIZE", "")).isdigit():
            return int(text)
    return next((size for each in scene.view.ranks if (size := spawned.world_size(each))), None)


def _same_host(scene: Scene, size: int) -> bool:
    return any(each.environment.get("LOCAL_WORLD_SIZE") == str(size) for each in scene.view.ranks)


def _any_moves(scene: Scene) -> bool:
    return any(
        by_record(scene, chain.begin.thread.process)
        or any(by_counter(scene, wait.thread) for wait in chain.waits)
        for chain in scene.chains
    )


def _seen(process: ProcessView) -> bool:
    return process.main is not None and bool(process.main.frames)


def rank_dead(scene: Scene, chain: Chain, dead: list[str]) -> Finding:
    """rank-dead: the others wait for one of these."""
    return say.finding(
        scene,
        chain,
        "hung",
        "rank-dead",
        0.93,
        f"{say.who(chain.begin.thread)} waits in {operation(chain) or 'the rendezvous'} for a rank "
        f"that is gone: {'; '.join(dead)}.",
        evidence=dead,
        next_steps=["see the end of that rank's log", "dmesg | grep -i 'killed process'"],
    )


def _mismatch(scene: Scene, odd: Chain, waiting: list[Chain], words: str) -> Finding:
    names = {id(each.begin.thread.process): operation(each) for each in waiting}
    return say.finding(
        scene,
        odd,
        "hung",
        "collective-mismatch",
        0.93,
        f"The ranks are not in the same collective: {words}.",
        evidence=[*(_stands(each, names) for each in waiting[:6]), *flights.facts(scene)],
        next_steps=[
            "make every rank take the same branch, and the same number of steps",
            (
                "as many batches on each rank (drop_last=True), or DistributedDataParallel.join()"
                if any("DDP" in each for each in names.values())
                else ""
            ),
        ],
        wait=_place_in(odd),
    )


def _stands(chain: Chain, names: dict[int, str]) -> str:
    wait = _place_in(chain)
    operation_name = names.get(id(wait.thread.process), "nothing")
    return f"{say.who(wait.thread)} waits in {operation_name} at {say.place(wait.user)}"


def _names(chains: list[Chain]) -> str:
    names = [say.who(each.begin.thread) for each in chains]
    return ", ".join(names[:4]) + (" and others" if len(names) > 4 else "")


def _place(chain: Chain) -> tuple[str, str, int]:
    frame = _place_in(chain).user
    return (frame.file, frame.function, frame.line) if frame is not None else ("", "", 0)


def _odd(chains: list[Chain], names: dict[int, str]) -> Chain:
    """The one that differs from most; of two, the one that is further on."""
    counted = Counter((names[id(each.begin.thread.process)], _place(each)) for each in chains)
    key = {id(each): counted[names[id(each.begin.thread.process)], _place(each)] for each in chains}
    rarest = min(key.values())
    rare = [each for each in chains if key[id(each)] == rarest]
    # One that is out of the loop stands in fewer frames, or at a later line.
    return max(rare, key=lambda each: (-len(_place_in(each).thread.python_frames), _place(each)[2]))
