"""How `harness.auto` gets into the command, and the one line that says where it could not.

The command's PYTHONPATH gets one folder more, which holds a `sitecustomize` and nothing else: what the
harness itself is made of stays out of the trainer's sight. Not here: what happens in it (`harness.auto`).
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from harness import auto
from harness.auto import process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_AUTO = Path(auto.__file__).resolve().parent
SITE = str(_AUTO / "site")
_NO_PYTHONPATH = {"I": "-I", "E": "-E", "S": "-S"}
_PYTHON = re.compile(r"(python|pypy)[\d.]*t?")
_LOOK_EVERY_SECONDS = 5.0


def environment_of(environment: Mapping[str, str], *, instrument: bool) -> dict[str, str]:
    """What to add to a command's `environment`; with `instrument` off, what takes out one around it."""
    # An empty part is the current folder, and stays.
    parts = environment["PYTHONPATH"].split(os.pathsep) if environment.get("PYTHONPATH") else []
    kept = [part for part in parts if part != SITE]
    if obstacle() is not None or not instrument:
        changed = {"HARNESS_AUTO": "off"}
        return changed if kept == parts else {**changed, "PYTHONPATH": os.pathsep.join(kept)}
    return {"HARNESS_AUTO": "on", "PYTHONPATH": os.pathsep.join([SITE, *kept])}


def obstacle() -> str | None:
    """Why no command can be instrumented from here."""
    if os.pathsep in SITE:
        return (
            f"not instrumented: the harness is installed in {_AUTO.parent}, and PYTHONPATH cannot name that"
        )
    return None


class Unseen:
    """Looks, until there is a record, for a process that computes with torch and has none of ours in it."""

    def __init__(self, *, clock: Callable[[], float], proc: Path = Path("/proc")) -> None:
        self._clock, self._proc = clock, proc
        self._look_at = 0.0
        self._done = False

    def look(self, pids: Callable[[], Iterable[int]], *, recorded: bool) -> str | None:
        """A line for the user, once."""
        now = self._clock()
        if self._done or recorded or now < self._look_at:
            self._done = self._done or recorded
            return None
        self._look_at = now + _LOOK_EVERY_SECONDS
        for pid in pids():
            with contextlib.suppress(OSError):  # it ended, or is another user's
                line = self._why(pid)
                if line is not None:
                    self._done = True
                    return line
        return None

    def _why(self, pid: int) -> str | None:
        folder = self._proc / str(pid)
        argv = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")[:-1]
        if not argv or not _PYTHON.fullmatch(argv[0].rpartition("/")[2]) or process.role(argv) != "trainer":
            return None
        found = next((word for letter, word in _NO_PYTHONPATH.items() if letter in process.options(argv)), "")
        environment = (folder / "environ").read_bytes().decode("utf-8", "surrogateescape").split("\0")
        paths = [each for each in environment if each.startswith("PYTHONPATH=")]
        lost = not any(SITE in each for each in paths)
        if not (found or lost) or b"libtorch" not in (folder / "maps").read_bytes():
            return None
        command = f"python {found + ' ' if found else ''}{_AUTO} SCRIPT …"
        if found:
            return (
                f"python {found} reads no PYTHONPATH: steps of pid {pid} are not seen; start it as {command}"
            )
        return (
            f"the PYTHONPATH of pid {pid} was set anew: its steps are not seen; "
            f"keep what it had (…:$PYTHONPATH), or start it as {command}"
        )
