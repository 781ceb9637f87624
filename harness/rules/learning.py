"""Notes on what a training learns: a loss that is no number, or stays where it is; throughput that dropped.

From the ring of the last steps, else from the end of the log. Without numbers there is no note. Not covered:
learning rates (`harness.rules.rates`), the verdict.
"""

from __future__ import annotations

import math
import re
from statistics import median
from typing import TYPE_CHECKING, Any

from harness.evidence import Reading
from harness.findings import Note

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from harness.rules.scene import Scene

# What a trainer's own log says of its loss: "loss 4.2", "loss: nan", "'loss': inf".
_LOGGED_LOSS = re.compile(
    r"\bloss\b[\"']?\s*[:= ]\s*[\"']?(?P<loss>[-+]?(?:nan|inf(?:inity)?|\d[\d.eE+-]*))", re.IGNORECASE
)

_FLAT_ROWS = 64
_FLAT_SPREAD = 1e-3
_NEVER_FELL_ROWS = 200
_NEVER_FELL_SHARE = 0.995
_RECENT_ROWS = 12
_BASELINE_ROWS = 24
_DROPPED = 0.6


def loss(scene: Scene) -> Iterator[Note]:
    """loss-nonfinite and loss-flat."""
    rows = [row for row in scene.view.rows if isinstance(row.get("loss"), (int, float))]
    if not rows:
        yield from _logged(scene)
        return
    bad = [row for row in rows if not math.isfinite(row["loss"])]
    if bad:
        since = f"since step {bad[0]['step']:,}" if bad[-1] is rows[-1] else f"at step {bad[0]['step']:,}"
        yield Note(
            cause="loss-nonfinite",
            summary=f"The loss was {bad[0]['loss']} {since}: what is learned after that is worth nothing.",
            evidence=(f"{len(bad)} of the last {len(rows)} steps",),
        )
        return
    yield from _flat(scene, rows)


def _logged(scene: Scene) -> Iterator[Note]:
    """The last loss that a log names, of a trainer that tells no other way."""
    log = scene.view.case.log
    lines = log.value.tail.splitlines() if isinstance(log, Reading) else []
    for line in reversed(lines):
        if (match := _LOGGED_LOSS.search(line)) is None:
            continue
        if not re.search(r"\d", match["loss"]):
            yield Note(
                cause="loss-nonfinite",
                summary=f"The last loss in its log is {match['loss']}: what is learned after that is "
                "worth nothing.",
                evidence=(line.strip()[:200],),
            )
        return


def _flat(scene: Scene, rows: Sequence[Mapping[str, Any]]) -> Iterator[Note]:
    losses = [float(row["loss"]) for row in rows]
    last = losses[-_FLAT_ROWS:]
    middle = median(last)
    if len(last) == _FLAT_ROWS and max(last) - min(last) <= _FLAT_SPREAD * max(abs(middle), 1e-12):
        yield Note(
            cause="loss-flat",
            summary=f"The loss has been {middle:.4g} for {len(last)} steps, to three digits: nothing is "
            "learned.",
            evidence=("even where nothing more is to be learned, batches differ by more than that",),
        )
        return
    record = scene.view.record or {}
    schedule = record.get("schedule") or {}
    warmup = schedule.get("warmup") if isinstance(schedule, dict) else None
    begun = rows[0].get("step", 0) <= 5
    if (
        not begun
        or len(losses) < _NEVER_FELL_ROWS
        or (isinstance(warmup, (int, float)) and rows[-1]["step"] <= warmup)
    ):
        return
    first, now = median(losses[:20]), median(losses[-50:])
    if first > 0 and now >= _NEVER_FELL_SHARE * first:
        yield Note(
            cause="loss-flat",
            summary=f"The loss has not fallen in {rows[-1]['step']:,} steps: {first:.4g} in the first, "
            f"{now:.4g} now.",
            evidence=("a loss falls fastest at the beginning",),
        )


def throughput(scene: Scene) -> Iterator[Note]:
    """throughput-drop: its last steps are much slower than those before them."""
    rows = [row for row in scene.view.rows if _speed(row) is not None]
    if len(rows) < _RECENT_ROWS + _BASELINE_ROWS:
        return
    recent, before = rows[-_RECENT_ROWS:], rows[:-_RECENT_ROWS]
    speeds = [_speed(row) or 0.0 for row in recent]
    now, usual = median(speeds), median(_speed(row) or 0.0 for row in before)
    # Half of them, not their middle alone: pauses now and then are no drop.
    if (
        usual <= 0
        or now >= _DROPPED * usual
        or sum(each < _DROPPED * usual for each in speeds) < 0.7 * len(speeds)
    ):
        return
    unit = "tokens" if _has_tokens(rows[-1]) else "steps"
    yield Note(
        cause="throughput-drop",
        summary=f"Its last {len(recent)} steps made {now:,.3g} {unit} a second, those before them "
        f"{usual:,.3g}.",
        evidence=(
            f"steps {recent[0]['step']:,} to {recent[-1]['step']:,}, against {len(before)} before them",
        ),
    )


def _speed(row: Mapping[str, Any]) -> float | None:
    seconds = row.get("step_seconds")
    if not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        return None
    return (row["tokens"] if _has_tokens(row) else 1) / seconds


def _has_tokens(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("tokens"), int) and row["tokens"] > 0
