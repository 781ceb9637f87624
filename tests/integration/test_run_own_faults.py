"""A fault of ours costs what it breaks and never the training: parts are broken from within."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import run as runs
from tests.support.env import REPOSITORY, clean_env
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from pathlib import Path

_BREAK = """
import sys
if "run" in sys.argv and "harness" in " ".join(getattr(sys, "orig_argv", sys.argv)):
    import {module} as module
    whole = module.{name}
    def broken(*_, **__):
        {fault}
    module.{name} = broken
"""
RAISE = "raise RuntimeError('a fault of ours')"


def _broken(folder: Path, module: str, name: str, fault: str = RAISE) -> dict[str, str]:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_BREAK.format(module=module, name=name, fault=fault))
    return clean_env(PYTHONPATH=f"{folder}:{REPOSITORY}")


@pytest.mark.parametrize(
    ("module", "name", "part"),
    [
        ("harness.watch.ranks", "Ranks.poll", "records"),
        ("harness.watch.logtail", "LogFollower.poll", "log"),
        ("harness.supervise.observer", "Observer.tick", "observer"),
        ("harness.supervise.observer", "Observer.__init__", "observer"),
        ("harness.supervise.gpus", "GpuWatch.poll", "gpus"),
        ("harness.supervise.viewing", "view_of", "view"),
        ("harness.supervise.summary", "summary_line", "summary"),
        ("harness.metrics.collector", "TrainerCollector", "metrics"),
        ("harness.supervise.identity", "git_state", "git"),
        ("harness.supervise.loop", "Supervisor._serve", "supervision"),
    ],
)
def test_a_broken_part_is_said_in_a_line_and_the_training_ends_as_it_likes(
    tmp_path: Path, module: str, name: str, part: str
) -> None:
    run = runs.start(
        tmp_path / "run",
        *runs.python("import time; time.sleep(1); print('trained'); raise SystemExit(3)"),
        options=("--metrics-port", "0"),
        env=_broken(tmp_path / "site", module, name),
    )
    try:
        status, text = run.end()
    finally:
        run.clean_up()
    assert status == 3
    assert run.log() == "trained\n"
    assert [line for line in text.splitlines() if line.startswith(f"harness: {part} failed")] != []
    assert "Traceback" not in text
    if part != "metrics":
        assert "a fault of ours" in (run.directory / "log" / "harness.log").read_text()


@pytest.mark.parametrize(
    ("numbers", "status"),
    [((signal.SIGTERM,), 75), ((signal.SIGINT, signal.SIGINT), 137)],
    ids=["asked to end", "interrupted twice"],
)
def test_signals_reach_the_command_even_where_supervision_itself_broke(
    tmp_path: Path, numbers: tuple[signal.Signals, ...], status: int
) -> None:
    env = _broken(tmp_path / "site", "harness.supervise.loop", "Supervisor._serve")
    source = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "signal.signal(signal.SIGINT, lambda *_: print('heard'))\n"
        "print('begun')\nwhile True: time.sleep(0.05)"
    )
    run = runs.start(tmp_path / "run", *runs.python(source), env=env)
    try:
        run.wait_for_log("begun")
        for at, number in enumerate(numbers):
            if at:
                run.wait_for_log("heard")
            run.process.send_signal(number)
        found, _ = run.end()
    finally:
        run.clean_up()
    assert found == status


def test_signals_reach_the_command_while_the_observing_side_hangs(tmp_path: Path) -> None:
    env = _broken(
        tmp_path / "site", "harness.watch.logtail", "LogFollower.poll", "import time; time.sleep(1000)"
    )
    source = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "print('begun')\nwhile True: time.sleep(0.05)"
    )
    run = runs.start(tmp_path / "run", *runs.python(source), env=env)
    try:
        run.wait_for_log("begun")
        run.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not runs.lives(run.pid()), what="the command to hear it")
        status, text = run.end()
    finally:
        run.clean_up()
    assert status == 75
    assert "does not answer" in text


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("subprocess.Popen", "11, 'Resource temporarily unavailable'", "no process can be started"),
        ("os.open", "28, 'No space left on device'", "the log cannot be written: No space left on device"),
    ],
)
def test_where_nothing_can_be_started_the_reason_is_said(
    tmp_path: Path, name: str, error: str, words: str
) -> None:
    # Broken only from where the command is started on: the run directory needs files too.
    fault = f"""if sys._getframe(1).f_globals["__name__"] == "harness.supervise.child":
            raise OSError({error})
        return whole(*_, **__)"""
    env = _broken(tmp_path / "site", "harness.supervise.child", name, fault)
    run = runs.start(tmp_path / "run", "true", env=env)
    status, text = run.end()
    assert status == 125
    assert words in text.splitlines()[-1]
    assert "fault of the harness" not in text


def test_a_fault_before_anything_runs_is_one_line_and_125(tmp_path: Path) -> None:
    env = _broken(tmp_path / "site", "harness.supervise.opening", "_begin")
    run = runs.start(tmp_path / "run", "true", env=env)
    status, text = run.end()
    assert status == 125
    assert len(text.splitlines()) == 1
    assert "a fault of ours" in text


def test_where_no_thread_can_be_started_the_limit_is_named(tmp_path: Path) -> None:
    fault = 'raise RuntimeError("can\'t start new thread")'  # as with too low a ulimit -u
    env = _broken(tmp_path / "site", "threading", "Thread.start", fault)
    status, text = runs.start(tmp_path / "run", "true", env=env).end()
    assert status == 125
    assert text.startswith("harness: no thread can be started. Look at the limits")
    assert len(text.splitlines()) == 1
