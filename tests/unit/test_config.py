"""The configuration: what is wrong is one line, which names file, key, value and remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import needs
from tests.support.env import REPOSITORY, clean_env
from tests.support.programs import completed

needs.require("pydantic")
needs.require("yaml")

from nsa.config import Config, load
from nsa.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

QUICKSTART = REPOSITORY / "configs/quickstart.yaml"

GOOD = """\
name: good
model: {dim: 64, layers: 2, heads: 4, kv_groups: 2}
tokenizer: {kind: byte}
data: {source: local-docs, sequence_length: 128}
train: {steps: 500, micro_batch: 2}
schedule: {peak: 2e-4, warmup_steps: 100}
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


def complaint(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(path, overrides)
    assert raised.value.exit_status == 2
    return str(raised.value)


def test_a_good_file_fills_in_the_defaults(good: Path) -> None:
    config = load(good)
    assert config.model.head_dim == 16
    assert config.model.ffn_dim == 192  # 8/3 · 64 = 170.7, rounded up to a multiple of 64
    assert config.model.nsa.window == 512
    assert config.schedule.peak == 2e-4


def test_a_configuration_is_frozen(good: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(good).seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("text", ["2e-4", "2E-4", "0.0002", "2.0e-4", "+2e-4"])
def test_numbers_as_people_write_them(good: Path, text: str) -> None:
    assert load(good, [f"schedule.peak={text}"]).schedule.peak == 2e-4


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.steps=50_000", 50_000),
        ("train.compile=true", True),
        ("train.device=cpu", "cpu"),
        ("model.nsa.window=64", 64),
        ("data.cache_dir=null", None),
        ("optimizer.betas=[0.8, 0.9]", (0.8, 0.9)),
        ("name=a=b".replace("=b", "-b"), "a-b"),
    ],
)
def test_overrides_are_read_as_yaml(good: Path, override: str, value: object) -> None:
    found: object = load(good, [override])
    for key in override.partition("=")[0].split("."):
        found = getattr(found, key)
    assert found == value


# Each mistake, and what its line must hold: the key, the value seen, and what to do.
MISTAKES = [
    ("schedule.warmup_steps=2000", "schedule.warmup_steps: 2000 is more than train.steps (500). Lower it"),
    ("model.kv_groups=3", "model.kv_groups: 3 does not divide heads (4). Use one of 1, 2, 4"),
    ("model.heads=7", "model.dim: 64 is not divisible by heads (7)."),
    ("model.head_dim=15", "model.head_dim: 15 is odd;"),
    ("model.nsa.window=0", "model.nsa.window: 0 is out of range: it must be at least 1."),
    (
        "model.nsa.select_count=2",
        "model.nsa.select_count: 2 is less than initial_blocks + local_blocks (3). Raise it",
    ),
    (
        "model.nsa.compress_block=40",
        "model.nsa.compress_block: 40 is not a multiple of compress_stride (16).",
    ),
    ("model.nsa.select_block=40", "model.nsa.select_block: 40 is not a multiple of compress_stride (16)."),
    ("model.nsa.select_block=16", "model.nsa.select_block: 16 is less than compress_block (32)."),
    ("model.vocab_size=100", "model.vocab_size: 100 is less than the tokenizer's (257). Raise it"),
    ("train.micro_batch=0", "train.micro_batch: 0 is out of range"),
    ("train.steps=-1", "train.steps: -1 is out of range"),
    ("train.steps=99999999999", "train.steps: 99999999999 is out of range: it must be at most 2147483647"),
    ("train.steps=1e3", "train.steps: 1000.0 is not a whole number. Write 1000"),
    ("train.steps=many", "train.steps: 'many' is not a whole number."),
    ("train.steps='5'", "train.steps: '5' is not a whole number. Remove the quotes"),
    ("train.steps=true", "train.steps: true is not a whole number."),
    ("train.compile=1", "train.compile: 1 is not true or false."),
    ("train.dtype=bf8", "train.dtype: 'bf8' is not one of fp32 or bf16."),
    ("train.device=tpu", "train.device: 'tpu' is not one of auto, cpu or cuda."),
    ("train.threads=0", "train.threads: 0 is out of range"),
    ("train.threads=99999999999999", "train.threads: 99999999999999 is out of range"),
    (
        "train.distributed_timeout_seconds=1e300",
        "train.distributed_timeout_seconds: 1e+300 is out of range: it must be at most 604800",
    ),
    ("schedule.floor=1.5", "schedule.floor: 1.5 is out of range: it must be at most 1"),
    ("schedule.peak=0", "schedule.peak: 0 is out of range: it must be more than 0"),
    ("schedule.peak=.nan", "schedule.peak: nan is not a finite number."),
    ("schedule.peak=.inf", "schedule.peak: inf is not a finite number."),
    ("schedule.warmup_step=3", "schedule.warmup_step: 3: unknown key. Did you mean warmup_steps?"),
    ("scheduler={}", "scheduler: {}: unknown key. Did you mean schedule?"),
    ("zzz=1", "zzz: 1: unknown key. Known here: name, seed, model"),
    ("optimizer.betas=0.9", "optimizer.betas: 0.9 is not a list."),
    ("optimizer.betas=[0.9]", "optimizer.betas"),
    ("optimizer.betas=[0.9, 1.0]", "optimizer.betas.1: 1.0 is out of range: it must be less than 1"),
    ("tokenizer=byte", "tokenizer: 'byte' is not a section with keys."),
    ("tokenizer.kind=bpe", "tokenizer.vocab_size: is missing"),
    (
        "tokenizer.vocab_size=300",
        "tokenizer.vocab_size: 300 cannot be chosen for kind byte (it has 257). Remove it",
    ),
    ("data.source=files", "data.paths: is empty, and source files reads nothing else."),
    ("data.paths=[a.jsonl]", "data.paths: is of no use to source local-docs."),
    ("data.eval_fraction=0", "data.eval_fraction: 0 is out of range"),
    ("data.sequence_length=1", "data.sequence_length: 1 is out of range"),
    ("name=a/b", "name: 'a/b' cannot name a folder."),
    ("seed=-1", "seed: -1 is out of range"),
    ("train.steps", "--set 'train.steps': is not key=value."),
    ("=5", "--set '=5': is not key=value."),
    ("train..steps=5", "--set 'train..steps=5': is not key=value."),
    ("name.first=5", "--set name.first: name is a text, it has no keys."),
    ("train.steps=[1", "--set train.steps"),
]


