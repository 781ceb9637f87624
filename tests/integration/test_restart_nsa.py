"""nsa under `--on-stall restart`: killed at random steps, five times in a row, and equal to the bit."""

from __future__ import annotations

import json
import os
import random
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import run as runs
from tests.support import stalls, tiny_run
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.needs("torch", "pydantic", "yaml"), pytest.mark.timeout(300)]

STEPS = 120
KILLS = 5


def test_five_kills_at_random_steps_leave_the_losses_of_an_uninterrupted_run(tmp_path: Path) -> None:
    config = tiny_run.config(tmp_path, train={"steps": STEPS}, eval={"every": 50}, checkpoint={"every": 3})
    whole = tmp_path / "whole"
    done = tiny_run.run("train", config, "--out", whole)
    assert done.returncode == 0, done.stderr
    expected = tiny_run.losses(whole)
    assert sorted(expected) == list(range(1, STEPS + 1))

    options = ("--on-stall", "restart", "--max-restarts", str(KILLS))
    run = runs.start(tmp_path / "run", *tiny_run.command("train", config), options=options)
    seed = random.randrange(1_000_000)
    chosen = random.Random(seed)
    try:
        for attempt in range(1, KILLS + 1):
            wait_for(
                lambda number=attempt: attempts_of(run) == number, 60, f"attempt {attempt} (seed {seed})"
            )
            # Beyond the last kill, so that each attempt gets further; checkpoints lie up to 3 steps back.
            step = chosen.randint(20 * attempt - 10, 20 * attempt)
            wait_for(
                lambda wanted=step: stalls.step(run.directory) >= wanted, 60, f"step {step} (seed {seed})"
            )
            os.kill(run.pid(), signal.SIGKILL)
        run.process.wait(timeout=120)
        status, output = run.end()
        assert status == 0, output
        found = tiny_run.losses(run.directory)
        assert found == expected, f"seed {seed}"
        assert attempts_of(run) == KILLS + 1
        assert stalls.incidents(run.directory) == []
    finally:
        run.clean_up()


def test_a_restart_goes_on_where_the_command_says_to_begin_anew(tmp_path: Path) -> None:
    config = tiny_run.config(tmp_path, train={"steps": 40}, checkpoint={"every": 3})
    older = tiny_run.run("train", config, "--out", tmp_path / "run")  # what `never` is to leave behind
    assert older.returncode == 0, older.stderr
    command = tiny_run.command("train", config, "--resume", "never")
    run = runs.start(tmp_path / "run", *command, options=("--on-stall", "restart", "--max-restarts", "1"))
    try:
        wait_for(lambda: 10 <= stalls.step(run.directory) < 40, 60, "step 10")
        os.kill(run.pid(), signal.SIGKILL)
        run.process.wait(timeout=120)
        status, output = run.end()
        assert status == 0, output
        rows = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
        first = {row.get("attempt"): row.get("step") for row in reversed(rows)}
        assert first[1] == 1
        assert first[2] > 1, "begins anew after the restart, too"
        assert "--resume never was for the first attempt" in (run.directory / "log/output.log").read_text()
    finally:
        run.clean_up()


def attempts_of(run: runs.Run) -> int:
    return len(run.record()["attempts"]) if (run.directory / "run.json").exists() else 0
