"""A run as a screenful of lines: pure functions from a snapshot and a size to pieces with their tones.

What matters most stands at the top and stays when room gets scarce: the state, the step, what went wrong.
Not here: the ranks (`rank_lines`), the terminal (`cli.top`), reading (`harness.top.gather`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.cells import cell_len

from harness.render import text
from harness.render.live import Piece, bar_pieces, has_bar, live_pieces, loss_words
from harness.render.pieces import TONES, Line, cut, fitting, wrapped
from harness.render.rank_lines import rank_lines
from harness.render.spark import Pick, spark
from harness.snapshot import tokens_per_second

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.top.model import TopView

_LABEL = 10
_NUMBER = 9
_WIDEST_CURVE = 60
_BAR = 12
_LEAST_LOG = 4
_VERDICT_LINES = 3
_LOW = 20  # a screen of fewer lines


def screen(view: TopView, width: int, height: int | None, *, plain_ascii: bool = False) -> list[Line]:
    """The lines of one run, each at most `width` cells; at most `height` of them, or as many as there are."""
    width = max(20, width)
    low = height is not None and height < _LOW
    head = [_title(view, width), *_where(view, width, plain_ascii, low=low), *_verdicts(view, width, low=low)]
    blocks = [
        _curves(view, width, plain_ascii),
        _breakdown(view, width),
        rank_lines(view, None if height is None else max(3, height // 3), width),
        _incident_lines(view),
        _log(view),
    ]
    lines = head
    for block in blocks:
        if block:
            lines = [*lines, (), *block]
    if height is not None and len(lines) > height:
        lines = _shortened(head, blocks, height)
    return [cut(line, width, plain_ascii=plain_ascii) for line in lines]


def _shortened(head: list[Line], blocks: Sequence[list[Line]], height: int) -> list[Line]:
    """The log goes first, from its top, then the gaps, then whole blocks from the bottom."""
    *others, log = blocks
    spaced = [*head, *(line for block in others if block for line in ((), *block)), ()]
    tight = [*head, *(line for block in others for line in block)]
    for lines, least in ((spaced, _LEAST_LOG), (tight, 2)):
        room = height - len(lines)
        if room >= least and log:
            return [*lines, log[0], *log[1:][-(room - 1) :]]
    if len(spaced) <= height:
        return spaced
    lines = head[:height]
    for block in others:
        room = height - len(lines)
        if room >= min(2, len(block)):  # a header alone says nothing
            lines = [*lines, *block[:room]]
    return lines


def _title(view: TopView, width: int) -> Line:
    state = Piece(text=view.state.upper(), tone=TONES.get(view.state, "strong"))
    words = [view.path] if view.name in view.path else [view.name, view.path]
    if view.attempt > 1:
        words.append(f"attempt {view.attempt}")
    if view.going and view.view.started_wall_seconds:
        words.append(f"up {text.clock(view.view.taken_wall_seconds - view.view.started_wall_seconds)}")
    if view.metrics_address:
        words.append(view.metrics_address)
    room = width - cell_len(state.text) - 3
    return (state, Piece(text=f" · {fitting([*map(text.single_line, words)], room)}"))


def _where(view: TopView, width: int, plain_ascii: bool, *, low: bool) -> list[Line]:
    """The live line while it runs, else how it ended; and the bar below it, where it has no room in it."""
    if view.going:
        now = view.view.taken_wall_seconds
        live = live_pieces(view.view, width, now_wall_seconds=now, plain_ascii=plain_ascii)
        if low or has_bar(live):
            return [live]
        share = not any(piece.text.endswith(" %") for piece in live)
        bar = bar_pieces(view.view, min(width, _WIDEST_CURVE), share=share, plain_ascii=plain_ascii)
        return [live, bar] if bar else [live]
    lead = view.view.lead
    beat = lead.heartbeat if lead is not None else None
    at = ""
    if beat is not None:
        total = f"/{view.view.steps}" if view.view.steps else ""
        step = f" step {beat.step}{total}" if beat.step is not None else ""
        at = f" · last seen in {text.single_line('/'.join(filter(None, (beat.stage, beat.phase))))}{step}"
    return [(Piece(text=text.single_line(view.sentence) + at),)]


def _verdicts(view: TopView, width: int, *, low: bool) -> list[Line]:
    """What is wrong now, where anything is."""
    found: list[Line] = []
    if view.state == "unsupervised":
        found.append((Piece(text=text.single_line(view.sentence), tone="warn"),))
    for each in view.incidents:
        if each.open and view.going:
            label = f"incident {each.name}  "
            words, most = text.single_line(each.verdict), 2 if low else _VERDICT_LINES
            first, *more = wrapped(words, width - len(label), width - 2, most)
            found.append((Piece(text=label, tone="bad"), Piece(text=first)))
            found += [(Piece(text=f"  {line}"),) for line in more]
    found += [(Piece(text=text.single_line(note), tone="warn"),) for note in view.notes[:2]]
    return found


def _curves(view: TopView, width: int, plain_ascii: bool) -> list[Line]:
    past = view.history
    rows: list[tuple[str, Sequence[float | None], Pick, str, str]] = [
        ("loss", past.loss, "max", loss_words(_last(past.loss)), _range(past.loss, loss_words)),
        ("lr", past.learning_rate, "last", _rate(_last(past.learning_rate)), _schedule(view)),
        (
            "grad norm",
            past.grad_norm,
            "max",
            loss_words(_last(past.grad_norm)),
            _range(past.grad_norm, loss_words),
        ),
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


def _breakdown(view: TopView, width: int) -> list[Line]:
    """Where a step's time goes, and memory."""
    lines: list[Line] = []
    past = view.history
    step = _last(past.step_seconds)
    if past.phase_steps and past.phase_step_seconds > 0:
        shares = sorted(past.phase_seconds.items(), key=lambda each: -each[1])
        known = sum(past.phase_seconds.values())
        # An evaluation between steps is a phase, and no part of what the steps took.
        whole = max(known, past.phase_step_seconds)
        shares.append(("other", whole - known))
        words = [
            f"{text.single_line(name)} {100 * seconds / whole:.0f} %"
            for name, seconds in shares
            if seconds >= 0.005 * whole
        ]
        took = text.short_seconds(past.phase_step_seconds / past.phase_steps)
        lines.append(_labelled("step", took, fitting(words, width - _LABEL - _NUMBER - 1)))
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
        lines.append(_labelled("memory", "", fitting(memory, width - _LABEL)))
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


def _incident_lines(view: TopView) -> list[Line]:
    closed = [each for each in view.incidents if not (each.open and view.going)]
    if not closed:
        return []
    several = view.incident_count > 1
    words = f"{view.incident_count} incidents, the newest first" if several else "1 incident"
    lines: list[Line] = [(Piece(text=words, tone="faint"),)]
    # When comes first: of a long verdict the end is cut.
    return lines + [
        (
            Piece(text=f"{each.name:<{_LABEL}}", tone="warn"),
            Piece(text=f"{text.clock(each.age_seconds)} ago  ", tone="faint"),
            Piece(text=text.single_line(each.verdict)),
            Piece(text=f"  in {text.single_line(each.where)}", tone="faint"),
        )
        for each in closed
    ]


def _log(view: TopView) -> list[Line]:
    if not view.log:
        return []
    lines: list[Line] = [(Piece(text=text.single_line(view.log_path), tone="faint"),)]
    return lines + [(Piece(text=text.harmless(line).expandtabs(4)),) for line in view.log]


def _last(values: Sequence[float | None]) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)


def _range(values: Sequence[float | None], words: object) -> str:
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known or not callable(words) or min(known) == max(known):
        return ""
    return f"{words(min(known))} to {words(max(known))}"


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
