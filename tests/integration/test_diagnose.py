"""`harness diagnose` as a user meets it: bad input, kept evidence, its deadline, the target unharmed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.support import zoo
from tests.support.env import clean_env
from tests.support.programs import completed
from tests.support.stepping import stepping
from tests.support.victims import running

pytestmark = pytest.mark.needs("py-spy")


def harness(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return completed(command)


def free_pid() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_a_pid_that_nobody_has_is_one_line_and_status_2():
    pid = free_pid()
    done = harness("diagnose", str(pid))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"harness diagnose: no process {pid}: it has ended, or never was\n"
    document = json.loads(harness("diagnose", str(pid), "--json").stdout)
    assert document["schema"] == "harness.diagnosis/1"
    assert "no process" in document["error"]


@pytest.mark.parametrize("text", ["abc", "-1", "0", "99999999999"])
def test_what_is_no_pid_is_a_mistake(text):
    done = harness("diagnose", text)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_program_that_is_no_python_is_said_to_be_none():
    sleeper = subprocess.Popen(["sleep", "300"])
    try:
        done = harness("diagnose", str(sleeper.pid), "--json")
    finally:
        sleeper.kill()
        sleeper.wait()
    assert done.returncode == 3
    assert "no Python stack" in json.loads(done.stdout)["error"]


def test_a_zombie_has_exited_and_its_parent_is_named():
    parent = subprocess.Popen(
        [sys.executable, "-c", "import os, time\nif os.fork():\n print('x', flush=True)\n time.sleep(300)"],
        stdout=subprocess.PIPE,
    )
    try:
        parent.stdout.readline()
        with open(f"/proc/{parent.pid}/task/{parent.pid}/children") as file:
            child = file.read().split()[0]
        status, document, _ = zoo.diagnose(int(child))
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    assert (status, document["verdict"]["cause"]) == (1, "exited")
    assert str(parent.pid) in document["verdict"]["summary"]


def test_kept_evidence_repeats_the_verdict_and_the_target_runs_on(tmp_path):
    with running("counts_slowly") as victim:
        report, kept = tmp_path / "report.html", tmp_path / "case"
        done = harness("diagnose", str(victim.pid), "--html", str(report), "--out", str(kept), "--markdown")
        assert victim.process.poll() is None
        assert victim.state in "RS"
    assert done.returncode == 0, done.stderr
    assert "slow-progress" in done.stdout
    assert "select" in report.read_text()
    again = harness("explain", str(kept), "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["verdict"]["cause"] == "slow-progress"


def test_it_ends_at_its_deadline_whatever_the_target_does():
    with running("reads_silent_socket") as victim:
        started = time.monotonic()
        done = harness("diagnose", str(victim.pid), "--deadline", "1", "--duration", "3000", "--json")
        took = time.monotonic() - started
    assert took < 20
    # With what a second shows it may be sure, or say that it was seen once only, or not at all.
    document = json.loads(done.stdout)
    assert "error" in document or document["verdict"]["state"] in ("hung", "unknown")
    assert done.returncode in (1, 3)


def test_killed_in_the_middle_it_leaves_the_target_running():
    chance = random.Random(4)
    with stepping() as training:
        for _ in range(6):
            command = [sys.executable, "-m", "harness", "diagnose", str(training.pid)]
            look = subprocess.Popen(
                command, env=clean_env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(chance.uniform(0.2, 2.0))
            look.send_signal(signal.SIGKILL)
            look.wait()
            assert training.harm() == ""


@pytest.mark.needs("root")
def test_another_users_process_is_told_apart():
    look = (
        "import os, sys; from harness.cli import diagnose\n"
        "os.seteuid(65534); print(diagnose._problem(int(sys.argv[1])))"
    )
    with running("sleeps") as victim:
        done = completed([sys.executable, "-c", look, str(victim.pid)])
    assert "belongs to uid 0, we are uid 65534" in done.stdout, done.stderr
    assert done.stdout.rstrip().endswith("3)")


_POLLS = """\
import time

def train():
    ready = False
    print("READY", flush=True)
    while not ready:
        time.sleep(0.3)

train()
"""


@pytest.mark.parametrize("how", ["python -c", "a script without .py"])
def test_code_without_a_file_of_its_own_is_read_as_well(how, tmp_path):
    script = tmp_path / "train"
    script.write_text(f"#!/usr/bin/env python3\n{_POLLS}")
    begun = ["-c", _POLLS] if how == "python -c" else [str(script)]
    victim = subprocess.Popen(
        [sys.executable, *begun], stdout=subprocess.PIPE, text=True, env=clean_env(), cwd=tmp_path
    )
    try:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "READY\n"
        done = harness("diagnose", str(victim.pid), "--json")
    finally:
        victim.kill()
        victim.communicate()
    verdict = json.loads(done.stdout)["verdict"]
    assert (verdict["state"], verdict["cause"]) == ("hung", "sleep")
    assert verdict["blame"]["function"] == "train"
    assert "`time.sleep(0.3)`" in verdict["evidence"]
