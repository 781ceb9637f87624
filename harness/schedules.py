"""The learning rate that a declared schedule asks for at a step: what `emit.open(schedule=...)` described.

Kinds: "cosine", "linear" and "constant", each after a linear warm-up, each with `floor` as a ratio of the
peak. A warm-up is by (step + 1) / warmup, or `from_zero`, as transformers has it. An unknown kind, or one
declared in part, yields None: never a guess. Not here: schedules as a trainer applies them (`nsa.schedule` is
one; a test holds the two equal).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def scheduled_rate(schedule: Mapping[str, Any] | None, step: int) -> float | None:
    """The rate that optimizer step number `step`, counted from 1 as `emit.step` does, should have used."""
    if schedule is None or step < 1:
        return None
    try:
        peak, kind = float(schedule["peak"]), schedule["kind"]
        warmup = int(schedule.get("warmup", 0))
        done = step - 1
        if not (math.isfinite(peak) and warmup >= 0):
            return None
        if done < warmup:
            return peak * ((done + (not schedule.get("from_zero", False))) / warmup)
        if kind == "constant":
            return peak
        total, floor = int(schedule["total"]), float(schedule.get("floor", 0.0))
        left = max(0.0, (total - done) / (total - warmup)) if total > warmup else 0.0
        if kind == "cosine":
            height = math.sin(math.pi / 2 * left) ** 2
        elif kind == "linear":
            height = left
        else:
            return None
        return peak * (height + floor * (1.0 - height))
    except (KeyError, TypeError, ValueError):
        return None
