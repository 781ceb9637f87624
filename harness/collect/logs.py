"""The end of the target's log, and how files that the target names are opened: with care.

A path that comes from the target may lead anywhere, and we may be root: it is opened without following a
link at its end, without waiting (a FIFO), and only used if it is a regular file of the target's or our
own user.

Some lines mislead whoever reads a log, months later too: their first of each kind is kept, from the target's
own log and from the logs beside it.

Not covered: following a log (`harness.watch`), what it says.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from harness.collect.deadline import NotSeen
from harness.collect.environment import scrub
from harness.evidence import Descriptor, KnownLine, Log, Missing, Reading

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

TAIL_BYTES = 64 * 1024
MAX_LOGS = 8
_HEAD_BYTES = 256 * 1024
_MAX_LINE = 300
# transformers, tokenization_utils_base.py: once per tokenizer, so mostly near a log's beginning.
_TOKENIZER_LENGTH = re.compile(
    rb"[^\r\n]*Token indices sequence length is longer than the specified maximum sequence length[^\r\n]*"
)


def read_regular(
    path: Path, owners: Collection[int], *, last_bytes: int, from_start: bool = False
) -> tuple[bytes, os.stat_result]:
    """The last (or first) bytes of a regular file of one of these owners; OSError or NotSeen otherwise."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise NotSeen(Missing(reason="unavailable", detail=f"{path} is not a regular file"))
        if facts.st_uid not in owners:
            detail = f"{path} belongs to uid {facts.st_uid}, not to the target's user or ours"
            raise NotSeen(Missing(reason="denied", detail=detail))
        start = 0 if from_start else max(0, facts.st_size - last_bytes)
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


def known_lines(paths: Iterable[Path], owners: Collection[int]) -> tuple[KnownLine, ...]:
    """The lines that are known to mislead, from the first of these logs that have them."""
    found = []
    for path in list(paths)[:MAX_LOGS]:
        with contextlib.suppress(OSError, NotSeen):
            data, facts = read_regular(path, owners, last_bytes=TAIL_BYTES)
            if facts.st_size > len(data):
                data = read_regular(path, owners, last_bytes=_HEAD_BYTES, from_start=True)[0] + b"\n" + data
            if line := _TOKENIZER_LENGTH.search(data):
                text = scrub(line[0].decode("utf-8", "backslashreplace").strip()[:_MAX_LINE])
                found.append(
                    KnownLine(
                        kind="tokenizer-length",
                        path=str(path),
                        text=text,
                        modified_wall_seconds=facts.st_mtime,
                    )
                )
    return tuple(found)
