"""Schedules with a known fault each, all seen in use: a property that accepts one of them proves nothing."""

from __future__ import annotations

import math


def zero_at_first(step, *, peak, warmup, total, floor):
    """transformers' get_cosine_schedule_with_warmup: step / warmup, a batch wasted at rate 0."""
    if step < warmup:
        return peak * step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def rises_past_the_end(step, *, peak, warmup, total, floor):
    """The cosine unclamped: it climbs again once training outlasts `total`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def negative_past_the_end(step, *, peak, warmup, total, floor):
    """A straight line that goes on below the floor, and below zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 - (1 - floor) * (step - warmup) / max(1, total - warmup))


def jump_at_full_warmup(step, *, peak, warmup, total, floor):
    """Progress 0 guards a cosine of no length: with warmup = total it never leaves the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / (total - warmup)) if total > warmup else 0.0
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def reported(step, *, peak, warmup, total, floor):
    """The lambda of the case that started this project, rebuilt from its report.

    max(floor, cosine) drops faster than a cosine to the floor, is flat before the end, and rises past it.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return peak * max(floor, 0.5 * (1 + math.cos(math.pi * progress)))


def reported_fix(step, *, peak, warmup, total, floor):
    """Its "fix": the floor removed, because the first step's 1e-7 was taken for a fault."""
    return reported(step, peak=peak, warmup=warmup, total=total, floor=0.0)


def absolute_floor(step, *, peak, warmup, total, floor):
    """A floor taken for a rate of its own: groups with other peaks do not keep their ratios."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    low = floor * 1e-3
    return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * progress))


def peak_missed(step, *, peak, warmup, total, floor):
    """Warm-up by step / (warmup + 1), and straight into a cosine that has left the peak already."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = min(1.0, (step + 1 - warmup) / max(1, total - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def floor_in_steps(step, *, peak, warmup, total, floor):
    """A cosine cut into ten stairs: each a jump that no neighbouring steps of a smooth schedule have."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * math.floor(progress * 10) / 10)))


def remembers():
    """A schedule that counts its own calls from step 0 on, as a scheduler object does: resuming shifts it."""
    calls = 0

    def lr(step, *, peak, warmup, total, floor):
        nonlocal calls
        calls = 0 if step == 0 else calls + 1
        return rises_past_the_end(calls, peak=peak, warmup=warmup, total=total, floor=floor)

    return lr
