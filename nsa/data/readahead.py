"""A thread that produces ahead, and a consumer that never waits without a deadline.

The thread is the only one that touches the source. What it raises reaches the consumer; its silence is
bounded; its death ends the wait at once. A thread that hangs in the network cannot be killed: it is left
behind, `close` says so, and the interpreter's exit gives it a last moment: a thread inside pyarrow that
comes back while the interpreter is being taken down aborts the process, and with it the exit status.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from nsa.errors import DataSourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from nsa.data.meter import LoaderProgress, Meter

T = TypeVar("T")
_POLL_SECONDS = 0.05
# The callback's: often enough to see a download move.
_REPORT_SECONDS = 0.5
# A read is given up after 10 s at most (nsa.data.hubclient), and huggingface_hub sleeps 8 s at most.
_EXIT_SECONDS = 12.0
_begun: weakref.WeakSet[ReadAhead[Any]] = weakref.WeakSet()
ending = threading.Event()


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException


class _End:
    """The producer returned."""


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    value: T


class ReadAhead(Generic[T]):
    """Iterates what `produce()` yields in a thread, at most `ahead` items early."""

    def __init__(
        self,
        produce: Callable[[], Generator[T, None, None]],
        *,
        meter: Meter,
        remedy: str,
        progress: Callable[[LoaderProgress], None] | None = None,
        ahead: int = 1,
    ) -> None:
        self._produce = produce
        self._meter = meter
        self._remedy = remedy
        self._progress = progress
        self._reported_moves = -1
        self._reported_at = float("-inf")
        self._queue: queue.Queue[_Item[T] | _Failure | _End] = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._over: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="nsa-data", daemon=True)
        # Not `join`: interrupted by Ctrl-C, Python 3.10 and 3.11 take a thread that still runs for ended.
        self._ended = threading.Event()
        if not _begun:
            atexit.register(_end_threads)
        self._thread.start()
        _begun.add(self)

    def __iter__(self) -> ReadAhead[T]:
        return self

    def __next__(self) -> T:
        if self._over is not None:
            raise self._over
        item = self._wait()
        if isinstance(item, _Item):
            self._report()
            return item.value
        self._over = item.error if isinstance(item, _Failure) else StopIteration()
        self._stop.set()
        raise self._over

    def close(self, deadline_seconds: float = 5.0) -> bool:
        """End the thread; False if it did not end in time: it is in the network, and is left behind."""
        self._stop.set()
        if self._meter.abandoned.is_set():
            deadline_seconds = 0.0  # it was waited for long enough
        if self._over is None:
            self._over = StopIteration()
        return self.ended_within(deadline_seconds)

    def ended_within(self, seconds: float) -> bool:
        """Wait for the thread's end; whether it came."""
        return self._ended.wait(seconds)

    def _wait(self) -> _Item[T] | _Failure | _End:
        try:
            # What is there already costs no wait.
            return self._queue.get_nowait()
        except queue.Empty:
            began = time.monotonic()
        self._meter.waiting_since = began
        try:
            while True:
                alive = self._thread.is_alive()  # looked at first: what a dying thread put is still taken
                try:
                    return self._queue.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    self._report()
                if not alive:
                    return self._gave_up("the reading thread ended without a word", "Please report it")
                stalled = self._meter.stalled(began)
                if stalled is not None:
                    return self._gave_up(stalled, self._remedy)
        finally:
            self._meter.waiting_since = None
            self._meter.add_waited(time.monotonic() - began)

    def _gave_up(self, what: str, remedy: str) -> _Failure:
        self._meter.abandoned.set()
        return _Failure(DataSourceError(f"data source {self._meter.source}: {what}. {remedy}"))

    def _report(self) -> None:
        """Tell the callback, in the consumer's thread, when something moved since it was last told."""
        if self._progress is None:
            return
        now = time.monotonic()
        moves = self._meter.moves
        if moves == self._reported_moves or now - self._reported_at < _REPORT_SECONDS:
            return
        self._reported_moves, self._reported_at = moves, now
        self._progress(self._meter.snapshot())

    def _run(self) -> None:
        # Named here and not in _put: by it `harness diagnose` knows, while this thread waits for the source,
        # who it is that should fill the queue.
        put = self._queue.put
        try:
            produced = self._produce()
            try:
                for value in produced:
                    if not self._put(put, _Item(value)):
                        return
            finally:
                produced.close()
            self._put(put, _End())
        except BaseException as error:  # noqa: BLE001 - all of it belongs to the consumer
            self._put(put, _Failure(error))
        finally:
            self._ended.set()

    def _put(self, put: Callable[..., None], item: _Item[T] | _Failure | _End) -> bool:
        while not self._stop.is_set():
            try:
                put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False


def _end_threads() -> None:
    ending.set()
    end = time.monotonic() + _EXIT_SECONDS
    for each in list(_begun):
        each.ended_within(max(0.0, end - time.monotonic()))


def bounded(
    function: Callable[[], T],
    *,
    meter: Meter,
    remedy: str,
    progress: Callable[[LoaderProgress], None] | None = None,
) -> T:
    """`function()` in a thread, given up when nothing moves for too long."""

    def produce() -> Generator[T, None, None]:
        yield function()

    ahead = ReadAhead(produce, meter=meter, remedy=remedy, progress=progress)
    try:
        return next(ahead)
    finally:
        ahead.close(deadline_seconds=0.5)
