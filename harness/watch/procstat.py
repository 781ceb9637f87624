"""What one line of the kernel tells of a process, and which boot of the machine it is. Cheap: called often.

Not here: everything else in /proc (`harness.collect.procfs`, for evidence).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStat:
    """What one read of /proc/PID/stat tells."""

    state: str
    start_time_ticks: int  # with the pid, the process's identity: pids are used again
    cpu_seconds: float
    resident_bytes: int

    @property
    def ended(self) -> bool:
        """A zombie has ended; its parent has not taken note."""
        return self.state in "ZX"


def parse_stat(data: bytes) -> ProcessStat:
    """The text of /proc/PID/stat; the name, in parentheses, may hold anything."""
    fields = data[data.rindex(b")") + 2 :].split()
    return ProcessStat(
        state=fields[0].decode("ascii"),
        start_time_ticks=int(fields[19]),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND,
        resident_bytes=int(fields[21]) * _PAGE_BYTES,
    )


def read_stat(pid: int, proc: str | os.PathLike[str] = "/proc") -> ProcessStat | None:
    """The same of the process that has `pid` now; None where there is none."""
    try:
        with open(f"{os.fspath(proc)}/{pid}/stat", "rb", 0) as file:  # noqa: PTH123 -- called often
            return parse_stat(file.read())
    except (OSError, ValueError, IndexError):
        return None


def process_of(pid: int, proc: str | os.PathLike[str] = "/proc") -> int:
    """The process that has the thread `pid`: itself, but for one that `top -H` or htop listed as a thread."""
    try:
        with open(f"{os.fspath(proc)}/{pid}/status", "rb") as file:  # noqa: PTH123
            found = next((line for line in file if line.startswith(b"Tgid:")), b"")
        return int(found.split()[1])
    except (OSError, ValueError, IndexError):
        return pid


def boot_id(proc: str | os.PathLike[str] = "/proc") -> str:
    """Which boot this is: start times and monotonic times mean nothing in another; empty if unknown."""
    try:
        with open(f"{os.fspath(proc)}/sys/kernel/random/boot_id", "rb") as file:  # noqa: PTH123
            return file.read().decode("ascii").strip()
    except OSError:
        return ""
