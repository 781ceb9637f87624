"""Hugging Face's Trainer, unchanged: what is recorded is what it logs itself, also after a resume."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support import auto
from tests.support.needs import require

if TYPE_CHECKING:
    from pathlib import Path

require("transformers")
require("accelerate")  # which the Trainer stands on

_PROGRAM = str(auto.TRAINERS / "hf.py")


def logged(stdout: str) -> list[list[float]]:
    return [json.loads(line) for line in stdout.splitlines() if line.startswith("[")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a run in it, and what the trainer printed."""
    folder = tmp_path_factory.mktemp("hf")
    return folder, auto.python(_PROGRAM, env=auto.environment(folder / "run"), cwd=folder)


def test_steps_losses_rates_and_norms_are_those_that_it_logs(trained: tuple[Path, str]) -> None:
    folder, said = trained
    rows, _, beat = auto.recorded(folder / "run")
    found = [(row.step, row.loss, row.learning_rates[0], row.grad_norm) for row in rows]
    assert len(found) == 12
    for ours, theirs in zip(found, logged(said), strict=True):
        assert ours == pytest.approx(tuple(theirs), rel=1e-6)  # it adds two losses in float32
    assert beat.total_steps == 12
    assert {row.tokens for row in rows} == {2 * 4 * 12}  # of 16 places four are padding


def test_stages_come_in_order_and_phases_are_told_apart(trained: tuple[Path, str]) -> None:
    rows, stages, beat = auto.recorded(trained[0] / "run")
    told = [each for each in stages if each != "command"]
    training = told[told.index("train") :]
    # Evaluations at steps 5 and 10 and at the end, checkpoints at step 8 and at the end.
    assert training[:7] == ["train", "eval", "train", "checkpoint", "train", "eval", "train"]
    assert "first_batch" in told[: told.index("train")]
    assert set(beat.phase_totals) >= {"data", "forward", "backward", "optimizer", "eval", "checkpoint"}
    assert all(row.phase_seconds["backward"] > 0 for row in rows)
    assert stages[-1] == "command"  # the training is over; what comes is the script's own


def test_it_is_the_same_to_the_bit(trained: tuple[Path, str], tmp_path: Path) -> None:
    alone = auto.python(_PROGRAM, env=auto.environment(None), cwd=tmp_path)
    assert logged(alone) == logged(trained[1])


def test_a_resumed_run_goes_on_counting(trained: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(trained[0] / "out" / "checkpoint-8", tmp_path / "out" / "checkpoint-8")
    said = auto.python(_PROGRAM, "--resume", env=auto.environment(tmp_path / "run"), cwd=tmp_path)
    rows, _, _ = auto.recorded(tmp_path / "run")
    assert [row.step for row in rows] == [each[0] for each in logged(said)] == [9, 10, 11, 12]


def test_the_callback_takes_over_and_nothing_is_told_twice(tmp_path: Path) -> None:
    env = auto.environment(tmp_path / "run")
    said = auto.python(_PROGRAM, "--callback", env=env, cwd=tmp_path)
    rows, stages, beat = auto.recorded(tmp_path / "run")
    found = [(row.step, row.loss, row.learning_rates[0], row.grad_norm) for row in rows]
    assert [each == pytest.approx(tuple(log)) for each, log in zip(found, logged(said), strict=True)]
    assert [each[0] for each in found] == list(range(1, 13))
    assert "eval" in stages
    assert beat.total_steps == 12
