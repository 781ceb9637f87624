"""The curves of a report: what its script draws, as plain data, and what can be said of them without one.

Pure. Each curve is a mean and, where several rows share a place, their least and greatest. Not here: drawing
(`assets/report.js`), the rest of the page (`report`).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.render.text import count, exponent, short_seconds, size
from harness.report.history import ranges
from harness.schedules import scheduled_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from harness.report.facts import Report
    from harness.report.history import Bucket, Extremes

# More laps than this are not told apart over steps: then time is the only axis.
MAX_LAPS = 24
PHASE_COLOURS = {
    "data": "amber",
    "forward": "blue",
    "backward": "violet",
    "optimizer": "teal",
    "eval": "green",
    "checkpoint": "pink",
    "other": "grey",
}
SPARE_COLOURS = ("orange", "brown", "slate", "pink", "green", "amber")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart, in words and as the script's data."""

    id: str
    title: str
    unit_words: str
    description: str
    data: dict[str, Any]

    @property
    def has_trend(self) -> bool:
        """Whether its first curve has a calmer one beside it."""
        return any(line.get("trend") for line in self.lines)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its curves."""
        found: list[dict[str, Any]] = self.data["lines"]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """One column that has a chart of its own."""

    id: str
    title: str
    unit: str
    unit_words: str
    colour: str
    zero: bool = False
    logarithmic: bool = False  # whether to offer it


_KINDS = (
    _Kind(id="loss", title="Loss", unit="number", unit_words="", colour="blue", logarithmic=True),
    _Kind(
        id="lr",
        title="Learning rate",
        unit="rate",
        unit_words="",
        colour="violet",
        zero=True,
        logarithmic=True,
    ),
    _Kind(
        id="tokens_per_second",
        title="Throughput",
        unit="count",
        unit_words="tokens per second",
        colour="teal",
        zero=True,
    ),
    _Kind(
        id="grad_norm",
        title="Gradient norm",
        unit="number",
        unit_words="before clipping, as the trainer reports it",
        colour="orange",
        zero=True,
        logarithmic=True,
    ),
)
_MEMORY = (
    ("resident_bytes", "resident", "slate"),
    ("gpu_peak_bytes", "GPU peak", "pink"),
    ("gpu_reserved_bytes", "GPU reserved", "amber"),
    ("gpu_allocated_bytes", "GPU allocated", "green"),
)
TITLES = {
    **{kind.id: kind.title for kind in _KINDS},
    "step_seconds": "Time of a step",
    **{name: f"Memory, {label}" for name, label, _ in _MEMORY},
}


def value_words(name: str) -> Callable[[float], str]:
    """How a column's values are written."""
    if name == "lr":
        return exponent
    if name == "tokens_per_second":
        return count
    if name == "step_seconds":
        return short_seconds
    return size if name.endswith("_bytes") else lambda value: f"{value:.4g}"


def charts(report: Report) -> list[Chart]:
    """All that have something to show."""
    buckets = report.history.buckets
    seen = {name for bucket in buckets for name in (*bucket.values, *bucket.nonfinite)}
    found = []
    for kind in _KINDS:
        if kind.id in seen:
            lines = [_line(buckets, kind.id, kind.title.lower(), kind.colour)]
            if kind.id == "loss":
                lines += _trend(buckets, kind)
            if kind.id == "lr" and (planned := _planned(report)) is not None:
                lines.append(planned)
            found.append(_chart(report, kind, lines))
    if any(bucket.phase_rows for bucket in buckets):
        found.append(_phases(report))
    elif "step_seconds" in seen:
        found.append(_steps(report))
    memory = [_line(buckets, name, label, colour) for name, label, colour in _MEMORY if name in seen]
    if memory:
        kind = _Kind(id="memory", title="Memory", unit="bytes", unit_words="", colour="slate", zero=True)
        found.append(_chart(report, kind, memory))
    return found


