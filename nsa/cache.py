"""The user's cache folder: where it is, and how a folder appears in it whole or not at all.

Built in a temporary folder beside its place, then renamed. Two ranks that build at once both succeed:
the second finds the place taken by an equal folder and drops its own. A lock spares the second the work,
but nothing depends on it: a holder that died releases it (flock), one that hangs is not waited for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nsa.errors import NsaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Written last into a finished folder: a folder without it is not taken for whole.
COMPLETE = "complete"


class CacheError(NsaError):
    """The cache folder cannot be written."""


def cache_root(configured: str | None = None) -> Path:
    """`data.cache_dir` if given, else $XDG_CACHE_HOME/nsa, else ~/.cache/nsa."""
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification: a relative path is to be ignored.
    if configured is None and base and Path(base).is_absolute():
        return Path(base) / "nsa"
    try:
        return Path(configured or "~/.cache/nsa").expanduser()
    except RuntimeError:  # a user id that is in no passwd, as in many a container
        raise CacheError(
            f"no home folder is known of user id {os.getuid()}: there is no place for the cache. "
            "Set HOME, XDG_CACHE_HOME or data.cache_dir"
        ) from None


def publish(
    place: Path,
    build: Callable[[Path], None],
    *,
    lock_seconds: float = 300.0,
    waiting: Callable[[], None] | None = None,
) -> Path:
    """Return `place`, built by `build(temporary folder)` unless it is there already.

    Waits up to `lock_seconds` for another process that builds the same, then builds its own.
    """
    try:
        if (place / COMPLETE).exists():
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        with _lock(place.with_name(f".{place.name}.lock"), lock_seconds, place / COMPLETE, waiting):
            if (place / COMPLETE).exists():
                return place
            temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
            try:
                build(temporary)
                _sync(temporary)
                (temporary / COMPLETE).write_bytes(b"")
                _rename(temporary, place)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        message = (
            f"cannot write the cache at {place.parent}: {error.strerror or error}. "
            "Free space there, or name another folder in data.cache_dir or XDG_CACHE_HOME"
        )
        raise CacheError(message) from error
    return place


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _rename(temporary: Path, place: Path) -> None:
    try:
        temporary.rename(place)
    except OSError:
        if (place / COMPLETE).exists():
            return  # another process was first, with the same content
        # Half a folder, left by something that did not go through here.
        stale = Path(tempfile.mkdtemp(prefix=f".{place.name}-stale-", dir=place.parent))
        place.rename(stale / "content")
        shutil.rmtree(stale, ignore_errors=True)
        temporary.rename(place)


@contextlib.contextmanager
def _lock(path: Path, seconds: float, done: Path, waiting: Callable[[], None] | None) -> Iterator[None]:
    """Hold the lock, or go on without it once `done` exists, `seconds` passed, or locks do not work here."""
    deadline = time.monotonic() + seconds
    with path.open("ab") as file:
        while not done.exists() and time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waiting is not None:
                    waiting()
                time.sleep(0.1)
            except OSError:
                break  # a file system without locks: the rename alone has to do
        yield
