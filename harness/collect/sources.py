"""The source lines around the frames that were seen: each frame's whole function, up to a bound.

The file's name comes from the target, so it is opened with care (`logs.read_regular`); a file of a third
user only if everyone may read it. What looks like a secret is replaced. A file that changed after the
process began is told by its age: its lines may not be those that run.

Not covered: the standard library; the outer frames of packages that the user's code calls.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from harness import frames
from harness.collect.environment import scrub
from harness.evidence import Reading, Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.collect.procfs import Proc
    from harness.evidence import Frame, Process, Sample, ThreadStack

MAX_LINES = 200
MAX_SOURCES = 96
_MAX_FILE_BYTES = 2 * 2**20
_MAX_LINE = 400
_AROUND = 4
# Of packages that the user's code calls: what waits, and what it was called from.
_INNERMOST = 4
_GIVEN = "<string>"  # the file of what `python -c` was given
_CODE_OPTION = re.compile(r"-[bBdEiIOPqsSuvx]*c")
_SHEBANG = re.compile(rb"#![^\n]*python")


def around(proc: Proc, processes: Sequence[Process], samples: Sequence[Sample]) -> tuple[Source, ...]:
    """The functions of the user's frames in all dumps, each once."""
    by_pid = {process.pid: process for process in processes}
    files: dict[tuple[int, str], tuple[list[str], float] | None] = {}
    found: dict[tuple[str, int], Source] = {}
    for pid, frame in _wanted(samples):
        if len(found) >= MAX_SOURCES:
            break
        key = (pid if frame.file == _GIVEN else 0, frame.file)
        if key not in files:
            files[key] = _read(proc, by_pid.get(pid), frame.file)
        text = files[key]
        if text is None or not 0 < frame.line <= len(text[0]):
            continue
        if frame.file == _GIVEN and not any(_names(line, frame.function) for line in text[0]):
            continue  # compiled from text while it ran, as a dataclass's methods are
        covered = any(
            each.file == frame.file
            and each.first_line <= frame.line <= each.last_line
            and _names(each.lines[0], frame.function)
            for each in found.values()
        )
        if not covered:
            first, last = extent(text[0], frame.line, frame.function)
            lines = tuple(scrub(line[:_MAX_LINE]) for line in text[0][first - 1 : last])
            source = Source(file=frame.file, first_line=first, lines=lines, modified_wall_seconds=text[1])
            found[frame.file, first] = source
    return tuple(found.values())


def extent(lines: Sequence[str], line: int, function: str) -> tuple[int, int]:
    """First and last line of the function `function` around `line`; a few lines around it if it is longer."""
    name = function.rpartition(".")[2]
    begin = 0
    if name.isidentifier():
        for number in range(line, 0, -1):
            if _names(lines[number - 1], name):
                begin = number
                break
    if not begin:  # a module, a lambda, a comprehension
        return _bounded(1, len(lines), line) if function == "<module>" else _near(lines, line)
    indent = _indent(lines[begin - 1])
    end = begin
    for number in range(begin + 1, len(lines) + 1):
        text = lines[number - 1]
        if (
            text.strip()
            and _indent(text) <= indent
            and number > line
            and not text.strip().startswith((")", "#"))
        ):
            break
        if text.strip():
            end = number
    return _bounded(begin, max(end, line), line)


def _names(text: str, function: str) -> bool:
    if function == "<module>":
        return True
    return bool(re.match(rf"\s*(async\s+)?def\s+{re.escape(function.rpartition('.')[2])}\b", text))


def _near(lines: Sequence[str], line: int) -> tuple[int, int]:
    return max(1, line - _AROUND), min(len(lines), line + _AROUND)


def _bounded(first: int, last: int, line: int) -> tuple[int, int]:
    if last - first < MAX_LINES:
        return first, last
    if line - first < MAX_LINES - _AROUND:
        return first, first + MAX_LINES - 1
    return line - MAX_LINES // 2, min(last, line + MAX_LINES // 2 - 1)


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _wanted(samples: Sequence[Sample]) -> Iterator[tuple[int, Frame]]:
    """Frames of the user, the newest dumps first; of threads without any, the one that would be blamed.

    Then those of packages: a trainer may be installed as one, and locks are taken in them.
    """
    stacks = [
        (process.pid, process.stacks.value.threads)
        for sample in reversed(samples)
        for process in sample.processes
        if isinstance(process.stacks, Reading)
    ]
    for pid, threads in stacks:
        for thread in threads:
            blamed = frames.blamed(thread.frames)
            own = _of(thread, "user") or ([blamed] if blamed is not None else [])
            yield from ((pid, frame) for frame in own)
    for pid, threads in stacks:
        installed = not any(_of(thread, "user") for thread in threads)
        for thread in threads:
            yield from ((pid, frame) for frame in _of(thread, "package")[: None if installed else _INNERMOST])


def _of(thread: ThreadStack, owner: frames.Owner) -> list[Frame]:
    return [frame for frame in thread.frames if frames.owner(frame) == owner][:12]


def _read(proc: Proc, process: Process | None, name: str) -> tuple[list[str], float] | None:
    if process is None:
        return None
    if name == _GIVEN:
        return _given(process)
    if name.startswith("<"):
        return None
    path = Path(name)
    if not path.is_absolute():
        if not isinstance(process.cwd, Reading):
            return None
        path = Path(process.cwd.value) / path
    # Through the process's own root: in a container the same path is another file.
    inside = proc.path(process.pid, "root") / str(path).lstrip("/")
    uids = {process.uid.value} if isinstance(process.uid, Reading) else set()
    for each in (inside, path):
        with contextlib.suppress(OSError):
            return _lines(each, {os.geteuid(), *uids})
    return None


def _given(process: Process) -> tuple[list[str], float] | None:
    """The code of `python -c`, from its command line."""
    words = iter(process.command.value[1:] if isinstance(process.command, Reading) else ())
    for word in words:
        if _CODE_OPTION.fullmatch(word):
            code = next(words, "")
            # A worker that was spawned is begun so: that line is nobody's.
            return None if code.startswith("from multiprocessing") else (code.splitlines(), 0.0)
        if not word.startswith("-"):
            return None
        if word in ("-W", "-X"):
            next(words, None)
    return None


def _lines(path: Path, owners: set[int]) -> tuple[list[str], float] | None:
    """The lines of a regular file; None if it is none, too large, or not for us to see."""
    # The last part may be a link (a checkout of links is common); what it leads to is checked below.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        facts = os.fstat(descriptor)
        for_all = bool(facts.st_mode & stat.S_IROTH)
        if not stat.S_ISREG(facts.st_mode) or not (for_all or facts.st_uid in owners - {0}):
            return None
        if facts.st_size > _MAX_FILE_BYTES:
            return None
        data = os.pread(descriptor, _MAX_FILE_BYTES, 0)
        # Not just any file that the target names: Python's, by its name or by its first line.
        if not path.name.endswith((".py", ".pyw")) and not _SHEBANG.match(data):
            return None
    finally:
        os.close(descriptor)
    return data.decode("utf-8", "replace").splitlines(), facts.st_mtime
