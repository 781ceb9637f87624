"""Notes from a real trainer's heartbeat, its log and its folder: what is collected is what they stand on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import zoo
from tests.support.env import clean_env
from tests.support.victims import end
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("py-spy")

TRAINER = """
import sys, time
from harness import emit
schedule = {"kind": "cosine", "peak": 2e-4, "warmup": 100, "total": 1000, "floor": 0.1}
emit.open(total_steps=1000, schedule=schedule)
emit.stage("train")
print("Token indices sequence length is longer than the specified maximum sequence length for this model "
      "(1249 > 1024). Running this", file=sys.stderr)
for step in range(1, 1301):
    emit.step(step, loss=float("nan") if step > 1250 else 10.0 / step, lr=2e-4, tokens=64)
open("ready", "w").close()
time.sleep(3600)
"""


def test_what_the_ring_the_log_and_the_folder_hold_becomes_notes(tmp_path: Path):
    run_dir = tmp_path / "runs" / "a"
    (run_dir / "ranks").mkdir(parents=True)
    (tmp_path / "train.py").write_text(TRAINER)
    (tmp_path / "step-100.pt").write_bytes(b"old")
    os.utime(tmp_path / "step-100.pt", (time.time() - 9000, time.time() - 9000))
    with (tmp_path / "training.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "train.py"],
            cwd=tmp_path,
            env=clean_env(HARNESS_RUN_DIR=str(run_dir)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for((tmp_path / "ready").exists, 60, "the trainer's steps")
        status, document, _ = zoo.diagnose(process.pid)
    finally:
        end(process)
    found = {each["cause"]: each["summary"] for each in document["notes"]}
    assert status == 1
    assert set(found) == {"lr-off-schedule", "loss-nonfinite", "stale-checkpoint", "tokenizer-warning"}
    # The ring has room for 1,024 rows; the newest 512 are kept.
    assert found["loss-nonfinite"].startswith("The loss was nan since step 1,251")
    assert "LR 2e-4 at step 1,300" in found["lr-off-schedule"]
    assert found["tokenizer-warning"].startswith("training.log warns")
    assert "step-100.pt" in found["stale-checkpoint"]
