"""A run as a screenful of lines: pure functions from a snapshot and a size to pieces with their tones.

What matters most stands at the top and stays when room gets scarce: the state, the step, what went wrong.
Ranks that stand alike are one line. Not here: the terminal (`cli.top`), reading (`harness.top.gather`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from harness.render import text
from harness.render.live import AGE_SHOWN_SECONDS, Piece, live_pieces
from harness.render.spark import Pick, spark
from harness.view import tokens_per_second

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.render.live import Tone
    from harness.top.model import RunLine, TopView
    from harness.view import RankState

Line = tuple[Piece, ...]

_LABEL = 10
_NUMBER = 9
_WIDEST_CURVE = 60
_BAR = 12
_LEAST_LOG = 4
_TONES: dict[str, Tone] = {
    "running": "good",
    "finished": "good",
    "stalled": "bad",
    "died": "bad",
    "lost": "bad",
    "unsupervised": "warn",
    "elsewhere": "warn",
}


def screen(view: TopView, width: int, height: int | None, *, plain_ascii: bool = False) -> list[Line]:
    """The lines of one run, each at most `width` cells; at most `height` of them, or as many as there are."""
    width = max(20, width)
    head = [_title(view, width), _where(view, width, plain_ascii), *_verdicts(view)]
    blocks = [
        _curves(view, width, plain_ascii),
        _breakdown(view),
        _rank_lines(view, None if height is None else max(3, height // 3)),
        _incident_lines(view),
        _log(view),
    ]
    lines = head
    for block in blocks:
        if block:
            lines = [*lines, (), *block]
    if height is not None and len(lines) > height:
        lines = _shortened(head, blocks, height)
    return [_cut(line, width, plain_ascii) for line in lines]


def _shortened(head: list[Line], blocks: Sequence[list[Line]], height: int) -> list[Line]:
    """The log goes first, from its top, then the gaps, then whole blocks from the bottom."""
    *others, log = blocks
    spaced = [*head, *(line for block in others if block for line in ((), *block)), ()]
    tight = [*head, *(line for block in others for line in block)]
    for lines, least in ((spaced, _LEAST_LOG), (tight, 2)):
        room = height - len(lines)
        if room >= least and log:
            return [*lines, log[0], *log[1:][-(room - 1) :]]
    return (spaced if len(spaced) <= height else tight)[:height]


def _title(view: TopView, width: int) -> Line:
    state = Piece(text=view.state.upper(), tone=_TONES.get(view.state, "strong"))
    words = [view.path] if view.name in view.path else [view.name, view.path]
    if view.attempt > 1:
        words.append(f"attempt {view.attempt}")
    if view.going and view.view.started_wall_seconds:
        words.append(f"up {text.clock(view.view.taken_wall_seconds - view.view.started_wall_seconds)}")
    if view.metrics_address and width >= 100:
        words.append(view.metrics_address)
    return (state, Piece(text=f" · {' · '.join(map(text.single_line, words))}"))


def _where(view: TopView, width: int, plain_ascii: bool) -> Line:
    """The live line while it runs, else how it ended."""
    if view.going:
        now = view.view.taken_wall_seconds
        return live_pieces(view.view, width, now_wall_seconds=now, plain_ascii=plain_ascii)
    lead = view.view.lead
    beat = lead.heartbeat if lead is not None else None
    at = ""
    if beat is not None:
        total = f"/{view.view.steps}" if view.view.steps else ""
        step = f" step {beat.step}{total}" if beat.step is not None else ""
        at = f" · last seen in {text.single_line('/'.join(filter(None, (beat.stage, beat.phase))))}{step}"
    return (Piece(text=text.single_line(view.sentence) + at),)


def _verdicts(view: TopView) -> list[Line]:
    """What is wrong now, where anything is."""
    found: list[Line] = []
    if view.state == "unsupervised":
        found.append((Piece(text=text.single_line(view.sentence), tone="warn"),))
    found += [
        (
            Piece(text=f"incident {each.name}  ", tone="bad"),
            Piece(text=f"{text.single_line(each.verdict)}"),
        )
        for each in view.incidents
        if each.open and view.going
    ]
    found += [(Piece(text=text.single_line(note), tone="warn"),) for note in view.notes[:2]]
    return found


def _curves(view: TopView, width: int, plain_ascii: bool) -> list[Line]:
    past = view.history
    rows: list[tuple[str, Sequence[float | None], Pick, str, str]] = [
        ("loss", past.loss, "max", _loss(_last(past.loss)), _range(past.loss, _loss)),
        ("lr", past.learning_rate, "last", _rate(_last(past.learning_rate)), _schedule(view)),
        ("grad norm", past.grad_norm, "max", _loss(_last(past.grad_norm)), _range(past.grad_norm, _loss)),
        (
            "tok/s",
            past.tokens_per_second,
            "min",
            _count(tokens_per_second(view.view.ranks) or _last(past.tokens_per_second)),
            _range(past.tokens_per_second, _count),
        ),
    ]
    rows = [row for row in rows if any(value is not None for value in row[1])]
    room = min(_WIDEST_CURVE, width - _LABEL - _NUMBER - 2)
    words = 2 + max((cell_len(row[-1]) for row in rows), default=0)
    with_words = room - words >= _BAR
    lines: list[Line] = []
    for label, values, pick, number, beside in rows:
        curve = spark(values, room - (words if with_words else 0), pick=pick, plain_ascii=plain_ascii)
        bad = "!" in curve or not math.isfinite(_last(values) or 0.0)
        lines.append(
            (
                Piece(text=f"{label:<{_LABEL}}", tone="faint"),
                Piece(text=f"{number:<{_NUMBER}} ", tone="bad" if bad else "strong"),
                Piece(text=curve, tone="bad" if bad else "good"),
                Piece(text=f"  {beside}" if with_words else "", tone="faint"),
            )
        )
    if lines:
        first, last = past.steps[0], past.steps[-1]
        lines.append((Piece(text=f"{'':<{_LABEL}}steps {first} to {last}", tone="faint"),))
    return lines


def _breakdown(view: TopView) -> list[Line]:
    """Where a step's time goes, and memory."""
    lines: list[Line] = []
    past = view.history
    step = _last(past.step_seconds)
    if past.phase_steps and past.phase_step_seconds > 0:
        shares = sorted(past.phase_seconds.items(), key=lambda each: -each[1])
        known = sum(past.phase_seconds.values())
        other = past.phase_step_seconds - known
        if other > 0.005 * past.phase_step_seconds:
            shares.append(("other", other))
        words = [
            f"{text.single_line(name)} {100 * seconds / past.phase_step_seconds:.0f} %"
            for name, seconds in shares
            if seconds >= 0.005 * past.phase_step_seconds
        ]
        took = text.short_seconds(past.phase_step_seconds / past.phase_steps)
        lines.append(_labelled("step", took, " · ".join(words)))
    elif step is not None:
        lines.append(_labelled("step", text.short_seconds(step), ""))
    memory = []
    resident = [each.resident_bytes for each in view.view.ranks if each.resident_bytes is not None]
    if resident:
        memory.append(f"RSS {text.size(sum(resident))}")
    lead = view.view.lead
    if lead is not None and lead.heartbeat.last is not None and lead.heartbeat.last.memory is not None:
        allocated, reserved, peak = lead.heartbeat.last.memory
        memory.append(
            f"GPU allocated {text.size(allocated)}, reserved {text.size(reserved)}, peak {text.size(peak)}"
        )
    if memory:
        lines.append(_labelled("memory", "", " · ".join(memory)))
    for gpu in view.view.gpus:
        parts = []
        if gpu.used_bytes is not None:
            of = f" of {text.size(gpu.total_bytes)}" if gpu.total_bytes else ""
            parts.append(f"{text.size(gpu.used_bytes)}{of}")
        if gpu.utilization_ratio is not None:
            parts.append(f"{100 * gpu.utilization_ratio:.0f} % busy")
        if gpu.power_watts is not None:
            parts.append(f"{gpu.power_watts:.0f} W")
        lines.append(_labelled(f"GPU {gpu.gpu}", "", " · ".join(parts)))
    return lines


