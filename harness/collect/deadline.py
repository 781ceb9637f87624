"""Reading what may never answer: a deadline for every read, and one place where errors become `Missing`.

Reads of /proc and of files on a dead network mount can block, and Python cannot interrupt them. So each
runs in a daemon thread that is abandoned when its time is up; the kernel ends it with the process (these
waits are killable), which is why the supervisor collects in a child (`python -m harness.collect`).
Programs run through `run`, which kills them, and whatever they started, when their time is up.

Not covered: what is read.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import psutil

from harness.evidence import Missing, Piece, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

# How the detail of a Missing begins that is a collector's own fault.
BROKEN = "the collector failed"


class NotSeen(Exception):  # noqa: N818 - not an error: an absence, on its way to becoming a value
    """Raised by a read that knows why there is nothing to see."""

    def __init__(self, missing: Missing) -> None:
        super().__init__(missing.detail)
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, and the moment from which a Case counts its times."""

    started: float
    ends: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """A deadline `seconds` from now."""
        now = time.monotonic()
        return cls(now, now + seconds)

    def within(self, seconds: float) -> float:
        """`seconds`, or what is left of this deadline if that is less; never negative."""
        return max(0.0, min(seconds, self.ends - time.monotonic()))

    def before(self, seconds: float) -> Deadline:
        """The same, but so much earlier: to leave time for what comes after."""
        return Deadline(self.started, self.ends - seconds)

    def left(self) -> float:
        """Seconds that are left; never negative."""
        return max(0.0, self.ends - time.monotonic())

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started


def missing_from(error: BaseException) -> Missing:
    """The one place where an error of the system becomes an absence with a reason."""
    if isinstance(error, NotSeen):
        return error.missing
    if isinstance(error, psutil.ZombieProcess):
        return Missing(reason="unavailable", detail="a zombie: it has ended, its parent has not noticed")
    if isinstance(error, (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError)):
        return Missing(reason="unavailable", detail="not there: it has ended, or this kernel has none")
    if isinstance(error, (psutil.AccessDenied, PermissionError)):
        return Missing(
            reason="denied", detail="the kernel denied the read (another user's process, or ptrace rights)"
        )
    if isinstance(error, OSError):
        return Missing(reason="unavailable", detail=f"{error.strerror or error} (errno {error.errno})")
    return Missing(reason="unavailable", detail=f"{BROKEN}: {type(error).__name__}: {error}"[:300])


def call(read: Callable[[], T], seconds: float) -> T | Missing:
    """The result of `read`, or Missing: once `seconds` have passed, or for whatever it raised."""
    return all_of([read], seconds)[0]


def all_of(
    reads: Sequence[Callable[[], T]], seconds: float, *, width: int = 1, each_seconds: float | None = None
) -> list[T | Missing]:
    """The results of `reads`, `width` at a time, in their order; those not done in time are Missing.

    One that takes more than `each_seconds` is given up and its thread replaced: it does not hold up the
    others.
    """
    patience = seconds if each_seconds is None else each_seconds
    late = Missing(reason="timed_out", detail=f"no answer within {min(patience, seconds):.1f} s")
    todo = list(enumerate(reads))[::-1]
    results: dict[int, T | Missing] = {}
    begun: dict[int, float] = {}
    changed = threading.Condition()

    def work() -> None:
        while True:
            with changed:
                if not todo:
                    return
                index, read = todo.pop()
                begun[index] = time.monotonic()
            result: T | Missing
            try:
                result = read()
            except Exception as error:  # noqa: BLE001 - a collector's failure is its own
                result = missing_from(error)
            with changed:
                if begun.pop(index, None) is None:
                    return  # given up meanwhile: another thread has this one's place
                results[index] = result
                changed.notify()

    def start() -> None:
        # Where no more threads are to be had, those that started do the work, as far as time goes.
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=work, daemon=True, name="collect").start()

    for _ in range(max(1, min(width, len(reads)))):
        start()
    ends = time.monotonic() + seconds
    with changed:
        while len(results) < len(reads) and (now := time.monotonic()) < ends:
            for index in [each for each, since in begun.items() if now - since >= patience]:
                del begun[index]
                results[index] = late
                start()
            changed.wait(max(0.0, min([ends, *(since + patience for since in begun.values())]) - now))
        todo.clear()
        begun.clear()
        return [results.get(index, late) for index in range(len(reads))]


