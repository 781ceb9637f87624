"""Taking possession of a run directory: making it, locking it, writing its run.json.

Not here: its paths and the reading of run.json (`rundir`), and whether a command is started or adopted
(`loop`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import itertools
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, UsageError
from harness.rundir import LATEST, Attempt, RunDirectory, RunRecord, host_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_OURS = frozenset(
    {
        *("run.json", "metrics.jsonl", "ranks", "events", "log", "checkpoints", "incidents", "attempts"),
        *("nodes", "configuration"),
    }
)


class AlreadySupervisedError(HarnessError):
    """Another harness holds the run."""

    def __init__(self, path: Path, pid: int | None, host: str | None) -> None:
        self.pid, self.host = pid, host
        who = f"pid {pid} on {host}" if pid else "another harness"
        super().__init__(
            f"{path}: this run is supervised already, by {who}",
            remedy=f"Look at it with `harness status {path}`, or stop that one first",
        )


class ForeignFolderError(UsageError):
    """A directory full of something else."""


class RunFile:
    """The record of a run on disk, replaced atomically; may be used from several threads."""

    def __init__(self, run: RunDirectory, record: RunRecord) -> None:
        self.run = run
        self._record = record
        self._lock = threading.Lock()

    @property
    def record(self) -> RunRecord:
        """The record as last written, or as far as it is known where writing failed."""
        return self._record

    def update(self, **changes: Any) -> None:
        """Change some fields and write; OSError where the disk refuses (the change is kept in memory)."""
        with self._lock:
            self._record = dataclasses.replace(self._record, **changes)
            self._write()

    def update_attempt(self, attempt: Attempt) -> None:
        """Add or change one attempt and write; as `update`."""
        with self._lock:
            self._record = self._record.with_attempt(attempt)
            self._write()

    def _write(self) -> None:
        target = self.run.record
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            # An argument that is no UTF-8 comes back as it was: \udc.. is how JSON writes it.
            partial.write_text(self._record.to_json(), encoding="utf-8", errors="backslashreplace")
            partial.replace(target)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


class SupervisorLock:
    """Held for the life of a supervisor; the kernel lets go of it when that dies, however it dies."""

    def __init__(self, run: RunDirectory) -> None:
        """Take the lock, or raise AlreadySupervisedError naming the holder."""
        self._descriptor = os.open(run.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 300, 0).decode(errors="replace").split()
            os.close(self._descriptor)
            pid = int(holder[0]) if holder and holder[0].isdigit() else None
            raise AlreadySupervisedError(run.path, pid, holder[1] if len(holder) > 1 else None) from None
        except OSError:
            pass  # a file system without locks (some network ones): going on unlocked beats not training
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()} {host_name()}\n".encode(), 0)

    def release(self) -> None:
        """Let go of it."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


def create(runs: Path, name: str, *, now_seconds: float) -> RunDirectory:
    """Make `runs/<UTC>-<name>` and point `runs/latest` to it."""
    stamp = time.strftime("%Y-%m-%dT%H-%M", time.gmtime(now_seconds))
    with _explained(runs):
        runs.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = runs / (f"{stamp}-{name}" if number == 1 else f"{stamp}-{name}-{number}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                break
        run = RunDirectory(path)
        run.make_folders()
    with contextlib.suppress(OSError):  # a convenience: a folder called `latest` must not stop a training
        _point_latest(runs, path.name)
    return run


def _point_latest(runs: Path, target: str) -> None:
    partial = runs / f".{LATEST}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    partial.symlink_to(target)
    try:
        partial.replace(runs / LATEST)
    finally:
        partial.unlink(missing_ok=True)


def prepare(path: Path) -> RunDirectory:
    """A directory named by the user: made, if need be; refused where it holds something else than a run."""
    with _explained(path):
        refuse_foreign(path)
        run = RunDirectory(path)
        run.make_folders()
    return run


def refuse_foreign(path: Path) -> None:
    """ForeignFolderError where `path` is a directory that holds something else than a run."""
    if not path.is_dir() or (path / "run.json").exists():
        return
    foreign = sorted(each.name for each in path.iterdir() if each.name not in _OURS)
    if foreign:
        raise ForeignFolderError(
            f"{path}: not a run directory, and not empty ({foreign[0]} is in it)",
            remedy="Name an empty or a new directory, or one that `harness run` made",
        )


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError):
        raise UsageError(
            f"{path}: a file is in the way of the run directory", remedy="Name another with --run-dir"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{path}: the run directory cannot be made: {error.strerror}",
            remedy="Name a place that can be written with --run-dir or --runs",
        ) from None