def _labelled(label: str, number: str, words: str) -> Line:
    return (
        Piece(text=f"{label:<{_LABEL}}", tone="faint"),
        Piece(text=f"{number:<{_NUMBER}} " if number else "", tone="strong"),
        Piece(text=words),
    )


def _rank_lines(view: TopView, most: int | None) -> list[Line]:
    """A line for each rank, or for ranks that stand alike where there are too many."""
    ranks = view.view.ranks
    if not ranks:
        return []
    now = view.view.taken_wall_seconds
    behind = _behind(view)
    groups: list[list[RankState]] = [[each] for each in ranks]
    if len(ranks) > (most or 32):
        groups = _alike(ranks, now, behind)
    groups.sort(key=lambda group: (not any(each.rank in behind for each in group), group[0].rank))
    header = f"{'rank':<{_LABEL}}{'stage':<22}{'step':>9}  {'progress':<12}{'step time':<10}RSS"
    lines: list[Line] = [(Piece(text=header, tone="faint"),)]
    shown = groups if most is None else groups[: max(1, most - 1)]
    lines += [_rank_line(group, now, behind, going=view.going) for group in shown]
    if len(shown) < len(groups):
        left = sum(len(group) for group in groups[len(shown) :])
        lines.append((Piece(text=f"… {left} more ranks", tone="faint"),))
    return lines


