"""configs/smoke/cpu.yaml on a model of 50k parameters: every stage passes, and each fails for its own fault.

A fault is planted from outside: a configuration, a file, a server, a limit of the system, or one function of
one module changed by tests/support/faults/sitecustomize.py. With it in place the stage that it is meant for
fails and names it, those that it needs pass, those that need it are skipped. Of what the three stages behind
`train` need, `train` alone is run: it has the most in common with them.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import hub as hubs
from tests.support import needs, tiny_run
from tests.support.env import REPOSITORY, clean_env
from tests.support.programs import completed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

needs.require("torch")
needs.require("transformers")
needs.require("datasets")

PLAN = REPOSITORY / "configs" / "smoke" / "cpu.yaml"
GPU_PLAN = PLAN.with_name("gpu.yaml")
FAULTS = REPOSITORY / "tests" / "support" / "faults"
SETTINGS = {
    "train_steps": "80",
    "train": "[--set, train.steps=80, --set, schedule.warmup_steps=20, --set, eval.every=0]",
    "overfit": "[--set, train.micro_batch=1, --steps, '150']",
    "few_steps": "[]",
    "two_ranks": "[--set, train.steps=6]",
    "parameters_at_least": "1e4",
    "parameters_at_most": "2e5",
    "loss_falls_by": "0.5",
    "data_tokens_per_second": "1000",
    "disk_gb": "0.1",
    "memory_gb": "0.1",
}
STAGES = [
    "environment", "import", "config", "tokenizer", "data", "model", "attention", "overfit", "train",
    "checkpoint", "distributed", "stall-drill",
]  # fmt: skip


@dataclass
class Smoke:
    """A `harness smoke` that ended."""

    status: int
    said: str
    document: dict[str, Any]

    def stage(self, name: str) -> dict[str, Any]:
        return next(stage for stage in self.document["stages"] if stage["name"] == name)

    def states(self) -> dict[str, str]:
        return {stage["name"]: stage["state"] for stage in self.document["stages"]}


def smoke(
    folder: Path,
    *arguments: str,
    plan: Path = PLAN,
    settings: dict[str, str] | None = None,
    env: dict[str, str] | None = None,
    setup: Callable[[], None] | None = None,
) -> Smoke:
    """Run the plan on the tiny model in `folder`."""
    changed = {"config": str(folder / "tiny.yaml"), **SETTINGS, **(settings or {})}
    words = [sys.executable, "-m", "harness", "smoke", str(plan), "--timeout-scale", "3"]
    words += [word for name, value in changed.items() for word in ("--set", f"{name}={value}")]
    report = folder / "report.json"
    done = subprocess.run(
        [*words, *arguments, "--json", str(report)],
        env=clean_env(**(env or {})),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=850,
        check=False,
        preexec_fn=setup,
    )
    return Smoke(done.returncode, done.stdout, json.loads(report.read_text()) if report.exists() else {})


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder with tiny.yaml; sequences are long enough for a loop over positions to show."""
    tiny_run.config(tmp_path, data={"sequence_length": 128})
    return tmp_path


@pytest.mark.timeout(900)
def test_every_stage_passes(tiny: Path) -> None:
    done = smoke(tiny, "--junit", str(tiny / "junit.xml"))
    assert done.status == 0, done.said
    assert done.states() == dict.fromkeys(STAGES, "passed")
    assert done.document["passed"] is True
    assert done.stage("model")["measured"]["parameters"] > 1e4
    assert done.stage("checkpoint")["measured"]["repeated_steps"] >= 1
    assert {check["what"] for check in done.stage("train")["checks"]} >= {"learning_rate", "memory_growth"}
    drill = done.stage("stall-drill")
    assert drill["verdict"]["cause"] == "socket-read"
    assert drill["verdict"]["blame"]["function"] == "_wait_for_nobody"
    suite = ET.parse(tiny / "junit.xml").getroot()[0]
    assert suite.attrib["tests"] == str(len(STAGES))
    assert suite.attrib["failures"] == suite.attrib["skipped"] == "0"
    assert "Traceback" not in done.said


@dataclass(frozen=True)
class Fault:
    """What is broken, which stage is meant to find it, and what it says."""

    stage: str
    said: tuple[str, ...]
    remedy: str = ""
    code: str = ""
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    setup: Callable[[], None] | None = None
    prepare: Callable[[Path], None] | None = None


