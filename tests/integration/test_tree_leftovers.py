"""Nothing of a command is left behind, whatever it started and wherever that went."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support import run as runs
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# A child in a session of its own, whose parent ends at once: an orphan that no process group leads to.
ORPHAN = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        if "deaf" in sys.argv:
            import signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("orphan", os.getpid())
        time.sleep(1000)
    os._exit(0)
os.wait()
"""


def _orphan(run: runs.Run) -> psutil.Process:
    run.wait_for_log("orphan")
    wait_for(lambda: run.log().endswith("\n"))
    return psutil.Process(int(run.log().split()[-1]))


@pytest.mark.parametrize("kind", ["obedient", "deaf"])
def test_an_orphan_in_its_own_session_is_ended(start: Callable[..., runs.Run], kind: str) -> None:
    run = start(*runs.python(ORPHAN + "raise SystemExit(5)"), kind, options=("--grace", "0.5"))
    status, text = run.end()
    assert status == 5
    pid = int(run.log().split()[-1])
    assert not runs.lives(pid)
    assert ("killing" if kind == "deaf" else "ending") + " what the command left behind" in text
    assert str(pid) in text


def test_the_end_of_a_killed_command_is_the_end_of_its_ranks(start: Callable[..., runs.Run]) -> None:
    """As when torchrun itself is killed: its ranks, in sessions of their own, would train on for ever."""
    run = start(*runs.python(ORPHAN + "time.sleep(1000)"))
    orphan = _orphan(run)
    assert orphan.ppid() == run.attempt()["keeper_pid"]
    psutil.Process(run.pid()).kill()
    assert run.end()[0] == 137
    assert not runs.lives(orphan.pid)


def test_a_stopped_leftover_is_ended_too(start: Callable[..., runs.Run]) -> None:
    run = start(*runs.python(ORPHAN + "time.sleep(1000)"))
    orphan = _orphan(run)
    orphan.suspend()
    psutil.Process(run.pid()).kill()
    run.end()
    assert not runs.lives(orphan.pid)


def test_orphans_are_reaped(start: Callable[..., runs.Run]) -> None:
    source = (
        "import os, time\n"
        "for _ in range(20):\n"
        "    if os.fork() == 0:\n"
        "        os.fork() or os._exit(0)\n"  # the grandchild goes on, without a parent
        "        time.sleep(0.05); os._exit(0)\n"
        "    os.wait()\n"
        "print('all gone')\n"
        "time.sleep(1000)\n"
    )
    run = start(*runs.python(source))
    run.wait_for_log("all gone")
    keeper = psutil.Process(run.attempt()["keeper_pid"])
    wait_for(lambda: [each.pid for each in keeper.children()] == [run.pid()], what="all orphans to be reaped")
    run.process.send_signal(signal.SIGINT)
    run.end()


def test_a_process_with_a_strange_name_is_ended_like_any_other(
    start: Callable[..., runs.Run], tmp_path: Path
) -> None:
    strange = tmp_path / "a) R 1 (b"
    strange.symlink_to("/bin/sleep")
    run = start(
        *runs.python(f"import subprocess; print('orphan', subprocess.Popen([{str(strange)!r}, '1000']).pid)")
    )
    assert run.end()[0] == 0
    assert not runs.lives(int(run.log().split()[-1]))


def test_a_fast_forking_tree_is_killed_by_the_second_interrupt(start: Callable[..., runs.Run]) -> None:
    source = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('forking')\n"
        "for _ in range(100000):\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(0.2); os._exit(0)\n"
        "    time.sleep(0.002)\n"
        "    try: os.waitpid(-1, os.WNOHANG)\n"
        "    except ChildProcessError: pass\n"
    )
    run = start(*runs.python(source))
    run.wait_for_log("forking")
    run.process.send_signal(signal.SIGINT)
    wait_for(lambda: len(run.tree()) > 5, what="children")
    run.process.send_signal(signal.SIGINT)
    assert run.end()[0] == 137
    keeper = run.attempt()["keeper_pid"]
    assert not runs.lives(keeper)


def test_standard_input_is_empty_unless_inherited(start: Callable[..., runs.Run]) -> None:
    run = start(*runs.python("print(repr(input()))"), stdin=subprocess.PIPE)
    assert run.end()[0] == 1
    assert "EOFError" in run.log()


def test_standard_input_is_inherited_on_demand(tmp_path: Path) -> None:
    run = runs.start(
        tmp_path / "run",
        *runs.python("print(repr(input()))"),
        options=("--stdin", "inherit"),
        stdin=subprocess.PIPE,
    )
    out, _ = run.process.communicate("typed\n", timeout=40)
    assert run.process.returncode == 0
    assert "'typed'" in out
    assert run.log() == "'typed'\n"


def test_the_harness_is_no_parent_of_what_ran(start: Callable[..., runs.Run]) -> None:
    """So that killing it changes nothing for the command; ps shows the keeper for what it is."""
    run = start(*runs.python("import time; print('begun'); time.sleep(1000)"))
    run.wait_for_log("begun")
    command = psutil.Process(run.pid())
    keeper = command.parent()
    assert keeper is not None
    assert keeper.pid == run.attempt()["keeper_pid"] != run.process.pid
    assert "keeper.py" in " ".join(keeper.cmdline())
    assert sys.executable in keeper.cmdline()[0]
    command.kill()
    assert run.end()[0] == 137


def test_who_asks_to_stop_while_leftovers_are_cleared_away_gets_no_restart(
    start: Callable[..., runs.Run],
) -> None:
    options = ("--grace", "30", "--on-stall", "restart", "--metrics-port", "off")
    run = start(*runs.python(ORPHAN + "raise SystemExit(5)"), "deaf", options=options)
    orphan = _orphan(run)
    wait_for(lambda: run.attempt()["ended_at"] is not None, what="the command to have ended")
    run.process.send_signal(signal.SIGTERM)
    run.process.send_signal(signal.SIGINT)  # and impatient: the orphan is killed
    status, text = run.end()
    assert status == 5
    assert "restart" not in text
    assert len(run.record()["attempts"]) == 1
    assert not orphan.is_running()
