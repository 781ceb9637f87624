"""`harness smoke` as a user meets it: stages that pass, fail, stall, run over; Ctrl-C; files; terminals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.support.env import clean_env
from tests.support.programs import completed
from tests.support.pty_session import Terminal
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from pathlib import Path

SMOKE = (sys.executable, "-m", "harness", "smoke")
TRAINER = """
import sys, time
from harness import emit
from harness.schedules import scheduled_rate
steps, stands = int(sys.argv[1]), sys.argv[2:] == ["stands"]
schedule = {"kind": "cosine", "peak": 1e-3, "warmup": 5, "total": steps, "floor": 0.1}
emit.open(total_steps=steps, schedule=schedule)
emit.stage("train")
print('measured {"rows": 12, "ready": true}')
for step in range(1, steps + 1):
    time.sleep(0.1)
    emit.step(step, loss=5 - 0.05 * step, lr=scheduled_rate(schedule, step), tokens=100)
if stands:
    time.sleep(600)
emit.close()
"""
PLAN = """
name: demo
values: {steps: "40"}
stages:
  - {name: hello, command: "{python} -c 'print(1)'", budget: 60}
  - name: train
    command: "{python} {here}/trainer.py {steps}"
    budget: 120
    needs: hello
    expect:
      step: 40
      ranks: 1
      stage: train
      loss: {falls_by: 1, ends_below: 4}
      learning_rate: scheduled
      tokens_per_second: 100
      memory: 500M
      memory_growth: 100M
      scraped: [trainer_step, trainer_loss]
      files: [metrics.jsonl, "log/*.log"]
      measured: {rows: {at_least: 10}, ready: true}
"""
# Nothing that is expected comes true.
UNMET_TRAINER = """
import math, time
from harness import emit
emit.open()
emit.stage("train")
print('measured {"rows": 12, "ready": true}')
print("Token indices sequence length is longer")
kept = []
for step in range(1, 21):
    kept.append(b"x" * (1 << 20))
    time.sleep(0.2)
    emit.step(step, loss=math.nan if step == 9 else 5.0, lr=1e-3, tokens=100, memory=(3 << 20,) * 3)
emit.close()
raise SystemExit("no reason")
"""
UNMET = """
stages:
  - name: train
    command: "{python} {here}/unmet.py"
    budget: 120
    expect:
      step: 40
      ranks: 2
      stage: finish
      loss: {falls_by: 1, ends_below: 4}
      learning_rate: {kind: cosine, peak: 1e-2, warmup: 5, total: 40, floor: 0.1}
      tokens_per_second: 1e9
      memory: 1M
      gpu_memory: 1M
      memory_growth: 1K
      scraped: [trainer_step, no_such_series]
      files: ["*.pt"]
      log_has: no such line
      log_lacks: Token indices
      measured: {rows: {at_least: 100}, ready: false, absent: {equals: 1}}
"""
UNMET_SAID = {
    "exit": r"1 \(no reason\), expected 0",
    "step": r"reached 20, expected 40 to be reached",
    "ranks": r"1 took part, expected 2",
    "stage": r"reached .*train, expected 'finish' to be reached",
    "loss.finite": r"nan at step 9, expected a finite loss at every step",
    "loss.falls_by": r"0 \(5 → 5\), expected at least 1",
    "loss.ends_below": r"5 at step 20, expected below 4",
    "learning_rate": r"1.00e-3 at step 1, its schedule says 2.00e-3, expected the scheduled rate at .*",
    "tokens_per_second": r"[\d,]+, expected at least 1,000,000,000",
    "memory": r".* MB at its peak, expected at most 1.0 MB",
    "gpu_memory": r"3.1 MB at its peak, expected at most 1.0 MB",
    "memory_growth": r".* MB on the host, expected at most 1.0 kB",
    "scraped": r"\d+ scrapes without no_such_series, expected trainer_step, no_such_series while it ran",
    "files": r"none of \*.pt, expected one that is not empty",
    "log_has": r"no such line, expected a line with 'no such line'",
    "log_lacks": r"the line “Token indices sequence length is longer”, expected no line with 'Token indices'",
    "rows": r"12, expected at least 100",
    "ready": r"yes, expected no",
    "absent": r"it was not measured, expected 1",
}
MIXED = """
stages:
  - {name: over, command: "{python} -c 'import time; time.sleep(600)'", budget: 4, needs: []}
  - {name: after, command: "true", needs: over}
  - {name: stalls, command: "{python} {here}/trainer.py 5 stands", stall: 2, budget: 90}
  - {name: fails, command: "{python} {here}/fails.py --hf-token s3cr3t", budget: 60}
  - {name: missing, command: no-such-program --at-all, budget: 60}
  - {name: fine, command: "true", budget: 60}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trainer.py").write_text(TRAINER)
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / "fails.py").write_text("import sys; sys.exit('lr is 0: \\x1b[31mraise it, password: s3cr3t')")
    (tmp_path / "mixed.yaml").write_text(MIXED)
    return tmp_path


