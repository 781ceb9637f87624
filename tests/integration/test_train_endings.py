"""How a run ends: by a signal, by numbers that are none, on a full disk, without data, without a reader."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import needs, tiny_run
from tests.support.env import clean_env
from tests.support.wait import wait_for

torch = needs.require("torch")
needs.require("datasets")

from nsa.errors import ConfigError, NonFiniteError, StopRequestedError

if TYPE_CHECKING:
    from pathlib import Path

LONG = 100_000
START = (
    *("boot", "config", "import", "distributed", "tokenizer", "dataset"),
    *("model", "optimizer", "resume", "first_batch"),
)


def endless(folder: Path) -> Path:
    """A run that a test has to end."""
    return tiny_run.config(
        folder, train={"steps": LONG, "log_every": 1}, checkpoint={"every": 0}, eval={"every": 0}
    )


def test_sigterm_saves_the_state_and_ends_with_75_and_lines_come_at_once_though_stdout_is_a_file(
    tmp_path: Path,
) -> None:
    config, out, log = endless(tmp_path), tmp_path / "out", tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            tiny_run.command("train", config, "--out", out),
            env=clean_env(),
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
        )
    text = wait_for(
        lambda: log.read_text() if "step 1 " in log.read_text() else None, 60, "the first step's line"
    )
    assert "nsa train" in text
    assert "lr 7.50e-04 (warm-up 1/4 to 3.0e-03)" in text
    assert process.poll() is None
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    last = tiny_run.last_step(out)
    assert tiny_run.checkpoint_steps(out) == [last]
    assert errors == (
        f"stopped by SIGTERM after step {last} of {LONG}, state saved in {out / 'checkpoints'}."
        f" Start again with --out {out} to go on\n"
    )


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    # The first is held up: saving waits for a reader of the pipe that the checkpoint's folder leads to.
    config, out = endless(tmp_path), tmp_path / "out"
    held = out / "checkpoints" / ".held"
    held.parent.mkdir(parents=True)
    os.mkfifo(held)
    never_answers = (
        f"import nsa.checkpoint\nnsa.checkpoint._sync_folder = lambda _: open({str(held)!r}).read()"
    )
    process = tiny_run.Forked("train", config, "--out", out, first=never_answers)
    wait_for(lambda: tiny_run.last_step(out) >= 2, 60, "step 2")
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: list((out / "checkpoints").glob(".writing-*/manifest.json")), 30, "the save to begin")
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM
    assert tiny_run.checkpoint_steps(out) == []  # nothing half-written counts


def test_a_signal_while_waiting_for_data_saves_the_last_whole_step(tmp_path: Path) -> None:
    config, out = endless(tmp_path), tmp_path / "out"
    falls_silent = (
        "import threading, nsa.session\n"
        "opened = nsa.session.open_stream\n"
        "class Dry:\n"  # a source that falls silent after seven batches: in the middle of step 4
        "    def __init__(self, inner): self.inner, self.left = inner, 7\n"
        "    def __next__(self):\n"
        "        if not self.left: print('dry', flush=True); threading.Event().wait()\n"
        "        self.left -= 1; return next(self.inner)\n"
        "    def __getattr__(self, name): return getattr(self.inner, name)\n"
        "nsa.session.open_stream = lambda *a, split='train', **k: (\n"
        "    Dry(opened(*a, **k)) if split == 'train' else opened(*a, split=split, **k))\n"
    )
    process = tiny_run.Forked("train", config, "--out", out, first=falls_silent)
    wait_for(lambda: "dry\n" in process.output(), 60, "the source to fall silent")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert errors.startswith("stopped by SIGINT after step 3 ")
    assert tiny_run.checkpoint_steps(out) == [3]
    # Continued with a source that answers, it is as if nothing had happened.
    whole = tmp_path / "whole"
    options = ("train.steps=6", "schedule.warmup_steps=4")
    tiny_run.train_in_process(config, whole, *options)
    tiny_run.train_in_process(config, out, *options, allow_changed=("schedule",))
    first_four = {step: loss for step, loss in tiny_run.losses(whole).items() if step <= 4}
    assert {step: loss for step, loss in tiny_run.losses(out).items() if step <= 4} == first_four


def test_a_signal_breaks_an_evaluation_off_and_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nsa import evaluation

    def asked_to_stop(*_: object, **__: object) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the evaluation went on")

    monkeypatch.setattr(evaluation, "evaluate", asked_to_stop)
    config, out = tiny_run.config(tmp_path, checkpoint={"every": 0}), tmp_path / "out"
    with pytest.raises(StopRequestedError, match=r"stopped by SIGTERM after step 5 of 12"):
        tiny_run.train_in_process(config, out)
    assert tiny_run.checkpoint_steps(out) == [5]


def test_a_loss_that_is_no_number_ends_with_3_and_is_not_saved(tmp_path: Path) -> None:
    config, out = tiny_run.config(tmp_path, checkpoint={"every": 1}), tmp_path / "out"
    with pytest.raises(NonFiniteError, match="not finite") as raised:
        tiny_run.train_in_process(config, out, "schedule.peak=1e30")
    assert raised.value.exit_status == 3
    last = tiny_run.last_step(out)
    assert last < 5
    assert max(tiny_run.checkpoint_steps(out)) <= last
    latest = (out / "checkpoints" / "latest").resolve()
    model = torch.load(latest / "model.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in model.values())


def test_a_full_disk_is_a_warning_while_training_goes_on_and_an_error_at_the_end(tmp_path: Path) -> None:
    reason = needs.check("tmpfs")
    if reason:
        pytest.skip(reason)
    # 0.7 MB a checkpoint: one fits, two do not. The first is whole, the others are not there, and with room
    # again the run continues from the first.
    config = tiny_run.config(tmp_path, train={"steps": 6}, checkpoint={"every": 2, "keep": 3})
    out = tmp_path / "small"
    out.mkdir()
    train = shlex.join(tiny_run.command("train", config, "--out", out))
    script = f"""
        set -u
        mount -t tmpfs -o size=1200k none {out}
        {train} > {tmp_path}/first.out 2> {tmp_path}/first.err; echo $? > {tmp_path}/first.status
        ls -A {out}/checkpoints > {tmp_path}/first.list
        mount -o remount,size=20m {out}
        {train} > {tmp_path}/second.out 2> {tmp_path}/second.err; echo $? > {tmp_path}/second.status
        ls -A {out}/checkpoints > {tmp_path}/second.list
    """
    subprocess.run(["unshare", "--mount", "--", "sh", "-c", script], env=clean_env(), timeout=120, check=True)

    def text(name: str) -> str:
        return (tmp_path / name).read_text()

    assert text("first.status") == "1\n"
    assert "warning:" in text("first.out")
    assert "checkpoint of step 4 could not be written: No space left on device" in text("first.out")
    assert "Training goes on" in text("first.out")
    assert "step 6  loss" in text("first.out")
    assert text("first.err").startswith(
        f"{out}/checkpoints/step-00000006: checkpoint of step 6 could not be written"
    )
    assert text("first.err").count("\n") == 1
    assert text("first.list").split() == ["latest", "step-00000002"]
    assert text("second.status") == "0\n", text("second.err")
    assert "step-00000002 at step 2" in text("second.out")
    assert text("second.list").split() == ["latest", "step-00000002", "step-00000004", "step-00000006"]


def test_a_reader_that_leaves_does_not_end_the_training(tmp_path: Path) -> None:
    config, out = tiny_run.config(tmp_path), tmp_path / "out"
    process = tiny_run.start("train", config, "--out", out)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    with process.stderr as errors:
        assert errors.read() == ""
    assert tiny_run.last_step(out) == tiny_run.STEPS


def test_text_that_is_not_there_is_one_line_and_status_2(tmp_path: Path) -> None:
    config = tiny_run.config(tmp_path, data={"paths": [str(tmp_path / "nothing*.jsonl")]})
    with pytest.raises(ConfigError, match=r"nothing\*\.jsonl") as raised:
        tiny_run.train_in_process(config, tmp_path / "out")
    assert "\n" not in str(raised.value)


def test_a_fetch_says_how_to_train_on_it_and_what_else_comes_from_the_hub(tmp_path: Path) -> None:
    config, out = tiny_run.config(tmp_path), tmp_path / "fetched"
    done = tiny_run.run(
        *("data", "fetch", config, "--set", "tokenizer.kind=gpt2", "--documents", "3", "--out", out)
    )
    assert done.returncode == 0, done.stderr
    assert f"--set data.source=files --set 'data.paths=[{out}/*.parquet]'" in done.stdout
    assert "hf download openai-community/gpt2 vocab.json merges.txt" in done.stdout


def test_too_little_held_out_text_is_said(tmp_path: Path) -> None:
    config = tiny_run.config(tmp_path, data={"eval_fraction": 1e-9})
    with pytest.raises(
        ConfigError, match=r"data\.eval_fraction: the held-out documents do not fill one batch"
    ):
        tiny_run.train_in_process(config, tmp_path / "out")


def test_a_cuda_device_that_is_not_there_is_said(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    config = tiny_run.config(tmp_path)
    with pytest.raises(ConfigError, match=r"train\.device: cuda: .* Set it to auto or cpu"):
        tiny_run.train_in_process(config, tmp_path / "out", "train.device=cuda")


def test_without_out_a_run_gets_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_run.config(tmp_path)
    monkeypatch.chdir(tmp_path)
    tiny_run.train_in_process(config, None, "train.steps=4")
    (out,) = (tmp_path / "runs").iterdir()
    assert out.name.endswith("-tiny")
    assert tiny_run.checkpoint_steps(out) == [2, 4]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("finished: 4 steps in 0:0")
    assert "nats" in last


def test_watched_by_the_harness_it_emits_what_it_does(tmp_path: Path) -> None:
    from harness.watch.heartbeat import Reader

    config, out = tiny_run.config(tmp_path), tmp_path / "run"
    out.mkdir()
    process = tiny_run.Forked("train", config, env=clean_env(HARNESS_RUN_DIR=str(out), HARNESS_RUN_ID="r1"))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    reader = Reader(out / "ranks" / "00000.beat")
    beat, drained = reader.read(), reader.drain()
    reader.close()
    assert beat.total_steps == tiny_run.STEPS
    assert beat.closed_status == "finished"
    assert [row.step for row in drained.rows] == list(range(1, tiny_run.STEPS + 1))
    assert all(row.loss and row.grad_norm and row.tokens == 192 for row in drained.rows)
    assert {"data", "forward", "backward", "optimizer"} <= {
        phase for phase, seconds in drained.rows[-1].phase_seconds.items() if seconds > 0
    }
    events = [json.loads(line) for line in (out / "events" / "rank-00000.jsonl").read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds.count("eval") == 3
    assert kinds.count("checkpoint") == 6
    assert not (out / "metrics.jsonl").exists()  # the harness writes it


def test_a_start_that_hangs_in_the_import_of_torch_names_its_place(tmp_path: Path) -> None:
    from harness.watch.heartbeat import Reader

    config, out = tiny_run.config(tmp_path), tmp_path / "run"
    out.mkdir()
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import os\nos._exit(77)\n")
    env = clean_env(HARNESS_RUN_DIR=str(out), HARNESS_RUN_ID="r1")
    done = subprocess.run(
        [sys.executable, "-m", "nsa", "train", str(config)],
        env={**env, "PYTHONPATH": f"{tmp_path}{os.pathsep}{env['PYTHONPATH']}"},
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode == 77
    with Reader(out / "ranks" / "00000.beat") as reader:
        assert {entry.stage: None for entry in reader.drain().stages} == dict.fromkeys(START[:3])


# Traced and run without code generation, which would take a C++ compiler and a minute.
_TRACED = """
import torch
whole = torch.nn.Module.compile
torch.nn.Module.compile = lambda self: whole(self, backend="aot_eager")
"""


def test_every_stage_of_the_start_is_told_and_a_compiled_model_trains_the_same(tmp_path: Path) -> None:
    from harness.watch.heartbeat import Reader

    config, out = tiny_run.config(tmp_path, eval={"every": 0}, checkpoint={"every": 0}), tmp_path / "run"
    tiny_run.train_in_process(config, tmp_path / "plain", "train.steps=4")
    out.mkdir()
    process = tiny_run.Forked(
        *("train", config, "--set", "train.steps=4", "--set", "train.compile=true"),
        env=clean_env(HARNESS_RUN_DIR=str(out)),
        first=_TRACED,
    )
    _, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors
    with Reader(out / "ranks" / "00000.beat") as reader:
        drained = reader.drain()
    told = list(dict.fromkeys(entry.stage for entry in drained.stages))
    assert told == [*START, "compile", "train", "eval", "finish", "checkpoint"]
    plain = [row["loss"] for row in tiny_run.rows(tmp_path / "plain")]
    assert [row.loss for row in drained.rows] == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(
    ("override", "tolerance"), [("train.activation_checkpointing=true", 1e-6), ("train.dtype=bf16", 2e-2)]
)
def test_saving_memory_trains_the_same(tmp_path: Path, override: str, tolerance: float) -> None:
    config = tiny_run.config(tmp_path)
    tiny_run.train_in_process(config, tmp_path / "plain", "train.steps=4")
    tiny_run.train_in_process(config, tmp_path / "saving", "train.steps=4", override)
    plain, saving = ([row["loss"] for row in tiny_run.rows(tmp_path / name)] for name in ("plain", "saving"))
    assert saving == pytest.approx(plain, rel=tolerance)


@pytest.mark.needs("tensorboard")
def test_tensorboard_events_are_written_when_asked(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config, out = tiny_run.config(tmp_path), tmp_path / "out"
    tiny_run.train_in_process(config, out, "train.tensorboard=true", "train.steps=4")
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    shown = [(event.step, float(event.value).hex()) for event in events.Scalars("loss")]
    assert shown == [(step, loss) for step, (loss,) in sorted(tiny_run.losses(out).items())]
