"""Resume is exact to the bit, and refused where it could not be."""

from __future__ import annotations

import json
import os
import random
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import needs, tiny_run
from tests.support.wait import wait_for

torch = needs.require("torch")
needs.require("datasets")

from nsa.checkpoint import CheckpointError, read
from nsa.errors import ConfigError, NsaError

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 40


def weights(out: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = read((out / "checkpoints" / "latest").resolve()).part("model")
    return found


def killed_at(step: int, config: Path, out: Path) -> bool:
    """Train in a process of its own, kill it at or after `step`; False if it was done before we got there."""
    process = tiny_run.Forked("train", config, "--out", out)
    try:
        wait_for(
            lambda: tiny_run.last_step(out) >= step or process.poll() is not None, 60, f"step {step}", 0.001
        )
    finally:
        process.kill()
        _, errors = process.communicate(timeout=20)
    assert process.returncode in {0, -signal.SIGKILL}, errors
    return process.returncode != 0


def killed_twice(config: Path, tmp_path: Path, chosen: random.Random) -> Path:
    """A run killed at two random steps. On a busy machine it may be done first: then again, elsewhere."""
    for attempt in range(5):
        out = tmp_path / f"broken-{attempt}"
        steps = chosen.randrange(3, STEPS // 2), chosen.randrange(STEPS // 2, STEPS - 8)
        print(f"attempt {attempt}: to be killed at steps {steps}")
        if all(killed_at(step, config, out) for step in steps):
            return out
    raise AssertionError("five runs ended before they could be killed")


def test_killed_at_any_step_and_resumed_twice_the_losses_are_those_of_an_uninterrupted_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("NSA_KILL_SEED", random.SystemRandom().randrange(10**6)))
    print(f"NSA_KILL_SEED={seed}")
    config = tiny_run.config(tmp_path, train={"steps": STEPS}, checkpoint={"every": 3})
    whole = tmp_path / "whole"
    tiny_run.train_in_process(config, whole)

    broken = killed_twice(config, tmp_path, random.Random(seed))
    capsys.readouterr()
    tiny_run.train_in_process(config, broken)
    # It was continued, and not begun anew: that would give the same losses.
    assert "resumed from" in capsys.readouterr().out

    uninterrupted = tiny_run.losses(whole)
    assert sorted(uninterrupted) == list(range(1, STEPS + 1))
    assert tiny_run.losses(broken) == uninterrupted
    assert all(torch.equal(value, weights(broken)[name]) for name, value in weights(whole).items())


@pytest.fixture
def half_done(tmp_path: Path) -> tuple[Path, Path]:
    """A run that has stopped at step 4 of 12: its configuration, and its folder."""
    config = tiny_run.config(tmp_path)
    out = tmp_path / "out"
    tiny_run.train_in_process(config, out, "train.steps=4")
    return config, out


def refused(config: Path, out: Path, *overrides: str, **options: object) -> str:
    before = tiny_run.checkpoint_steps(out)
    with pytest.raises(NsaError) as raised:
        tiny_run.train_in_process(config, out, *overrides, **options)
    assert raised.value.exit_status == 2
    assert tiny_run.checkpoint_steps(out) == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_was_changed_is_refused_by_name(half_done: tuple[Path, Path]) -> None:
    config, out = half_done
    same = "train.steps=4"
    assert "train.steps: 12 now, 4 in the checkpoint" in refused(config, out)
    assert "schedule.peak: 0.001 now, 0.003 in the checkpoint" in refused(
        config, out, same, "schedule.peak=1e-3"
    )
    assert "train.micro_batch: 4 now, 2" in refused(config, out, same, "train.micro_batch=4")
    assert "optimizer.weight_decay: 0.2 now, 0.1" in refused(config, out, same, "optimizer.weight_decay=0.2")
    assert "model.layers: 3 now, 2" in refused(config, out, same, "model.layers=3")
    assert "sequence_length" in refused(config, out, same, "data.sequence_length=32")
    # What cannot be meant to change is not allowed by allowing something else.
    assert "model.layers" in refused(config, out, same, "model.layers=3", allow_changed=("schedule",))


def test_changed_data_is_refused(half_done: tuple[Path, Path], tmp_path: Path) -> None:
    config, out = half_done
    tiny_run.text_file(tmp_path, documents=50)  # the same path, other documents
    said = refused(config, out, "train.steps=4")
    assert "data" in said
    assert "another" in said


def test_a_changed_world_size_is_refused(half_done: tuple[Path, Path]) -> None:
    config, out = half_done
    ranks = tiny_run.start_ranks(2, "train", config, "--out", out, "--set", "train.steps=4")
    ends = [rank.communicate(timeout=60) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2]
    for _, errors in ends:
        assert "world_size: 2 now, 1 in the checkpoint. Start as many processes as before" in errors
        assert "Traceback" not in errors


def test_an_allowed_change_continues(
    half_done: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = half_done
    tiny_run.train_in_process(config, out, "train.steps=6", allow_changed=("schedule",))
    assert sorted(tiny_run.losses(out)) == [1, 2, 3, 4, 5, 6]
    shown = capsys.readouterr().out
    assert "resume: train.steps is now 6, was 4: allowed with --allow-changed schedule" in shown
    assert "resumed from" in shown


def test_another_number_of_threads_is_said(
    half_done: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = half_done
    tiny_run.train_in_process(config, out, "train.steps=4", "train.threads=2")
    assert "resume: threads is now 2, was 1: equal to rounding, not to the bit" in capsys.readouterr().out


def test_never_sets_the_old_checkpoints_aside(half_done: tuple[Path, Path]) -> None:
    config, out = half_done
    tiny_run.train_in_process(config, out, "train.steps=2", "schedule.warmup_steps=1", resume="never")
    assert tiny_run.checkpoint_steps(out) == [2]
    (aside,) = out.glob("checkpoints.before-*")
    assert read(aside / "step-00000004").step == 4


def test_a_path_continues_elsewhere_with_the_same_losses(
    half_done: tuple[Path, Path], tmp_path: Path
) -> None:
    config, out = half_done
    there = tmp_path / "there"
    checkpoint = out / "checkpoints" / "step-00000002"
    tiny_run.train_in_process(config, there, "train.steps=4", resume=str(checkpoint))
    assert tiny_run.losses(there) == {step: loss for step, loss in tiny_run.losses(out).items() if step > 2}
    assert tiny_run.checkpoint_steps(there) == [4]
    with pytest.raises(ConfigError, match="no such folder"):
        tiny_run.train_in_process(config, there, resume=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="holds no whole checkpoint"):
        tiny_run.train_in_process(config, there, resume=str(tmp_path))


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    half_done: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = half_done
    os.truncate(out / "checkpoints" / "step-00000004" / "model.pt", 1000)
    tiny_run.train_in_process(config, out, "train.steps=4")
    shown = capsys.readouterr().out
    assert "passed over" in shown
    assert "step 2\n" in shown
    # Steps 3 and 4 were trained again, with the same losses.
    assert [row["step"] for row in tiny_run.rows(out)] == [1, 2, 3, 4, 3, 4]
    assert all(len(seen) == 1 for seen in tiny_run.losses(out).values())
    (aside,) = out.glob("checkpoints.before-*")
    assert [path.name for path in aside.iterdir()] == ["step-00000004"]


def test_an_older_checkpoint_of_the_same_folder_is_gone_on_from_and_what_came_after_it_no_more(
    half_done: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = half_done
    older = out / "checkpoints" / "step-00000002"
    shorter = ("train.steps=3", "schedule.warmup_steps=3")
    tiny_run.train_in_process(config, out, *shorter, resume=str(older), allow_changed=("schedule",))
    # Not step 4 of the course that was left: it would be kept in place of step 3, and resumed from.
    assert tiny_run.checkpoint_steps(out) == [2, 3]
    (aside,) = out.glob("checkpoints.before-*")
    assert [path.name for path in aside.iterdir()] == ["step-00000004"]
    assert f"resume: this folder's other checkpoints are in {aside} now" in capsys.readouterr().out
    tiny_run.train_in_process(config, out, *shorter)
    assert "at step 3\n" in capsys.readouterr().out


def test_no_whole_checkpoint_left_is_an_error_not_a_fresh_start(half_done: tuple[Path, Path]) -> None:
    config, out = half_done
    for step in tiny_run.checkpoint_steps(out):
        (out / "checkpoints" / f"step-{step:08d}" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="none of its checkpoints is whole"):
        tiny_run.train_in_process(config, out, "train.steps=4")


def test_a_finished_run_started_again_has_nothing_left_to_do(
    half_done: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = half_done
    before = tiny_run.rows(out)
    tiny_run.train_in_process(config, out, "train.steps=4")
    assert "nothing left to train" in capsys.readouterr().out
    assert tiny_run.rows(out) == before


def test_the_logged_rate_is_the_one_that_the_schedule_says(half_done: tuple[Path, Path]) -> None:
    from nsa import schedule

    _, out = half_done
    manifest = json.loads((out / "checkpoints" / "latest" / "manifest.json").read_text())
    plan = manifest["identity"]["schedule"]
    for row in tiny_run.rows(out):
        rate = schedule.lr(
            row["step"] - 1,
            peak=plan["peak"],
            warmup=plan["warmup_steps"],
            total=plan["steps"],
            floor=plan["floor"],
        )
        assert row["lr"] == rate
    groups = read((out / "checkpoints" / "latest").resolve()).part("optimizer")["param_groups"]
    assert [group["lr"] for group in groups] == [row["lr"]] * 2
