"""A disk that fills up costs the evidence, not the incident, and never the run."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support import stalls
from tests.support.env import clean_env
from tests.support.run import HARNESS
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("root", "tmpfs")


def test_an_incident_on_a_full_disk_is_announced_and_counted_and_the_run_goes_on(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [*HARNESS, "run", "--run-dir", str(disk / "run"), "--metrics-port", "0", *stalls.LIMIT, "--"]
    trainer = stalls.trainer("--steps", "300", "--quiet")
    # A mount of their own: gone with the last of their processes.
    mount = f'mount -t tmpfs -o size=4m none {disk} && exec "$@"'
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", mount, "sh", *command, *trainer],
        env=clean_env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        # The mount as seen from inside.
        seen = disk if process.poll() is not None else type(disk)(f"/proc/{process.pid}/root{disk}")
        run = seen / "run"
        stalls.wait_for_step(run, 10)
        fill(seen / "filler")
        pid = trainer_pid(process.pid)
        os.kill(pid, signal.SIGSTOP)
        lines = []
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "no evidence:" in line:
                break
        assert any(line.startswith("stalled · ") for line in lines), lines
        assert "No space left on device" in lines[-1]
        address = next(line for line in lines if "metrics http" in line).split("metrics ")[1].split()[0]
        counted = 'trainer_stalls_total{cause="unknown",rank="0",stage="train"}'
        wait_for(lambda: stalls.scrape(address).get(counted) == 1, what="the stall to be counted")
        os.kill(pid, signal.SIGCONT)
        rest, _ = process.communicate(timeout=stalls.DEADLINE_SECONDS)
        assert "incident 001 closed" in rest
        assert process.returncode == 0, rest
        assert "Traceback" not in "".join(lines) + rest
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.kill()
        process.kill()
        process.communicate()


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            for size in (65536, 4096, 1):
                while file.write(b"x" * size):
                    pass
        except OSError:
            return


def trainer_pid(pid: int) -> int:
    def find() -> int | None:
        for child in psutil.Process(pid).children(recursive=True):
            if child.cmdline()[1:2] == [stalls.TRAINER]:
                return child.pid
        return None

    return wait_for(find, what="the trainer")
