"""Open descriptors of a process, and who else holds the pipes among them.

Kinds come from the link's text and fdinfo, which never touch the file; `stat` does, and may wait for a dead
network mount, so that it is a read of its own which may be given up.

Not covered: what is behind a socket (`sockets`), locks (`locks`).
"""

from __future__ import annotations

import functools
import os
import re
import stat
from typing import TYPE_CHECKING

from harness.collect.deadline import all_of
from harness.evidence import (
    Access,
    Descriptor,
    DescriptorKind,
    FileFacts,
    Missing,
    Piece,
    Pipe,
    PipeEnd,
    Reading,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harness.collect.procfs import Proc

MAX_DESCRIPTORS = 1024
_NAMED = re.compile(r"(pipe|socket):\[(\d+)\]")
_ACCESS: dict[int, Access] = {os.O_RDONLY: "read", os.O_WRONLY: "write", os.O_RDWR: "both"}
_NO_FILE = Missing(reason="unavailable", detail="not a file with a size")


def kind_of(link: str, mode: int | None = None) -> DescriptorKind:
    """The kind of a descriptor from its link; `mode` (of stat) tells files, folders and FIFOs apart."""
    named = _NAMED.fullmatch(link)
    if named:
        return "pipe" if named[1] == "pipe" else "socket"
    if link.startswith("anon_inode:"):
        return "anon"
    if re.match(r"/dev/(pts/\d|tty|console)", link):
        return "tty"
    if mode is not None:
        return _kind_of_mode(mode)
    if link.startswith("/dev/") and not link.startswith("/dev/shm/"):  # noqa: S108 - a name to compare with
        return "device"
    return "file" if link.startswith("/") else "other"


def _kind_of_mode(mode: int) -> DescriptorKind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISFIFO(mode):
        return "fifo"
    return "device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "other"


def parse_fdinfo(data: bytes) -> dict[str, str]:
    """/proc/PID/fdinfo/N: `pos`, `flags` (octal), `mnt_id`, on newer kernels `ino`."""
    split = (line.partition(":") for line in data.decode("ascii", "replace").split("\n"))
    return {key: text.strip() for key, separator, text in split if separator}


def parse_mounts(data: bytes) -> dict[int, str]:
    """/proc/PID/mountinfo: for each mount id its type, source and mount point."""
    mounts = {}
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        before, separator, after = line.partition(" - ")
        words, kind = before.split(), after.split()
        if separator and len(words) > 4 and len(kind) > 1:
            mounts[int(words[0])] = f"{kind[0]} {kind[1]} on {words[4]}"
    return mounts


def of_process(proc: Proc, pid: int) -> tuple[Descriptor, ...]:
    """All descriptors of a process, up to a bound."""
    numbers = sorted(int(name) for name in os.listdir(proc.path(pid, "fd")))  # noqa: PTH208 - names are enough
    links = {number: link for number in numbers[:MAX_DESCRIPTORS] if (link := _link(proc, pid, number))}
    files = [number for number, link in links.items() if link.startswith("/")]
    reads = [functools.partial(os.stat, proc.path(pid, "fd", number)) for number in files]
    facts = dict(zip(files, all_of(reads, 1.0, width=2, each_seconds=0.3), strict=True))
    mounts = _mounts(proc, pid)
    found = [_descriptor(proc, pid, each, link, facts.get(each), mounts) for each, link in links.items()]
    return tuple(each for each in found if each is not None)


def _link(proc: Proc, pid: int, number: int) -> str | None:
    try:
        return os.readlink(proc.path(pid, "fd", number))  # noqa: PTH115 - text, not a path: `pipe:[1]`
    except (FileNotFoundError, ProcessLookupError):
        return None  # closed meanwhile


def _mounts(proc: Proc, pid: int) -> Mapping[int, str]:
    try:
        return parse_mounts(proc.read(pid, "mountinfo"))
    except (OSError, ValueError):
        return {}


def _descriptor(
    proc: Proc,
    pid: int,
    number: int,
    link: str,
    result: os.stat_result | Missing | None,
    mounts: Mapping[int, str],
) -> Descriptor | None:
    try:
        info = parse_fdinfo(proc.read(pid, "fdinfo", number))
    except (FileNotFoundError, ProcessLookupError):
        return None
    flags = int(info.get("flags", "0"), 8)
    mount = mounts.get(int(info.get("mnt_id", "-1")))
    return Descriptor(
        number=number,
        kind=kind_of(link, result.st_mode if isinstance(result, os.stat_result) else None),
        target=link,
        access=_ACCESS.get(flags & os.O_ACCMODE, "both"),
        flags=flags,
        position=int(info.get("pos", "0")),
        inode=_inode(link, result, info),
        filesystem=Reading(value=mount) if mount else Missing(reason="unavailable", detail="not on a mount"),
        file=_facts(result) if isinstance(result, os.stat_result) else result or _NO_FILE,
    )


def _inode(link: str, result: os.stat_result | Missing | None, info: Mapping[str, str]) -> Piece[int]:
    named = _NAMED.fullmatch(link)
    if named:
        return Reading(value=int(named[2]))
    if isinstance(result, os.stat_result):
        return Reading(value=result.st_ino)
    if "ino" in info:
        return Reading(value=int(info["ino"]))
    return Missing(reason="unavailable", detail="this kernel does not tell")


def _facts(result: os.stat_result) -> Piece[FileFacts]:
    if stat.S_ISCHR(result.st_mode) or stat.S_ISDIR(result.st_mode):
        return _NO_FILE
    return Reading(
        value=FileFacts(
            size_bytes=result.st_size,
            modified_wall_seconds=result.st_mtime,
            device=f"{os.major(result.st_dev)}:{os.minor(result.st_dev)}",
            inode=result.st_ino,
            owner_uid=result.st_uid,
        )
    )


# ── pipes ───────────────────────────────────────────────────────────────────────────────────────────────────


def pipes(proc: Proc, inodes: Iterable[int]) -> tuple[Pipe, ...]:
    """Every holder of these pipes among the processes that we may see."""
    ends: dict[int, list[PipeEnd]] = {inode: [] for inode in inodes}
    if not ends:
        return ()
    for pid in proc.pids():
        for inode, end in _pipe_ends(proc, pid, ends):
            ends[inode].append(end)
    return tuple(Pipe(inode=inode, ends=tuple(held)) for inode, held in sorted(ends.items()))


def _pipe_ends(proc: Proc, pid: int, wanted: Mapping[int, object]) -> list[tuple[int, PipeEnd]]:
    found = []
    try:
        for number in os.listdir(proc.path(pid, "fd")):  # noqa: PTH208 - as above
            named = _NAMED.fullmatch(os.readlink(proc.path(pid, "fd", number)))  # noqa: PTH115 - as above
            if named and named[1] == "pipe" and int(named[2]) in wanted:
                flags = int(parse_fdinfo(proc.read(pid, "fdinfo", number)).get("flags", "0"), 8)
                end = PipeEnd(
                    pid=pid,
                    command=proc.stat(pid).name,
                    descriptor=int(number),
                    access=_ACCESS.get(flags & os.O_ACCMODE, "both"),
                )
                found.append((int(named[2]), end))
    except (OSError, ValueError):
        return found  # ended meanwhile, or another user's: its ends cannot be seen
    return found
