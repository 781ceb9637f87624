"""NVIDIA's list of faults that need no GPU, on one rank of two: exit status, evidence, nothing left behind.

The faults are those of the resiliency extension's injection list: exception, asynchronous exception, abort,
segfault, GIL lock, SIGINT, SIGTERM, SIGKILL, SIGSTOP.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.watch import heartbeat
from tests.support import run as runs
from tests.support import stalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., runs.Run]]:
    started = []

    def begin(*command: str, options: tuple[str, ...] = ()) -> runs.Run:
        started.append(
            runs.start(tmp_path / "run", *command, options=(*stalls.LIMIT, "--grace", "2", *options))
        )
        return started[-1]

    yield begin
    for each in started:
        each.clean_up()


def faulty(fault: str) -> tuple[str, ...]:
    return stalls.ranks(2, "--fault", fault, "--rank", "1", "--seconds", "0.01")


@pytest.mark.parametrize(
    ("fault", "in_log"),
    [
        ("exception", "RuntimeError: the data is bad"),
        ("async-exception", "RuntimeError"),
        ("abort", "rank 1 ended with -6"),
        ("segfault", "rank 1 ended with -11"),
        ("sigint", "KeyboardInterrupt"),
        ("sigterm", "rank 1 ended with -15"),
        ("sigkill", "rank 1 ended with -9"),
    ],
)
def test_a_rank_that_dies_ends_the_run_with_the_launchers_status(
    start: Callable[..., runs.Run], fault: str, in_log: str
) -> None:
    run = start(*faulty(fault))
    status, _ = run.end()
    assert status == 1
    assert in_log in run.log()
    # The dead rank's record tells how far it came; that it never said goodbye tells how it went.
    record = heartbeat.read(run.directory / "ranks" / "00001.beat")
    assert (record.step, record.phase, record.closed_status) == (29, "data", None)
    assert not processes_of(run)
    assert stalls.incidents(run.directory) == []


@pytest.mark.parametrize(("fault", "word"), [("gil", "hold_gil"), ("sigstop", "stopped")])
def test_a_rank_that_stands_still_is_kept_as_evidence_and_ended_with_all_others(
    start: Callable[..., runs.Run], fault: str, word: str
) -> None:
    run = start(*faulty(fault), options=("--on-stall", "terminate"))
    status, _ = run.end()
    assert status == 124
    [incident] = stalls.incidents(run.directory)
    assert incident["rank"] == 1
    assert word in incident["headline"]
    assert (run.directory / "incidents" / "001" / "case.json").exists()
    assert not processes_of(run)


@pytest.mark.needs("torch")
@pytest.mark.parametrize(("fault", "status"), [("sigkill", 1), ("gil", 124)])
def test_the_same_under_torchrun_whose_ranks_have_sessions_of_their_own(
    start: Callable[..., runs.Run], fault: str, status: int
) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    script = (stalls.TRAINER, "--fault", fault, "--rank", "1", "--quiet")
    run = start(*torchrun, *script, options=("--on-stall", "terminate"))
    found, output = run.end()
    assert found == status, output
    found_incidents = stalls.incidents(run.directory)
    assert [incident["rank"] for incident in found_incidents] == ([1] if fault == "gil" else [])
    assert not processes_of(run)


def processes_of(run: runs.Run) -> list[psutil.Process]:
    """Whatever of the run still lives, found by its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HARNESS_RUN_DIR") == str(run.directory) and runs.lives(process.pid):
                found.append(process)
        except psutil.Error:
            continue
    return found
