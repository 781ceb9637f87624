"""Where evidence is hard to get, the incident is there all the same, with what could be seen instead.

py-spy missing, killed, hanging or denied; a target that cannot be looked at, for it waits in the kernel.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from harness import bundle
from harness.evidence import Reading
from tests.support import run as runs
from tests.support import stalls, venvs
from tests.support.env import REPOSITORY, clean_env
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.evidence import Stacks

ZOO = REPOSITORY / "tests" / "zoo"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., runs.Run]]:
    started = []

    def begin(*command: str, options: tuple[str, ...] = stalls.LIMIT, **kwargs: object) -> runs.Run:
        options = ("--metrics-port", "0", *options)
        started.append(runs.start(tmp_path / "run", *command, options=options, **kwargs))
        return started[-1]

    yield begin
    for each in started:
        each.clean_up()


@pytest.fixture(scope="module")
def without_py_spy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has all that the harness imports, and no py-spy beside its Python."""
    python = venvs.make(tmp_path_factory.mktemp("venv") / "harness")
    venvs.share_packages(python)
    return python


def last_stacks(run: runs.Run, pid: int) -> Stacks:
    case = bundle.load(run.directory / "incidents" / "001")
    found = next(each.stacks for each in case.samples[-1].processes if each.pid == pid)
    assert isinstance(found, Reading), (found, case.errors)
    return found.value


def errors_counted(run: runs.Run) -> dict[str, float]:
    prefix = 'harness_collect_errors_total{collector="'
    found = stalls.metrics(run).items()
    return {
        name.removeprefix(prefix).partition('"')[0]: n for name, n in found if name.startswith(prefix) and n
    }


@pytest.mark.parametrize(
    ("py_spy", "words", "errors"),
    [
        (None, "py-spy is neither beside the harness nor on PATH", {}),
        ("kill -9 $$", "py-spy: no output", {}),
        (f"exec {shutil.which('sleep')} 3600", "a nonblocking dump no answer in time", {"stacks": 1}),
    ],
    ids=["missing", "killed", "hangs"],
)
def test_without_py_spy_the_trainers_own_traceback_stands_in(
    start: Callable[..., runs.Run],
    without_py_spy: Path,
    tmp_path: Path,
    py_spy: str | None,
    words: str,
    errors: dict[str, int],
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    if py_spy is not None:
        (programs / "py-spy").write_text(f"#!/bin/sh\n{py_spy}\n")
        (programs / "py-spy").chmod(0o755)
    run = start(
        *stalls.trainer("--fault", "sleep"),
        env=clean_env(PATH=str(programs)),
        harness=(str(without_py_spy), "-m", "harness"),
    )
    opened = stalls.wait_for_incident(run.directory)
    assert opened["evidence"] == "whole"
    assert "in wait_for_data" in opened["headline"]
    stacks = last_stacks(run, run.pid())
    assert stacks.method == "faulthandler"
    assert words in stacks.limits
    wait_for(
        lambda: errors_counted(run) == errors, what=f"{errors} in the metrics, not {errors_counted(run)}"
    )
    assert psutil.Process(run.pid()).status() == psutil.STATUS_SLEEPING


@pytest.mark.needs("root", "py-spy")
def test_a_trainer_that_may_not_be_traced_tells_its_own_traceback(start: Callable[..., runs.Run]) -> None:
    """As in a container without SYS_PTRACE, for a trainer that is not dumpable."""
    drop = shutil.which("setpriv")
    if drop is None:
        pytest.skip("needs setpriv, of util-linux")
    run = start(
        *(sys.executable, str(ZOO / "hides_from_ptrace.py")),
        prefix=(drop, "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"),
    )
    opened = stalls.wait_for_incident(run.directory)
    assert opened["evidence"] == "whole"
    assert "hides_from_ptrace.py" in opened["headline"]
    stacks = last_stacks(run, run.pid())
    assert stacks.method == "faulthandler"
    assert "denied" in stacks.limits
    assert errors_counted(run) == {}, "what is denied is no failure"
    assert runs.lives(run.pid())


@pytest.mark.needs("py-spy")
def test_a_target_in_uninterruptible_sleep_hangs_nobody(start: Callable[..., runs.Run]) -> None:
    run = start(
        *(sys.executable, str(ZOO / "vfork_child_never_execs.py")), options=("--stall-timeout", "log=2")
    )
    run.wait_for_log("READY")
    target = psutil.Process(run.pid())
    wait_for(lambda: target.status() == psutil.STATUS_DISK_SLEEP, what="state D")
    opened = stalls.wait_for_incident(run.directory)
    assert opened["evidence"] == "whole"
    assert "in wait_for_child" in opened["headline"]
    assert "uninterruptible sleep" in opened["headline"]
    assert target.status() == psutil.STATUS_DISK_SLEEP, "nobody's dump ended or changed it"
    assert stalls.metrics(run), "served all the while"
    os.kill(int(run.log().split()[1]), signal.SIGKILL)
    run.wait_for_log("RESUMED")
    closed = stalls.wait_for_incident(run.directory, closed=True)
    assert closed["how"] == "progress"
    assert run.process is not None
    run.process.send_signal(signal.SIGTERM)
    assert run.end()[0] == 128 + signal.SIGTERM


def test_a_pid_that_was_used_again_is_neither_taken_up_nor_ended(start: Callable[..., runs.Run]) -> None:
    """Harness and keeper were killed; later, strangers have the pids of the command and of the keeper."""
    first = start("true")
    assert first.end()[0] == 0
    strangers = [psutil.Popen([sys.executable, "-c", "input()"], stdin=-1, env=clean_env()) for _ in range(2)]
    try:
        record = first.record()
        record["attempts"][-1].update(
            pid=strangers[0].pid, keeper_pid=strangers[1].pid, ended_at=None, exit_status=None, ended_by=None
        )
        (first.directory / "run.json").write_text(json.dumps(record))
        (first.directory / "attempts" / "001.json").unlink()
        assert runs.status(first.directory)["state"] == "lost"
        second = start(sys.executable, "-c", "print('begun again')", options=())
        status, output = second.end()
        assert status == 0, output
        assert "begun again" in second.log()
        assert second.attempt()["attempt"] == 2
        assert [stranger.is_running() for stranger in strangers] == [True, True]
    finally:
        for stranger in strangers:
            stranger.communicate(b"\n")
