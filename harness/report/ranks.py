"""The ranks of a run side by side, each from its own record: where it is, how fast, where its time goes.

Read once; a record that cannot be read costs its own rank. Not here: watching them (`harness.watch.ranks`).
"""

from __future__ import annotations

import re
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from harness.errors import RecordError
from harness.report.facts import RankFacts
from harness.watch.heartbeat import Reader
from harness.watch.procstat import boot_id, read_stat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from harness.watch.heartbeat import Heartbeat, StageEntry, StepRow

MAX_SHOWN = 64
_WINDOW = 256
_NAME = re.compile(r"\d+\.beat")
_BEHIND_STEPS = 2  # ranks of one step may differ by one when they are looked at


def read(
    folder: Path, said: Callable[[str], None]
) -> tuple[tuple[RankFacts, ...], int, tuple[StageEntry, ...], tuple[str, ...]]:
    """The ranks of the last attempt; how many; rank 0's last stages; what could not be read.

    Of more than `MAX_SHOWN` ranks those that are furthest behind, and the lowest.
    """
    found: list[tuple[Heartbeat, tuple[StepRow, ...]]] = []
    problems: list[str] = []
    stages: tuple[StageEntry, ...] = ()
    try:
        paths = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    except OSError:
        return (), 0, (), ()
    for path in paths:
        said(f"rank {path.stem.lstrip('0') or '0'}")
        try:
            with Reader(path) as reader:
                drained = reader.drain()
                beat = reader.read()
        except (RecordError, OSError) as error:
            problems.append(str(error))
            continue
        if beat.rank == 0:
            stages = drained.stages
        found.append((beat, drained.rows[-_WINDOW:]))
    attempt = max((beat.attempt for beat, _ in found), default=0)
    facts = [_facts(beat, rows) for beat, rows in found if beat.attempt == attempt]
    facts = _with_laggards(sorted(facts, key=lambda each: each.rank))
    count = len(facts)
    if count > MAX_SHOWN:
        last = sorted(facts, key=lambda each: (each.step or 0, each.last_progress_seconds, each.rank))
        facts = sorted(last[: MAX_SHOWN // 2], key=lambda each: each.rank)
        shown = {each.rank for each in facts}
        facts += [each for each in sorted(last, key=lambda each: each.rank) if each.rank not in shown]
        facts = sorted(facts[:MAX_SHOWN], key=lambda each: each.rank)
    return tuple(facts), count, stages, tuple(problems)


def _facts(beat: Heartbeat, rows: Sequence[StepRow]) -> RankFacts:
    took = [row.step_seconds for row in rows if row.step_seconds is not None and row.step_seconds >= 0]
    with_phases = [row for row in rows if row.phase_seconds]
    names = list(dict.fromkeys(name for row in with_phases for name in row.phase_seconds))
    tokens = [row.tokens for row in rows if row.step_seconds is not None]
    total = sum(took)
    return RankFacts(
        rank=beat.rank,
        state=_state(beat),
        stage="/".join(each.stage for each in beat.stages) or beat.stage,
        step=beat.step,
        pid=beat.pid,
        last_progress_seconds=beat.last_progress_wall_seconds,
        step_seconds=median(took) if took else None,
        tokens_per_second=sum(each or 0 for each in tokens) / total
        if total > 0 and None not in tokens
        else None,
        loss=beat.last.loss if beat.last is not None else None,
        phase_seconds={
            name: sum(row.phase_seconds.get(name, 0.0) for row in with_phases) / len(with_phases)
            for name in names
        },
        peak_bytes=beat.last.memory[2] if beat.last is not None and beat.last.memory else None,
    )


def _state(beat: Heartbeat) -> str:
    if beat.closed_status is not None:
        return beat.closed_status
    if beat.boot_id != boot_id():
        return "unknown"  # another machine's, or from before this one was started again
    process = read_stat(beat.pid)
    lives = process is not None and not process.ended and process.start_time_ticks == beat.start_time_ticks
    return "running" if lives else "gone"


def _with_laggards(facts: Sequence[RankFacts]) -> list[RankFacts]:
    """Marks those that are behind the others in steps."""
    if len(facts) < 2:
        return list(facts)
    furthest = max(each.step or 0 for each in facts)
    return [
        replace(each, behind=each.state != "finished" and furthest - (each.step or 0) >= _BEHIND_STEPS)
        for each in facts
    ]
