"""The terminal, written by a thread of its own: whatever the terminal does, nobody else ever waits for it.

Covers the command's output with the live line below it, lines of ours, a plain line now and then where there
is no terminal, and giving up for good on one that is closed. What a slow or stopped terminal does not take
is held back up to a bound, and then dropped from the middle, with a word about how much. Once the reader of
a pipe has gone (`| head`), what the command writes is shown no more, and what we say goes to standard error.
Not here: what the live line says (`live`), and which characters are harmless (`text`).

The line is drawn here and not by `rich.live.Live`: that takes part in everything printed and costs 1.8 % of a
core at 2 Hz; the few escapes needed cost a tenth of it, and only when the line changed.
"""

from __future__ import annotations

import codecs
import contextlib
import locale
import os
import select
import signal
import threading
from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple

from rich.cells import cell_len, set_cell_size

from harness.clock import SYSTEM
from harness.render.live import Tone, live_pieces, plain_line
from harness.render.text import harmless, single_line, size
from harness.watch.lines import LineSplitter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.clock import Clock
    from harness.snapshot import RunView

MAX_PENDING_BYTES = 1 << 20
MAX_PENDING_LINES = 500
REFRESH_SECONDS = 0.5
PLAIN_SECONDS = 10.0
PAUSE_DEADLINE_SECONDS = 0.5
CLOSE_DEADLINE_SECONDS = 2.0
_BATCH_BYTES = 64 << 10
_FALLBACK_WIDTH = 80
_TONES: Mapping[Tone, str] = {"strong": "1", "faint": "2", "good": "32", "warn": "33", "bad": "1;31"}


_IN_ASCII = str.maketrans({"·": "-", "→": "->", "…": "...", "━": "-", "╸": "-"})


class _Item(NamedTuple):
    kind: Literal["output", "line", "skipped"]
    data: bytes
    skipped_bytes: int = 0


