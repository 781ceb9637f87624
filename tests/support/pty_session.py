"""A shell in a terminal of its own, typed into and read as a user would: job control, Ctrl-C, hang-ups."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_SECONDS = 40.0


class Terminal:
    """`bash` with job control behind a pseudo-terminal."""

    def __init__(self, *, cwd: Path, env: dict[str, str], rows: int = 30, columns: int = 100) -> None:
        self.seen = ""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], {**env, "PS1": "ready> "})
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.wait_for("ready> ")

    def type(self, text: str) -> None:
        """Type; "\\x03" is Ctrl-C, "\\x1a" is Ctrl-Z."""
        os.write(self.master, text.encode())

    def read(self, seconds: float) -> str:
        """What is shown within `seconds`, or the first of it."""
        if select.select([self.master], [], [], seconds)[0]:
            with contextlib.suppress(OSError):
                self.seen += os.read(self.master, 65536).decode(errors="replace")
        return self.seen

    def wait_for(self, text: str, *, after: int = 0) -> int:
        """Until `text` is shown, after the position `after`; the position behind it."""
        end = time.monotonic() + DEADLINE_SECONDS
        while (at := self.seen.find(text, after)) < 0:
            assert time.monotonic() < end, f"{text!r} never came; the terminal shows: {self.seen[after:]!r}"
            self.read(0.2)
        return at + len(text)

    def hang_up(self) -> None:
        """Close the terminal's window."""
        os.close(self.master)
        self.master = -1

    def close(self) -> None:
        """End the shell."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        if self.master >= 0:
            self.hang_up()