def smoke(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return completed(
        [*SMOKE, *arguments], cwd=folder, env=clean_env(**env), stdin=subprocess.DEVNULL, timeout=170
    )


def report(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("runs/smoke-*/report.json")
    return json.loads(path.read_text())


def test_a_plan_passes_and_everything_expected_was_checked(folder: Path) -> None:
    done = smoke(folder, "plan.yaml", "--junit", "junit.xml", "--json", "out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = report(folder)
    assert json.loads((folder / "out.json").read_text()) == document
    train = document["stages"][1]
    assert (train["state"], train["measured"]) == ("passed", {"rows": 12, "ready": True})
    assert {check["what"] for check in train["checks"]} == {
        "exit", "incident", "step", "ranks", "stage", "loss.finite", "loss.falls_by", "loss.ends_below",
        "learning_rate", "tokens_per_second", "memory", "memory_growth", "scraped", "files", "rows", "ready",
    }  # fmt: skip
    assert [case.attrib["name"] for case in ET.parse(folder / "junit.xml").getroot().iter("testcase")] == [
        "hello",
        "train",
    ]
    lines = done.stdout.splitlines()
    assert lines[0].startswith("smoke demo · 2 stages, at most 3:00 · runs/smoke-")
    assert re.match(r"ok       train  \d+\.\d s of 2:00, \d", lines[2]), lines
    assert lines[-1].startswith("passed · 2 passed in ")


def test_modules_in_the_users_folder_are_not_taken_for_the_harnesss(folder: Path) -> None:
    (folder / "harness").mkdir()
    (folder / "harness" / "__init__.py").write_text("")
    (folder / "queue.py").write_text("raise SystemExit('a module of the user')\n")
    (folder / "one.yaml").write_text(
        "stages: [{name: hello, command: \"{python} -c 'print(1)'\", budget: 60}]\n"
    )
    program = "import sys; del sys.path[0]; from harness.cli import main; sys.exit(main())"  # as the script
    done = completed([sys.executable, "-c", program, "smoke", "one.yaml"], cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_that_can_be_expected_fails_with_what_was_seen(folder: Path) -> None:
    (folder / "unmet.py").write_text(UNMET_TRAINER)
    (folder / "unmet.yaml").write_text(UNMET)
    done = smoke(folder, "unmet.yaml")
    assert done.returncode == 1, done.stdout + done.stderr
    checks = {check["what"]: check for check in report(folder)["stages"][0]["checks"]}
    assert checks.pop("incident")["passed"]
    assert checks.keys() == UNMET_SAID.keys()
    for what, said in UNMET_SAID.items():
        check = checks[what]
        assert not check["passed"], what
        assert re.fullmatch(said, f"{check['seen']}, expected {check['expected']}"), check
        assert check["remedy"] or what in ("rows", "ready", "absent"), "those of the plan have its own"
    assert "  first  train: exit status 1: no reason" in done.stdout


def test_failures_are_diagnosed_their_dependants_skipped_and_the_others_go_on(folder: Path) -> None:
    done = smoke(folder, "mixed.yaml", "--junit", "junit.xml")
    assert done.returncode == 1
    stages = {stage["name"]: stage for stage in report(folder)["stages"]}
    assert {name: stage["state"] for name, stage in stages.items()} == {
        "over": "failed",
        "after": "skipped",
        "stalls": "failed",
        "fails": "failed",
        "missing": "failed",
        "fine": "passed",
    }
    assert stages["over"]["reason"].startswith("over its budget of 4.0 s · HUNG · sleep: ")
    assert stages["over"]["verdict"]["cause"] == "sleep"
    assert stages["after"]["reason"] == "needs over, which failed"
    assert stages["stalls"]["reason"].startswith("stalled · HUNG · sleep: ")
    assert stages["stalls"]["verdict"]["blame"]["file"].endswith("trainer.py")
    assert stages["fails"]["reason"] == "exit status 1: lr is 0: raise it, password: ***"
    assert stages["missing"]["reason"].startswith("harness run: no-such-program: no such command")
    assert report(folder)["first_failure"] == "over"
    assert "  again  harness smoke mixed.yaml --from over" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "s3cr3t" not in done.stdout + (folder / "junit.xml").read_text() + json.dumps(report(folder))
    suite = ET.parse(folder / "junit.xml").getroot()[0]
    assert (suite.attrib["failures"], suite.attrib["skipped"]) == ("4", "1")


def test_mistakes_are_one_line_and_status_2(folder: Path) -> None:
    for arguments, said in (
        (("none.yaml",), "none.yaml: no such file"),
        (("plan.yaml", "--only", "trian"), "no stage 'trian'. Did you mean train?"),
        (("plan.yaml", "--only", "hello", "--from", "train"), "no stage is left to run"),
        (("plan.yaml", "--set", "stesp=3"), "no such value. Did you mean steps?"),
        (("plan.yaml", "--set", "steps"), "is not name=value"),
        (("plan.yaml", "--only", ""), "--only names no stage. harness smoke PLAN --list shows them"),
        (("plan.yaml", "--from", ""), "no stage ''. Known here: hello, train"),
        (("plan.yaml", "--timeout-scale", "0"), "'0' is no factor"),
        (("plan.yaml", "--junit", "no/such/folder.xml"), "no folder no/such"),
        (("plan.yaml", "--json", "."), "is a folder"),
        (("plan.yaml", "--runs", "plan.yaml"), "plan.yaml"),
    ):
        done = smoke(folder, *arguments)
        assert (done.returncode, done.stdout) == (2, ""), (arguments, done)
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (folder / "runs").exists()


def _below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _started(folder: Path, stage: str) -> list[int]:
    """A stage's processes, once its command runs."""
    found = list(folder.glob(f"runs/smoke-*/{stage}/run.json"))
    attempts = json.loads(found[0].read_text())["attempts"] if found else []
    return [attempt["pid"] for attempt in attempts if attempt["pid"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_stage_and_still_gives_a_report(number: int, folder: Path) -> None:
    process = subprocess.Popen(
        [*SMOKE, "plan.yaml", "--set", "steps=100000"],
        cwd=folder,
        env=clean_env(),
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: _started(folder, "train"), 60, "the second stage to run")
    below = _below(process.pid)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted · 1 passed, 1 interrupted in" in out
    assert [stage["state"] for stage in report(folder)["stages"]] == ["passed", "interrupted"]
    assert report(folder)["interrupted"] is True
    wait_for(lambda: not any(each.is_running() for each in below), 20, "all it started to be gone")


def test_should_it_be_killed_its_stage_ends_too(folder: Path) -> None:
    process = subprocess.Popen(
        [*SMOKE, "plan.yaml", "--set", "steps=100000"], cwd=folder, env=clean_env(), stdout=subprocess.DEVNULL
    )
    (pid,) = wait_for(lambda: _started(folder, "train"), 60, "the second stage to run")
    process.kill()
    process.wait()
    wait_for(lambda: not psutil.pid_exists(pid), 40, "the stage's command to end")


def test_ctrl_z_stops_the_stage_too_and_fg_goes_on(folder: Path) -> None:
    terminal = Terminal(cwd=folder, env=clean_env(TERM="xterm", LANG="C.UTF-8"))
    try:
        terminal.type(f"{' '.join(SMOKE)} plan.yaml --only train --set steps=100000\n")
        (pid,) = wait_for(lambda: _started(folder, "train"), 60, "the stage to run")
        stage = psutil.Process(pid)
        at = len(terminal.seen)
        for _ in range(2):
            terminal.wait_for("step ", after=at)
            terminal.type("\x1a")
            at = terminal.wait_for("Stopped", after=at)
            assert stage.status() == psutil.STATUS_STOPPED
            assert terminal.seen.rindex("\x1b[?25h") > terminal.seen.rindex("\x1b[?25l"), "the cursor is back"
            terminal.type("fg\n")
            wait_for(lambda: stage.status() != psutil.STATUS_STOPPED, 20, "the stage to go on")
        terminal.wait_for("step ", after=at)
        terminal.type("\x03")
        terminal.wait_for("interrupted · 0 passed, 1 interrupted", after=at)
        wait_for(lambda: not stage.is_running(), 20, "the stage to end")
    finally:
        terminal.close()
    (ended,) = report(folder)["stages"]
    assert ended["checks"][1] == {**ended["checks"][1], "what": "incident", "passed": True}


def _waits_for_go(folder: Path) -> None:
    """waits.yaml: a stage that ends once there is a file `go`."""
    program = "import os, time; exec('while not os.path.exists(\"go\"): time.sleep(0.05)')"
    command = json.dumps(["python", "-c", program])
    (folder / "waits.yaml").write_text(f"stages: [{{name: waits, command: {command}}}]")


def test_the_time_in_which_it_is_stopped_is_no_stages(folder: Path) -> None:
    terminal = Terminal(cwd=folder, env=clean_env(TERM="xterm", LANG="C.UTF-8"))
    _waits_for_go(folder)
    began = time.monotonic()
    try:
        terminal.type(f"{' '.join(SMOKE)} waits.yaml\n")
        wait_for(lambda: _started(folder, "waits"), 60, "the stage to run")
        terminal.type("\x1a")
        at = terminal.wait_for("Stopped")
        stopped = time.monotonic()
        # For longer than all the rest takes, starting and ending.
        until = stopped + 1 + 1.5 * (stopped - began)
        wait_for(lambda: time.monotonic() > until, 120, "the time to pass")
        (folder / "go").touch()
        stood_still = time.monotonic() - stopped
        terminal.type("fg\n")
        terminal.wait_for("passed · 1 passed", after=at)
    finally:
        terminal.close()
    whole = time.monotonic() - began
    document = report(folder)
    assert document["stages"][0]["seconds"] + stood_still <= whole
    assert document["seconds"] + stood_still <= whole


def test_should_it_be_killed_while_it_is_stopped_its_stage_ends_too(folder: Path) -> None:
    process = subprocess.Popen(
        [*SMOKE, "plan.yaml", "--only", "train", "--set", "steps=100000"],
        cwd=folder,
        env=clean_env(),
        stdout=subprocess.DEVNULL,
        preexec_fn=os.setpgrp,  # noqa: PLW1509 -- process_group is 3.11
    )
    (pid,) = wait_for(lambda: _started(folder, "train"), 60, "the stage to run")
    process.send_signal(signal.SIGTSTP)
    ours = psutil.Process(process.pid)
    wait_for(lambda: ours.status() == psutil.STATUS_STOPPED, 20, "it to stop")
    process.kill()
    process.wait()
    wait_for(lambda: not psutil.pid_exists(pid), 40, "the stage's command to end")


def test_nohup_is_respected(folder: Path) -> None:
    _waits_for_go(folder)
    process = subprocess.Popen(
        ["nohup", *SMOKE, "waits.yaml"],
        cwd=folder,
        env=clean_env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    wait_for(lambda: _started(folder, "waits"), 60, "the stage to run")
    process.send_signal(signal.SIGHUP)
    (folder / "go").touch()
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 0, out
    assert "passed · 1 passed" in out


def test_a_reader_that_is_gone_ends_nothing(folder: Path) -> None:
    command = f"{' '.join(SMOKE)} plan.yaml --only hello | true; exit ${{PIPESTATUS[0]}}"
    done = completed(["bash", "-c", command], cwd=folder, timeout=120)
    assert done.returncode == 0, done
    assert done.stderr == ""
    assert report(folder)["passed"] is True


@pytest.mark.needs("tmpfs")
def test_a_full_disk_is_told_and_the_report_shown(folder: Path) -> None:
    """A file system of 64 KiB for the runs: the stage runs, its files do not."""
    script = (
        "mkdir small; mount -t tmpfs -o size=64k none small; head -c 60000 /dev/zero > small/fill; "
        f"{' '.join(SMOKE)} plan.yaml --only hello --runs small"
    )
    done = completed(["unshare", "--mount", "--", "bash", "-c", script], cwd=folder, timeout=120)
    assert done.returncode == 1, done
    assert "No space left on device" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(("columns", "steps"), [(80, "100000"), (40, "40")])
def test_a_terminal_shows_a_live_table_that_fits(columns: int, steps: str, folder: Path) -> None:
    """At 80 columns interrupted by Ctrl-C, at 40 to its end."""
    terminal = Terminal(cwd=folder, env=clean_env(TERM="xterm", LANG="C.UTF-8"), rows=12, columns=columns)
    try:
        terminal.type(f"{' '.join(SMOKE)} plan.yaml --set steps={steps}; echo status=$?\n")
        at = terminal.wait_for("✓", after=terminal.wait_for("status=$?"))
        if columns == 80:
            terminal.wait_for("step ", after=at)
            terminal.type("\x03")
            terminal.wait_for("interrupted · 1 passed, 1 interrupted", after=at)
            terminal.wait_for("status=130", after=at)
        else:
            terminal.wait_for("status=0", after=terminal.wait_for("passed · 2 passed", after=at))
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.seen[at:]).replace("^C", "")
        assert ("budget" in plain) is (columns == 80)
        assert max(len(line) for line in plain.replace("\r", "\n").splitlines()) <= columns
        assert terminal.seen.rindex("\x1b[?25h") > terminal.seen.rindex("\x1b[?25l"), "the cursor is back"
    finally:
        terminal.close()


def test_the_list_names_budgets_and_needs(folder: Path) -> None:
    done = smoke(folder, "plan.yaml", "--list", "--timeout-scale", "2")
    assert done.stdout.splitlines() == ["hello    2:00", "train    4:00    (needs hello)"]
    assert not (folder / "runs").exists()
