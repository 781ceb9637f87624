"""A process that was not started by us: whether it is there, its command, its run directory, its log.

What it says of itself (environment, command line) is its owner's word: a run directory is only written to if
it belongs to us, and read like anything hostile (`heartbeat`). Not here: watching it (`supervise.watching`).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.watch.activity import descendants
from harness.watch.procstat import process_of, read_stat

_VARIABLE = "HARNESS_RUN_DIR"
_FIND = "List candidates with: pgrep -af python"


class NoTargetError(UsageError):
    """There is no such process to watch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """What could be found out about a process."""

    pid: int
    start_time_ticks: int
    command: tuple[str, ...]
    run_dir: Path | None
    run_dir_is_ours: bool  # its owner is us, so that we may write there
    logs: tuple[Path, ...]
    no_log: str | None  # why its output cannot be followed

    def alive(self, proc: Path = Path("/proc")) -> bool:
        """Whether this very process is there and has not ended."""
        found = read_stat(self.pid, proc)
        return found is not None and found.start_time_ticks == self.start_time_ticks and not found.ended


def find(pid: int, proc: Path = Path("/proc")) -> Foreign:
    """Look at process `pid`; NoTargetError where there is nothing to watch."""
    folder = proc / str(pid)
    process = read_stat(pid, proc)
    if process is None:
        raise NoTargetError(f"there is no process {pid}", remedy=_FIND)
    try:
        command = _strings(folder / "cmdline")
    except OSError:  # it ended in between
        raise NoTargetError(f"there is no process {pid}", remedy=_FIND) from None
    whole = process_of(pid, proc)
    if whole != pid:
        raise NoTargetError(f"{pid} is a thread of process {whole}", remedy=f"Name that one: {whole}")
    if process.ended:
        raise NoTargetError(f"process {pid} has ended already (its parent has not taken note)", remedy=_FIND)
    if not command:
        raise NoTargetError(f"process {pid} is a kernel thread, not a training", remedy=_FIND)
    if pid == os.getpid():
        raise NoTargetError(f"process {pid} is this harness itself", remedy=_FIND)
    run_dir = _run_dir(pid, proc)
    logs, no_log = _logs(folder)
    return Foreign(
        pid=pid,
        start_time_ticks=process.start_time_ticks,
        command=command,
        run_dir=run_dir,
        run_dir_is_ours=run_dir is not None and run_dir.stat().st_uid == os.geteuid(),
        logs=logs,
        no_log=no_log,
    )


def _strings(path: Path) -> tuple[str, ...]:
    """A NUL-separated file of /proc."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return tuple(text.rstrip("\0").split("\0")) if text.strip("\0") else ()


def _run_dir(pid: int, proc: Path) -> Path | None:
    """The run directory that the process, or one below it (the launcher's ranks), was given."""
    for each in descendants(pid, proc):
        folder = proc / str(each)
        for source in ("environ", "cmdline"):
            try:
                words = _strings(folder / source)
                named = next((word for word in words if word.startswith(f"{_VARIABLE}=")), None)
                path = None if named is None else (folder / "cwd").readlink() / named.partition("=")[2]
            except OSError:
                continue  # another user's process, or it ended
            if path is not None and os.path.isdir(path):  # noqa: PTH112 -- pathlib's raises where it is closed
                return path
    return None


def _logs(folder: Path) -> tuple[tuple[Path, ...], str | None]:
    """The files that stdout and stderr go to; or why there are none."""
    found: dict[tuple[int, int], Path] = {}
    whys: list[str] = []
    for number in (1, 2):
        link = folder / "fd" / str(number)
        try:
            target, facts = link.readlink(), link.stat()
        except PermissionError:
            whys.append("its output cannot be seen: another user's process")
            continue
        except OSError:
            whys.append("its output is closed")
            continue
        if stat.S_ISREG(facts.st_mode):
            if _is_same(target, facts):
                found.setdefault((facts.st_dev, facts.st_ino), target)
            else:
                whys.append(f"its log was deleted or lies in another container: {target}")
        else:
            whys.append(_describe(facts.st_mode, target))
    return tuple(found.values()), None if found else whys[0]


def _is_same(path: Path, facts: os.stat_result) -> bool:
    try:
        there = path.lstat()
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (facts.st_dev, facts.st_ino)


def _describe(mode: int, target: Path) -> str:
    if stat.S_ISFIFO(mode):
        return "its output goes into a pipe, which only its reader can follow"
    if stat.S_ISSOCK(mode):
        return "its output goes into a socket, which only its reader can follow"
    if str(target) == os.devnull:
        return "its output is thrown away (/dev/null)"
    return f"its output goes to a terminal ({target})"
