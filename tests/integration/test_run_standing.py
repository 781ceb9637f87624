"""`harness status` tells where a run stands: from its files, whatever lives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support import run as runs
from tests.support import stalls
from tests.support.env import clean_env
from tests.support.programs import completed
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _text(directory: Path) -> str:
    done = subprocess.run(
        [*runs.HARNESS, "status", str(directory)],
        env=clean_env(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_a_run_is_told_from_its_first_step_through_a_stall_to_its_end(start: Callable[..., runs.Run]) -> None:
    run = start(*stalls.trainer("--steps", "100000"), options=(*stalls.LIMIT, "--metrics-port", "0"))
    run.pid()
    stalls.wait_for_step(run.directory, 5)
    found = runs.status(run.directory)
    assert found["state"] == "running"
    assert found["step"] >= 5
    assert found["stage"] == "train"
    assert found["target_steps"] == 100000
    assert isinstance(found["loss"], float)
    assert found["last_progress_age_seconds"] < 5
    assert found["metrics_address"].startswith("http://127.0.0.1:")
    assert "step" in _text(run.directory)

    psutil.Process(run.pid()).suspend()
    stalls.wait_for_incident(run.directory)
    found = runs.status(run.directory)
    assert found["state"] == "stalled"
    assert found["open_incidents"] == [str(run.directory / "incidents" / "001")]
    assert any("kill -CONT" in note for note in found["notes"])
    assert "STALLED" in _text(run.directory)

    psutil.Process(run.pid()).resume()
    stalls.wait_for_incident(run.directory, closed=True)
    assert runs.status(run.directory)["state"] == "running"

    psutil.Process(run.pid()).send_signal(signal.SIGKILL)
    assert run.end()[0] == 137
    found = runs.status(run.directory)
    assert (found["state"], found["exit_status"], found["pid"]) == ("died", 137, None)
    assert "killed by SIGKILL" in found["summary"]
    assert found["incidents"] == 1


def test_a_run_whose_machine_went_down_is_lost(start: Callable[..., runs.Run]) -> None:
    run = start("true")
    assert run.end()[0] == 0
    record = run.record()
    record["attempts"][-1].update(ended_at=None, exit_status=None, ended_by=None)
    record["boot_id"] = "another boot"
    (run.directory / "run.json").write_text(json.dumps(record))
    (run.directory / "attempts" / "001.json").unlink()
    assert runs.status(run.directory)["state"] == "lost"


def test_a_run_of_another_host_is_said_to_be_elsewhere(start: Callable[..., runs.Run]) -> None:
    run = start("true")
    assert run.end()[0] == 0
    record = run.record()
    record["attempts"][-1].update(ended_at=None, exit_status=None, ended_by=None)
    record["host"] = "node-far-away"
    (run.directory / "run.json").write_text(json.dumps(record))
    (run.directory / "attempts" / "001.json").unlink()
    found = runs.status(run.directory)
    assert found["state"] == "elsewhere"
    assert "node-far-away" in found["summary"]


def test_a_damaged_record_of_a_rank_is_noted_and_hides_nothing(start: Callable[..., runs.Run]) -> None:
    run = start(*stalls.trainer("--steps", "3"))
    assert run.end()[0] == 0
    (run.directory / "ranks" / "00007.beat").write_bytes(b"rubbish")
    found = runs.status(run.directory)
    assert (found["state"], found["step"], found["ranks"]) == ("finished", 3, 1)
    assert any("00007.beat" in note for note in found["notes"])


def test_status_needs_no_rights_to_write(start: Callable[..., runs.Run]) -> None:
    run = start("true")
    assert run.end()[0] == 0
    before = sorted((path, path.stat().st_mtime_ns) for path in run.directory.rglob("*"))
    runs.status(run.directory)
    assert sorted((path, path.stat().st_mtime_ns) for path in run.directory.rglob("*")) == before


def test_continuing_what_may_still_run_on_another_host_says_so(start: Callable[..., runs.Run]) -> None:
    run = start("true")
    assert run.end()[0] == 0
    record = run.record()
    record["host"] = "node-far-away"
    for each in record["attempts"]:
        each["ended_at"] = each["exit_status"] = None
    for path in (run.directory / "attempts").iterdir():
        path.unlink()
    (run.directory / "run.json").write_text(json.dumps(record))
    status, text = start().end()
    assert status == 0
    assert "attempt 1 began on host node-far-away, and nothing here says that it ended" in text
    assert "node-far-away" not in start().end()[1]


@pytest.mark.parametrize("place", ["incidents/001/incident.json", "attempts/002.json"])
@pytest.mark.parametrize("command", [("status",), ("top", "--once"), ("report", "--out", "page.html")])
def test_a_fifo_in_the_place_of_a_file_holds_up_nobody(
    place: str, command: tuple[str, ...], start: Callable[..., runs.Run], tmp_path: Path
) -> None:
    run = start(*runs.python("pass"))
    assert run.end()[0] == 0
    (run.directory / place).parent.mkdir(exist_ok=True)
    os.mkfifo(run.directory / place)
    done = completed([*runs.HARNESS, *command, str(run.directory)], cwd=tmp_path, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_a_machine_that_was_renamed_knows_its_processes(
    start: Callable[..., runs.Run], tmp_path: Path
) -> None:
    """A second training must not be started beside one that lives."""
    first = start(*runs.python("import time; time.sleep(600)"))
    pid = first.pid()
    wait_for(lambda: first.record()["versions"], what="the last writing of run.json")
    record = {**first.record(), "host": "as-it-was-called"}
    (first.directory / "run.json").write_text(json.dumps(record))
    assert runs.status(first.directory)["state"] == "running"
    first.process.kill()
    first.process.wait(timeout=runs.DEADLINE_SECONDS)
    assert first.record() == record
    assert runs.status(first.directory)["state"] == "unsupervised"
    second = start()
    wait_for(lambda: second.record()["supervisor_pid"] == second.process.pid, what="the second one")
    assert second.record()["attempt"] == 1
    os.kill(pid, signal.SIGKILL)
    assert second.end()[0] == 137