def _rank_line(group: Sequence[RankState], now: float, behind: dict[int, str], *, going: bool) -> Line:
    lead = min(group, key=lambda each: each.heartbeat.last_progress_wall_seconds)
    beat = lead.heartbeat
    stage = "/".join(filter(None, (beat.stage, beat.phase)))
    age = f"{text.duration(max(0.0, now - beat.last_progress_wall_seconds))} ago"
    took = lead.totals.step_seconds
    resident = [each.resident_bytes for each in group if each.resident_bytes is not None]
    why = behind.get(lead.rank, "")
    gone = not lead.alive and not lead.finished
    if gone and going:
        why = f"gone{f': {beat.closed_status}' if beat.closed_status else ''}"
    tone: Tone = "bad" if why else "plain"
    words = (
        f"{_numbers([each.rank for each in group]):<{_LABEL}}"
        f"{set_cell_size(text.single_line(stage), 21)} "
        f"{beat.step if beat.step is not None else '':>9}  "
        f"{age:<12}{text.short_seconds(took) if took else '':<10}"
        f"{text.size(sum(resident) / len(resident)) if resident else ''}"
    )
    return (Piece(text=words.rstrip(), tone=tone), Piece(text=f"  ← {why}" if why else "", tone=tone))


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
    for each in ranks:
        step = each.heartbeat.step
        late = 0 if furthest is None or step is None else furthest - step
        # One step behind is what a look in the middle of a step sees.
        if late > 1 or (late and age > AGE_SHOWN_SECONDS):
            found[each.rank] = f"{late} behind"
    lags = newest - oldest.heartbeat.last_progress_wall_seconds > AGE_SHOWN_SECONDS
    if not found and lags and age > AGE_SHOWN_SECONDS:
        found[oldest.rank] = "longest without progress"
    return found


def _alike(ranks: Sequence[RankState], now: float, behind: dict[int, str]) -> list[list[RankState]]:
    """Ranks in the same place with about the same age, together."""
    groups: dict[tuple[object, ...], list[RankState]] = {}
    for each in ranks:
        beat = each.heartbeat
        age = max(0.0, now - beat.last_progress_wall_seconds)
        key = (
            beat.stage,
            beat.phase if age > AGE_SHOWN_SECONDS else None,
            beat.step if each.rank in behind else None,
            each.alive or each.finished,
            each.rank in behind,
            int(math.log2(max(1.0, age / AGE_SHOWN_SECONDS))),
        )
        groups.setdefault(key, []).append(each)
    return list(groups.values())


def _numbers(ranks: Sequence[int]) -> str:
    """`0-31,33`."""
    parts: list[list[int]] = []
    for rank in sorted(ranks):
        if parts and rank == parts[-1][1] + 1:
            parts[-1][1] = rank
        else:
            parts.append([rank, rank])
    words = ",".join(f"{first}-{last}" if first != last else str(first) for first, last in parts)
    return words if len(words) < _LABEL else f"{len(ranks)} ranks"


