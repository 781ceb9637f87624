"""Waits for a lock file that look like sleep: loops that try it again, and C libraries that do (SQLite).

A loop tells by its source what it tries; the kernel's table of locks tells of an open file that another
process has locked. Not covered: blocking calls (flock, lockf), libraries with files of their own (`waits`).
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from harness import frames as code
from harness.evidence import Missing, Reading

if TYPE_CHECKING:
    from harness.evidence import Descriptor, FileLock, Frame, Piece, Syscall
    from harness.rules.source import Sources
    from harness.rules.threads import ThreadView
    from harness.rules.view import View
    from harness.rules.waits import Wait

_TRIES = re.compile(
    r"""\b(flock|lockf|LOCK_NB|LOCK_EX|O_EXCL|FileExistsError|BlockingIOError)\b
    |["'][^"'\n]*\.(lock|lck|pid)["']
    |\b\w*(lock_?(file|path|dir|name)|(file|path|dir)_?lock)\b
    |\b(try|take|get|acquire|check|wait_for|is|has)_?(the_)?(file_?)?lock(ed)?\b""",
    re.VERBOSE | re.IGNORECASE,
)
# A lock of this process's own threads is asked for by one of these.
_OF_THREADS = re.compile(r"\.(acquire|locked)\(")


def polled(thread: ThreadView, user: Frame | None, sources: Sources) -> bool:
    """Whether the loop that a sleep stands in, or the function around it, tries a lock file."""
    own = [frame for frame in thread.python_frames if frame is user or code.owner(frame) == "user"]
    looping = next((frame for frame in own if sources.loops(frame)), None)
    if user is None or looping is None:
        return False
    # It may sleep in a helper: then only what the loop tries, and fails at, counts.
    if looping is not user and not sources.handles_failure(looping):
        return False
    text = sources.text(user) if looping is user else ast.unparse(sources.loops(looping)[0])
    return bool(_TRIES.search(text)) and (not _OF_THREADS.search(text) or contended(thread) is not None)


def contended(thread: ThreadView) -> Descriptor | None:
    """An open file of its process that another process has locked."""
    process = thread.process
    locks, found = process.view.case.locks, process.process.descriptors
    if not isinstance(locks, Reading) or not isinstance(found, Reading):
        return None
    theirs = {each.inode for each in locks.value if not each.waiting and each.pid not in (process.pid, -1)}
    return next(
        (
            each
            for each in found.value
            if each.kind == "file" and isinstance(each.inode, Reading) and each.inode.value in theirs
        ),
        None,
    )


def file_of(view: View, wait: Wait) -> tuple[str, Piece[int]]:
    """The lock file that a wait is for, and its inode: the open one, else one nearby that others locked."""
    if wait.descriptor is not None:
        return wait.descriptor.target, wait.descriptor.inode
    found = view.case.artifacts
    for each in found.value if isinstance(found, Reading) else ():
        if each.kind == "lock" and any(
            lock.pid != wait.thread.process.pid for lock in holders(view, each.inode)
        ):
            return each.path, each.inode
    return "", Missing(reason="unavailable", detail="the wait names no file")


def holders(view: View, inode: Piece[int]) -> list[FileLock]:
    """The locks on a file that are held, and not waited for."""
    locks = view.case.locks
    if not isinstance(locks, Reading) or not isinstance(inode, Reading):
        return []
    return [each for each in locks.value if each.inode == inode.value and not each.waiting]


def near(view: View) -> list[str]:
    """The lock files that lie beside the process."""
    found = view.case.artifacts
    return [each.path for each in found.value if each.kind == "lock"] if isinstance(found, Reading) else []


def is_native_sleep(call: Syscall) -> bool:
    """Whether C code sleeps: Python sleeps on the monotonic clock until a moment, C by CLOCK_REALTIME."""
    if call.name == "nanosleep":
        return True
    return call.name == "clock_nanosleep" and call.arguments[:2] == (0, 0)
