"""One thread that reads ahead, and the consumer's side of it: no wait without a deadline.

The thread is the only one that touches the source. What it raises reaches the consumer; its silence is
bounded by `data.stall_timeout_seconds`; its death ends the consumer's wait at once. A thread that hangs in
the network cannot be killed: it is a daemon, is left behind, and said so.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nsa.data.cursor import Cursor, fingerprint
from nsa.data.stream import Batch
from nsa.errors import DataSourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from nsa.data.meter import LoaderProgress, Meter

__all__ = ["Batch", "Batches"]

AHEAD_BATCHES = 4
_POLL_SECONDS = 0.05
# The callback's: often enough to see a download move.
_REPORT_SECONDS = 0.5
# Bytes may trickle in for ever without making one document; so many times the stall timeout is enough.
_TRICKLE_FACTOR = 10.0


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException


class _End:
    pass


class Batches:
    """This rank's batches in order; iterate, ask for the cursor, close. Also a context manager."""

    def __init__(
        self,
        produce: Callable[[], Generator[tuple[Batch, Cursor], None, None]],
        *,
        start: Cursor,
        meter: Meter,
        label: str,
        stall_timeout_seconds: float,
        progress: Callable[[LoaderProgress], None] | None = None,
        ahead_batches: int = AHEAD_BATCHES,
    ) -> None:
        self._produce = produce
        self._cursor = start
        self._meter = meter
        self._label = label
        self._stall_timeout_seconds = stall_timeout_seconds
        self._progress = progress
        self._reported_moves = -1
        self._reported_at = float("-inf")
        self._queue: queue.Queue[tuple[Batch, Cursor] | _Failure | _End] = queue.Queue(maxsize=ahead_batches)
        self._stop = threading.Event()
        self._over: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="nsa-data", daemon=True)
        self._thread.start()

    @property
    def fingerprint(self) -> str:
        """Of data, tokenizer and cut: equal for equal streams."""
        return fingerprint(self._cursor.identity)

    @property
    def progress(self) -> LoaderProgress:
        """What was read so far, and since when the consumer waits."""
        return self._meter.snapshot()

    def cursor(self) -> dict[str, Any]:
        """The place after the batch last handed out, for JSON; the same on every rank."""
        return self._cursor.to_json()

    def close(self, deadline_seconds: float = 5.0) -> bool:
        """End the thread; False if it did not end in time (it is in the network, and is left behind)."""
        self._stop.set()
        self._over = self._over or StopIteration()
        end = time.monotonic() + deadline_seconds
        while self._thread.is_alive() and time.monotonic() < end:
            self._drain()
            self._thread.join(_POLL_SECONDS)
        self._drain()
        return not self._thread.is_alive()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._over is not None:
            raise self._over
        item = self._wait()
        if isinstance(item, _End):
            self._over = StopIteration()
            raise self._over
        if isinstance(item, _Failure):
            self._over = item.error
            raise item.error
        batch, self._cursor = item
        self._report()
        return batch

    def _wait(self) -> tuple[Batch, Cursor] | _Failure | _End:
        began = time.monotonic()
        self._meter.waiting_since = None
        while True:
            try:
                # What is there already costs no wait; the first look is immediate.
                item = self._queue.get(timeout=_POLL_SECONDS if self._meter.waiting_since else 0.001)
                self._meter.add_waited(time.monotonic() - began)
                self._meter.waiting_since = None
                return item
            except queue.Empty:
                self._meter.waiting_since = began
            self._report()
            if not self._thread.is_alive() and self._queue.empty():
                return _Failure(
                    DataSourceError(
                        f"data source {self._label}: the reading thread ended without a word. "
                        "This is a fault of nsa: please report it"
                    )
                )
            stalled = self._meter.stalled(began, self._stall_timeout_seconds, _TRICKLE_FACTOR)
            if stalled is not None:
                return _Failure(DataSourceError(f"data source {self._label}: {stalled}"))

    def _report(self) -> None:
        """Tell the callback, when something moved since it was last told."""
        if self._progress is None:
            return
        now = time.monotonic()
        moves = self._meter.moves
        if moves == self._reported_moves or now - self._reported_at < _REPORT_SECONDS:
            return
        self._reported_moves, self._reported_at = moves, now
        self._progress(self._meter.snapshot())

    def _drain(self) -> None:
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                return

    def _run(self) -> None:
        try:
            produced = self._produce()
            try:
                for item in produced:
                    if not self._put(item):
                        return
                self._put(_End())
            finally:
                produced.close()
        except BaseException as error:  # noqa: BLE001 - all of it belongs to the consumer
            self._put(_Failure(error))

    def _put(self, item: tuple[Batch, Cursor] | _Failure | _End) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False