def _incident_lines(view: TopView) -> list[Line]:
    closed = [each for each in view.incidents if not (each.open and view.going)]
    if not closed:
        return []
    count = f"{view.incident_count} incident{'s' if view.incident_count != 1 else ''}"
    lines: list[Line] = [(Piece(text=f"{count}, the newest first", tone="faint"),)]
    return lines + [
        (
            Piece(text=f"{each.name:<{_LABEL}}", tone="warn"),
            Piece(text=text.single_line(each.verdict)),
            Piece(
                text=f"  {text.single_line(each.where)} · {text.duration(each.age_seconds)} ago", tone="faint"
            ),
        )
        for each in closed
    ]


def _log(view: TopView) -> list[Line]:
    if not view.log:
        return []
    lines: list[Line] = [(Piece(text=text.single_line(view.log_path), tone="faint"),)]
    return lines + [(Piece(text=text.harmless(line).expandtabs(4)),) for line in view.log]


def table(
    runs: Sequence[RunLine], width: int, height: int | None, *, plain_ascii: bool = False
) -> list[Line]:
    """Every run, a line each."""
    if not runs:
        return [(Piece(text="no runs here"),)]
    name = min(36, max(len(text.single_line(each.path)) for each in runs))
    header = f"{'run':<{name}}  {'state':<13}{'stage':<18}{'step':<15}{'loss':<9}{'progress':<12}incidents"
    lines: list[Line] = [(Piece(text=header, tone="faint"),)]
    for each in runs:
        step = (
            ""
            if each.step is None
            else f"{each.step}/{each.target_steps}"
            if each.target_steps
            else each.step
        )
        age = "" if each.progress_age_seconds is None else f"{text.duration(each.progress_age_seconds)} ago"
        open_ones = f", {each.open_incidents} open" if each.open_incidents else ""
        lines.append(
            (
                Piece(text=f"{set_cell_size(text.single_line(each.path)[-name:], name)}  "),
                Piece(text=f"{each.state:<13}", tone=_TONES.get(each.state, "plain")),
                Piece(
                    text=f"{set_cell_size(text.single_line(each.where), 17)} {step!s:<15}"
                    f"{_loss(each.loss):<9}{age:<12}"
                ),
                Piece(
                    text=f"{each.incidents or ''}{open_ones}", tone="bad" if each.open_incidents else "plain"
                ),
            )
        )
    if height is not None and len(lines) > height:
        left = len(lines) - height + 1
        lines = [*lines[: height - 1], (Piece(text=f"… {left} more", tone="faint"),)]
    return [_cut(line, width, plain_ascii) for line in lines]


def _cut(line: Line, width: int, plain_ascii: bool) -> Line:
    """At most `width` cells."""
    kept: list[Piece] = []
    room = width
    for piece in line:
        words = _plain(piece.text) if plain_ascii else piece.text
        cells = cell_len(words)
        if cells > room:
            words = set_cell_size(words, room)
        room -= min(cells, room)
        if words:
            kept.append(Piece(text=words, tone=piece.tone))
        if room <= 0:
            break
    return tuple(kept)


def _plain(words: str) -> str:
    for fancy, plain in (("·", "-"), ("…", "..."), ("←", "<-"), ("→", "->")):
        words = words.replace(fancy, plain)
    return words.encode("ascii", "replace").decode("ascii")


def _last(values: Sequence[float | None]) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)


def _range(values: Sequence[float | None], words: object) -> str:
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known or not callable(words) or min(known) == max(known):
        return ""
    return f"{words(min(known))} to {words(max(known))}"


def _loss(value: float | None) -> str:
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value).replace("nan", "NaN")
    return f"{value:.3f}" if 0.01 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


def _rate(value: float | None) -> str:
    return "" if value is None else text.exponent(value)


def _count(value: float | None) -> str:
    return "" if value is None else text.count(value)


def _schedule(view: TopView) -> str:
    planned, used = view.scheduled_rate, _last(view.history.learning_rate)
    if planned is None or used is None:
        return ""
    if math.isclose(planned, used, rel_tol=1e-3, abs_tol=1e-12):
        return "as scheduled"
    return f"scheduled {text.exponent(planned)}"
