"""The learning rate: one pure function of the optimizer step, warm-up and then a cosine to a floor.

Nothing but the step is stored, so resuming at any step, any number of times, gives the same sequence. Steps
are optimizer steps from 0: accumulation and world size do not matter. Not here: applying it to the groups of
an optimizer.

The peak is reached exactly at step `warmup - 1`, or 0 where there is no warm-up, and no step is trained at
rate 0 unless floor is 0 and the run is over.
"""

from __future__ import annotations

import math


def lr(step: int, *, peak: float, warmup: int, total: int, floor: float) -> float:
    """Learning rate of optimizer step `step`, for a run of `total` steps; `floor` is a ratio of the peak.

    `(step + 1) / warmup` of the peak during warm-up, then a half cosine, then the floor for ever after.
    """
    validate(peak=peak, warmup=warmup, total=total, floor=floor)
    if not _is_integer(step) or step < 0:
        raise ValueError(f"step is {step!r}: it counts optimizer steps from 0")
    if step >= total:
        return peak * floor
    if step < warmup:
        return peak * ((step + 1) / warmup)
    # Written from the end: near it 1 + cos(π·progress) loses every digit, and would be 0 before the last
    # step.
    height = math.sin(math.pi / 2 * (total - step) / (total - warmup)) ** 2
    return peak * (height + floor * (1.0 - height))


def validate(*, peak: float, warmup: int, total: int, floor: float) -> None:
    """Refuse, with ValueError, a schedule that cannot be followed."""
    for name, count, least in (("warmup", warmup, 0), ("total", total, 1)):
        if not _is_integer(count) or count < least:
            raise ValueError(f"{name} is {count!r}: it must be a whole number of steps, {least} or more")
    if warmup > total:
        raise ValueError(f"warmup is {warmup} and total {total}: the warm-up must not be longer than the run")
    if not (math.isfinite(peak) and peak > 0):
        raise ValueError(f"peak is {peak!r}: it must be a finite number above 0")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor is {floor!r}: it is a ratio of the peak, from 0 to 1")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
