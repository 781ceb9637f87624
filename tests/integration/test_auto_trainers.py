"""Unmodified trainers of the frameworks that people use: what is recorded is what they log themselves.

More about Hugging Face's Trainer is in `test_auto_transformers`, about a plain loop in `test_auto_run`.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import auto, stalls
from tests.support import run as runs
from tests.support.env import REPOSITORY, clean_env
from tests.support.needs import require
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

require("torch")

HF, ACCELERATE, LIGHTNING, TRL = (
    str(auto.TRAINERS / name) for name in ("hf.py", "accelerate_loop.py", "lightning_module.py", "trl_sft.py")
)
TORCHRUN, LAUNCH = (str(Path(sys.executable).with_name(name)) for name in ("torchrun", "accelerate"))

_SAID = re.compile(r'\[[0-9]|\{"')


def logged(text: str) -> list[Any]:
    """The JSON that a trainer printed; two ranks may print into one line."""
    decoder, found = json.JSONDecoder(), []
    for line in text.splitlines():
        rest = line
        while _SAID.match(rest):
            value, end = decoder.raw_decode(rest)
            found.append(value)
            rest = rest[end:]
    return found


def in_order(stages: list[str], *expected: str) -> bool:
    """Whether these stages began one after another, whatever came between."""
    rest = iter(stages)
    return all(each in rest for each in expected)


def with_and_without(program: str, *arguments: str, folder: Path) -> tuple[Path, list[Any]]:
    """Run a trainer with the hooks and without; where the record is, and what both of them said."""
    said = []
    for name, run_dir in (("with", folder / "run"), ("without", None)):
        (folder / name).mkdir()
        said.append(auto.python(program, *arguments, env=auto.environment(run_dir), cwd=folder / name))
    assert logged(said[0])
    assert logged(said[0]) == logged(said[1])  # the same to the bit: JSON has all digits
    return folder / "run", logged(said[0])


# ── alone ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.needs("accelerate")
def test_accelerate_with_accumulation_and_clipping(tmp_path):
    run_dir, said = with_and_without(ACCELERATE, folder=tmp_path)
    rows, stages, beat = auto.recorded(run_dir)
    assert len(rows) == 12
    assert [[0, row.step, row.loss, row.learning_rates[0], row.grad_norm] for row in rows] == said
    assert in_order(stages, "import", "first_batch", "train", "checkpoint", "train", "finish")
    assert beat.total_steps is None  # a loop by hand says nowhere how many


@pytest.mark.needs("lightning")
def test_lightning(tmp_path):
    run_dir, said = with_and_without(LIGHTNING, folder=tmp_path)
    rows, stages, beat = auto.recorded(run_dir)
    assert [row.step for row in rows] == list(range(1, 13))
    rates = {each["step"]: each["lr-AdamW"] for each in said if "lr-AdamW" in each}
    losses = {each["step"]: each["loss"] for each in said if "loss" in each}
    assert {row.step - 1: row.learning_rates[0] for row in rows} == rates  # its loggers count from 0
    assert {row.step - 1: row.loss for row in rows} == losses
    assert all(row.grad_norm is not None for row in rows)
    assert beat.total_steps == 12
    assert in_order(stages, "import", "first_batch", "train", "eval", "checkpoint", "train")
    assert stages[-1] == "command"


@pytest.mark.needs("lightning")
def test_lightning_optimized_by_hand(tmp_path):
    """Of its two optimizers one leads; its steps have the numbers that Lightning gives them."""
    run_dir, said = with_and_without(str(auto.TRAINERS / "lightning_manual.py"), folder=tmp_path)
    rows, _, _ = auto.recorded(run_dir)
    assert [[row.step, row.loss, *row.learning_rates, row.grad_norm] for row in rows] == said
    assert [row.step for row in rows] == [1, 3, 5, 7, 9]


@pytest.mark.needs("transformers", "datasets")
def test_what_is_loaded_and_saved_is_a_stage(tmp_path):
    env = auto.environment(tmp_path / "run", HF_HOME=str(tmp_path / "cache"), HF_HUB_OFFLINE="1")
    said = auto.python(str(auto.TRAINERS / "loading.py"), str(tmp_path / "data"), env=env, cwd=tmp_path)
    told = [line.removeprefix("told ") for line in said.splitlines() if line.startswith("told ")]
    _, stages, _ = auto.recorded(tmp_path / "run")
    assert [each for each in stages if each not in ("boot", "command", "import")] == list(filter(None, told))


@pytest.mark.needs("trl")
def test_trl(tmp_path):
    run_dir, said = with_and_without(TRL, folder=tmp_path)
    rows, stages, beat = auto.recorded(run_dir)
    found = [(row.step, row.loss, row.learning_rates[0], row.grad_norm) for row in rows]
    assert len(found) == 6
    for ours, theirs in zip(found, said, strict=True):
        assert ours == pytest.approx(tuple(theirs), rel=1e-6)  # it adds two losses in float32
    assert all(row.tokens for row in rows)
    assert beat.total_steps == 6
    assert in_order(stages, "import", "first_batch", "train", "command")


# ── two ranks ──────────────────────────────────────────────────────────────────────────────────────────────


def of_two_ranks(run_dir: Path) -> list[Any]:
    """The rows of both."""
    found = []
    for rank in range(2):
        rows, stages, beat = auto.recorded(run_dir, rank)
        assert (beat.rank, beat.world_size) == (rank, 2)
        assert in_order(stages, "import", "distributed", "first_batch", "train")
        found.append(rows)
    assert sorted(path.name for path in (run_dir / "ranks").iterdir()) == ["00000.beat", "00001.beat"]
    return found


@pytest.mark.needs("accelerate")
def test_accelerate_launch_starts_two_ranks(tmp_path):
    options = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0")
    words = (*options, "--mixed_precision", "no", "--dynamo_backend", "no")  # it asks for all of them
    done = auto.run(
        LAUNCH, "launch", *words, ACCELERATE, env=auto.environment(tmp_path / "run"), cwd=tmp_path
    )
    for rank, rows in enumerate(of_two_ranks(tmp_path / "run")):
        found = [[rank, row.step, row.loss, row.learning_rates[0], row.grad_norm] for row in rows]
        assert len(found) == 12
        assert found == [each for each in logged(done.stdout) if each[0] == rank]


@pytest.mark.parametrize(
    ("program", "steps"),
    [
        pytest.param(HF, 12, marks=pytest.mark.needs("transformers", "accelerate"), id="hugging-face"),
        pytest.param(TRL, 6, marks=pytest.mark.needs("trl"), id="trl"),
    ],
)
def test_hugging_face_and_trl_under_torchrun(program, steps, tmp_path):
    """They log the mean over the ranks; each rank's record has its own loss."""
    command = (TORCHRUN, "--standalone", "--nproc-per-node", "2", program)
    done = auto.run(*command, env=auto.environment(tmp_path / "run"), cwd=tmp_path)
    one, other = of_two_ranks(tmp_path / "run")
    said = {each[0]: each[1:] for each in logged(done.stdout) if isinstance(each, list)}
    assert sorted(said) == [row.step for row in one] == [row.step for row in other]
    assert len(one) == steps
    for row, its in zip(one, other, strict=True):
        assert row.loss != its.loss
        found = [(row.loss + its.loss) / 2, row.learning_rates[0], row.grad_norm]
        assert found == pytest.approx(said[row.step], rel=1e-6)


