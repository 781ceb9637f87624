"""`harness diagnose` where it may not look, or where there is nothing to see: one clear line and the rest."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from harness.collect import records
from harness.collect.deadline import NotSeen
from harness.collect.procfs import Proc
from tests.support import nobody
from tests.support.env import clean_env
from tests.support.programs import completed
from tests.support.victims import running
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("py-spy")


def harness(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return completed(command)


def error_of(pid: int) -> str:
    return str(json.loads(harness("diagnose", str(pid), "--json").stdout)["error"])


@pytest.fixture
def place() -> Iterator[Path]:
    with nobody.folder() as folder:
        yield folder


def run_dir(place: Path, owner: int = nobody.UID) -> Path:
    """Where `harness run` would have put a run that was started in `place`."""
    path = place / "runs" / "2026-11-23-a"
    (path / "ranks").mkdir(parents=True)
    for each in (place / "runs", path, path / "ranks"):
        os.chown(each, owner, owner)
    return path


# ── denied ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.needs("root")
def test_of_another_users_process_there_is_what_proc_gives_and_who_may_look(place: Path):
    with running("sleeps") as victim:
        shown = nobody.harness(place, "diagnose", str(victim.pid))
        told = nobody.harness(place, "diagnose", str(victim.pid), "--json")
    assert (shown.returncode, told.returncode, shown.stderr) == (3, 3, "")
    first, blank, *screen = shown.stdout.splitlines()
    assert (first, blank) == (
        f"process {victim.pid} belongs to uid 0, we are uid {nobody.UID}: run as that user, or as root",
        "",
    )
    text = " ".join(" ".join(screen).split())
    assert f"pid {victim.pid}: asleep, 1 thread, 0 % of a CPU" in text
    assert "to allow it: Run as that user or as root" in text
    document = json.loads(told.stdout)
    assert document["error"] == first
    assert document["verdict"]["state"] == "unknown"
    assert document["processes"][0]["state"] == "S"
    denied = {each["what"] for each in document["not_checked"] if each["reason"] == "denied"}
    assert {"Python stacks", "descriptors", "environment"} <= denied


@pytest.mark.needs("root")
def test_a_trainer_that_hides_is_known_by_its_heartbeat_and_tells_its_own_traceback(place: Path):
    env = clean_env(HARNESS_RUN_DIR=str(run_dir(place)))
    with running("hides_from_ptrace", str(nobody.UID), env=env) as victim:
        done = nobody.harness(place, "diagnose", str(victim.pid), "--json")
        assert victim.process.poll() is None
    document = json.loads(done.stdout)
    verdict = document["verdict"]
    assert (done.returncode, verdict["state"], verdict["cause"]) == (1, "hung", "sleep"), done
    assert verdict["blame"]["function"] == "wait"
    assert "3 of 3 samples" in " ".join(verdict["evidence"]), "tracebacks that were taken one after another"
    (limits,) = (each for each in document["not_checked"] if each["what"] == "locals and C frames")
    assert limits["reason"] == "denied"
    assert "not dumpable" in limits["detail"]


@pytest.mark.needs("root")
def test_a_run_directory_elsewhere_can_be_named(place: Path):
    shutil.move(run_dir(place).parent, place / "elsewhere")
    path = place / "elsewhere" / "2026-11-23-a"
    with running("hides_from_ptrace", str(nobody.UID), env=clean_env(HARNESS_RUN_DIR=str(path))) as victim:
        blind = nobody.harness(place, "diagnose", str(victim.pid))
        named = nobody.harness(place, "diagnose", str(victim.pid), "--run-dir", str(path), "--json")
    assert blind.returncode == 3
    assert "shows no Python stack: ptrace is denied: the process is not dumpable" in " ".join(
        blind.stdout.split()
    )
    assert "to allow it: Run as root" in blind.stdout
    assert json.loads(named.stdout)["verdict"]["blame"]["function"] == "wait"


@pytest.mark.needs("root")
def test_the_heartbeat_of_a_third_user_counts_for_nothing(place: Path):
    path = run_dir(place)
    with running("hides_from_ptrace", str(nobody.UID), env=clean_env(HARNESS_RUN_DIR=str(path))) as victim:
        for each in (path / "ranks").iterdir():
            os.chown(each, 1234, 1234)
            each.chmod(0o644)
        done = nobody.harness(place, "diagnose", str(victim.pid), "--json")
    assert done.returncode == 3
    verdict = json.loads(done.stdout)["verdict"]
    assert verdict["state"] == "unknown"
    assert not [each for each in verdict["evidence"] if "heartbeat" in each]


def test_no_signal_but_those_for_tracebacks_is_sent_on_a_records_word(tmp_path: Path):
    program = "import signal, time\nsignal.signal(signal.SIGTERM, print)\nprint(flush=True)\ntime.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=clean_env())
    try:
        assert process.stdout is not None
        process.stdout.readline()
        ticks = Proc().stat(process.pid).start_time_ticks
        beat = {"pid": process.pid, "start_time_ticks": ticks, "rank": 0, "traceback_signal": signal.SIGTERM}
        with pytest.raises(NotSeen, match="registered no faulthandler"):
            records.faulthandler_stacks(Proc(), tmp_path, beat, {os.geteuid()}, seconds=1.0)
    finally:
        process.kill()
        said, _ = process.communicate(timeout=20)
    assert said == b"", "the handler was not called"


# ── nothing to look at ──────────────────────────────────────────────────────────────────────────────────────


def test_a_kernel_thread_is_said_to_be_one():
    kernel = next((pid for pid in Proc().pids() if Proc().stat(pid).kernel_thread and pid != 2), None)
    if kernel is None:
        pytest.skip("no kernel thread can be seen here (a container)")
    done = harness("diagnose", str(kernel))
    message = f"process {kernel} is a kernel thread: there is no program of yours in it"
    assert (done.returncode, done.stdout.splitlines()[0]) == (3, message)
    assert error_of(kernel) == message


@pytest.mark.parametrize(
    ("name", "words"),
    [("sleep", "(sleep) shows no Python stack"), ("python3.99", "does not know: pip install -U py-spy")],
)
def test_a_program_without_python_is_told_from_a_python_that_py_spy_does_not_know(
    tmp_path: Path, name: str, words: str
):
    shutil.copy(str(shutil.which("sleep")), tmp_path / name)
    process = subprocess.Popen([str(tmp_path / name), "3600"], env=clean_env())
    try:
        wait_for(lambda: Proc().stat(process.pid).name == name, what="exec")
        done = harness("diagnose", str(process.pid))
        error = error_of(process.pid)
    finally:
        process.kill()
        process.wait(20)
    assert done.returncode == 3
    assert words in error
    assert " ".join(done.stdout.split()).startswith(error)
    assert f"pid {process.pid}: asleep, in the system call clock_nanosleep" in done.stdout


def test_a_process_that_ends_meanwhile_is_no_fault_of_ours():
    with running("short_lived", "0.6") as victim:
        done = harness("diagnose", str(victim.pid), "--json", "--duration", "3")
        victim.process.wait(30)
    document = json.loads(done.stdout)
    if done.returncode == 2:  # it had ended before the first look
        assert "no process" in document["error"]
    else:
        assert (done.returncode, document["verdict"]["state"]) == (1, "exited"), document["verdict"]
    assert "Traceback" not in done.stderr
