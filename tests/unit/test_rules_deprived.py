"""Recorded Cases with readings taken away: what only waits is never called hung, what lives never ended."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from harness import bundle
from harness.evidence import Missing, Reading
from harness.rules import diagnose, enough
from tests.support.env import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.evidence import Case, ProcessSample

CASES = sorted(path.parent for path in (REPOSITORY / "tests" / "cases").glob("*/*/case.json"))
LATE = Missing(reason="timed_out", detail="no answer within 1.0 s")
DENIED = Missing(reason="denied", detail="not permitted")


def in_samples(
    case: Case,
    change: Callable[[ProcessSample], ProcessSample],
    *,
    where: Callable[[int, int], bool] = lambda index, count: True,
) -> Case:
    """The Case with every process changed in the samples that are chosen by index and count."""
    count = len(case.samples)
    return replace(
        case,
        samples=tuple(
            replace(sample, processes=tuple(change(each) for each in sample.processes))
            if where(index, count)
            else sample
            for index, sample in enumerate(case.samples)
        ),
    )


def late(process: ProcessSample) -> ProcessSample:
    return replace(process, activity=LATE, io=LATE, threads=LATE, stacks=LATE)


def without_locals(process: ProcessSample) -> ProcessSample:
    if not isinstance(process.stacks, Reading):
        return process
    dump = process.stacks.value
    threads = tuple(
        replace(thread, frames=tuple(replace(frame, locals=()) for frame in thread.frames))
        for thread in dump.threads
    )
    return replace(
        process, stacks=replace(process.stacks, value=replace(dump, method="nonblocking", threads=threads))
    )


def without_calls(process: ProcessSample) -> ProcessSample:
    if not isinstance(process.threads, Reading):
        return process
    threads = tuple(replace(each, syscall=DENIED) for each in process.threads.value)
    return replace(process, threads=replace(process.threads, value=threads))


DEPRIVED: dict[str, Callable[[Case], Case]] = {
    "the last sample came too late": lambda case: in_samples(case, late, where=lambda at, n: at == n - 1),
    "one sample alone came in time": lambda case: in_samples(case, late, where=lambda at, n: at > 0),
    "the first sample came too late": lambda case: in_samples(case, late, where=lambda at, n: at == 0),
    "one sample": lambda case: replace(case, samples=case.samples[:1]),
    "two samples": lambda case: replace(case, samples=case.samples[:2]),
    "no stacks": lambda case: in_samples(case, lambda each: replace(each, stacks=DENIED)),
    "no locals": lambda case: in_samples(case, without_locals),
    "no system calls": lambda case: in_samples(case, without_calls),
    "no threads": lambda case: in_samples(case, lambda each: replace(each, threads=DENIED)),
    "no I/O": lambda case: in_samples(case, lambda each: replace(each, io=DENIED)),
    "no source": lambda case: replace(case, sources=()),
    "no descriptors": lambda case: replace(
        case, processes=tuple(replace(each, descriptors=DENIED, sockets=DENIED) for each in case.processes)
    ),
    "no pipes, no locks": lambda case: replace(case, pipes=DENIED, locks=DENIED),
    "no records": lambda case: replace(
        case,
        run=DENIED,
        steps=DENIED,
        samples=tuple(replace(sample, records=DENIED) for sample in case.samples),
    ),
}


@pytest.mark.parametrize("deprive", DEPRIVED.values(), ids=DEPRIVED)
def test_with_a_needed_reading_missing_it_abstains(deprive):
    wrong = []
    for folder in CASES:
        expected = json.loads((folder / "expected.json").read_text())
        verdict = diagnose(deprive(bundle.load(folder))).verdict
        waits = expected["state"] in ("healthy", "slow")
        if (waits and verdict.state == "hung") or (verdict.state == "exited" != expected["state"]):
            wrong.append(f"{folder.parent.name}/{folder.name}: {verdict.state} {verdict.cause}")
    assert not wrong


def test_it_says_what_it_looks_like_and_what_was_not_read():
    case = bundle.load(next(folder for folder in CASES if folder.name == "regex"))
    found = diagnose(DEPRIVED["no locals"](case))
    assert found.verdict.state == "unknown"
    assert found.verdict.evidence[0].startswith("it looks like native-spin, but its variables")
    assert found.verdict.next_steps[0].endswith("without --no-locals")
    assert (found.findings[1].cause, found.findings[1].confidence) == ("native-spin", enough.GUESS)
