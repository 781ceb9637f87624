"""Starts small programs that emit, and speaks with them line by line."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

from tests.support.env import clean_env

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE_SECONDS = 60

# Begins each program: `say` a line, `wait` for one.
_PRELUDE = """
import sys
from harness import emit
def say(*words): print(*words, flush=True)
def wait(): return sys.stdin.readline().strip()
"""


class Program:
    """A running program: `hear` what it says, `tell` it to go on."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def hear(self, expected: str | None = None) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().rstrip("\n")
        if expected is not None:
            assert line == expected, (
                f"{line!r} is not {expected!r}; stderr: {self._rest() if not line else ''}"
            )
        return line

    def tell(self, line: str = "go") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, str, str]:
        """Wait for its end: status, and what it said since on stdout and stderr."""
        out, err = self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode, out, err

    def _rest(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()


@contextlib.contextmanager
def emitting(
    source: str,
    run_dir: Path | None,
    *,
    prefix: tuple[str, ...] = (),
    arguments: tuple[str, ...] = (),
    **env: str,
) -> Iterator[Program]:
    """Run `source`, after a prelude (emit, say, wait), in a run directory; killed at the end."""
    if run_dir is not None:
        env["HARNESS_RUN_DIR"] = str(run_dir)
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", _PRELUDE + textwrap.dedent(source), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_env(**env),
    )
    watchdog = threading.Timer(DEADLINE_SECONDS, process.kill)  # a `hear` that hangs ends
    watchdog.start()
    try:
        yield Program(process)
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate(timeout=DEADLINE_SECONDS)
