"""Under `harness run`: an instrumented process that has not trained is judged as one without a record.

No torch is needed: an empty `accelerate` has the process claim its record, and a `torch` that hangs is seen.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import auto, stalls
from tests.support import run as runs
from tests.support.env import clean_env
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("py-spy")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., runs.Run]]:
    begun: list[runs.Run] = []

    def begin(script: str, *options: str, interpreter: tuple[str, ...] = ()) -> runs.Run:
        (tmp_path / "accelerate.py").write_text("")
        (tmp_path / "torch.py").write_text("import time\ntime.sleep(600)\n")
        (tmp_path / "train.py").write_text(script)
        command = (sys.executable, *interpreter, str(tmp_path / "train.py"))
        begun.append(runs.start(tmp_path / "run", *command, options=options, cwd=tmp_path))
        return begun[-1]

    yield begin
    for run in begun:
        run.clean_up()


def test_a_run_that_never_trains_is_judged_by_its_log(start):
    run = start("import accelerate, time\nprint('on')\ntime.sleep(600)\n", "--stall-timeout", "log=2")
    opened = stalls.wait_for_incident(run.directory)
    assert opened["stage"] == "log"
    assert "train.py:3" in opened["headline"]
    assert (run.directory / "ranks" / "00000.beat").exists()


def test_an_import_that_hangs_is_judged_by_its_stage(start):
    run = start("import torch\n", "--stall-timeout", "import=2,log=off")
    opened = stalls.wait_for_incident(run.directory)
    assert opened["stage"] == "import"
    assert "torch.py:2" in opened["headline"]


def test_without_instrumentation_there_is_no_record(start):
    run = start("import accelerate\nprint('on', flush=True)\nimport time\ntime.sleep(600)\n", "--auto", "off")
    run.wait_for_log("on")
    assert not (run.directory / "ranks" / "00000.beat").exists()


def test_a_trainer_that_goes_on_to_train_is_judged_by_its_record_again(start):
    """As one whose hooks switched themselves off in the middle, and one that trains after all."""
    run = start(
        "import accelerate, time\n"
        "from harness import emit\n"
        "emit.stage('command'); print('said nothing', flush=True); time.sleep(1.5)\n"
        "emit._speak_for(lambda: None)\n"
        "emit.stage('train')\n"
        "for n in range(40): emit.step(n); time.sleep(0.02)\n"
        "time.sleep(600)\n",
        *("--stall-timeout", "train=2,log=off"),
    )
    opened = stalls.wait_for_incident(run.directory)
    assert (opened["stage"], opened["step"]) == ("train", 39)


@pytest.mark.parametrize(
    ("end", "status", "words"),
    [
        ("pass", 0, "ended by itself: rank 0 after step 19; its exit status is not known"),
        ("sys.exit(3)", 0, "ended by itself: rank 0 after step 19; its exit status is not known"),
        ("raise ValueError", 1, "ended without having finished: rank 0"),
    ],
)
def test_watched_an_end_of_its_own_is_told_from_a_crash_and_never_called_finished(
    end, status, words, tmp_path
):
    (tmp_path / "accelerate.py").write_text("")
    (tmp_path / "train.py").write_text(
        "import sys, accelerate\n"
        "recorder = next(each for each in sys.meta_path if hasattr(each, '_recorder'))._recorder\n"
        "recorder._begin_training()\n"
        "for n in range(20): recorder._emit.step(n)\n"
        "print('on', flush=True); sys.stdin.read()\n"
        f"{end}\n"
    )
    with subprocess.Popen(
        [sys.executable, "train.py"],
        env=auto.environment(tmp_path / "run"),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as trainer:
        assert trainer.stdin is not None
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "on\n"
        command = [*runs.HARNESS, "watch", str(trainer.pid), "--metrics-port", "0"]
        with subprocess.Popen(
            command, env=clean_env(), cwd=tmp_path, stdout=subprocess.PIPE, text=True
        ) as watcher:
            assert watcher.stdout is not None
            assert "watching process" in watcher.stdout.readline()
            trainer.stdin.close()
            said = watcher.stdout.read()
            assert (watcher.wait(60), words in said) == (status, True), said


def test_where_it_could_not_get_in_the_terminal_says_so(start, tmp_path):
    """A Python that reads no PYTHONPATH and computes with torch, as its memory map has it."""
    (tmp_path / "libtorch_cpu.so").write_bytes(b"\0" * 4096)
    run = start(
        "import mmap\n"
        f"with open({str(tmp_path / 'libtorch_cpu.so')!r}, 'rb') as file:\n"
        "    held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
        "print('on', flush=True)\nimport time\ntime.sleep(12)\n",
        interpreter=("-I",),
    )
    run.wait_for_log("on")
    wait_for(lambda: run.process.poll() is not None, 40.0, "the end")
    assert "python -I reads no PYTHONPATH: steps of pid" in run.end()[1]
