"""Lines made of pieces with their tones, and how they are brought to a width. Pure.

Not here: what the lines say (`top`, `rank_lines`, `run_lines`).
"""

from __future__ import annotations

import textwrap

from rich.cells import cell_len, set_cell_size

from harness.render.live import Piece, Tone

Line = tuple[Piece, ...]

# Of a run's state.
TONES: dict[str, Tone] = {
    "running": "good",
    "finished": "good",
    "stalled": "bad",
    "died": "bad",
    "lost": "bad",
    "gone": "bad",
    "unsupervised": "warn",
    "elsewhere": "warn",
}


def length(line: Line) -> int:
    """Cells that a line takes."""
    return sum(cell_len(piece.text) for piece in line)


def cut(line: Line, width: int, *, plain_ascii: bool = False) -> Line:
    """At most `width` cells; one that was longer says so by its last."""
    if plain_ascii:
        line = tuple(Piece(text=_plain(piece.text), tone=piece.tone) for piece in line)
    if length(line) <= width:
        return tuple(piece for piece in line if piece.text)
    kept: list[Piece] = []
    room = width - 1
    for piece in line:
        cells = cell_len(piece.text)
        words = piece.text if cells <= room else set_cell_size(piece.text, room)
        room -= min(cells, room)
        if words:
            kept.append(Piece(text=words, tone=piece.tone))
        if room <= 0:
            break
    more = Piece(text=">" if plain_ascii else "…", tone=kept[-1].tone if kept else "plain")
    return (*kept, more)


def fitting(parts: list[str], room: int, between: str = " · ") -> str:
    """As many of `parts`, from the first on, as there is room for; always the first."""
    kept = len(parts)
    while kept > 1 and cell_len(between.join(parts[:kept])) > room:
        kept -= 1
    return between.join(parts[:kept])


def wrapped(words: str, first: int, others: int, most: int) -> list[str]:
    """`words` on up to `most` lines, the first of them `first` cells wide, the `others` as wide as that."""
    if cell_len(words) <= first or most < 2:
        return [words]
    # textwrap counts characters: wide ones make a line too long, which is then cut.
    broken = textwrap.wrap(words, max(8, others), initial_indent="x" * max(0, others - first)) or [words]
    broken[0] = broken[0][max(0, others - first) :]
    return [*broken[: most - 1], " ".join(broken[most - 1 :])] if len(broken) > most else broken


def _plain(words: str) -> str:
    for fancy, plain in (("·", "-"), ("…", "..."), ("←", "<-"), ("→", "->")):
        words = words.replace(fancy, plain)
    return words.encode("ascii", "replace").decode("ascii")