@pytest.mark.parametrize(("override", "expected"), MISTAKES, ids=[override for override, _ in MISTAKES])
def test_a_mistake_is_one_line(good: Path, override: str, expected: str) -> None:
    said = complaint(good, override)
    assert expected in said
    assert "\n" not in said


def test_a_digit_too_many_is_said_at_once(good: Path) -> None:
    """Not after a search through all divisors of it."""
    said = complaint(good, "model.heads=2000000001", "model.head_dim=16")
    assert "model.kv_groups: 2 does not divide heads (2000000001). Use one of 1, 3" in said


def test_the_place_to_mend_is_named_file_or_override(good: Path) -> None:
    assert complaint(good, "train.steps=50").startswith(f"{good}: schedule.warmup_steps: 100 is more than")
    assert complaint(good, "schedule.warmup_steps=900").startswith(
        "--set schedule.warmup_steps: 900 is more than"
    )


def test_several_mistakes_are_all_said_unknown_keys_first(good: Path) -> None:
    good.write_text(GOOD.replace("peak: 2e-4", "peek: 2e-4").replace("micro_batch: 2", "micro_batch: 0"))
    lines = complaint(good).splitlines()
    assert lines[0] == f"{good}: schedule.peek: 0.0002: unknown key. Did you mean peak?"
    assert any("schedule.peak: is missing" in line for line in lines)
    assert any("train.micro_batch: 0" in line for line in lines)
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n- b\n", "holds a list"),
        ("just words", "holds a text"),
        ("a: [1, 2\n", "is not valid YAML"),
        ("a: b: c\n", "line 1: is not valid YAML"),
        ("\tname: x\n", "is not valid YAML"),
        (GOOD + "name: twice\n", "name: is given twice, at lines 1 and 7. Keep one"),
        (GOOD.replace("steps: 500,", "steps: 500, steps: 600,"), "steps: is given twice, at lines 5 and 5"),
        ("!!python/object/apply:os.system [true]", "is not valid YAML"),
        ("? [a, b]\n: c\n", "is not valid YAML: found unhashable key"),
        (GOOD + "7: days\n", "7: 7: unknown key."),
        (GOOD + "seed: !!bool maybe\n", "is not valid YAML: a value does not fit its tag"),
        (GOOD + "seed: !!int\n", "is not valid YAML: a value does not fit its tag"),
        (GOOD + "seed: !!timestamp soon\n", "is not valid YAML: a value does not fit its tag"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    said = complaint(path)
    assert said.startswith(str(path))
    assert expected in said
    assert "Traceback" not in said


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file" in complaint(tmp_path / "missing.yaml")
    assert "is a folder" in complaint(tmp_path)
    binary = tmp_path / "model.yaml"
    binary.write_bytes(b"\x80\x81\x82")
    assert "is not UTF-8 text" in complaint(binary)


def test_sections_check_themselves_when_built_in_python() -> None:
    with pytest.raises(ValueError, match="cannot work"):
        Config.model_validate(
            {**load(QUICKSTART).model_dump(), "schedule": {"peak": 1.0, "warmup_steps": 10**9}}
        )


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_configurations_that_we_ship_are_good(path: Path) -> None:
    assert load(path).name == path.stem


def nsa(
    *arguments: str, python: tuple[str, ...] = (), under: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return completed([*under, sys.executable, *python, "-m", "nsa", *arguments])


def test_a_mistake_ends_with_status_2_before_torch_is_imported(good: Path) -> None:
    done = nsa("train", str(good), "--set", "schedule.warmup_steps=2000", python=("-X", "importtime"))
    imported, said = [], []
    for line in done.stderr.splitlines():
        (imported if line.startswith("import time:") else said).append(line)
    assert done.returncode == 2
    assert said == [
        "--set schedule.warmup_steps: 2000 is more than train.steps (500). Lower it, or train longer"
    ]
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in imported}
    assert "pydantic" in modules
    assert modules.isdisjoint({"torch", "transformers", "datasets", "numpy"})


def test_without_the_extra_one_line_says_what_to_install(good: Path) -> None:
    program = (
        "import sys; sys.modules['pydantic'] = None; from nsa.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = completed([sys.executable, "-c", program, "train", str(good)])
    assert done.returncode == 2
    assert (
        done.stderr
        == "pydantic is not installed: training needs the extra. pip install 'training-harness[train]'\n"
    )


def test_help_and_version_answer_and_fit_80_columns() -> None:
    shown = nsa("train", "--help")
    for word in ("--set", "--resume", "--out", "--allow-changed", "exit status", "75"):
        assert word in shown.stdout
    for done in (shown, nsa("--help"), nsa("data", "fetch", "--help")):
        assert done.returncode == 0
        assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    assert nsa("--version").stdout.startswith("nsa ")


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_trained(
    good: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    # Root may write everywhere, unless it gives that up.
    ordinary = ("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else ()
    done = nsa("train", str(good), "--out", str(out), under=ordinary)
    assert done.returncode == 2
    assert done.stderr == (f"--out: {out}: cannot be written to. Mend its permissions, or choose another\n")


def test_a_current_folder_that_was_removed_is_one_line(good: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    done = completed(["sh", "-c", f"rmdir {place}; {sys.executable} -m nsa train {good}"], cwd=place)
    assert done.returncode == 2
    assert done.stderr == "the current folder has been removed. cd to one that is there\n"


def test_started_without_output_it_still_ends_with_its_status(good: Path) -> None:
    for redirection in ("2>&-", ">&- 2>&-"):
        command = f"{sys.executable} -m nsa train {good} --set train.steps=0 {redirection}"
        assert subprocess.run(["sh", "-c", command], env=clean_env(), timeout=60, check=False).returncode == 2


@pytest.mark.parametrize(
    "order",
    [
        "{good} --set train.steps=0 seed=x",
        "{good} --set train.steps=0 --set seed=x",
        "--set train.steps=0 seed=x {good}",
        "--set train.steps=0 {good} --set seed=x",
    ],
)
def test_one_set_or_several_before_or_behind_the_configuration(good: Path, order: str) -> None:
    done = nsa("train", *order.format(good=good).split())
    assert done.returncode == 2
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["--set seed", "--set train.steps"]


def test_usage_mistakes_end_with_status_2() -> None:
    for arguments in (
        (),
        ("train",),
        ("train", "a.yaml", "--frobnicate"),
        ("data", "fetch", "a", "--documents", "0"),
    ):
        done = nsa(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