def document(report: Report, shown: Sequence[Chart]) -> dict[str, Any]:
    """What the script needs."""
    buckets = report.history.buckets
    laps = ranges(buckets)
    times: list[float | None] = []
    latest = 0.0
    for bucket in buckets:  # a clock that was set back must not fold the curves
        middle = (bucket.first_seconds + bucket.last_seconds) / 2 - report.begin_seconds
        latest = max(latest, middle)
        times.append(_short(latest, 7))
    return {
        "axes": {"step": [_middle(bucket) for bucket in buckets], "time": times},
        "laps": [[begin, end, buckets[begin].attempt] for begin, end in laps],
        "gaps": [index for index, bucket in enumerate(buckets) if bucket.start == "gap"],
        "only": "time" if len(laps) > MAX_LAPS else None,
        "charts": [each.data for each in shown],
        "marks": list(_marks(report)),
    }


def script_text(found: dict[str, Any]) -> str:
    """JSON that may stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(found, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _chart(report: Report, kind: _Kind, lines: list[dict[str, Any]]) -> Chart:
    data: dict[str, Any] = {
        "id": kind.id,
        "unit": kind.unit,
        "zero": kind.zero,
        "log": kind.logarithmic,
        "stack": False,
        "lines": lines,
        "bad": [i for i, bucket in enumerate(report.history.buckets) if bucket.nonfinite.get(kind.id)],
    }
    if kind.id == "loss" and report.evaluations:
        data["points"] = {
            "label": "evaluation",
            "colour": "pink",
            "step": [each.step for each in report.evaluations],
            "time": [_short(each.seconds - report.begin_seconds, 7) for each in report.evaluations],
            "y": [_short(each.loss) for each in report.evaluations],
        }
    return Chart(
        id=kind.id,
        title=kind.title,
        unit_words=kind.unit_words,
        description=_described(kind, report.history.extremes.get(kind.id)),
        data=data,
    )


def _described(kind: _Kind, found: Extremes | None) -> str:
    """The curve in a sentence, for those who do not see it."""
    if found is None or found.first is None or found.last is None or found.low is None or found.high is None:
        return kind.title
    say = value_words(kind.id)
    return (
        f"{kind.title}: {say(found.first[1])} at step {found.first[0]:,}, {say(found.last[1])} at step "
        f"{found.last[0]:,}; lowest {say(found.low[1])} at step {found.low[0]:,}, highest "
        f"{say(found.high[1])} at step {found.high[0]:,}"
    )


def _line(buckets: Sequence[Bucket], name: str, label: str, colour: str) -> dict[str, Any]:
    spreads = [bucket.values.get(name) for bucket in buckets]
    line: dict[str, Any] = {
        "label": label,
        "colour": colour,
        "mean": [None if each is None else _short(each.mean) for each in spreads],
    }
    if any(each is not None and each.low < each.high for each in spreads):
        line["low"] = [None if each is None else _short(each.low) for each in spreads]
        line["high"] = [None if each is None else _short(each.high) for each in spreads]
    return line


def _trend(buckets: Sequence[Bucket], kind: _Kind) -> list[dict[str, Any]]:
    """A line through the noise: the mean of the places around, where there are enough of them."""
    reach = len(buckets) // 100
    if reach < 2:
        return []
    means: list[float | int | None] = []
    for begin, end in ranges(buckets):
        sums, counts = [0.0], [0]
        for bucket in buckets[begin:end]:
            spread = bucket.values.get(kind.id)
            sums.append(sums[-1] + (spread.mean * spread.count if spread is not None else 0.0))
            counts.append(counts[-1] + (spread.count if spread is not None else 0))
        length = end - begin
        for at in range(length):
            low, high = max(0, at - reach), min(length, at + reach + 1)
            weight = counts[high] - counts[low]
            means.append(_short((sums[high] - sums[low]) / weight) if weight else None)
    label = f"mean around, {(2 * reach + 1) * max(1, buckets[0].rows):,} steps"
    return [{"label": label, "colour": kind.colour, "mean": means, "trend": True}]


def _planned(report: Report) -> dict[str, Any] | None:
    rates = [scheduled_rate(report.schedule, max(1, round(_middle(each)))) for each in report.history.buckets]
    if all(rate is None for rate in rates):
        return None
    return {
        "label": "by the declared schedule",
        "colour": "grey",
        "dash": True,
        "mean": [None if rate is None else _short(rate) for rate in rates],
    }


def _phases(report: Report) -> Chart:
    names = phase_names(report)
    lines = []
    for name in names:
        means = [
            _short(bucket.phase_seconds.get(name, 0.0) / bucket.phase_rows) if bucket.phase_rows else None
            for bucket in report.history.buckets
        ]
        lines.append({"label": name, "colour": phase_colour(name, names), "mean": means})
    kind = _Kind(
        id="phases",
        title="Time of a step",
        unit="seconds",
        unit_words="by phase, stacked",
        colour="",
        zero=True,
    )
    return Chart(
        id="phases",
        title=kind.title,
        unit_words=kind.unit_words,
        description=f"Time of a step by phase: {', '.join(names)}; the table below has their shares",
        data={
            "id": "phases",
            "unit": "seconds",
            "zero": True,
            "log": False,
            "stack": True,
            "lines": lines,
            "bad": [],
        },
    )


def _steps(report: Report) -> Chart:
    kind = _Kind(
        id="step_seconds", title="Time of a step", unit="seconds", unit_words="", colour="amber", zero=True
    )
    return _chart(report, kind, [_line(report.history.buckets, "step_seconds", "a step", "amber")])


def phase_names(report: Report) -> list[str]:
    """The phases that took time, in the order of a step."""
    totals = phase_totals(report)
    order = list(PHASE_COLOURS)
    known = [name for name in order[:4] if totals.get(name)]
    return known + [name for name, seconds in totals.items() if seconds > 0 and name not in known]


def phase_totals(report: Report) -> dict[str, float]:
    """Seconds by phase, over all steps."""
    totals: dict[str, float] = {}
    for bucket in report.history.buckets:
        for name, seconds in bucket.phase_seconds.items():
            totals[name] = totals.get(name, 0.0) + seconds
    return totals


def phase_colour(name: str, names: Sequence[str]) -> str:
    """Always the same for a known phase; for others by their order."""
    if name in PHASE_COLOURS:
        return PHASE_COLOURS[name]
    others = [each for each in names if each not in PHASE_COLOURS]
    return SPARE_COLOURS[others.index(name) % len(SPARE_COLOURS)] if name in others else "grey"


def _marks(report: Report) -> Iterator[dict[str, Any]]:
    """What is drawn over every curve: incidents, and where an attempt began."""
    for attempt in report.attempts[1:][-50:]:
        yield {
            "kind": "attempt",
            "step": attempt.steps[0] if attempt.steps else None,
            "time": _short(attempt.begin_seconds - report.begin_seconds, 7),
        }
    for incident in report.incidents:
        begin = incident.begin_seconds - report.begin_seconds
        until = begin + incident.lasted_seconds if incident.lasted_seconds is not None else None
        yield {
            "kind": "incident",
            "step": incident.step,
            "time": _short(begin, 7),
            "until": _short(until if until is not None else report.end_seconds - report.begin_seconds, 7),
        }


def _middle(bucket: Bucket) -> float:
    middle = (bucket.first_step + bucket.last_step) / 2
    return int(middle) if middle == int(middle) else middle


def _short(value: float, digits: int = 5) -> float | int | None:
    """A number of few digits, so that the page stays small; JSON has no NaN."""
    if not math.isfinite(value):
        return None
    found = float(f"{value:.{digits}g}")
    return int(found) if found == int(found) and abs(found) < 1e15 else found
