"""`--on-stall restart`: the same run directory, the next attempt, and not one step lost or done twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import run as runs
from tests.support import stalls
from tests.support.env import clean_env
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., runs.Run]]:
    started = []

    def begin(*command: str, restarts: int = 5, limit: tuple[str, ...] = stalls.LIMIT) -> runs.Run:
        options = (*limit, "--on-stall", "restart", "--max-restarts", str(restarts), "--grace", "2")
        started.append(runs.start(tmp_path / "run", *command, options=options))
        return started[-1]

    yield begin
    for each in started:
        each.clean_up()


def losses(path: Path) -> list[str]:
    return path.read_text().splitlines()


def attempts_of(run: runs.Run) -> int:
    return len(run.record()["attempts"]) if (run.directory / "run.json").exists() else 0


def uninterrupted(tmp_path: Path, steps: int) -> list[str]:
    """What the same training says without a fault."""
    path = tmp_path / "uninterrupted"
    command = [*stalls.trainer("--steps", str(steps), "--seconds", "0"), "--losses", str(path)]
    subprocess.run(command, env=clean_env(), cwd=tmp_path, check=True, timeout=60, capture_output=True)
    return losses(path)


def test_a_stalled_run_is_restarted_and_ends_as_if_nothing_had_been(
    start: Callable[..., runs.Run], tmp_path: Path
) -> None:
    path = tmp_path / "losses"
    run = start(
        *stalls.trainer(
            "--steps", "60", "--save", "--losses", str(path), "--fault", "sigstop", "--attempts", "1"
        )
    )
    status, output = run.end()
    assert status == 0, output
    assert losses(path) == uninterrupted(tmp_path, 60)
    attempts = run.record()["attempts"]
    assert [attempt["ended_by"] for attempt in attempts] == ["stall", "itself"]
    [incident] = stalls.incidents(run.directory)
    assert incident["attempt"] == 1
    assert incident["closed_at"] is not None
    assert "restart 1 of 5" in output


def test_killed_at_a_random_step_five_times_in_a_row_nothing_is_lost(
    start: Callable[..., runs.Run], tmp_path: Path
) -> None:
    path = tmp_path / "losses"
    run = start(*stalls.trainer("--steps", "300", "--seconds", "0.01", "--save", "--losses", str(path)))
    step = 0
    for attempt in range(1, 6):
        wait_for(lambda number=attempt: attempts_of(run) == number, 30, f"attempt {attempt}")
        step = random.randint(step + 2, 50 * attempt)
        stalls.wait_for_step(run.directory, step)
        os.kill(run.pid(), signal.SIGKILL)
    status, output = run.end()
    assert status == 0, output
    expected = uninterrupted(tmp_path, 300)
    # A step may be in the log of losses twice where it was killed before it was saved; never with two values.
    assert sorted(set(losses(path)), key=lambda line: int(line.split()[0])) == expected
    assert len(run.record()["attempts"]) == 6
    assert stalls.incidents(run.directory) == []


@pytest.mark.parametrize(
    ("fault", "status", "attempts", "words"),
    [
        ("usage", 2, 1, "exit 2 means that"),
        ("save-and-stop", 75, 1, "exit 75 means that"),
        ("sigterm", 143, 1, "somebody asked it to stop"),
        ("fails", 1, 3, "3 attempts in a row did not get past step 9"),
        ("sigkill", 137, 3, "3 attempts in a row did not get past step 9"),
    ],
)
def test_what_a_restart_does_not_mend_is_given_up_with_a_clear_line(
    start: Callable[..., runs.Run], fault: str, status: int, attempts: int, words: str
) -> None:
    run = start(*stalls.trainer("--fault", fault, "--at", "10", "--save", "--seconds", "0"))
    found, output = run.end()
    assert (found, len(run.record()["attempts"])) == (status, attempts)
    assert f"not restarted: {words}" in output


def test_a_stall_that_comes_back_ends_with_124_once_restarts_are_used_up(
    start: Callable[..., runs.Run],
) -> None:
    run = start(*stalls.trainer("--fault", "gil", "--at", "10", "--save", "--seconds", "0"), restarts=1)
    status, output = run.end()
    assert status == 124
    assert "--max-restarts 1 used up" in output
    assert [incident["attempt"] for incident in stalls.incidents(run.directory)] == [1, 2]


# The first attempt is suspected of a stall, and dies while evidence of it is taken; the second one is well.
DIES_UNDER_SUSPICION = """
import os, pathlib, time
print("attempt", os.environ["HARNESS_ATTEMPT"], flush=True)
events = pathlib.Path(os.environ["HARNESS_RUN_DIR"], "events", "supervisor.jsonl")
while os.environ["HARNESS_ATTEMPT"] == "1":
    time.sleep(0.05)
    if events.exists() and '"suspected"' in events.read_text():
        os.abort()
for _ in range(15):
    print("tick", flush=True)
    time.sleep(0.2)
"""


def test_a_stall_of_an_attempt_that_died_is_no_reason_to_end_the_next_one(
    start: Callable[..., runs.Run],
) -> None:
    status, output = start(*runs.python(DIES_UNDER_SUSPICION), limit=("--stall-timeout", "log=2")).end()
    assert status == 0, output
    assert "stalled" in output
    assert "ending the command" not in output
