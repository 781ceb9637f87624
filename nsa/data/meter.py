"""What the loader did and since when it waits: written by the reading thread, read by anyone."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderProgress:
    """A look at the loader."""

    source: str
    documents: int
    bytes: int  # of text
    downloaded_bytes: int  # of answers from the hub, as they come in
    epoch: int
    waiting_seconds: float | None  # the consumer's present wait; None when it does not wait
    waited_seconds: float  # the consumer's waits so far, together
    last_answer: str | None  # the hub's last refusal, if the last answer was one

    @property
    def detail(self) -> str:
        """In a few words."""
        text = f"{self.source}: {self.documents} documents, {self.bytes} bytes"
        if self.waiting_seconds is not None:
            text += f", waiting {self.waiting_seconds:.0f} s"
        return text if self.last_answer is None else f"{text}, last: {self.last_answer}"


# Bytes may trickle in for ever without making one document; so many times the stall timeout is enough.
TRICKLE_FACTOR = 10.0


class Meter:
    """Counts with a lock: the reading thread and the hub's client write, the consumer reads."""

    def __init__(
        self, source: str, stall_timeout_seconds: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.source = source
        self.stall_timeout_seconds = stall_timeout_seconds
        # Nobody waits any more: what still reads may stop at its next pause.
        self.abandoned = threading.Event()
        self._clock = clock
        self._lock = threading.Lock()
        self._documents = 0
        self._bytes = 0
        self._downloaded_bytes = 0
        self._epoch = 0
        self._waited_seconds = 0.0
        self._last_answer: str | None = None
        self._moved_at = self._document_at = self._clock()
        self.moves = 0
        self.waiting_since: float | None = None

    def document(self, size_bytes: int, epoch: int) -> None:
        """A document was read."""
        self.documents(1, size_bytes)
        self._epoch = epoch

    def documents(self, count: int, size_bytes: int) -> None:
        """Several documents were read."""
        with self._lock:
            self._documents += count
            self._bytes += size_bytes
            self._last_answer = None
            self._moved_at = self._document_at = self._clock()
            self.moves += 1

    def downloaded(self, size_bytes: int) -> None:
        """Bytes of a good answer came in."""
        with self._lock:
            self._downloaded_bytes += size_bytes
            self._moved_at = self._clock()
            self.moves += 1

    def moved(self) -> None:
        """Something else moved: a list of files, rows passed over."""
        with self._lock:
            self._moved_at = self._document_at = self._clock()
            self.moves += 1

    def answered(self) -> None:
        """A good answer began: earlier refusals are past."""
        with self._lock:
            self._last_answer = None

    def refused(self, answer: str) -> None:
        """An answer that brought nothing; not a movement."""
        with self._lock:
            self._last_answer = answer

    def add_waited(self, seconds: float) -> None:
        """The consumer's wait ended."""
        with self._lock:
            self._waited_seconds += seconds

    def stalled(self, waiting_since: float) -> str | None:
        """Why a wait since `waiting_since` is too long by now, or None."""
        now = self._clock()
        with self._lock:
            idle = now - max(self._moved_at, waiting_since)
            dry = now - max(self._document_at, waiting_since)
            last = "" if self._last_answer is None else f" (last: {self._last_answer})"
        if idle > self.stall_timeout_seconds:
            return f"no data for {idle:.0f} s{last}"
        if dry > self.stall_timeout_seconds * TRICKLE_FACTOR:
            return f"bytes trickle in, but no document for {dry:.0f} s{last}"
        return None

    def snapshot(self) -> LoaderProgress:
        """All of it at one moment."""
        since = self.waiting_since
        with self._lock:
            return LoaderProgress(
                source=self.source,
                documents=self._documents,
                bytes=self._bytes,
                downloaded_bytes=self._downloaded_bytes,
                epoch=self._epoch,
                waiting_seconds=None if since is None else self._clock() - since,
                waited_seconds=self._waited_seconds,
                last_answer=self._last_answer,
            )
