"""What a Case could not see, and why: each kind of evidence once. Not covered: what was seen (`unknown`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.evidence import Missing, Reading
from harness.findings import Unchecked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.evidence import Case, Piece


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
