"""A stall is noticed, kept as an incident, and over when progress returns; the run is never hurt."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support import run as runs
from tests.support import stalls
from tests.support.programs import completed
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., runs.Run]]:
    started = []

    def begin(*command: str, options: tuple[str, ...] = (), **kwargs: object) -> runs.Run:
        directory = kwargs.pop("directory", tmp_path / "run")
        started.append(runs.start(directory, *command, options=(*stalls.LIMIT, *options), **kwargs))
        return started[-1]

    yield begin
    for each in started:
        each.clean_up()


def test_a_stopped_trainer_is_an_incident_and_goes_on_unharmed(start: Callable[..., runs.Run]) -> None:
    run = start(*stalls.trainer("--steps", "150"), options=("--metrics-port", "0"))
    stalls.wait_for_step(run.directory, 20)
    os.kill(run.pid(), signal.SIGSTOP)
    opened = stalls.wait_for_incident(run.directory)
    assert opened["where"].startswith("train")
    assert opened["why"] == "set by --stall-timeout train=1.5"
    assert (opened["rank"], opened["evidence"]) == (0, "whole")
    assert "stopped" in opened["headline"]
    assert opened["cause"] == "stopped"
    counted = 'trainer_stalls_total{cause="stopped",rank="0",stage="train"}'
    wait_for(lambda: stalls.metrics(run).get(counted) == 1, what="the stall to be counted")
    first = stalls.metrics(run)
    first_age = age(first)
    wait_for(lambda: age(stalls.metrics(run)) > first_age + 0.5, what="the age to grow while nothing moves")
    assert first['trainer_stall_timeout_seconds{rank="0"}'] == 1.5
    os.kill(run.pid(), signal.SIGCONT)
    closed = stalls.wait_for_incident(run.directory, closed=True)
    assert closed["how"] == "progress"
    assert closed["closed_after_seconds"] > 1.5
    status, output = run.end()
    assert status == 0
    assert len(stalls.incidents(run.directory)) == 1
    assert "stalled · no progress for" in output
    assert "· incident 001 closed" in output
    explained = [explain(each) for each in (run.directory, run.directory / "incidents/001")]
    assert explained[0] == explained[1]
    assert explained[0].startswith("STOPPED")


def explain(directory: Path) -> str:
    done = completed([*runs.HARNESS, "explain", str(directory)])
    return done.stdout or done.stderr


SLOW = """
import time
from harness import emit

def positions(count):
    for position in range(count):
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            pass

emit.open(total_steps=21)
emit.stage("train")
for step in range(20):
    time.sleep(0.02)
    emit.step(step + 1)
positions(160)
emit.step(21)
emit.close()
"""


def test_a_step_that_is_slow_and_not_hung_opens_no_incident(
    start: Callable[..., runs.Run], tmp_path: Path
) -> None:
    """The M7C case: silent far over its limit, while the loop over positions goes on."""
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    run = start(sys.executable, str(script))
    status, output = run.end()
    assert status == 0
    events = [
        json.loads(line) for line in (run.directory / "events/supervisor.jsonl").read_text().splitlines()
    ]
    assert "suspicion-dismissed" in {event["event"] for event in events}, events
    assert stalls.incidents(run.directory) == []
    assert "stalled ·" not in output


def age(metrics: dict[str, float]) -> float:
    return time.time() - metrics['trainer_last_progress_timestamp_seconds{rank="0"}']


@pytest.mark.parametrize(
    ("fault", "function", "cause"),
    [
        ("backtrack", "backtrack", "native-spin"),
        ("gil", "hold_gil", "sleep"),
        ("sleep", "wait_for_data", "sleep"),
        ("spin", "spin", "python-spin"),
    ],
)
def test_the_line_that_it_hangs_in_stands_in_the_incident(
    start: Callable[..., runs.Run], fault: str, function: str, cause: str
) -> None:
    run = start(*stalls.trainer("--fault", fault), options=("--metrics-port", "0"))
    opened = stalls.wait_for_incident(run.directory)
    assert opened["cause"] == cause
    assert f"in {function}" in opened["headline"]
    assert "trainer.py:" in opened["headline"]
    assert opened["step"] == 29
    assert opened["phase"] == "data"
    assert stalls.metrics(run)['trainer_up{rank="0"}'] == 1, "served while the GIL is held"
    folder = run.directory / "incidents" / "001"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert function in (folder / "summary.txt").read_text()


def test_a_target_that_dies_while_evidence_is_taken_ends_the_run_in_order(
    start: Callable[..., runs.Run],
) -> None:
    run = start(*stalls.trainer("--fault", "sleep"))
    collector(run)
    os.kill(run.pid(), signal.SIGKILL)
    status, _ = run.end()
    assert status == 137
    [incident] = stalls.incidents(run.directory)
    assert incident["how"] == "killed by SIGKILL"
    assert [path.name for path in (run.directory / "incidents").iterdir()] == ["001"]


def test_a_collector_that_is_killed_costs_a_line(start: Callable[..., runs.Run]) -> None:
    run = start(*stalls.trainer("--fault", "sleep"), options=("--metrics-port", "0"))
    collector(run).kill()
    opened = stalls.wait_for_incident(run.directory)
    assert opened["evidence"] == "taking evidence was killed by SIGKILL"
    counted = 'harness_collect_errors_total{collector="gather"}'
    wait_for(lambda: stalls.metrics(run).get(counted) == 1, what="the failure to be counted")
    assert runs.lives(run.pid())


def collector(run: runs.Run) -> psutil.Process:
    """The supervisor's child that takes evidence, as soon as it is there."""

    def find() -> psutil.Process | None:
        for child in psutil.Process(run.process.pid).children():
            try:
                if "harness.collect" in child.cmdline():
                    return child
            except psutil.Error:
                continue
        return None

    return wait_for(find, stalls.DEADLINE_SECONDS, "the taking of evidence")


