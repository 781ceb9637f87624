"""What the events files of a run say over its whole life: evaluations, checkpoints, rank 0's stages.

Bounded: of a file that is very long, the end. Lines of others, and damaged ones, are passed over. Not here:
the harness's own events (an incident has a folder of its own).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.report.facts import Evaluation, Span
from harness.watch.logend import tail

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.rundir import RunDirectory

_MAX_BYTES = 32 << 20
_MAX_LINES = 400_000
_MAX_FILES = 256
MAX_EVALUATIONS = 1_000
NOT_RECORDED = "not recorded"


@dataclass(slots=True, kw_only=True)
class Events:
    """In the order of their times."""

    evaluations: list[Evaluation] = field(default_factory=list)
    checkpoints: list[tuple[float, int | None]] = field(default_factory=list)
    stages: list[tuple[float, int, str]] = field(default_factory=list)  # when, attempt, name


def read(run: RunDirectory) -> Events:
    """Everything that this report needs of a run's events."""
    found = Events()
    try:
        paths = sorted(path for path in run.events.iterdir() if path.suffix == ".jsonl")[:_MAX_FILES]
    except OSError:
        return found
    for path in paths:
        _read(path, found)
    found.evaluations.sort(key=lambda each: each.seconds)
    found.checkpoints.sort(key=lambda each: each[0])
    found.stages = sorted(set(found.stages))
    return found


def _read(path: Path, found: Events) -> None:
    for line in tail(path, _MAX_LINES, max_bytes=_MAX_BYTES):
        try:
            event = json.loads(line)
            kind, seconds = event["event"], float(event["time"])
            if not 0 <= seconds < 1e11:
                continue
            if kind == "eval":
                step, loss = int(event["step"]), float(event["loss"])
                if math.isfinite(loss) and abs(step) < 2**53:
                    found.evaluations.append(Evaluation(seconds=seconds, step=step, loss=loss))
            elif kind == "checkpoint":
                found.checkpoints.append((seconds, _whole(event.get("step"))))
            elif kind == "stage" and path.name == "stages.jsonl":
                found.stages.append((seconds, _whole(event["attempt"]) or 0, str(event["stage"])[:80]))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and abs(value) < 2**53 else None


def thinned(evaluations: Sequence[Evaluation], most: int = MAX_EVALUATIONS) -> tuple[Evaluation, ...]:
    """At most about `most` of them: of neighbours the least and the greatest."""
    if len(evaluations) <= most:
        return tuple(evaluations)
    size = -(-2 * len(evaluations) // most)
    kept: list[Evaluation] = []
    for begin in range(0, len(evaluations), size):
        part = evaluations[begin : begin + size]
        least, greatest = (pick(part, key=lambda each: each.loss) for pick in (min, max))
        kept += sorted({id(each): each for each in (least, greatest)}.values(), key=lambda each: each.seconds)
    return tuple(kept)


def spans(
    stages: Sequence[tuple[float, int, str]], attempts: Sequence[tuple[int, float, float]]
) -> tuple[Span, ...]:
    """Stretches of time from changes of stage; `attempts` are number, begin and end, in order.

    Before "boot", the first that `emit.open` enters, is "start"; before any other first one, something that
    was not recorded. Between attempts the run was down.
    """
    found: list[Span] = []
    for index, (number, begin, end) in enumerate(attempts):
        if index and begin > attempts[index - 1][2]:
            found.append(
                Span(stage=None, begin_seconds=attempts[index - 1][2], end_seconds=begin, attempt=number)
            )
        mine = [(max(begin, seconds), name) for seconds, attempt, name in stages if attempt == number]
        if not mine:
            if stages:
                found.append(Span(stage=NOT_RECORDED, begin_seconds=begin, end_seconds=end, attempt=number))
            continue
        first = "start" if mine[0][1] == "boot" else NOT_RECORDED
        entries = ([(begin, first)] if mine[0][0] > begin else []) + mine
        after = [seconds for seconds, _ in entries[1:]] + [max(end, entries[-1][0])]
        for (seconds, name), until in zip(entries, after, strict=True):
            until = min(until, max(end, seconds))
            last = found[-1] if found else None
            if last is not None and last.stage == name and last.end_seconds == seconds:
                found[-1] = Span(
                    stage=name, begin_seconds=last.begin_seconds, end_seconds=until, attempt=number
                )
            elif until > seconds:
                found.append(Span(stage=name, begin_seconds=seconds, end_seconds=until, attempt=number))
    return tuple(found)
