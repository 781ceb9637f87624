"""The end of the target's log, and how files that the target names are opened: with care.

A path that comes from the target may lead anywhere, and we may be root: it is opened without following a
link at its end, without waiting (a FIFO), and only used if it is a regular file of the target's or our
own user.

Not covered: following a log (`harness.watch`), what it says.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from harness.collect.deadline import NotSeen
from harness.collect.environment import scrub
from harness.evidence import Descriptor, Log, Missing, Reading

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

TAIL_BYTES = 64 * 1024


def read_regular(path: Path, owners: Collection[int], *, last_bytes: int) -> tuple[bytes, os.stat_result]:
    """The last bytes of a regular file of one of these owners; OSError or NotSeen otherwise."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise NotSeen(Missing(reason="unavailable", detail=f"{path} is not a regular file"))
        if facts.st_uid not in owners:
            detail = f"{path} belongs to uid {facts.st_uid}, not to the target's user or ours"
            raise NotSeen(Missing(reason="denied", detail=detail))
        start = max(0, facts.st_size - last_bytes)
        return os.pread(descriptor, min(last_bytes, facts.st_size), start), facts
    finally:
        os.close(descriptor)


def tail(path: Path, owners: Collection[int]) -> Log:
    """The end of a log, as text: whole lines, secrets scrubbed as far as they can be recognised."""
    data, facts = read_regular(path, owners, last_bytes=TAIL_BYTES)
    if facts.st_size > len(data):
        data = data.partition(b"\n")[2] or data
    return Log(
        path=str(path),
        size_bytes=facts.st_size,
        modified_wall_seconds=facts.st_mtime,
        tail=scrub(data.decode("utf-8", "backslashreplace")),
    )


def log_path(run_dir: Path | None, descriptors: Iterable[Descriptor]) -> Path:
    """Where the target writes: the run directory's log, else the file behind its stdout or stderr."""
    if run_dir is not None and (run_dir / "log" / "output.log").exists():
        return run_dir / "log" / "output.log"
    for wanted in (1, 2):
        for each in descriptors:
            if each.number == wanted and each.kind == "file" and isinstance(each.file, Reading):
                return Path(each.target)
    detail = "neither a run directory nor stdout or stderr leads to a file"
    raise NotSeen(Missing(reason="unavailable", detail=detail))
