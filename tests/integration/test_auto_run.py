"""`harness run` over an unmodified PyTorch loop: alone, in another environment, as ranks, and stalled."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import auto, stalls, venvs
from tests.support import run as runs
from tests.support.env import clean_env
from tests.support.needs import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

require("torch")

PLAIN = str(auto.TRAINERS / "plain.py")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., runs.Run]]:
    begun: list[runs.Run] = []

    def begin(*command: str, options: tuple[str, ...] = (), **extra: str) -> runs.Run:
        env = clean_env(**extra)
        begun.append(runs.start(tmp_path / "run", *command, options=options, env=env, cwd=tmp_path))
        return begun[-1]

    yield begin
    for run in begun:
        run.clean_up()


def finished(run: runs.Run) -> list[list[Any]]:
    """What the loop printed, once it ended well."""
    out, err = run.process.communicate(timeout=auto.DEADLINE_SECONDS)
    assert run.process.returncode == 0, out + err + run.log()
    assert "harness:" not in run.log()
    return [json.loads(line) for line in run.log().splitlines() if line.startswith("[")]


def in_metrics(run: runs.Run) -> list[list[Any]]:
    lines = (run.directory / "metrics.jsonl").read_text().splitlines()
    return [[row["step"], row["loss"], row["lr"]] for row in map(json.loads, lines)]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_loop_in_an_environment_without_a_harness(workers, start, tmp_path):
    python = venvs.make(tmp_path / "trainer")
    venvs.share_packages(python)  # not what is installed as editable: no harness
    run = start(str(python), PLAIN, "--workers", workers, PYTHONPATH="")
    said = finished(run)
    assert len(said) == 40
    assert in_metrics(run) == said
    rows, stages, beat = auto.recorded(run.directory)
    assert beat.pid == run.attempt()["pid"]  # not a worker's
    told = [each for each in stages if each not in ("boot", "command")]
    assert told == ["import", *["first_batch"] * 2, "train", "checkpoint", "train", "finish"]
    assert rows[-1].phase_seconds.keys() >= {"data", "forward", "backward", "optimizer"}


def test_two_ranks_by_torchrun(start):
    torchrun = Path(sys.executable).with_name("torchrun")
    run = start(str(torchrun), "--standalone", "--nproc-per-node", "2", PLAIN, "--ranks")
    said = finished(run)
    for rank in range(2):
        rows, stages, beat = auto.recorded(run.directory, rank)
        assert [row.step for row in rows] == list(range(1, 41))
        assert (beat.rank, beat.world_size) == (rank, 2)
        assert "distributed" in stages
        assert [1, rows[0].loss, 0.01] in said
    assert sorted(path.name for path in (run.directory / "ranks").iterdir()) == ["00000.beat", "00001.beat"]


def test_sharded_parameters_have_losses_and_rates_and_no_norm(start):
    """FSDP2: what is a DTensor is absent, for reading it is communication."""
    torchrun = Path(sys.executable).with_name("torchrun")
    program = str(auto.TRAINERS / "fsdp2.py")
    run = start(str(torchrun), "--standalone", "--nproc-per-node", "2", program)
    said = finished(run)
    for rank in range(2):
        rows, stages, beat = auto.recorded(run.directory, rank)
        assert [[rank, row.step, row.loss, *row.learning_rates] for row in rows] == [
            each for each in said if each[0] == rank
        ]
        assert {row.grad_norm for row in rows} == {None}
        assert "distributed" in stages
        assert (beat.rank, beat.world_size) == (rank, 2)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_two_ranks_that_the_script_starts_itself(method, start, tmp_path):
    program = str(auto.TRAINERS / "spawned.py")
    run = start(sys.executable, program, method, str(tmp_path / "meeting"))
    finished(run)
    beats = [auto.recorded(run.directory, rank)[2] for rank in range(2)]
    assert [(beat.rank, beat.step, beat.world_size) for beat in beats] == [(0, 5, 2), (1, 5, 2)]
    assert run.attempt()["pid"] not in {beat.pid for beat in beats}


@pytest.mark.needs("py-spy")
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_stall_in_its_data_is_shown_at_the_line_and_the_step(workers, start):
    options = ("--stall-timeout", "train=2")
    run = start(sys.executable, PLAIN, "--stall-at", "25", "--workers", workers, options=options)
    opened = stalls.wait_for_incident(run.directory)
    line = next(
        number for number, text in enumerate(Path(PLAIN).read_text().splitlines(), 1) if "planted" in text
    )
    assert (opened["stage"], opened["phase"], opened["step"]) == ("train", "data", 25)
    assert f"plain.py:{line}" in opened["headline"], opened
