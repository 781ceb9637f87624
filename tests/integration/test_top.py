"""`harness top` on real runs, in a real terminal: running, stalled, dead, narrow, in a pipe."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import run as runs
from tests.support import stalls
from tests.support.env import REPOSITORY, clean_env
from tests.support.programs import completed
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 60.0
MANY = str(REPOSITORY / "tests" / "support" / "trainers" / "many_ranks.py")


def top(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return completed([*runs.HARNESS, "top", *map(str, arguments)], env=clean_env(**env), timeout=SECONDS)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[runs.Run]:
    command = stalls.trainer("--seconds", "0.02", "--steps", "100000")
    run = runs.start(tmp_path / "runs" / "one", *command, options=("--metrics-port", "off", *stalls.LIMIT))
    try:
        stalls.wait_for_step(run.directory, 20)
        yield run
    finally:
        run.clean_up()


class Tmux:
    """A terminal of a given size that runs one command."""

    def __init__(self, folder: Path, command: str, columns: int, rows: int) -> None:
        self._socket = str(folder / "tmux")
        size = ("-x", str(columns), "-y", str(rows))
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, command)
        self._tmux("set-option", "-g", "remain-on-exit", "on")

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, *arguments],
            env=clean_env(TERM="xterm-256color", LC_ALL="C.UTF-8"),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
        return done.stdout

    def screen(self, *options: str) -> str:
        return self._tmux("capture-pane", "-p", *options)

    def resize(self, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def type(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def wait_for(self, *parts: str) -> str:
        return wait_for(
            lambda: (shown := self.screen()) and all(part in shown for part in parts) and shown,
            SECONDS,
            f"{parts} on the screen",
        )

    def close(self) -> None:
        subprocess.run(
            ["tmux", "-S", self._socket, "kill-server"], capture_output=True, timeout=20, check=False
        )


@pytest.mark.needs("tmux")
@pytest.mark.parametrize(("columns", "rows"), [(200, 60), (80, 24), (40, 12)])
def test_in_a_terminal_it_moves_fits_and_leaves_at_ctrl_c(
    tmp_path: Path, running: runs.Run, columns: int, rows: int
) -> None:
    command = shlex.join([*runs.HARNESS, "top", "--interval", "0.2", str(running.directory)])
    terminal = Tmux(tmp_path, f"{command}; echo left with $?; exec cat", columns, rows)
    try:
        first = terminal.wait_for("RUNNING", "train  step", "loss")
        assert len(first.rstrip("\n").split("\n")) <= rows
        step = stalls.step(running.directory)
        terminal.wait_for(f"step {str(step + 30)[:-1]}")  # it moves, to some step of the next tens
        terminal.resize(columns + 7, rows + 3)
        terminal.wait_for("RUNNING")
        terminal.type("C-c")
        left = terminal.wait_for("left with 0")
        assert "RUNNING" not in left, "the screen before it is back"
        assert running.process is not None
        assert running.process.poll() is None
    finally:
        terminal.close()


@pytest.mark.needs("tmux", "once")
@pytest.mark.parametrize("colourless", [False, True])
def test_a_terminal_has_colours_unless_it_wants_none(
    tmp_path: Path, running: runs.Run, colourless: bool
) -> None:
    command = shlex.join([*runs.HARNESS, "top", str(running.directory)])
    terminal = Tmux(tmp_path, f"{'NO_COLOR=1 ' if colourless else ''}{command}", 80, 24)
    try:
        terminal.wait_for("RUNNING", "loss")
        found = re.findall(r"\x1b\[[\d;]*m", terminal.screen("-e"))
        colours = [each for each in found if re.search(r"[\[;](?:3[0-7]|38|9[0-7])[;m]", each)]
        assert bool(colours) is not colourless, found
    finally:
        terminal.close()


@pytest.mark.needs("tmux", "once")
def test_a_terminal_that_can_move_no_cursor_gets_one_view(tmp_path: Path, running: runs.Run) -> None:
    command = shlex.join([*runs.HARNESS, "top", str(running.directory)])
    terminal = Tmux(tmp_path, f"TERM=dumb {command}; echo left with $?; exec cat", 100, 40)
    try:
        shown = terminal.wait_for("RUNNING", "left with 0")
        assert shown.count("RUNNING") == 1
    finally:
        terminal.close()


@pytest.mark.needs("tmux", "once")
def test_a_directory_that_goes_away_and_comes_back_under_a_live_view(
    tmp_path: Path, running: runs.Run
) -> None:
    """As a file system that hangs or is mounted elsewhere does it; the training does not care."""
    terminal = Tmux(tmp_path, shlex.join([*runs.HARNESS, "top", str(running.directory)]), 80, 24)
    aside = running.directory.with_name("aside")
    try:
        terminal.wait_for("RUNNING", "loss")
        running.directory.rename(aside)
        shown = terminal.wait_for("GONE", "cannot be reached")
        assert "Traceback" not in shown
        assert "loss" in shown, "what was seen last"
        aside.rename(running.directory)
        terminal.wait_for("RUNNING", "train  step")
    finally:
        if aside.exists():
            aside.rename(running.directory)
        terminal.close()


@pytest.mark.needs("tmux", "once")
def test_many_ranks_fit_and_the_one_behind_is_marked_at_every_size(tmp_path: Path) -> None:
    options = ("--metrics-port", "off", "--stall-timeout", "off")
    run = runs.start(tmp_path / "run", sys.executable, MANY, "64", options=options)
    try:
        run.wait_for_log("up")
        for rank in range(64):
            stalls.wait_for_step(run.directory, 12 if rank == 7 else 20, rank)
        said = top(run.directory, "--once").stdout
        assert re.search(r"^7 .* ← 8 behind$", said, re.MULTILINE)
        assert re.search(r"^0-6,8-63 +train ", said, re.MULTILINE)
        terminal = Tmux(tmp_path, shlex.join([*runs.HARNESS, "top", str(run.directory)]), 200, 60)
        try:
            for columns, rows in ((200, 60), (80, 24), (40, 12)):
                terminal.resize(columns, rows)
                shown = terminal.wait_for("RUNNING", "8 behind", "0-6,8-63")
                assert len(shown.rstrip("\n").split("\n")) <= rows
        finally:
            terminal.close()
        document = json.loads(top(run.directory, "--json").stdout)
        assert [each["rank"] for each in document["ranks"]] == list(range(64))
    finally:
        run.clean_up()


def test_a_stopped_trainer_is_shown_with_its_incident(running: runs.Run) -> None:
    os.kill(running.pid(), signal.SIGSTOP)
    try:
        stalls.wait_for_incident(running.directory)
        said = top(running.directory).stdout
        assert said.startswith("STALLED")
        assert "incident 001  stopped" in said
        assert "kill -CONT" in said
    finally:
        os.kill(running.pid(), signal.SIGCONT)


def test_a_dead_run_is_shown_as_it_was_left_and_a_process_leads_to_its_run(running: runs.Run) -> None:
    by_pid = top(running.pid(), "--once")
    assert by_pid.returncode == 0
    assert by_pid.stdout.startswith("RUNNING")
    os.kill(running.pid(), signal.SIGKILL)
    assert running.process is not None
    running.process.wait(timeout=SECONDS)
    done = top(running.directory, "--once")
    assert done.returncode == 0
    assert done.stdout.startswith("DIED")
    assert "killed by SIGKILL" in done.stdout
    assert "last seen in train" in done.stdout
    assert "loss" in done.stdout


def test_programs_get_json_and_a_pipe_plain_text(running: runs.Run) -> None:
    document = json.loads(top(running.directory, "--json").stdout)
    assert document["schema"] == "harness.top/1"
    assert document["state"] == "running"
    assert document["ranks"][0]["step"] >= 20
    steps = document["history"]["step"]
    assert steps == list(range(1, len(steps) + 1))
    rows = [json.loads(line) for line in (running.directory / "metrics.jsonl").read_text().splitlines()]
    assert document["history"]["loss"] == [row["loss"] for row in rows[: len(steps)]]
    said = top(running.directory).stdout
    assert "\x1b" not in said
    assert said.startswith("RUNNING")


def test_all_runs_those_that_go_first(tmp_path: Path, running: runs.Run) -> None:
    ended = runs.start(tmp_path / "runs" / "another", sys.executable, "-c", "print(1)")
    ended.end()
    lines = top("--all", "--runs", tmp_path / "runs").stdout.splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["running", "finished"]
    document = json.loads(top("--all", "--runs", tmp_path / "runs", "--json").stdout)
    assert [each["state"] for each in document["runs"]] == ["running", "finished"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [("runs/none", "runs/none"), ("4194304000", "no process"), ("SELF", "harness diagnose")],
)
def test_where_there_is_no_run_one_line_says_so(argument: str, message: str) -> None:
    argument = argument.replace("SELF", str(os.getpid()))
    done = top(argument)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("harness top: ")
    assert message in line
    assert json.loads(top(argument, "--json").stdout)["error"] in line


def test_a_run_beside_all_is_a_mistake_and_not_passed_over(tmp_path: Path) -> None:
    done = top("--all", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"--runs {tmp_path}" in line


def test_a_terminal_without_unicode_gets_ascii(running: runs.Run) -> None:
    said = top(running.directory, PYTHONIOENCODING="ascii").stdout
    assert said.isascii()
    assert said.startswith("RUNNING - ")
