"""`harness watch PID`: the same for a training that somebody else started, and never a hand laid on it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import run as runs
from tests.support import stalls
from tests.support.env import clean_env
from tests.support.programs import completed
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Bench:
    """A folder, trainings started in it without the harness, and watchers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def train(self, *arguments: str, emits: bool = True, **popen: object) -> subprocess.Popen[str]:
        run_dir = self.folder / "target"
        run_dir.mkdir(exist_ok=True)
        with (self.folder / "train.log").open("w") as log:
            process = subprocess.Popen(
                stalls.trainer("--steps", "100000", *arguments),
                env=clean_env(**({"HARNESS_RUN_DIR": str(run_dir)} if emits else {}), PYTHONUNBUFFERED="1"),
                cwd=self.folder,
                text=True,
                **{"stdout": log, **popen},
            )
        self.started.append(process)
        if emits:
            stalls.wait_for_step(run_dir, 5)
        return process

    def watch(self, pid: int | str, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*runs.HARNESS, "watch", str(pid), "--metrics-port", "0", *stalls.LIMIT, *options],
            env=clean_env(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def greeting(self, watcher: subprocess.Popen[str]) -> str:
        assert watcher.stdout is not None
        line = watcher.stdout.readline()
        assert line.startswith("watching process"), line + watcher.stdout.read()
        return line


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path)
    yield found
    for process in found.started:
        process.kill()
        process.send_signal(signal.SIGCONT)
        process.communicate()


def status_of(run_dir: Path) -> dict[str, object]:
    done = subprocess.run(
        [*runs.HARNESS, "status", "--json", str(run_dir)],
        env=clean_env(),
        capture_output=True,
        timeout=stalls.DEADLINE_SECONDS,
        check=True,
    )
    return json.loads(done.stdout)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=stalls.DEADLINE_SECONDS)
    return process.returncode, output


def test_a_stall_is_kept_where_the_target_keeps_its_records_and_closes_when_it_goes_on(bench: Bench) -> None:
    target = bench.train()
    watcher = bench.watch(target.pid)
    line = bench.greeting(watcher)
    address = re.search(r"metrics (\S+)", line)
    assert address is not None
    wait_for(lambda: stalls.scrape(address[1]).get('trainer_up{rank="0"}') == 1, what="its metrics")
    standing = status_of(bench.folder / "target")
    assert (standing["state"], standing["metrics_address"]) == ("running", address[1])
    target.send_signal(signal.SIGSTOP)
    opened = stalls.wait_for_incident(bench.folder / "target")
    assert "stopped" in opened["headline"]
    target.send_signal(signal.SIGCONT)
    stalls.wait_for_incident(bench.folder / "target", closed=True)
    watcher.send_signal(signal.SIGINT)
    status, output = end(watcher)
    assert status == 0
    assert f"left process {target.pid} alone, progressing" in output
    before = stalls.step(bench.folder / "target")
    stalls.wait_for_step(bench.folder / "target", before + 10)
    assert target.poll() is None
    assert status_of(bench.folder / "target")["state"] == "unsupervised"


def test_left_while_stalled_says_so(bench: Bench) -> None:
    target = bench.train("--fault", "sleep")
    watcher = bench.watch(target.pid)
    stalls.wait_for_incident(bench.folder / "target")
    watcher.send_signal(signal.SIGTERM)
    status, output = end(watcher)
    assert (status, target.poll()) == (1, None)
    assert "alone, stalled" in output


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--steps", "60"), 0, "after its trainer said so"),
        (("--fault", "exception"), 1, "without having finished: rank 0"),
    ],
)
def test_it_ends_with_the_target_and_says_how_it_went(
    bench: Bench, arguments: tuple[str, ...], status: int, words: str
) -> None:
    target = bench.train(*arguments, "--seconds", "0.1", stderr=subprocess.DEVNULL)
    target.send_signal(signal.SIGSTOP)  # until it is watched, however long that takes on a busy machine
    watcher = bench.watch(target.pid)
    bench.greeting(watcher)
    target.send_signal(signal.SIGCONT)
    target.wait(timeout=stalls.DEADLINE_SECONDS)
    found, output = end(watcher)
    assert (found, words in output) == (status, True), output