def test_a_supervisor_that_is_killed_leaves_the_training_alone_and_a_second_one_goes_on(
    start: Callable[..., runs.Run],
) -> None:
    first = start(*stalls.trainer("--steps", "400"))
    stalls.wait_for_step(first.directory, 20)
    trainer = first.pid()
    os.kill(trainer, signal.SIGSTOP)
    stalls.wait_for_incident(first.directory)
    first.process.kill()
    first.process.communicate()
    assert runs.lives(trainer)
    second = start()
    lock = second.directory / "nodes" / "supervisor.lock"
    wait_for(lambda: lock.read_text().startswith(f"{second.process.pid} "), what="the second to take over")
    os.kill(trainer, signal.SIGCONT)
    closed = stalls.wait_for_incident(second.directory, closed=True)
    assert closed["how"] == "progress"
    assert second.end()[0] == 0
    assert len(stalls.incidents(second.directory)) == 1, "one stall, one incident, two supervisors"
    assert stalls.step(second.directory) == 400


def test_ranks_that_wait_for_a_stalled_one_are_one_incident(start: Callable[..., runs.Run]) -> None:
    run = start(*stalls.ranks(2, "--steps", "100000"))
    for rank in (0, 1):
        stalls.wait_for_step(run.directory, 10, rank)
    stopped = [process for process in run.tree() if "trainer.py" in " ".join(process.cmdline()[1:2])]
    assert len(stopped) == 2
    for process in stopped:
        process.suspend()
    stalls.wait_for_incident(run.directory)
    for process in stopped:
        process.resume()
    closed = stalls.wait_for_incident(run.directory, closed=True)
    assert sorted(closed["ranks"]) == [0, 1]
    assert len(stalls.incidents(run.directory)) == 1


def test_a_silent_command_is_judged_by_its_log_and_its_activity(start: Callable[..., runs.Run]) -> None:
    source = (
        "import time\n"
        "for line in range(5):\n"
        "    print(line, flush=True)\n"
        "    time.sleep(0.2)\n"
        "time.sleep(3600)\n"
    )
    run = start(sys.executable, "-c", source, options=("--stall-timeout", "log=4"))
    opened = stalls.wait_for_incident(run.directory)
    assert opened["summary"].startswith("no log line for ")
    assert "no CPU used for " in opened["summary"]
    assert (opened["rank"], opened["stage"]) == (None, "log")


def test_one_that_is_deaf_to_sigterm_is_killed_after_the_grace_that_was_given(
    start: Callable[..., runs.Run],
) -> None:
    source = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "from harness import emit\n"
        "emit.open(total_steps=100)\n"
        "emit.stage('train')\n"
        "for n in range(1, 30):\n"
        "    time.sleep(0.01)\n"
        "    emit.step(n)\n"
        "time.sleep(3600)\n"
    )
    run = start(sys.executable, "-c", source, options=("--on-stall", "terminate", "--grace", "0.5"))
    status, text = run.end()
    assert status == 124
    assert "not ended within 0.5 s of SIGTERM: killing it" in text


def test_terminate_takes_evidence_first_and_leaves_nothing_behind(start: Callable[..., runs.Run]) -> None:
    run = start(
        *stalls.ranks(2, "--fault", "gil", "--rank", "1"), options=("--on-stall", "terminate", "--grace", "2")
    )
    stalls.wait_for_step(run.directory, 29, rank=1)
    tree = run.tree()
    status, _ = run.end()
    assert status == 124
    [incident] = stalls.incidents(run.directory)
    assert "hold_gil" in incident["headline"]
    assert incident["closed_at"] is not None
    assert not any(runs.lives(process.pid) for process in tree)
    assert run.attempt()["ended_by"] == "stall"
