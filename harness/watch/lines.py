"""Bytes of a log into lines, whatever the chunks they come in: partial lines, carriage returns, rubbish.

Covers what a terminal would leave standing of each line: of a progress bar that redraws itself with a
carriage return, the last frame. Memory is bounded by `MAX_LINE_BYTES`, also for a line that never ends.
Not here: reading files (`logtail`), decoding, and control characters (`harness.render.text`).
"""

from __future__ import annotations

MAX_LINE_BYTES = 16_384


def split_lines(data: bytes) -> list[bytes]:
    """Every line of `data`, the last one too if it has not ended yet and is not empty."""
    splitter = LineSplitter()
    lines = splitter.feed(data)
    return [*lines, splitter.partial] if splitter.partial else lines


class LineSplitter:
    """Feeds of bytes in, ended lines out; the same lines for any chunking of the same bytes."""

    __slots__ = ("_frame", "_returned")

    def __init__(self) -> None:
        self._frame = bytearray()
        self._returned = False  # a carriage return stands after the frame: what comes next overwrites it

    @property
    def partial(self) -> bytes:
        """What stands of the line that has not ended yet."""
        return bytes(self._frame)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end within `chunk`, without their line ends, each cut at `MAX_LINE_BYTES`."""
        *ended, rest = chunk.split(b"\n")
        lines = []
        for piece in ended:
            self._extend(piece)
            lines.append(bytes(self._frame))
            self._frame.clear()
        self._extend(rest)
        return lines

    def _extend(self, piece: bytes) -> None:
        head, *frames = piece.split(b"\r")
        self._add(head)
        for frame in frames:
            self._returned = True
            self._add(frame)

    def _add(self, part: bytes) -> None:
        if not part:
            return
        if self._returned:
            self._frame.clear()
            self._returned = False
        self._frame += part[: MAX_LINE_BYTES - len(self._frame)]