def test_a_folder_of_something_else_is_neither_taken_for_a_run_nor_written_into(bench: Bench) -> None:
    other = bench.folder / "precious"
    other.mkdir()
    (other / "thesis.tex").touch()
    target = bench.train(emits=False)
    watcher = bench.watch(target.pid, "--run-dir", str(other))
    text, _ = watcher.communicate(timeout=60)
    assert watcher.returncode == 2
    assert text.splitlines()[0].startswith(f"harness: {other}: not a run directory")
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


def test_one_that_never_emits_is_followed_by_its_log_in_a_run_directory_of_our_own(bench: Bench) -> None:
    target = bench.train("--seconds", "0.05", emits=False)
    watcher = bench.watch(target.pid, "--stall-timeout", "log=3")
    line = bench.greeting(watcher)
    wait_for(
        lambda: list((bench.folder / "runs").glob(f"*-watch-{target.pid}/run.json")), what="its directory"
    )
    [directory] = (bench.folder / "runs").glob(f"*-watch-{target.pid}")
    assert directory.name in line
    target.send_signal(signal.SIGSTOP)
    opened = stalls.wait_for_incident(directory)
    assert opened["summary"].startswith("no log line for 3 s, no CPU used for ")
    target.send_signal(signal.SIGCONT)
    stalls.wait_for_incident(directory, closed=True)
    target.kill()
    assert end(watcher)[0] == 0


def test_output_that_cannot_be_followed_is_said_to_be_so(bench: Bench) -> None:
    target = bench.train("--quiet", emits=False, stdout=subprocess.PIPE)
    watcher = bench.watch(target.pid)
    target.kill()
    target.wait()
    _, output = end(watcher)
    assert "no log: its output goes into a pipe" in output or "there is no process" in output


@pytest.mark.parametrize(
    ("pid", "words"),
    [
        ("0", "'0' is no process id"),
        ("-5", "-5"),
        ("abc", "'abc' is no process id"),
        ("99999999999", "no process id"),
        ("4194303", "there is no process 4194303"),
        ("2", "process 2"),
    ],
)
def test_a_bad_pid_is_one_clear_line(bench: Bench, pid: str, words: str) -> None:
    status, output = end(bench.watch(pid))
    if pid == "2" and status != 2:
        pytest.skip("here process 2 is no kernel thread")
    assert status == 2
    assert words in output
    assert len(output.splitlines()) == 1
    assert "Traceback" not in output


def test_a_process_that_has_ended_but_is_not_reaped_is_one_clear_line(bench: Bench) -> None:
    zombie = subprocess.Popen([sys.executable, "-c", ""], env=clean_env())
    try:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        status, output = end(bench.watch(zombie.pid))
        assert status == 2
        assert "has ended already" in output
    finally:
        zombie.wait()


@pytest.mark.parametrize("command", ["watch", "diagnose", "top"])
def test_the_id_of_a_thread_is_told_from_that_of_a_process(command: str) -> None:
    """htop lists threads with ids of their own, and /proc has a folder for each."""
    script = (
        "import threading\n"
        "lock = threading.Lock(); lock.acquire()\n"
        "def wait(): print(threading.get_native_id(), flush=True); lock.acquire()\n"
        "threading.Thread(target=wait).start()\n"
    )
    target = subprocess.Popen(
        [sys.executable, "-c", script], env=clean_env(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert target.stdout is not None
        thread = target.stdout.readline().strip()
        done = completed([*runs.HARNESS, command, thread])
        assert done.returncode == 2
        assert f"{thread} is a thread of process {target.pid}" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    finally:
        target.kill()
        target.communicate()


def test_a_run_that_is_supervised_already_is_refused(bench: Bench) -> None:
    run = runs.start(bench.folder / "run", *stalls.trainer("--steps", "100000"))
    try:
        stalls.wait_for_step(run.directory, 2)
        status, output = end(bench.watch(run.pid()))
        assert status == 2
        assert f"supervised already, by pid {run.process.pid}" in output
    finally:
        run.clean_up()
