"""Victims: programs of tests/zoo, in a clean environment, ready when they say so, never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.support.env import REPOSITORY, clean_env
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ZOO = REPOSITORY / "tests" / "zoo"


class Victim:
    """A running victim; `words` is what it said after READY."""

    def __init__(self, process: subprocess.Popen[bytes], words: list[str]) -> None:
        self.process = process
        self.pid = process.pid
        self.words = words

    @property
    def state(self) -> str:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    @property
    def start_time_ticks(self) -> int:
        return int(Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[19])

    def stop(self) -> None:
        """SIGSTOP, and wait for it to have stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_for(lambda: self.state == "T", what="the victim to stop")


@contextlib.contextmanager
def running(name: str, *arguments: str, env: dict[str, str] | None = None) -> Iterator[Victim]:
    """The victim `name` of the zoo, once it is in its hang."""
    process = subprocess.Popen(
        [sys.executable, str(ZOO / f"{name}.py"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=clean_env() if env is None else env,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line.startswith("READY"), f"{name} said {line!r}"
        yield Victim(process, line.split()[1:])
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a victim and all its descendants."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait(timeout=20)
    if process.stdout is not None:
        process.stdout.close()


def line_of(name: str, text: str) -> int:
    """The number of the first line of a victim's source that holds `text`."""
    lines = (ZOO / f"{name}.py").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)