def few_open_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))


def broken_transformers(folder: Path) -> None:
    (folder / "lib" / "transformers").mkdir(parents=True)
    (folder / "lib" / "transformers" / "__init__.py").write_text(
        "raise ImportError('libfoo.so.1: cannot open shared object file')\n"
    )


def tokenizer_without_an_e(folder: Path) -> None:
    """A whole tokenizer's files, but for one letter of the vocabulary."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = [letter for letter in sorted(ByteLevel.alphabet()) if letter != "e"]
    vocabulary = {letter: number for number, letter in enumerate([*letters, "<|endoftext|>"])}
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")


PLANTED = {
    "few open files": Fault(
        "environment", ("open_files: 200, expected at least 256",), "ulimit -n", setup=few_open_files
    ),
    "a cache that is no folder": Fault(
        "environment", ("HF_HOME: /dev/null/hf cannot be written",), env={"HF_HOME": "/dev/null/hf"}
    ),
    "an image without all packages": Fault(
        "environment",
        ("not installed for ", ": pyarrow, pydantic. pip install pyarrow pydantic. Without a network, bring"),
        "pip download -d wheels --only-binary :all: --python-version 3.",
        code="bare-image",
    ),
    "a broken library": Fault(
        "import",
        ("transformers cannot be imported: ImportError: libfoo.so.1",),
        env={"PYTHONPATH": "{folder}/lib:{repository}"},
        prepare=broken_transformers,
    ),
    "a warm-up longer than the run": Fault(
        "config",
        ("schedule.warmup_steps: 2000 is more than train.steps (12)",),
        config={"schedule": {"warmup_steps": 2000}},
    ),
    "a vocabulary with a hole": Fault(
        "tokenizer",
        ("comes back with", "text is lost", "tokenizer.path"),
        config={"tokenizer": {"kind": "bpe", "path": "{folder}/tokenizer"}},
        prepare=tokenizer_without_an_e,
    ),
    "a tokenizer that truncates": Fault(
        "tokenizer", ("comes back with 1,023 of its", "text is lost"), code="truncating-tokenizer"
    ),
    "a tokenizer that warns of long documents": Fault(
        "tokenizer",
        ("makes it warn: Token indices sequence length is longer", "Nothing may be truncated to silence it"),
        code="warning-tokenizer",
    ),
    "a digit too many": Fault(
        "model", ("parameters: ", "expected at least 10,000 and at most 200,000"), "a digit too many",
        config={"model": {"ffn_dim": 1280}},
    ),
    "a loop over positions": Fault(
        "attention", ("attention_over_dense: ", "expected at most 10"), "harness diagnose",
        code="loop-over-positions",
    ),
    "an optimizer that does nothing": Fault(
        "overfit", ("overfit_loss: ", "expected at most 0.2"), "Do gradients reach the weights?",
        config={"optimizer": {"eps": 1e8}},
    ),
    "a schedule mended away": Fault(
        "train", ("learning_rate: 3.00e-3 at step 1, its schedule says 1.50e-4",), code="constant-rate"
    ),
    "a resume that begins the data anew": Fault(
        "checkpoint", ("had a loss of", "after resuming: the state does not come back whole"),
        code="forgets-its-place",
    ),
    "a rank that never comes": Fault(
        "distributed", ("stalled · HUNG · collective-straggler",),
        code="second-rank-sleeps", settings={"stall": "2"},
    ),
    "a harness that notices nothing": Fault(
        "stall-drill", ("incident: none was opened, expected socket-read",), "ptrace",
        code="notices-nothing", settings={"few_steps": "[--set, data.stall_timeout_seconds=4]"},
    ),
}  # fmt: skip


def filled(text: str, folder: Path) -> str:
    return text.replace("{folder}", str(folder)).replace("{repository}", str(REPOSITORY))


def needed(name: str) -> list[str]:
    """All that a stage needs, and what those need."""
    from harness.smoke.plan import load

    needs = {stage.name: stage.needs for stage in load(PLAN).stages}
    if "train" in needs[name]:
        return ["train"]
    found = set(needs[name])
    for stage in reversed(STAGES):
        found.update(needs[stage] if stage in found else ())
    return [stage for stage in STAGES if stage in found]


def dependants(name: str) -> list[str]:
    from harness.smoke.plan import load

    found = {name}
    for stage in load(PLAN).stages:
        if found.intersection(stage.needs):
            found.add(stage.name)
    return [stage for stage in STAGES if stage in found and stage != name]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLANTED)
def test_each_fault_fails_its_stage_and_is_named(name: str, tmp_path: Path) -> None:
    fault = PLANTED[name]
    sections = {
        section: {
            key: filled(value, tmp_path) if isinstance(value, str) else value for key, value in keys.items()
        }
        for section, keys in fault.config.items()
    }
    tiny_run.config(tmp_path, **{"data": {"sequence_length": 128}, **sections})
    if fault.prepare is not None:
        fault.prepare(tmp_path)
    env = {key: filled(value, tmp_path) for key, value in fault.env.items()}
    if fault.code:
        env = {"SMOKE_FAULT": fault.code, "PYTHONPATH": f"{FAULTS}:{REPOSITORY}"}
    check(
        fault,
        smoke(tmp_path, "--only", only(fault.stage), settings=fault.settings, env=env, setup=fault.setup),
    )


def only(stage: str) -> str:
    return ",".join([*needed(stage), stage, *dependants(stage)])


def check(fault: Fault, done: Smoke) -> None:
    assert done.status == 1, done.said
    assert done.states() == {
        **dict.fromkeys(needed(fault.stage), "passed"),
        fault.stage: "failed",
        **dict.fromkeys(dependants(fault.stage), "skipped"),
    }
    assert done.document["first_failure"] == fault.stage
    found = done.stage(fault.stage)
    for text in fault.said:
        assert text in found["reason"], found
    assert fault.remedy in (found["remedy"] or found["reason"])
    assert found["reason"] in done.said
    assert "Traceback" not in done.said


@pytest.fixture
def silent_hub(tmp_path: Path) -> Iterator[hubs.Hub]:
    """Falls silent in the middle of a file."""
    files = {
        f"sample/{n}.parquet": hubs.parquet(list(hubs.texts(n, 60, 60)), tmp_path, row_group_size=10)
        for n in (0, 1)
    }
    with hubs.Hub(files) as hub:
        hub.faults = [hubs.Fault("^/cdn/", "stall", after=3, times=1000)]
        yield hub


@pytest.mark.timeout(300)
def test_a_source_that_stands_still_fails_data_and_is_reported_as_such(
    silent_hub: hubs.Hub, tmp_path: Path
) -> None:
    data = {
        "source": "fineweb-edu",
        "dataset": hubs.REPOSITORY,
        "subset": hubs.SUBSET,
        "paths": [],
        "stall_timeout_seconds": 2.0,
        "retries": 0,
        "sequence_length": 128,
    }
    tiny_run.config(tmp_path, data=data)
    fault = Fault("data", ("exit status 4: data source someone/some-text (sample) on the hub: no data for",))
    env = {"HF_ENDPOINT": silent_hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    check(fault, smoke(tmp_path, "--only", only("data"), env=env))


def test_without_a_cuda_device_the_gpu_plan_fails_at_once_with_one_line(tiny: Path) -> None:
    done = smoke(tiny, plan=GPU_PLAN, env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.status == 1
    found = done.stage("environment")
    assert found["reason"].startswith("exit status 1: no CUDA device: torch ")
    assert "tox -e cpu-smoke" in found["reason"]
    assert set(done.states().values()) == {"failed", "skipped"}
    assert done.document["seconds"] < found["seconds"] + 5


@pytest.mark.needs("accelerate")
@pytest.mark.timeout(300)
def test_a_trainer_that_is_not_ours(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "harness",
        "smoke",
        str(REPOSITORY / "tests" / "plans" / "hf_trainer.yaml"),
    ]
    done = completed(
        [*words, "--timeout-scale", "3", "--json", "report.json"],
        env=clean_env(tmp_path),
        cwd=tmp_path,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout
    _, train = json.loads((tmp_path / "report.json").read_text())["stages"]
    passed = {check["what"] for check in train["checks"] if check["passed"]}
    assert passed >= {
        "exit",
        "step",
        "loss.falls_by",
        "learning_rate",
        "memory",
        "files",
        "log_has",
        "log_lacks",
    }
