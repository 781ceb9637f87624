"""A Case as a folder: written whole or not at all, readable by people, loaded with suspicion.

`case.json` is the whole Case and the only file that is read back; it is written under another name and
renamed, so a folder without it is no Case. The others are copies for human eyes (`summary.txt`,
`stacks/*.txt`, `log_tail.txt`) and for tools (`stacks/*.json`, in py-spy's own shape). The folder is
0700: stacks and logs may hold what their owner would not show.

Not covered: the shape of the JSON (`harness.codec`), what an incident adds to the folder.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import codec
from harness.errors import HarnessError, RecordError
from harness.evidence import SCHEMA, Case, Reading, Stacks
from harness.render import case_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CASE_FILE = "case.json"
# Collectors bound what they take; this bounds what they may have missed, and what a hostile folder can cost.
MAX_CASE_BYTES = 64 * 2**20
MAX_COPY_BYTES = 4 * 2**20
MAX_COPIED_PROCESSES = 64


class BundleError(HarnessError):
    """A Case could not be written."""

    remedy = "Free some space there, or give another folder; what was written so far does not count as a Case"


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What `save` wrote. `left_out` names the copies that did not fit: the Case itself is whole."""

    folder: Path
    size_bytes: int
    left_out: tuple[str, ...]


def save(case: Case, folder: Path) -> Saved:
    """Write `case` into `folder` (made if need be, 0700); BundleError where it does not fit or may not be."""
    data = codec.dumps(case)
    if len(data) > MAX_CASE_BYTES:
        raise BundleError(
            f"the evidence takes {len(data)} bytes, more than the {MAX_CASE_BYTES} that a Case may",
            remedy="Look at fewer processes, or take fewer samples",
        )
    try:
        _make_folder(folder)
        if os.path.lexists(folder / CASE_FILE):
            raise BundleError(f"{folder} already holds a Case", remedy="Give another folder")
        # The whole Case first: where space is short the copies are what to do without.
        _write(folder / CASE_FILE, data, durable=True)
    except OSError as error:
        raise BundleError(f"cannot write a Case into {folder}: {_reason(error)}") from error
    written, left_out = len(data), []
    for name, text in _copies(case):
        content = text.encode("utf-8", "backslashreplace")
        try:
            if len(content) > MAX_COPY_BYTES:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            (folder / name).parent.mkdir(mode=0o700, exist_ok=True)
            _write(folder / name, content, durable=False)
        except OSError as error:
            left_out.append(f"{name} ({_reason(error)})")
        else:
            written += len(content)
    return Saved(folder=folder, size_bytes=written, left_out=tuple(left_out))


def load(folder: Path) -> Case:
    """The Case in `folder`; RecordError for anything that is not one."""
    path = folder / CASE_FILE
    data = _read(path)
    try:
        schema = json.loads(data).get("schema")
    except (ValueError, AttributeError, RecursionError):
        raise RecordError(f"{path}: not JSON that the harness wrote", remedy=_NOT_A_CASE) from None
    if schema != SCHEMA:
        raise RecordError(
            f"{path}: schema {ascii(schema)[:40]}, expected {SCHEMA!r}",
            remedy="Read it with the harness that wrote it",
        )
    return codec.loads(Case, data, name=str(path))


_NOT_A_CASE = f"Give the folder of an incident, or one that was made with --out; it holds {CASE_FILE}"


def _read(path: Path) -> bytes:
    try:
        # NONBLOCK: a FIFO of that name must not hold us; NOFOLLOW: nor may a link lead elsewhere.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOENT and path.parent.is_dir():
            message = f"{path.parent}: no {CASE_FILE}: not a Case, or one whose writing was cut short"
        else:
            message = f"{path}: {'a symbolic link' if error.errno == errno.ELOOP else _reason(error)}"
        raise RecordError(message, remedy=_NOT_A_CASE) from None
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)  # of a directory no file can be made
        raise RecordError(f"{path}: not a regular file", remedy=_NOT_A_CASE)
    with os.fdopen(descriptor, "rb") as file:
        if facts.st_size > MAX_CASE_BYTES:
            raise RecordError(
                f"{path}: {facts.st_size} bytes, more than the {MAX_CASE_BYTES} that a Case may have"
            )
        try:
            return file.read(MAX_CASE_BYTES + 1)
        except OSError as error:
            raise RecordError(f"{path}: {_reason(error)}") from None


def _make_folder(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        # Not through a link that someone else may have laid.
        if folder.is_symlink() or not folder.is_dir():
            raise
        folder.chmod(0o700)


def _write(path: Path, data: bytes, *, durable: bool) -> None:
    """Write under another name, then rename: a reader sees all of it or nothing."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(descriptor)
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _copies(case: Case) -> Iterator[tuple[str, str]]:
    """What people and other tools may want, as files of their own."""
    yield "summary.txt", "\n".join(case_text.case_lines(case)) + "\n"
    if isinstance(case.log, Reading):
        yield "log_tail.txt", case.log.value.tail
    for process in case.processes[:MAX_COPIED_PROCESSES]:
        dumps = [
            seen.stacks.value
            for sample in case.samples
            for seen in sample.processes
            if seen.pid == process.pid and isinstance(seen.stacks, Reading)
        ]
        if dumps:
            parts = ["\n".join(case_text.stack_lines(stacks)) for stacks in dumps]
            yield f"stacks/{process.pid}.txt", "\n\n\n".join(parts) + "\n"
            yield f"stacks/{process.pid}.json", json.dumps(_as_py_spy(process.pid, dumps[-1]), indent=1)


def _as_py_spy(pid: int, stacks: Stacks) -> list[dict[str, object]]:
    """The shape of `py-spy dump --json`."""
    return [
        {
            "pid": pid,
            "thread_name": thread.name,
            "os_thread_id": thread.tid.value if isinstance(thread.tid, Reading) else None,
            "active": thread.active.value if isinstance(thread.active, Reading) else None,
            "owns_gil": thread.owns_gil.value if isinstance(thread.owns_gil, Reading) else None,
            "frames": [
                {
                    "name": frame.function,
                    "filename": frame.file,
                    "module": frame.module or None,
                    "line": frame.line,
                    "locals": [
                        {"name": each.name, "addr": each.address, "arg": each.argument, "repr": each.value}
                        for each in frame.locals
                    ],
                    "is_entry": frame.entry,
                }
                for frame in thread.frames
            ],
        }
        for thread in stacks.threads
    ]


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
