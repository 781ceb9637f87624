"""File locks from /proc/locks that concern the tree: held or waited for by it, or on a file it has open.

Not covered: locks inside a process; who is right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.evidence import FileLock

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from harness.collect.procfs import Proc


def parse(data: bytes) -> Iterator[FileLock]:
    """Lines like `1: FLOCK ADVISORY WRITE 811 00:1b:1234 0 EOF`; one that waits has `->` before its kind."""
    for line in data.decode("ascii", "replace").split("\n"):
        words = line.split()[1:]
        waiting = words[:1] == ["->"]
        words = words[1:] if waiting else words
        if len(words) < 5 or words[4].count(":") != 2:
            continue
        major, minor, inode = words[4].split(":")
        yield FileLock(
            kind=words[0],
            mode=words[2],
            pid=int(words[3]),
            device=f"{int(major, 16)}:{int(minor, 16)}",
            inode=int(inode),
            waiting=waiting,
        )


def concerning(proc: Proc, pids: Collection[int], inodes: Collection[int]) -> tuple[FileLock, ...]:
    """The locks of these processes, and all locks on these files."""
    return tuple(lock for lock in parse(proc.read("locks")) if lock.pid in pids or lock.inode in inodes)
