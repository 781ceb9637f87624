"""What is kept of a training's configuration files: numbers after a few names, and nothing else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from harness.collect import settings
from harness.collect.deadline import NotSeen
from harness.evidence import Reading
from tests.support.cases import process

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "schedule:\n  peak: 2e-4\n  warmup_steps: 2000  # as it should be\n",
            {"peak": 2e-4, "warmup_steps": 2000},
        ),
        ('{"lr": 0.0002, "num_warmup_steps": 2_000}', {"lr": 2e-4, "num_warmup_steps": 2000}),
        ("[optim]\nlearning_rate = 1e-3\nwarmup = 100\n", {"learning_rate": 1e-3, "warmup": 100}),
        ("max_lr=.5\nLR_WARMUP_STEPS=10", {"max_lr": 0.5, "lr_warmup_steps": 10}),
        ("# lr: 3\n; lr = 4\n", {}),
        ("lr: *rate\nlr_scheduler: cosine\nwarmup: 10%\nwarmup: 2000steps\n", {}),
        ("color: 5\npassword_lr_x: hunter2\napi.lr: 7\n", {}),
        ("lr: 1e999999\n", {"lr": float("inf")}),
    ],
    ids=["yaml", "json", "toml", "ini", "comments", "no numbers", "other names", "too large"],
)
def test_numbers_after_names_that_are_known(text: str, found: dict[str, float]):
    assert {each.name: each.value for each in settings.parse(text, "x")} == found


def trainer(folder: Path, *command: str) -> tuple:
    return (process(command=Reading(value=("python", *command)), cwd=Reading(value=str(folder))),)


def test_the_files_that_the_command_names_are_read(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("lr: 1")
    (tmp_path / "b.json").write_text('{"warmup": 2}')
    (tmp_path / "train.py").write_text("lr = 3")
    command = ("train.py", "a.yaml", f"--config={tmp_path / 'b.json'}", "missing.toml")
    found = settings.read(trainer(tmp_path, *command), {os.geteuid()})
    assert [(each.name, each.value) for each in found] == [("lr", 1.0), ("warmup", 2.0)]


def test_what_is_no_file_of_its_user_is_left_alone(tmp_path: Path):
    (tmp_path / "real.yaml").write_text("lr: 1")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "real.yaml")
    os.mkfifo(tmp_path / "fifo.yaml")
    with pytest.raises(NotSeen, match="names no file"):
        settings.read(trainer(tmp_path, "link.yaml", "fifo.yaml"), {os.geteuid()})
    with pytest.raises(NotSeen):
        settings.read(trainer(tmp_path, "real.yaml"), {os.geteuid() + 1})
    with pytest.raises(NotSeen):
        settings.read(trainer(tmp_path, "train.py"), {os.geteuid()})