@pytest.mark.needs("lightning")
def test_lightning_starts_two_ranks_and_accumulates(tmp_path):
    """Its loggers get the last batch's loss; a step follows the mean of its batches."""
    words = (LIGHTNING, "--accumulate", "2", "--devices", "2")
    said = logged(auto.python(*words, env=auto.environment(tmp_path / "run"), cwd=tmp_path))
    rows, others = of_two_ranks(tmp_path / "run")
    assert [row.step for row in rows] == [row.step for row in others] == list(range(1, 13))
    halves = [each["divided"] for each in said if "divided" in each]
    assert [row.loss for row in rows] == [sum(halves[at : at + 2]) for at in range(0, 24, 2)]
    assert [row.grad_norm for row in rows] == [row.grad_norm for row in others]  # of gradients in common


# ── stalled ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., runs.Run]]:
    begun: list[runs.Run] = []

    def begin(*command: str) -> runs.Run:
        options = ("--stall-timeout", "train=3")
        begun.append(runs.start(tmp_path / "run", *command, options=options, env=clean_env(), cwd=tmp_path))
        return begun[-1]

    yield begin
    for run in begun:
        run.clean_up()


def last_step(program: str, log: str) -> int:
    """The last step that a trainer's own log tells of, counted from 1."""
    said = logged(log)
    if program == LIGHTNING:
        return max(each["step"] for each in said if "loss" in each) + 1
    return max(each[program == ACCELERATE] for each in said)


@pytest.mark.needs("py-spy")
@pytest.mark.parametrize(
    "program",
    [
        pytest.param(HF, marks=pytest.mark.needs("transformers", "accelerate"), id="hugging-face"),
        pytest.param(ACCELERATE, marks=pytest.mark.needs("accelerate"), id="accelerate"),
        pytest.param(LIGHTNING, marks=pytest.mark.needs("lightning"), id="lightning"),
        pytest.param(TRL, marks=pytest.mark.needs("trl"), id="trl"),
    ],
)
def test_a_stall_in_its_data_is_shown_at_the_line_and_the_step(program, start):
    run = start(sys.executable, program, "--stall-at", "4")
    source = Path(program).read_text().splitlines()
    line = next(number for number, text in enumerate(source, 1) if "planted" in text)
    place = f"{Path(program).name}:{line}"

    def found() -> dict[str, Any] | None:
        assert run.process.poll() is None, run.log()
        incidents = stalls.incidents(run.directory)
        return next((each for each in incidents if place in str(each["headline"])), None)

    opened = wait_for(found, auto.DEADLINE_SECONDS, f"an incident at {place}")
    assert (opened["stage"], opened["phase"]) == ("train", "data")
    # All but Lightning fetch a batch ahead: the one after the fourth step's, as its last begins.
    assert opened["step"] == last_step(program, run.log()) == (4 if program == LIGHTNING else 3)


# ── the page ───────────────────────────────────────────────────────────────────────────────────────────────

_ROW = re.compile(r"^\| [^|]*\| `(?P<package>[\w-]+)` (?P<version>[\d.]+) \|", re.MULTILINE)


@pytest.mark.needs("lightning", "trl", "transformers", "accelerate")
def test_the_page_names_the_versions_that_these_tests_ran_with():
    page = (REPOSITORY / "docs" / "how-to" / "any-trainer.md").read_text()
    told = {each["package"]: each["version"] for each in _ROW.finditer(page)}
    assert sorted(told) == ["accelerate", "lightning", "torch", "transformers", "trl"]
    assert told == {name: version(name).partition("+")[0] for name in told}
