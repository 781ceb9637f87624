"""The line that says where a run stands: pure functions from a snapshot to pieces, and to text of a width.

Pieces are dropped, least important first, until the line fits. Not here: the terminal it goes to (`screen`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len, set_cell_size

from harness.render import text
from harness.snapshot import stage_seconds, tokens_per_second

if TYPE_CHECKING:
    from harness.snapshot import RankState, RunView

Tone = Literal["plain", "strong", "faint", "good", "warn", "bad"]

AGE_SHOWN_SECONDS = 5.0  # an age above this is worth a look where no limit is known
_BAR_WIDEST, _BAR_NARROWEST = 30, 8
_BAR_BEGINS = "━╸#"
_ALWAYS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of the line. `weight` says how long it stays when room gets scarce."""

    text: str
    tone: Tone = "plain"
    weight: int = _ALWAYS
    share: float | None = None  # a bar of this much, to be drawn as wide as there is room


def live_line(view: RunView, width: int, *, now_wall_seconds: float, plain_ascii: bool = False) -> str:
    """The line as plain text, at most `width` cells wide."""
    return "".join(
        piece.text
        for piece in live_pieces(view, width, now_wall_seconds=now_wall_seconds, plain_ascii=plain_ascii)
    )


def plain_line(view: RunView, *, now_wall_seconds: float) -> str:
    """The line for a file or a pipe: everything but the bar, whatever its width; ASCII only."""
    pieces = [piece for piece in _pieces(view, now_wall_seconds) if piece.share is None]
    return _ascii(_joined(pieces))


def live_pieces(
    view: RunView, width: int, *, now_wall_seconds: float, plain_ascii: bool = False
) -> tuple[Piece, ...]:
    """The pieces that fit into `width` cells, gaps included, each with its tone."""
    pieces = _pieces(view, now_wall_seconds)
    if plain_ascii:
        pieces = [_with_text(piece, _ascii(piece.text)) for piece in pieces]
    while True:
        bar = next((piece for piece in pieces if piece.share is not None), None)
        room = width - cell_len(_joined(pieces))
        if room >= (_BAR_NARROWEST if bar is not None else 0) or len(pieces) == 1:
            break
        pieces.remove(min(pieces, key=lambda piece: piece.weight))
    if bar is None:
        laid = _with_gaps(pieces)
    else:
        drawn = _bar(bar.share or 0.0, min(_BAR_WIDEST, room), plain_ascii=plain_ascii)
        laid = [
            each for piece in _with_gaps(pieces) for each in (drawn if piece.share is not None else [piece])
        ]
    if len(pieces) == 1 and room < 0:
        laid = [_with_text(laid[0], set_cell_size(laid[0].text, max(0, width)))]
    return tuple(laid)


def bar_pieces(
    view: RunView, width: int, *, share: bool = True, plain_ascii: bool = False
) -> tuple[Piece, ...]:
    """How far it is, as a line of its own, with the `share` in words; nothing where that is not known."""
    state, steps = view.lead, view.steps
    if state is None or state.heartbeat.step is None or not steps:
        return ()
    done = min(1.0, max(0.0, state.heartbeat.step / steps))
    drawn = _bar(done, max(_BAR_NARROWEST, width - len(" 100 %")), plain_ascii=plain_ascii)
    return (*drawn, Piece(text=f" {int(done * 100)} %")) if share else tuple(drawn)


def has_bar(pieces: tuple[Piece, ...]) -> bool:
    """Whether there was room for a bar among the pieces of `live_pieces`."""
    return any(piece.text[:1] in _BAR_BEGINS for piece in pieces if piece.text)


def _pieces(view: RunView, now: float) -> list[Piece]:
    state = view.lead
    if state is None:
        return _of_command(view, now)
    beat = state.heartbeat
    steps = view.steps
    pieces = [Piece(text=text.single_line(beat.stage), tone="strong")]
    if beat.step is not None:
        pieces.append(Piece(text=f"step {beat.step}/{steps}" if steps else f"step {beat.step}", weight=99))
        if steps:
            share = min(1.0, max(0.0, beat.step / steps))
            pieces.append(Piece(text="", weight=20, share=share))
            pieces.append(Piece(text=f"{int(share * 100)} %", weight=40))
    if beat.step is None or beat.stage != "train":
        pieces.append(Piece(text=text.clock(stage_seconds(state, now)), weight=70))
        if beat.detail:
            pieces.append(Piece(text=text.single_line(beat.detail), weight=75))
    if beat.last is not None and beat.last.loss is not None:
        loss = beat.last.loss
        pieces.append(
            Piece(text=f"loss {loss_words(loss)}", tone="plain" if math.isfinite(loss) else "bad", weight=90)
        )
    if beat.last is not None and beat.last.learning_rates:
        pieces.append(Piece(text=f"lr {text.exponent(beat.last.learning_rates[0])}", weight=50))
    rate = tokens_per_second(view.ranks)
    if rate is not None:
        pieces.append(Piece(text=f"{text.count(rate)} tok/s", weight=60))
    pieces += _memory(view, state)
    pieces += _others(view)
    left = _left(state, steps)
    if left is not None:
        pieces.append(Piece(text=f"left {text.clock(left)}", weight=65))
    return pieces + _age(view, now)


