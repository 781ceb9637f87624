"""The ranks of a run as lines: one for each, or for those that stand alike; who holds the others up is first.

Where the terminal is narrow, memory and step time go, then the room for a mark: its words then stand in the
place of the step. Pure. Not here: the rest of the screen (`top`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import set_cell_size

from harness.render import text
from harness.render.live import AGE_SHOWN_SECONDS, Piece

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.render.live import Tone
    from harness.render.pieces import Line
    from harness.snapshot import RankState
    from harness.top.model import TopView

_RANK = 10
# Where memory and step time stand, and where the age has its words; a mark needs room behind it.
_WIDE, _MARK, _MEDIUM = 73, 28, 56


@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    """How wide the columns are, and which there are."""

    rank: int
    stage: int
    step: int
    times: bool  # step time and memory
    marked: bool  # the mark's words behind the row; else in the place of the step

    @classmethod
    def of(cls, width: int, *, marks: bool) -> _Format:
        if width >= _WIDE + (_MARK if marks else 0):
            return cls(rank=_RANK, stage=21, step=9, times=True, marked=True)
        if width >= _MEDIUM + (_MARK - 5 if marks else 0):
            return cls(rank=_RANK, stage=17, step=9, times=False, marked=True)
        return cls(rank=9, stage=11, step=8, times=False, marked=False)


def rank_lines(view: TopView, most: int | None, width: int) -> list[Line]:
    """At most `most` lines, the header among them."""
    ranks = view.view.ranks
    if not ranks:
        return []
    now = view.view.taken_wall_seconds
    marks = {**_behind(view), **_gone(view)}
    groups: list[list[RankState]] = [[each] for each in ranks]
    if len(ranks) > (most or 32):
        groups = _alike(ranks, now, marks)
    place = {rank: at for at, rank in enumerate(marks)}
    groups.sort(key=lambda group: (place.get(group[0].rank, len(place)), group[0].rank))
    form = _Format.of(width, marks=bool(marks))
    header = f"{'rank':<{form.rank}}{'stage':<{form.stage}} {'step':>{form.step}}"
    header += f"  {'progress':<12}" if form.marked else f" {'progress':>7}"
    header += f"{'step time':<10}RSS" if form.times else ""
    lines: list[Line] = [(Piece(text=header.rstrip(), tone="faint"),)]
    shown = groups if most is None else groups[: max(1, most - 1)]
    lines += [_rank_line(group, now, marks, form) for group in shown]
    if len(shown) < len(groups):
        left = sum(len(group) for group in groups[len(shown) :])
        lines.append((Piece(text=f"… {left} more ranks", tone="faint"),))
    return lines


def _rank_line(group: Sequence[RankState], now: float, marks: Mapping[int, str], form: _Format) -> Line:
    lead = min(group, key=lambda each: each.heartbeat.last_progress_wall_seconds)
    beat = lead.heartbeat
    stage = text.single_line("/".join(filter(None, (beat.stage, beat.phase))))
    age = text.duration(max(0.0, now - beat.last_progress_wall_seconds))
    why = marks.get(lead.rank, "")
    tone: Tone = "bad" if why else "plain"
    step = str(beat.step if beat.step is not None else "")
    who = _numbers([each.rank for each in group], form.rank)
    start = f"{who:<{form.rank}}{set_cell_size(stage, form.stage)} "
    if not form.marked:
        place = why if why and len(why) <= form.step else step
        words = f"{start}{place:>{form.step}} {age:>7}{' ←' if why else ''}"
        return (Piece(text=words.rstrip(), tone=tone),)
    words = f"{start}{step:>{form.step}}  {f'{age} ago':<12}"
    if form.times:
        took = lead.totals.step_seconds
        resident = [each.resident_bytes for each in group if each.resident_bytes is not None]
        words += f"{text.short_seconds(took) if took else '':<10}"
        words += text.size(sum(resident) / len(resident)) if resident else ""
    return (Piece(text=words.rstrip(), tone=tone), Piece(text=f"  ← {why}" if why else "", tone=tone))


def _gone(view: TopView) -> dict[int, str]:
    """Ranks whose process is gone without having finished, while the run goes on."""
    if not view.going:
        return {}
    return {
        each.rank: f"gone{f': {each.heartbeat.closed_status}' if each.heartbeat.closed_status else ''}"
        for each in view.view.ranks
        if not each.alive and not each.left
    }


def _behind(view: TopView) -> dict[int, str]:
    """Ranks that hold the others up: alone in another place, or longest without progress."""
    ranks = [each for each in view.view.ranks if each.alive and each.heartbeat.closed_status is None]
    if len(ranks) < 2:
        return {}
    now = view.view.taken_wall_seconds
    steps = [each.heartbeat.step for each in ranks if each.heartbeat.step is not None]
    furthest = max(steps, default=None)
    found: dict[int, str] = {}
    oldest = min(ranks, key=lambda each: each.heartbeat.last_progress_wall_seconds)
    age = now - oldest.heartbeat.last_progress_wall_seconds
    newest = max(each.heartbeat.last_progress_wall_seconds for each in ranks)
    for each in sorted(ranks, key=lambda each: each.heartbeat.last_progress_wall_seconds):
        step = each.heartbeat.step
        late = 0 if furthest is None or step is None else furthest - step
        # One step behind is what a look in the middle of a step sees.
        still = now - each.heartbeat.last_progress_wall_seconds > AGE_SHOWN_SECONDS
        if late > 1 or (late and still):
            found[each.rank] = f"{late} behind"
    lags = newest - oldest.heartbeat.last_progress_wall_seconds > AGE_SHOWN_SECONDS
    if not found and lags and age > AGE_SHOWN_SECONDS:
        found[oldest.rank] = "longest without progress"
    return found


def _alike(ranks: Sequence[RankState], now: float, marks: Mapping[int, str]) -> list[list[RankState]]:
    """Ranks in the same place with about the same age, together."""
    groups: dict[tuple[object, ...], list[RankState]] = {}
    for each in ranks:
        beat = each.heartbeat
        age = max(0.0, now - beat.last_progress_wall_seconds)
        key = (
            beat.stage,
            beat.phase if age > AGE_SHOWN_SECONDS else None,
            beat.step if each.rank in marks else None,
            each.alive or each.left,
            each.rank in marks,
            int(math.log2(max(1.0, age / AGE_SHOWN_SECONDS))),
        )
        groups.setdefault(key, []).append(each)
    return list(groups.values())


def _numbers(ranks: Sequence[int], width: int) -> str:
    """`0-31,33`."""
    parts: list[list[int]] = []
    for rank in sorted(ranks):
        if parts and rank == parts[-1][1] + 1:
            parts[-1][1] = rank
        else:
            parts.append([rank, rank])
    words = ",".join(f"{first}-{last}" if first != last else str(first) for first, last in parts)
    return words if len(words) < width else f"{len(ranks)} ranks"
