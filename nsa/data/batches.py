"""A rank's batches: the stream read ahead, and the cursor of what was handed out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nsa.data.cursor import Cursor, fingerprint
from nsa.data.readahead import ReadAhead

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from nsa.data.meter import LoaderProgress, Meter
    from nsa.data.stream import Batch

AHEAD_BATCHES = 4


class Batches:
    """This rank's batches in order; iterate, ask for the cursor, close. Also a context manager."""

    def __init__(
        self,
        produce: Callable[[], Generator[tuple[Batch, Cursor], None, None]],
        *,
        start: Cursor,
        meter: Meter,
        remedy: str,
        progress: Callable[[LoaderProgress], None] | None = None,
    ) -> None:
        self._cursor = start
        self._meter = meter
        self._ahead: ReadAhead[tuple[Batch, Cursor]] = ReadAhead(
            produce,
            meter=meter,
            remedy=remedy,
            progress=progress,
            ahead=AHEAD_BATCHES,
        )

    @property
    def fingerprint(self) -> str:
        """Of data, tokenizer and cut: equal for equal streams, on every rank."""
        return fingerprint(self._cursor.identity)

    @property
    def progress(self) -> LoaderProgress:
        """What was read so far, and since when the consumer waits."""
        return self._meter.snapshot()

    def cursor(self) -> dict[str, Any]:
        """The place after the batch last handed out, for JSON; the same on every rank."""
        return self._cursor.to_json()

    def close(self, deadline_seconds: float = 5.0) -> bool:
        """End the reading thread; False if it hangs in the network and is left behind."""
        ended = self._ahead.close(deadline_seconds)
        self._meter.abandoned.set()
        return ended

    def __enter__(self) -> Batches:  # noqa: PYI034 - typing.Self came with Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        batch, self._cursor = next(self._ahead)
        return batch
