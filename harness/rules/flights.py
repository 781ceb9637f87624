"""What the ranks entered, by torch's flight recorder: where their collectives part, and who is the odd one.

Stacks tell where the host's threads stand; with asynchronous collectives (NCCL) that is later than the one
that hangs, and a rank on another machine has no stack here. The recorder numbers the collectives of each
group, so the first number at which the ranks differ is where they parted. Dumps older than the training
count for nothing.

Tried with dumps that torch 2.13 wrote of gloo; not verified on NCCL's. Not covered: sends and receives.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.evidence import Frame, Reading
from harness.rules import say
from harness.rules.progress import by_counter, by_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from harness.evidence import FlightDump, FlightEntry
    from harness.findings import Finding
    from harness.rules.scene import Scene

# Operations to which every rank brings as much.
_EVEN = frozenset({"all_reduce", "reduce_scatter", "_reduce_scatter_base", "_all_gather_base"})
_CONFIDENCE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """Where the ranks of one group part: what each entered under one number; `odd` are those who differ."""

    group: str
    sequence: int
    entered: Mapping[int, FlightEntry]
    odd: tuple[int, ...]
    absent: bool

    @property
    def words(self) -> tuple[str, ...]:
        """A line per rank."""
        told = [
            f"flight recorder: rank {rank} entered {_named(each)} as number {self.sequence} "
            f"at {say.place(_frame(each))}"
            for rank, each in sorted(self.entered.items())[:6]
        ]
        if self.absent:
            told += [
                f"flight recorder: rank {rank} never entered number {self.sequence}" for rank in self.odd[:6]
            ]
        return tuple(told)


def recorded(scene: Scene) -> Iterator[Finding]:
    """collective-mismatch and collective-straggler, from the dumps alone."""
    found = parting(scene)
    if found is None or not scene.chains or _moves(scene):
        return
    here = {chain.begin.thread.process.rank: chain for chain in scene.chains}
    odd = next((rank for rank in found.odd if rank in here), None)
    chain = here[odd] if odd is not None else scene.chains[0]
    names = _ranks(found.odd)
    operation = _named(next(iter(found.entered.values())))
    if found.absent:
        waiting = _ranks(tuple(sorted(found.entered)))
        where = say.at_end(chain)
        yield say.finding(
            scene,
            chain,
            "hung",
            "collective-straggler",
            _CONFIDENCE,
            f"{names} never came to {operation}, number {found.sequence} of its group, that {waiting} entered"
            + (f": it is at {say.place(where.user)}." if odd is not None else "; it is on another machine."),
            evidence=found.words,
            next_steps=["see what holds the absent rank there"],
        )
        return
    entry = found.entered[found.odd[0]]
    blamed = dataclasses.replace(chain.begin, user=_frame(entry)) if odd is not None and entry.line else None
    yield say.finding(
        scene,
        chain,
        "hung",
        "collective-mismatch",
        _CONFIDENCE,
        f"The ranks are not in the same collective: as number {found.sequence} of its group {names} entered "
        f"{_named(entry)}, {_others(found)}.",
        evidence=found.words,
        next_steps=["make every rank take the same branch, and the same number of steps"],
        wait=blamed,
    )


def _others(found: Parting) -> str:
    """What the other ranks entered."""
    others: dict[str, list[int]] = {}
    for rank, each in sorted(found.entered.items()):
        if rank not in found.odd:
            others.setdefault(_named(each), []).append(rank)
    return ", ".join(f"{_ranks(tuple(ranks))} {named}" for named, ranks in list(others.items())[:3])


def facts(scene: Scene) -> tuple[str, ...]:
    """The recorder's lines, for findings that stand on stacks."""
    found = parting(scene)
    return found.words if found is not None else ()


def parting(scene: Scene) -> Parting | None:
    """The first number at which the dumps of one group differ, if they do."""
    dumps = {each.rank: each for each in _fresh(scene)}
    groups = sorted({entry.group for each in dumps.values() for entry in each.entries})
    for group in groups:
        entered = {
            rank: {entry.sequence: entry for entry in each.entries if entry.group == group}
            for rank, each in dumps.items()
        }
        found = _parting(group, {rank: each for rank, each in entered.items() if each})
        if found is not None:
            return found
    return None


def _parting(group: str, entered: Mapping[int, Mapping[int, FlightEntry]]) -> Parting | None:
    if len(entered) < 2:
        return None
    first = max(min(each) for each in entered.values())
    newest = {rank: max(each) for rank, each in entered.items()}
    for sequence in range(first, min(newest.values()) + 1):
        at = {rank: each[sequence] for rank, each in entered.items() if sequence in each}
        kinds = Counter(map(_kind, at.values()))
        if len(kinds) > 1:
            rarest = min(kinds.values())
            odd = [rank for rank, each in at.items() if kinds[_kind(each)] == rarest]
            # Of two, the one whose collective is the rarer one; else the one further on, as in `ranks`.
            usual = Counter(_kind(entry) for each in entered.values() for entry in each.values())
            odd.sort(key=lambda rank: (usual[_kind(at[rank])], -at[rank].line, rank))
            chosen = odd[:1] if len(odd) * 2 >= len(at) else odd
            return Parting(group=group, sequence=sequence, entered=at, odd=tuple(chosen), absent=False)
    behind = min(newest.values())
    ahead = {rank: each[behind + 1] for rank, each in entered.items() if behind + 1 in each}
    if not ahead or not any(each.pending for each in ahead.values()):
        return None
    absent = tuple(sorted(rank for rank, number in newest.items() if number == behind))
    return Parting(group=group, sequence=behind + 1, entered=ahead, odd=absent, absent=True)


def _fresh(scene: Scene) -> list[FlightDump]:
    """Dumps that were written since the training began."""
    found = scene.view.case.flight
    ages = [
        each.process.age_seconds.value
        for each in scene.view.trainers
        if isinstance(each.process.age_seconds, Reading)
    ]
    if not isinstance(found, Reading) or not ages:
        return []
    began = scene.view.case.taken_at_seconds - min(ages)
    return [each for each in found.value if each.modified_wall_seconds >= began]


def _moves(scene: Scene) -> bool:
    return any(
        by_record(scene, chain.begin.thread.process) or by_counter(scene, chain.begin.thread)
        for chain in scene.chains
    )


def _kind(entry: FlightEntry) -> tuple[str, str]:
    return entry.operation, entry.sizes if entry.operation in _EVEN else ""


def _named(entry: FlightEntry) -> str:
    return f"{entry.operation} {entry.sizes}".strip()


def _frame(entry: FlightEntry) -> Frame:
    return Frame(function=entry.function or "?", file=entry.file or "?", line=entry.line)


def _ranks(ranks: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, ranks[:6])) + (" and others" if len(ranks) > 6 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}"
