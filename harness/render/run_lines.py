"""The runs of a folder as lines, one for each; where there is no room, columns go, least important first.

Pure. Not here: one run's screen (`top`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from harness.render import text
from harness.render.live import Piece, loss_words
from harness.render.pieces import TONES, cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.render.live import Tone
    from harness.render.pieces import Line
    from harness.top.model import RunLine

_SHORT_NAME, _SHORTEST_NAME = 16, 6
_GAP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """One column: its header, its cells with their tones, and how long it stays."""

    header: str
    cells: list[tuple[str, Tone]]
    weight: int

    @property
    def width(self) -> int:
        return max(cell_len(each) for each in (self.header, *(words for words, _ in self.cells)))


def run_lines(
    runs: Sequence[RunLine], width: int, height: int | None, *, plain_ascii: bool = False
) -> list[Line]:
    """Every run, a line each."""
    if not runs:
        return [(Piece(text="no runs here"),)]
    columns = [
        _Column(
            header="state", cells=[(run.state, TONES.get(run.state, "plain")) for run in runs], weight=100
        ),
        _Column(header="stage", cells=[(text.single_line(run.where), "plain") for run in runs], weight=40),
        _Column(header="step", cells=[(_step(run), "plain") for run in runs], weight=80),
        _Column(header="loss", cells=[(loss_words(run.loss), "plain") for run in runs], weight=50),
        _Column(header="progress", cells=[(_age(run), "plain") for run in runs], weight=60),
        _Column(
            header="incidents",
            cells=[(_incidents(run), "bad" if run.open_incidents else "plain") for run in runs],
            weight=70,
        ),
    ]
    names = [text.single_line(run.path) for run in runs]
    name = max(cell_len(each) for each in ("run", *names))

    def taken() -> int:
        return sum(_GAP + each.width for each in columns)

    # A name may lose its beginning, the folder, before a column goes.
    while len(columns) > 1 and taken() + min(name, _SHORT_NAME) > width:
        columns.remove(min(columns, key=lambda each: each.weight))
    name = max(min(name, width - taken()), _SHORTEST_NAME)
    lines = [_line("run", name, [(each.header, "faint", each.width) for each in columns], "faint")]
    lines += [
        _line(each, name, [(*column.cells[at], column.width) for column in columns], "plain")
        for at, each in enumerate(names)
    ]
    if height is not None and len(lines) > height:
        left = len(lines) - height + 1
        lines = [*lines[: height - 1], (Piece(text=f"… {left} more", tone="faint"),)]
    return [cut(line, width, plain_ascii=plain_ascii) for line in lines]


def _line(name: str, width: int, cells: Sequence[tuple[str, Tone, int]], tone: Tone) -> Line:
    if cell_len(name) > width:
        while cell_len(name) > width - 1:
            name = name[1:]
        name = f"…{name}"
    gap = " " * _GAP
    pieces = [Piece(text=set_cell_size(name, width), tone=tone)]
    pieces += [Piece(text=f"{gap}{set_cell_size(words, wide)}", tone=own) for words, own, wide in cells]
    return tuple(pieces)


def _step(run: RunLine) -> str:
    if run.step is None:
        return ""
    return f"{run.step}/{run.target_steps}" if run.target_steps else str(run.step)


def _age(run: RunLine) -> str:
    return "" if run.progress_age_seconds is None else f"{text.duration(run.progress_age_seconds)} ago"


def _incidents(run: RunLine) -> str:
    if not run.incidents and not run.open_incidents:
        return ""
    return f"{run.incidents}{f', {run.open_incidents} open' if run.open_incidents else ''}"
