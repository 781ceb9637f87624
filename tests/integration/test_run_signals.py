"""Signals: passed on to the command, the second Ctrl-C kills, Ctrl-Z stops and continues the whole."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support import run as runs
from tests.support.env import clean_env
from tests.support.pty_session import Terminal
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Start = "Callable[..., runs.Run]"

TICKING = "import time\nprint('begun')\nwhile True: time.sleep(0.02); print('tick')"
# Says which signal came, and lets the first few pass.
DEAF = """
import os, signal, sys, time
# Not print: a handler that interrupts a print and prints itself raises.
def hear(number, frame): os.write(1, f'heard {signal.Signals(number).name}\\n'.encode())
for name in sys.argv[1:]: signal.signal(getattr(signal, name), hear)
os.write(1, b'begun\\n')
while True: time.sleep(0.05)
"""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(cwd=tmp_path, env=clean_env(tmp_path, TERM="xterm"))
    yield opened
    runs.Run(process=None, directory=tmp_path / "run").kill_command()
    opened.close()


def _typed(source: Path, text: str, *options: str) -> str:
    source.write_text(text)
    harness = f"{sys.executable} -m harness run --run-dir run --metrics-port off"
    return f"{harness} {' '.join(options)} -- {sys.executable} {source}\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGQUIT"])
def test_a_signal_reaches_the_command(start: Callable[..., runs.Run], name: str) -> None:
    run = start(*runs.python(DEAF), name)
    run.wait_for_log("begun")
    run.process.send_signal(getattr(signal, name))
    run.wait_for_log(f"heard {name}")
    assert runs.lives(run.pid())


@pytest.mark.parametrize(
    ("name", "status", "ended_by"),
    [("SIGINT", 130, "interrupt"), ("SIGTERM", 143, "request"), ("SIGUSR1", 138, "SIGUSR1")],
)
def test_what_the_command_dies_of_is_told(
    start: Callable[..., runs.Run], name: str, status: int, ended_by: str
) -> None:
    source = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)\n" + TICKING
    run = start(*runs.python(source))
    run.wait_for_log("begun")
    run.process.send_signal(getattr(signal, name))
    assert run.end()[0] == status
    assert run.attempt()["ended_by"] == ended_by
    assert run.attempt()["exit_status"] == status


def test_a_command_that_saves_its_state_on_sigterm_ends_as_it_likes(start: Callable[..., runs.Run]) -> None:
    source = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n" + TICKING
    run = start(*runs.python(source))
    run.wait_for_log("begun")
    run.process.send_signal(signal.SIGTERM)
    assert run.end()[0] == 75


def test_sigterm_goes_to_the_command_alone_and_not_to_its_workers(start: Callable[..., runs.Run]) -> None:
    """A DataLoader worker that dies of it would spoil the saving of the state."""
    source = (
        "import os, signal, sys, time\n"
        "if os.fork() == 0:\n"
        "    signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'worker heard it'))\n"
        "    print('worker')\n"
        "    while os.getppid() != 1: time.sleep(0.02)\n"
        "signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'main heard it'))\n"
        "print('main')\n"
        "while True: time.sleep(0.02); print('tick')\n"
    )
    run = start(*runs.python(source))
    run.wait_for_log("worker")
    run.wait_for_log("main")
    run.process.send_signal(signal.SIGTERM)
    run.wait_for_log("main heard it")
    length = len(run.log())
    wait_for(lambda: len(run.log()) > length + 50, what="the command to go on")
    assert "worker heard it" not in run.log()


def test_the_second_interrupt_kills_a_deaf_command_and_all_it_started(start: Callable[..., runs.Run]) -> None:
    source = "import os\nos.fork()\n" + DEAF
    run = start(*runs.python(source), "SIGINT", "SIGTERM")
    wait_for(lambda: run.log().count("begun") == 2, what="both processes")
    run.pid()  # the harness has noted that it began
    tree = run.tree()
    assert len(tree) == 2
    run.process.send_signal(signal.SIGINT)
    wait_for(lambda: run.log().count("heard SIGINT") == 2, what="both to hear it")
    run.process.send_signal(signal.SIGINT)
    status, text = run.end()
    assert status == 137
    assert "killing" in text
    assert not any(each.is_running() for each in tree)


def test_ctrl_c_in_a_terminal(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type(_typed(tmp_path / "deaf.py", DEAF.replace("sys.argv[1:]", "['SIGINT']")))
    log = tmp_path / "run/log/output.log"
    wait_for(lambda: log.exists() and "begun" in log.read_text(), 40, "the command to begin")
    terminal.type("\x03")
    wait_for(lambda: "heard SIGINT" in log.read_text(), 40, "the command to hear Ctrl-C")
    terminal.type("\x03")
    terminal.wait_for("ready> ", after=len("ready> "))
    terminal.type("echo status $?\n")
    terminal.wait_for("status 137")
    assert log.read_text().count("heard SIGINT") == 1


def test_ctrl_z_stops_the_whole_tree_and_fg_continues_it(terminal: Terminal, tmp_path: Path) -> None:
    # A worker in a session of its own, as torchrun's ranks are: the terminal's signal does not reach it.
    source = "import os\nif os.fork() == 0: os.setsid()\n" + TICKING
    terminal.type(_typed(tmp_path / "ticking.py", source))
    run = runs.Run(process=None, directory=tmp_path / "run")
    wait_for(lambda: run.log().count("begun") == 2, 40, "both processes")
    tree = run.tree()
    assert len(tree) == 2
    for _ in range(2):
        at = len(terminal.seen)
        terminal.type("\x1a")
        at = terminal.wait_for("Stopped", after=at)
        assert {each.status() for each in tree} == {psutil.STATUS_STOPPED}
        terminal.type("fg\n")
        wait_for(
            lambda: not {each.status() for each in tree} & {psutil.STATUS_STOPPED}, 40, "both to be continued"
        )
        length = len(run.log())
        wait_for(lambda length=length: len(run.log()) > length, 40, "the command to go on")
    terminal.type("\x03")
    terminal.wait_for("ready> ", after=at + 10)


def test_a_closed_terminal_leaves_training_and_supervision_alone(terminal: Terminal, tmp_path: Path) -> None:
    end_file = tmp_path / "end"
    source = (
        "import os, time\nprint('begun')\n"
        f"while not os.path.exists({str(end_file)!r}): time.sleep(0.02); print('tick')\n"
        "raise SystemExit(3)"
    )
    terminal.type(_typed(tmp_path / "ticking.py", source))
    run = runs.Run(process=None, directory=tmp_path / "run")
    wait_for(lambda: "begun" in run.log(), 40, "the command to begin")
    supervisor = psutil.Process(run.record()["supervisor_pid"])
    terminal.hang_up()
    length = len(run.log())
    wait_for(lambda: len(run.log()) > length + 500, 40, "the command to go on")
    assert supervisor.is_running()
    assert runs.status(run.directory)["state"] == "running"
    end_file.touch()
    wait_for(lambda: run.attempt()["ended_at"], 40, "the harness to see the end")
    wait_for(lambda: not runs.lives(supervisor.pid), 40, "the harness to end")
    assert run.attempt()["exit_status"] == 3


def test_a_terminal_that_nobody_reads_holds_up_nothing(terminal: Terminal, tmp_path: Path) -> None:
    source = "for i in range(40000): print('x' * 50)\nprint('done')"
    terminal.type(_typed(tmp_path / "loud.py", source))
    run = runs.Run(process=None, directory=tmp_path / "run")
    wait_for(lambda: run.log().endswith("done\n"), 40, "the command to end")  # 2 MB, far over a pty's buffer
    wait_for(lambda: run.attempt()["ended_at"], 40, "the harness to see the end")
    wait_for(lambda: runs.status(run.directory)["state"] == "finished", 40, "status to say so")


def test_a_reader_that_leaves_loses_the_output_and_the_run_goes_on(
    terminal: Terminal, tmp_path: Path
) -> None:
    """`harness run … | grep -m 1`: what we have to say goes to standard error, the rest stands in the log."""
    go_on = tmp_path / "go on"
    source = (
        "import os, time\nprint('first')\n"
        f"while not os.path.exists({str(go_on)!r}): time.sleep(0.02)\n"
        "for i in range(3000): print('more', i)\n"
        "raise SystemExit(3)\n"
    )
    line = _typed(tmp_path / "speaks.py", source).strip()
    terminal.type(f"{line} | grep -m 1 first; echo status ${{PIPESTATUS[0]}}\n")
    at = terminal.wait_for("first\r\n")
    go_on.touch()
    at = terminal.wait_for("nobody reads this output any more: all of it is in run/log/output.log", after=at)
    at = terminal.wait_for("died with exit status 3", after=at)
    terminal.wait_for("status 3\r\n", after=at)
    assert "more" not in terminal.seen[at:]
    assert terminal.seen.count("nobody reads") == 1
    assert (tmp_path / "run/log/output.log").read_text().endswith("more 2999\n")


def test_a_stopped_harness_does_not_stop_the_command(start: Callable[..., runs.Run]) -> None:
    run = start(*runs.python(TICKING))
    run.wait_for_log("begun")
    run.process.send_signal(signal.SIGSTOP)
    length = len(run.log())
    wait_for(lambda: len(run.log()) > length + 100, what="the command to go on")
    run.process.send_signal(signal.SIGCONT)
    run.process.send_signal(signal.SIGINT)
    assert run.end()[0] == 130 or run.attempt()["exit_status"] == 1  # Python: KeyboardInterrupt


def test_nohup_is_respected(start: Callable[..., runs.Run]) -> None:
    run = start(*runs.python(TICKING), preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    run.wait_for_log("begun")
    ignored = next(
        line
        for line in Path(f"/proc/{run.pid()}/status").read_text().splitlines()
        if line.startswith("SigIgn")
    )
    assert int(ignored.split()[1], 16) & 1 << (signal.SIGHUP - 1)
    os.kill(run.process.pid, signal.SIGHUP)
    run.process.send_signal(signal.SIGINT)
    run.end()


def test_with_standard_input_inherited_a_prompt_works_and_ctrl_c_comes_once(
    terminal: Terminal, tmp_path: Path
) -> None:
    source = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, lambda *_: print('heard it'))\n"
        "print('got', input('name? '))\n"
        "while True: time.sleep(0.05)\n"
    )
    terminal.type(_typed(tmp_path / "asks.py", source, "--stdin", "inherit"))
    terminal.wait_for("name?")
    terminal.type("Ada\n")
    at = terminal.wait_for("got Ada")
    terminal.type("\x03")
    at = terminal.wait_for("heard it", after=at)
    log = tmp_path / "run/log/output.log"
    terminal.type("\x03")
    terminal.wait_for("ready> ", after=at)
    assert log.read_text().count("heard it") <= 2  # the terminal's own, twice; none of ours on top
    terminal.type("echo status $?\n")
    terminal.wait_for("status 137")


def test_with_standard_input_inherited_a_ctrl_c_during_the_start_ends_the_command(
    terminal: Terminal, tmp_path: Path
) -> None:
    """The keeper is in the foreground then, and has not come to ignore the terminal's signals."""
    slow = tmp_path / "slow"
    slow.write_text(
        f"#!{sys.executable} -IS\nimport os, sys, time\nopen({str(tmp_path / 'starts')!r}, 'w')\n"
        f"while not os.path.exists({str(tmp_path / 'go on')!r}): time.sleep(0.02)\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])\n"
    )
    slow.chmod(0o755)
    source = f"import sys; from harness.cli import main; sys.executable = {str(slow)!r}; sys.exit(main())"
    (tmp_path / "harness.py.txt").write_text(source)
    terminal.type(
        f'{sys.executable} -c "$(cat harness.py.txt)" run --run-dir run --metrics-port off'
        " --stdin inherit -- sleep 1000; echo status $?\n"
    )
    wait_for((tmp_path / "starts").exists, 40, "the keeper to be started")
    at = len(terminal.seen)
    terminal.type("\x03")
    terminal.wait_for("^C", after=at)
    (tmp_path / "go on").touch()
    terminal.wait_for("interrupted (killed by SIGINT)", after=at)
    terminal.wait_for("status 130", after=at)
    assert (tmp_path / "run/log/output.log").read_text() == ""


def test_with_standard_input_inherited_ctrl_z_and_fg_work_too(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type(_typed(tmp_path / "ticking.py", TICKING, "--stdin", "inherit"))
    run = runs.Run(process=None, directory=tmp_path / "run")
    wait_for(lambda: "begun" in run.log(), 40, "the command to begin")
    at = len(terminal.seen)
    terminal.type("\x1a")
    terminal.wait_for("Stopped", after=at)
    assert psutil.Process(run.pid()).status() == psutil.STATUS_STOPPED
    terminal.type("fg\n")
    length = len(run.log())
    wait_for(lambda: len(run.log()) > length + 100, 40, "the command to go on")


def test_quiet_shows_the_commands_output_alone(start: Callable[..., runs.Run]) -> None:
    run = start(*runs.python("print('mine')"), options=("--quiet",))
    assert run.end() == (0, "mine\n")
