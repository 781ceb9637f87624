"""Trainers under `harness.auto`, without a supervisor: the hooks alone, and what they recorded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.supervise.instrumenting import environment_of
from harness.watch.heartbeat import Reader
from tests.support.env import clean_env

if TYPE_CHECKING:
    from harness.watch.heartbeat import Heartbeat, StepRow

TRAINERS = Path(__file__).with_name("trainers")
DEADLINE_SECONDS = 150.0


def environment(run_dir: Path | None, **extra: str) -> dict[str, str]:
    """As `harness run` would start a command in; without a `run_dir`, as without the harness.

    The repository is not on the path: the trainer's environment knows the harness, or does not, by itself.
    """
    env = clean_env(**extra)
    if "PYTHONPATH" not in extra:
        del env["PYTHONPATH"]
    if run_dir is None:
        return env
    run_dir.mkdir(exist_ok=True)
    return {**env, "HARNESS_RUN_DIR": str(run_dir), **environment_of(env, instrument=True)}


def run(
    *command: str, env: dict[str, str], cwd: Path, status: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    done = subprocess.run(
        command,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert status is None or done.returncode == status, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def python(*arguments: str, env: dict[str, str], cwd: Path, status: int | None = 0) -> str:
    """Run this interpreter; what it wrote to stdout. Nothing of ours may stand on stderr."""
    done = run(sys.executable, *arguments, env=env, cwd=cwd, status=status)
    assert "harness:" not in done.stderr, done.stderr
    return done.stdout


def recorded(run_dir: Path, rank: int = 0) -> tuple[list[StepRow], list[str], Heartbeat]:
    """The rows, the stages in their order, and where the record stands."""
    reader = Reader(run_dir / "ranks" / f"{rank:05d}.beat")
    try:
        drained = reader.drain()
        return list(drained.rows), [entry.stage for entry in drained.stages], reader.read()
    finally:
        reader.close()
