"""The line at the end of a run, and how it ended in words.

Pure, but for the reading of the evaluations that the trainer reported. Not here: what is said while it runs
(`harness.render`).
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from harness.endings import signal_name
from harness.render.text import clock, single_line
from harness.watch.logend import tail

if TYPE_CHECKING:
    from pathlib import Path

    from harness.snapshot import RunView
    from harness.supervise.child import Ended

_EVENT_LINES = 10_000
_EVENT_BYTES = 4 << 20


def summary_line(
    view: RunView | None,
    *,
    how: str,
    seconds: float,
    best_evaluation: tuple[float, int] | None,
    where: str,
) -> str:
    """`finished · 400 steps in 1:58 · loss 6.93 → 4.38 · best eval 4.47 at step 350 · runs/latest`."""
    lead = view.lead if view is not None else None
    parts = [how]
    if view is None or lead is None or lead.heartbeat.step is None:
        parts.append(f"after {clock(seconds)}")
    else:
        step, target = lead.heartbeat.step, view.steps
        of = f" of {target}" if target is not None and target != step else ""
        parts.append(f"{step}{of} steps in {clock(seconds)}")
        last = lead.heartbeat.last.loss if lead.heartbeat.last is not None else None
        first = lead.totals.first_loss
        if last is not None:
            parts.append(f"loss {_loss(last)}" if first is None else f"loss {_loss(first)} → {_loss(last)}")
    if best_evaluation is not None:
        parts.append(f"best eval {_loss(best_evaluation[0])} at step {best_evaluation[1]}")
    stalls = sum(view.stalls.values()) if view is not None else 0
    if stalls:
        parts.append("1 incident" if stalls == 1 else f"{stalls} incidents")
    return " · ".join(single_line(part) for part in (*parts, where))


def how_it_ended(ended: Ended, ended_by: str) -> str:
    """`finished`, `died with exit status 1`, `killed by SIGSEGV`."""
    if ended.exit_status is None:
        return "ended, and nobody saw its exit status"
    if ended_by == "stall":
        return f"ended because it stalled ({ended})"
    if ended.exit_status == 0:
        return "finished"
    if ended_by == "interrupt":
        return f"interrupted ({ended})"
    if ended_by == "request":
        return f"stopped by SIGTERM ({ended})"
    if ended.signal:
        return f"killed by {signal_name(ended.signal)}"
    return f"died with exit status {ended.exit_status}"


def best_evaluation(events: Path) -> tuple[float, int] | None:
    """The lowest loss among the `eval` events of a trainer that reports them, and its step."""
    found: list[tuple[float, int]] = []
    for line in tail(events, _EVENT_LINES, max_bytes=_EVENT_BYTES):
        try:
            event = json.loads(line)
            if event["event"] == "eval":
                found.append((float(event["loss"]), int(event["step"])))
        except (ValueError, KeyError, TypeError):  # noqa: PERF203 -- one line's damage is its own
            continue
    return min((each for each in found if math.isfinite(each[0])), default=None)


def _loss(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "NaN" if math.isnan(value) else str(value)
