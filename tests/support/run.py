"""`harness run` under test: started as a user starts it, never left behind."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.env import clean_env
from tests.support.programs import completed
from tests.support.wait import wait_for

HARNESS = (sys.executable, "-m", "harness")
DEADLINE_SECONDS = 40.0


@dataclass
class Run:
    """One `harness run` and the directory that it uses."""

    process: subprocess.Popen[str] | None  # None: started by somebody else
    directory: Path
    started: list[psutil.Process] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """run.json."""
        return json.loads((self.directory / "run.json").read_text())

    def attempt(self) -> dict[str, Any]:
        """The last attempt of run.json, which tells of it a little later than the command's log."""

        def known() -> list[dict[str, Any]]:
            return self.record()["attempts"]

        return wait_for(known, DEADLINE_SECONDS, "run.json to tell of an attempt")[-1]

    def pid(self) -> int:
        """The command's pid, once it runs."""

        def started() -> int | None:
            try:
                return self.record()["attempts"][-1]["pid"]
            except (OSError, IndexError):
                assert self.process.poll() is None, self.process.communicate()
                return None

        return wait_for(started, DEADLINE_SECONDS, "the command to start")

    def log(self) -> str:
        """What the command wrote."""
        with contextlib.suppress(FileNotFoundError):
            return (self.directory / "log" / "output.log").read_text(errors="replace")
        return ""

    def wait_for_log(self, text: str) -> None:
        """Until the command wrote `text`."""
        wait_for(lambda: text in self.log(), DEADLINE_SECONDS, f"{text!r} in the log")

    def end(self) -> tuple[int, str]:
        """Its exit status and everything that it printed, once it ended."""
        out, err = self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode, out + err

    def tree(self) -> list[psutil.Process]:
        """The command and all its descendants now."""
        root = psutil.Process(self.attempt()["pid"])
        return [root, *root.children(recursive=True)]

    def clean_up(self) -> None:
        """Kill whatever is left: of the harness, its keeper and the command."""
        self.kill_command({self.process.pid})
        self.process.communicate()

    def kill_command(self, also: set[int] | None = None) -> None:
        """Kill the command, its keeper and all below them."""
        for pid in {*self._pids(), *(also or ())}:
            with contextlib.suppress(psutil.Error):
                top = psutil.Process(pid)
                for each in [*top.children(recursive=True), top]:
                    with contextlib.suppress(psutil.Error):
                        each.kill()

    def _pids(self) -> set[int]:
        found: set[int] = set()
        with contextlib.suppress(OSError, ValueError, KeyError):
            for attempt in self.record()["attempts"]:
                for name in ("pid", "keeper_pid"):
                    start = attempt["start_time_ticks" if name == "pid" else "keeper_start_time_ticks"]
                    with contextlib.suppress(OSError):
                        fields = Path(f"/proc/{attempt[name]}/stat").read_text().rpartition(")")[2].split()
                        if int(fields[19]) == start:
                            found.add(attempt[name])
        return found


def start(
    directory: Path,
    *command: str,
    options: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    harness: tuple[str, ...] = HARNESS,
    **popen: Any,
) -> Run:
    """Start `harness run --run-dir DIRECTORY OPTIONS -- COMMAND` with no metrics port unless one is given.

    `prefix` starts that in turn; `harness` is another way to start it.
    """
    if "--metrics-port" not in options:
        options = ("--metrics-port", "off", *options)
    words = [*prefix, *harness, "run", "--run-dir", str(directory), *options]
    process = subprocess.Popen(
        [*words, *(["--", *command] if command else [])],
        env=env or clean_env(),
        stdin=popen.pop("stdin", subprocess.DEVNULL),
        stdout=popen.pop("stdout", subprocess.PIPE),
        stderr=popen.pop("stderr", subprocess.PIPE),
        text=True,
        errors="replace",
        **popen,
    )
    return Run(process=process, directory=directory)


def python(source: str) -> tuple[str, ...]:
    """A command that runs `source`."""
    return (sys.executable, "-c", source)


def status(directory: Path) -> dict[str, Any]:
    """`harness status --json` of a run."""
    done = completed([*HARNESS, "status", "--json", str(directory)])
    return json.loads(done.stdout)


def lives(pid: int) -> bool:
    """Whether `pid` is there and not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
