"""`harness report` on real runs, as a user calls it: stalled, killed, going on, never emitting."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support import reports, stalls
from tests.support import run as runs
from tests.support.env import clean_env
from tests.support.programs import completed
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from pathlib import Path

# Goes on until its memory has been looked at, which a busy machine does late.
_EMITS = """
import os, pathlib, time
from harness import emit
emit.open(total_steps=30)
emit.stage("dataset")
time.sleep(0.3)
emit.stage("train")
rows = pathlib.Path(os.environ["HARNESS_RUN_DIR"], "metrics.jsonl")
end = time.monotonic() + 30
step = 0
while time.monotonic() < end and not (rows.exists() and b"resident_bytes" in rows.read_bytes()):
    step += 1
    emit.step(step, loss=3.0, memory=(10**9, 2 * 10**9, 3 * 10**9))
    time.sleep(0.02)
emit.close()
"""


def report(*arguments: object, **popen) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*runs.HARNESS, "report", *map(str, arguments)],
        env=clean_env(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **popen,
    )


def words(page: Path) -> str:
    """What is read on a page, elements left out."""
    text = re.sub(r"<(style|script)[ >].*?</\1>", "", page.read_text(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def test_a_run_that_stalled_and_was_started_again(tmp_path):
    trainer = stalls.trainer("--steps", "120", "--seconds", "0.01", "--fault", "spin", "--at", "60", "--save")
    run = runs.start(
        tmp_path / "run",
        *(*trainer, "--attempts", "1"),
        options=(*stalls.LIMIT, "--on-stall", "restart", "--max-restarts", "1", "--grace", "1"),
    )
    assert run.end()[0] == 0
    done = report(run.directory)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert "finished · 120 steps in" in first
    assert "1 incident" in first
    assert second.startswith(f"{run.directory}/report.html · ")
    page = run.directory / "report.html"
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    said = words(page)
    for expected in (
        "Incident 001",
        "HUNG",
        "python-spin",
        "in spin",
        "Stacks of all processes, merged",
        "2 attempts",
    ):
        assert expected in said, expected
    assert "train" in said
    assert "stalled, and was ended for it" in said
    assert not list(run.directory.glob(".*.partial"))


def test_a_run_that_goes_on_and_then_is_killed(tmp_path):
    run = runs.start(tmp_path / "run", *stalls.trainer("--steps", "100000", "--seconds", "0.01"))
    try:
        stalls.wait_for_step(run.directory, 20)
        wait_for((run.directory / "metrics.jsonl").exists, 20, "the first rows")
        now = report(run.directory, "--out", tmp_path / "now.html")
        assert now.returncode == 0, now.stderr
        assert "running · " in now.stdout
        assert "of 100,000 steps" in now.stdout
        assert f"its command runs, pid {run.pid()}" in words(tmp_path / "now.html")
        os.kill(run.pid(), 9)
        run.end()
        then = report(run.directory)
        assert "died · " in then.stdout
        assert "killed by SIGKILL" in words(run.directory / "report.html")
    finally:
        run.clean_up()


def test_a_command_that_never_emits(tmp_path):
    run = runs.start(tmp_path / "run", *runs.python("print('epoch 1'); print('epoch 2')"))
    assert run.end()[0] == 0
    done = report(run.directory)
    assert done.returncode == 0
    assert "finished · after" in done.stdout
    assert "epoch 2" in words(run.directory / "report.html")


def test_stages_memory_and_configuration_are_on_the_page(tmp_path):
    config = tmp_path / "train.yaml"
    config.write_text("lr: 1e-3\nhub_token: SESAME\n")
    run = runs.start(tmp_path / "run", sys.executable, "-c", _EMITS, str(config))
    assert run.end()[0] == 0
    assert report(run.directory).returncode == 0
    said = words(run.directory / "report.html")
    for expected in (
        "dataset",
        "Memory, GPU peak",
        "3.0 GB",
        "Memory, resident",
        "Configuration: train.yaml",
        "lr: 1e-3",
    ):
        assert expected in said, expected
    assert "SESAME" not in said


def test_mistakes_are_one_line(tmp_path):
    for arguments, status, expected in (
        ((tmp_path,), 2, "not a run directory"),
        ((tmp_path / "gone",), 2, "no such run directory"),
    ):
        done = report(*arguments)
        assert done.returncode == status
        assert expected in done.stderr
        assert len(done.stderr.splitlines()) == 1
    run = reports.run_dir(tmp_path / "run", reports.attempt())
    nowhere = report(run.path, "--out", tmp_path / "no" / "such" / "folder.html")
    assert (nowhere.returncode, len(nowhere.stderr.splitlines())) == (125, 1)
    os.mkfifo(tmp_path / "fifo")
    for odd in (tmp_path, tmp_path / "fifo"):
        refused = report(run.path, "--out", odd)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert (tmp_path / "fifo").is_fifo()


def test_a_link_stays_a_link(tmp_path):
    run = reports.run_dir(tmp_path / "run", reports.attempt())
    (tmp_path / "link.html").symlink_to(tmp_path / "page.html")
    assert report(run.path, "--out", tmp_path / "link.html").returncode == 0
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_a_full_disk_leaves_the_last_report_as_it_was(tmp_path):
    run = reports.run_dir(tmp_path / "run", reports.attempt(), metrics=reports.rows(range(1, 100)))
    page = tmp_path / "page.html"
    page.write_text("the last one")
    done = completed(
        [
            "bash",
            "-c",
            'ulimit -f 1; exec "$@"',
            "-",
            *runs.HARNESS,
            "report",
            str(run.path),
            "--out",
            str(page),
        ]
    )
    assert done.returncode == 125, done
    assert "cannot be written" in done.stderr
    assert page.read_text() == "the last one"
    assert not list(tmp_path.glob(".*partial"))