def _of_command(view: RunView, now: float) -> list[Piece]:
    """A command that has not said anything of itself, or never will."""
    pieces = [
        Piece(text="running" if view.status == "running" else text.single_line(view.status), tone="strong"),
        Piece(text=text.clock(max(0.0, now - view.started_wall_seconds)), weight=90),
    ]
    if view.log_bytes is not None:
        pieces.append(Piece(text=f"log {text.size(view.log_bytes)}", weight=50))
    if view.command is not None and view.command.resident_bytes is not None:
        pieces.append(Piece(text=f"RSS {text.size(view.command.resident_bytes)}", weight=30))
    return pieces + _age(view, now)


def _memory(view: RunView, state: RankState) -> list[Piece]:
    pieces = []
    resident = [each.resident_bytes for each in view.ranks if each.resident_bytes is not None]
    if resident:
        pieces.append(Piece(text=f"RSS {text.size(sum(resident))}", weight=30))
    if state.heartbeat.last is not None and state.heartbeat.last.memory is not None:
        pieces.append(Piece(text=f"GPU {text.size(state.heartbeat.last.memory[1])}", weight=35))
    return pieces


def _others(view: RunView) -> list[Piece]:
    """The other ranks, where there are any: how many, and how many are gone."""
    if len(view.ranks) < 2:
        return []
    gone = sum(not state.alive and not state.left for state in view.ranks)
    if gone:
        return [Piece(text=f"{len(view.ranks)} ranks, {gone} gone", tone="bad", weight=95)]
    return [Piece(text=f"{len(view.ranks)} ranks", weight=25)]


def _left(state: RankState, steps: int | None) -> float | None:
    rate, step = state.totals.steps_per_second, state.heartbeat.step
    if steps is None or step is None or not rate or step >= steps or not state.alive:
        return None
    return (steps - step) / rate


def _age(view: RunView, now: float) -> list[Piece]:
    """Since when nothing has moved: faint while that is as it should be."""
    if view.stalled_since_wall_seconds is not None:
        age = max(0.0, now - view.stalled_since_wall_seconds)
        return [Piece(text=f"· stalled for {text.duration(age)}", tone="bad", weight=_ALWAYS)]
    moved = view.last_progress_wall_seconds
    state = view.laggard
    if moved is None or (state is None and view.ranks):
        return []
    age = max(0.0, now - moved)
    limit = view.limit_seconds
    what = "progress" if state is not None or view.log_growth_wall_seconds is None else "output"
    whose = f" (rank {state.rank})" if state is not None and len(view.ranks) > 1 and age > 1 else ""
    words = f"· {what} {text.duration(age)} ago{whose}"
    if limit is not None and age > limit:
        return [Piece(text=words, tone="bad", weight=98)]
    if age > (limit / 2 if limit is not None else AGE_SHOWN_SECONDS):
        return [Piece(text=words, tone="warn", weight=97)]
    return [Piece(text=words, tone="faint", weight=55)]


def loss_words(value: float | None) -> str:
    """4.812, 1.2e+04, NaN; nothing where nothing is known."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value).replace("nan", "NaN")
    return f"{value:.3f}" if 0.01 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


def _bar(share: float, width: int, *, plain_ascii: bool) -> list[Piece]:
    halves = int(share * width * 2)
    full, half = divmod(halves, 2)
    if plain_ascii:
        done, rest = "#" * full, "-" * (width - full)
    else:
        done, rest = "━" * full + "╸" * half, "━" * (width - full - half)
    return [Piece(text=done, tone="good"), Piece(text=rest, tone="faint")]


def _joined(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in _with_gaps(pieces))


def _with_gaps(pieces: list[Piece]) -> list[Piece]:
    gapped: list[Piece] = []
    for at, piece in enumerate(pieces):
        if at:
            near_bar = piece.share is not None or pieces[at - 1].share is not None
            gapped.append(Piece(text=" " if near_bar else "  "))
        gapped.append(piece)
    return gapped


def _with_text(piece: Piece, words: str) -> Piece:
    return Piece(text=words, tone=piece.tone, weight=piece.weight, share=piece.share)


def _ascii(words: str) -> str:
    return words.replace("·", "-").encode("ascii", "replace").decode("ascii")
