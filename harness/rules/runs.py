"""How often a thread was put on a CPU while nothing of ours paused its process.

A thread that waits for what does not come is never put on one. Pure facts; not covered: what they mean
(`flow`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.evidence import Reading

if TYPE_CHECKING:
    from harness.evidence import Undisturbed
    from harness.rules.threads import ThreadView


def undisturbed(thread: ThreadView) -> tuple[Undisturbed, ...]:
    """What it did between our looks, per sample that could tell."""
    return tuple(
        sample.undisturbed.value
        for sample in thread.samples
        if sample is not None and isinstance(sample.undisturbed, Reading)
    )


def runs_again(thread: ThreadView) -> bool | None:
    """Whether it ran in several of the times between our looks; None where that was not counted."""
    seen = undisturbed(thread)
    if not seen:
        return None
    ran = sum(each.runs > 0 for each in seen)
    return ran >= min(2, len(seen)) and ran * 2 >= len(seen)


def counted(thread: ThreadView) -> tuple[int, float, float]:
    """How often it ran, its CPU seconds, and the seconds in which nothing disturbed it."""
    seen = undisturbed(thread)
    return (
        sum(each.runs for each in seen),
        sum(each.cpu_seconds for each in seen),
        sum(each.seconds for each in seen),
    )


def wants_cpu(thread: ThreadView) -> bool:
    """Whether it ran, or was ready to, nearly all the time: a poll is not, however crowded the machine is."""
    seen = undisturbed(thread)
    seconds = sum(each.seconds for each in seen)
    ran = sum(each.cpu_seconds for each in seen)
    wanted = ran + sum(each.queued_seconds for each in seen)
    return seconds > 0 and wanted >= 0.8 * seconds and ran >= 0.05 * seconds