class Screen:
    """Writes to one file descriptor, a terminal or not.

    Args:
        descriptor: where to; never closed here.
        live: a line that is always there, where the descriptor is a terminal.
        quiet: the command's output alone.
        environ: TERM and NO_COLOR.
        log_name: where the whole output is, in the words of a user.
        spare: where our lines go once the reader of a pipe has gone; never closed here.
    """

    def __init__(
        self,
        *,
        descriptor: int = 1,
        live: bool = True,
        quiet: bool = False,
        environ: Mapping[str, str] = os.environ,
        encoding: str | None = None,
        log_name: str = "the log",
        spare: int | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._descriptor, self._spare = descriptor, spare
        self._quiet = quiet
        self._clock = clock
        self._log_name = log_name
        self._is_terminal = _is_terminal(descriptor) and environ.get("TERM", "dumb") not in ("", "dumb")
        self._live = live and self._is_terminal and not quiet
        self._colours = self._is_terminal and not environ.get("NO_COLOR")
        self._encoding = _usable(encoding or locale.getpreferredencoding(False))
        self._ascii = not _can_encode("━╸·→…", self._encoding)
        # Shared, under the condition:
        self._condition = threading.Condition()
        self._items: deque[_Item] = deque()
        self._pending_bytes = 0
        self._view: RunView | None = None
        self._paused = self._closing = self._gone = False
        self._settled = True  # nothing of ours stands on the last line, and nothing is being written
        # The thread's own:
        self._splitter = LineSplitter()
        self._lines_alone = False  # nobody reads the command's output any more
        self._taken: list[_Item] = []  # what is being written
        self._drawn: tuple[str, ...] = ()  # the lines below the output, as they stand there
        self._drawn_cells: tuple[int, ...] = ()  # and how wide they are
        self._next_plain = self._clock.monotonic()
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)
        self._thread.start()

    # ---- everybody's side: every call returns at once

    @property
    def shows_output(self) -> bool:
        """Whether anybody reads what the command writes."""
        return not self._lines_alone

    def write(self, data: bytes) -> None:
        """Output of the command."""
        if data:
            self._put(_Item("output", data))

    def line(self, text: str) -> None:
        """A line of ours; control characters in it are made harmless."""
        if not self._quiet:
            self._put(_Item("line", text.encode("utf-8", "replace")))

    def lines(self, texts: Sequence[str]) -> None:
        """A block of ours."""
        for text in texts:
            self.line(text)

    def show(self, view: RunView) -> None:
        """The newest snapshot, for the live line."""
        self._view = view  # the thread looks when it draws: no need to wake it

    def pause(self, deadline_seconds: float = PAUSE_DEADLINE_SECONDS) -> None:
        """Leave the terminal in order, before this process is stopped; bounded."""
        with self._condition:
            self._paused = True
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._settled or self._gone, deadline_seconds)

    def resume(self) -> None:
        """Go on after `pause`."""
        with self._condition:
            self._paused = False
            self._condition.notify_all()

    def hang_up(self) -> None:
        """The terminal is gone for good."""
        with self._condition:
            self._gone = True
            self._items.clear()
            self._condition.notify_all()

    def close(self, deadline_seconds: float = CLOSE_DEADLINE_SECONDS) -> None:
        """Write what is left, take the live line away; a terminal that takes nothing is left behind."""
        with self._condition:
            self._closing = True
            self._paused = False
            self._condition.notify_all()
        self._thread.join(deadline_seconds)

    def _put(self, item: _Item) -> None:
        with self._condition:
            if self._gone or self._closing:
                return
            self._items.append(item)
            self._pending_bytes += len(item.data)
            while self._pending_bytes > MAX_PENDING_BYTES or len(self._items) > MAX_PENDING_LINES:
                if not self._drop_one():
                    break
            self._condition.notify_all()

    def _drop_one(self) -> bool:
        """Give up the oldest output that waits, or else the oldest line; note how much it was."""
        kinds = [item.kind for item in self._items]
        at = kinds.index("output") if "output" in kinds else kinds.index("line") if "line" in kinds else -1
        if at < 0 or at == len(kinds) - 1:
            return False
        item = self._items[at]
        self._pending_bytes -= len(item.data)
        skipped = len(item.data)
        if at and self._items[at - 1].kind == "skipped":
            skipped += self._items[at - 1].skipped_bytes
            del self._items[at]
            at -= 1
        self._items[at] = _Item("skipped", b"", skipped)
        return True

    # ---- the thread's side

    def _run(self) -> None:
        # Signals are the main thread's. And with SIGTTOU blocked, a background job under `stty tostop` writes
        # instead of being stopped with its whole supervision.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            while self._turn_and_move():
                pass
        except OSError:
            pass  # closed, or its session has ended: EIO, EPIPE, EBADF
        except Exception as error:  # noqa: BLE001 -- a fault of ours must not put a traceback over the output
            with contextlib.suppress(OSError):
                os.write(self._descriptor, f"\r\nharness: the screen failed ({error!r})\r\n".encode())
        finally:
            self.hang_up()

    def _turn_and_move(self) -> bool:
        """As `_turn`; where the reader has gone, our lines go to standard error from then on."""
        try:
            return self._turn()
        except BrokenPipeError:
            if self._spare is None:
                raise
        self._descriptor, self._spare = self._spare, None
        self._lines_alone, self._drawn, self._splitter = True, (), LineSplitter()
        self._is_terminal = self._live = False
        if not self._quiet:
            self._draw(f"nobody reads this output any more: all of it is in {self._log_name}\n", (), ())
            self._draw("".join(map(self._rendered, self._taken)), (), ())
        return True

    def _turn(self) -> bool:
        """Wait for something to do, and do it; False when all is done."""
        with self._condition:
            if not self._items and not self._closing and not (self._paused and not self._settled):
                self._condition.wait(REFRESH_SECONDS)
            if self._gone:
                return False
            paused, closing = self._paused, self._closing
            items = self._taken = [] if paused and not closing else self._take()
            self._settled = False
        ending = closing and not items
        text = "".join(map(self._rendered, items))
        if ending and self._splitter.partial:
            text += self._line_of(self._splitter.partial)
            self._splitter = LineSplitter()
        below, cells = ((), ()) if paused or ending or not self._is_terminal else self._below()
        self._draw(text + self._plain(due=not paused and not closing), below, cells)
        with self._condition:
            self._settled = not self._drawn
            self._condition.notify_all()
            if paused and not self._closing:
                self._condition.wait_for(lambda: not self._paused or self._closing or self._gone)
        return not ending

    def _take(self) -> list[_Item]:
        items: list[_Item] = []
        taken = 0
        while self._items and taken < _BATCH_BYTES:
            item = self._items.popleft()
            taken += len(item.data)
            items.append(item)
        self._pending_bytes -= taken
        return items

    def _rendered(self, item: _Item) -> str:
        if item.kind == "line":
            return harmless(item.data) + "\n"
        if self._lines_alone:
            return ""
        if item.kind == "skipped":
            self._splitter = LineSplitter()
            skipped = size(item.skipped_bytes)
            return f"({skipped} not shown, the terminal was too slow for it: see {self._log_name})\n"
        return "".join(map(self._line_of, self._splitter.feed(item.data)))

    def _line_of(self, line: bytes) -> str:
        return harmless(line, colours=self._colours) + "\n"

    def _below(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """What stands below the output, and how wide: the command's unfinished line, and the live line."""
        width = self._width() - 1  # the last column makes some terminals wrap
        lines, cells = [], []
        partial = self._splitter.partial
        if partial:
            lines.append(set_cell_size(single_line(partial[: 8 * width]), width).rstrip())
            cells.append(cell_len(lines[0]))
        view = self._view
        if self._live and view is not None:
            now = self._clock.wall()
            pieces = live_pieces(view, width, now_wall_seconds=now, plain_ascii=self._ascii)
            lines.append("".join(self._toned(piece.text, piece.tone) for piece in pieces))
            cells.append(sum(cell_len(piece.text) for piece in pieces))
        return tuple(lines), tuple(cells)

    def _toned(self, text: str, tone: Tone) -> str:
        if not self._colours or tone not in _TONES or not text:
            return text
        return f"\x1b[{_TONES[tone]}m{text}\x1b[0m"

    def _plain(self, *, due: bool) -> str:
        """The line for where there is no live one, when it is time for it."""
        now = self._clock.monotonic()
        if self._live or self._quiet or self._lines_alone or not due:
            return ""
        if self._view is None or now < self._next_plain:
            return ""
        if self._view.status != "running":
            return ""  # how it ended is said in words
        self._next_plain = now + PLAIN_SECONDS
        return plain_line(self._view, now_wall_seconds=self._clock.wall()) + "\n"

    def _draw(self, text: str, below: tuple[str, ...], cells: tuple[int, ...]) -> None:
        if not text and below == self._drawn:
            return
        out = self._erasure() + text + "\n".join(below)
        self._drawn, self._drawn_cells = below, cells
        if self._ascii:
            out = out.translate(_IN_ASCII)
        if out:
            self._send(out.encode(self._encoding, "replace"))

    def _erasure(self) -> str:
        """Take away what stands below the output, also where a narrower window has wrapped it."""
        if not self._drawn:
            return ""
        width = self._width()
        rows = sum(max(1, -(-cells // width)) for cells in self._drawn_cells)
        return "\r\x1b[2K" + "\x1b[1A\x1b[2K" * (rows - 1)

    def _width(self) -> int:
        try:
            return max(2, os.get_terminal_size(self._descriptor).columns or _FALLBACK_WIDTH)
        except OSError:
            return _FALLBACK_WIDTH

    def _send(self, data: bytes) -> None:
        """All of it, however long that takes; only this thread waits."""
        view = memoryview(data)
        while view:
            if self._gone:
                raise OSError(9, "hung up")
            try:
                view = view[os.write(self._descriptor, view[:4096]) :]
            except BlockingIOError:  # somebody made it non-blocking: a pipe shared with another program
                select.select((), (self._descriptor,), (), 1.0)


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _usable(encoding: str) -> str:
    with contextlib.suppress(LookupError):
        return codecs.lookup(encoding).name
    return "ascii"


def _can_encode(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