def piece(read: Callable[[], T], deadline: Deadline, seconds: float) -> Piece[T]:
    """`read` as a piece of evidence."""
    at = deadline.elapsed()
    found = call(read, deadline.within(seconds))
    return found if isinstance(found, Missing) else Reading(value=found, at_seconds=at)


class Background(Generic[T]):
    """A read that goes on while others are done."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._result: list[T | Missing] = []
        self._done = threading.Event()
        self._read = read
        threading.Thread(target=self._work, daemon=True, name="collect").start()

    def _work(self) -> None:
        try:
            self._result.append(self._read())
        except Exception as error:  # noqa: BLE001 - a collector's failure is its own
            self._result.append(missing_from(error))
        finally:
            self._done.set()

    def result(self, seconds: float) -> T | Missing:
        """What it read, or Missing after `seconds`."""
        if self._done.wait(seconds):
            return self._result[0]
        return Missing(reason="timed_out", detail="no answer in time")


# PYTHONPATH and the folder of `python -m` come before the standard library, and beside the harness may lie an
# old backport of that: dataclasses 0.6 in site-packages, say. And the current folder is not ours.
_MODULE = """\
import runpy, sys
from importlib.util import module_from_spec, spec_from_file_location
_, folder, name, *rest = sys.argv
sys.path[:] = [each for each in sys.path if each]
spec = spec_from_file_location("harness", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["harness"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["harness"])
sys.argv[1:] = rest
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""


def python_module(name: str, *arguments: str) -> list[str]:
    """The command line for `python -m NAME` of this very harness, installed or not."""
    return [sys.executable, "-c", _MODULE, str(Path(__file__).resolve().parents[1]), name, *arguments]


# ── programs ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A program that ended by itself."""

    status: int
    output: bytes
    errors: bytes
    took_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """A program that had to be killed: it was late, or wrote too much."""

    why: str


def run(
    command: Sequence[str],
    seconds: float,
    *,
    max_bytes: int = 32 * 2**20,
    env: Mapping[str, str] | None = None,
) -> Finished | Killed:
    """Run a program for at most `seconds`; FileNotFoundError or PermissionError where it cannot be started.

    It has a session of its own: a Ctrl-C meant for us must not end a dump halfway, which could leave the
    target stopped. After that many seconds it is killed with its whole group.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        [*_outliving_us(seconds), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # Not the user's folder: a child that begins with `python -m` would import from it.
        cwd="/",
        env=dict(env) if env is not None else None,
    )
    _running.add(process)
    try:
        streams = _read_streams(process, started + seconds, max_bytes)
        if isinstance(streams, Killed):
            return streams
        process.wait(timeout=max(0.05, started + seconds - time.monotonic()))
    except subprocess.TimeoutExpired:
        return Killed(why=f"did not end within {seconds:.1f} s")
    finally:
        kill(process)
        _running.discard(process)
    output, errors = streams
    return Finished(
        status=process.returncode, output=output, errors=errors, took_seconds=time.monotonic() - started
    )


_running: set[subprocess.Popen[bytes]] = set()


def kill_all() -> None:
    """Kill every program that still runs, whichever thread started it: for the end of this process."""
    for process in list(_running):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _outliving_us(seconds: float) -> list[str]:
    """If we are killed, nobody else ends what we started: coreutils' `timeout` does, where it is."""
    timeout = shutil.which("timeout")
    return [timeout, "-s", "KILL", str(int(seconds) + 2)] if timeout else []


def kill(process: subprocess.Popen[bytes], grace_seconds: float = 1.0) -> None:
    """Kill a program with its group and take its status; one that cannot even die is left to the kernel."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace_seconds)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _read_streams(
    process: subprocess.Popen[bytes], ends: float, max_bytes: int
) -> tuple[bytes, bytes] | Killed:
    assert process.stdout is not None
    assert process.stderr is not None
    parts: dict[int, bytearray] = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    with selectors.DefaultSelector() as selector:
        for descriptor in parts:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            left = ends - time.monotonic()
            if left <= 0:
                return Killed(why="no answer in time")
            for key, _ in selector.select(left):
                new = os.read(key.fd, 65536)
                if not new:
                    selector.unregister(key.fd)
                parts[key.fd] += new
                if len(parts[key.fd]) > max_bytes:
                    return Killed(why=f"wrote more than {max_bytes} bytes")
    output, errors = parts.values()
    return bytes(output), bytes(errors)
