"""Too little memory or CPU time: throttled by a control group's limit, or waiting for memory.

A limit that a training merely uses to the full is no finding: it has to be throttled most of the time, and
to get less than one CPU. Waiting for memory is not verified: no machine under pressure was there to try it.

Not covered: limits that nothing was seen to run into, and memory that a process leaks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.evidence import Reading
from harness.rules import say, spins
from harness.rules.progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.evidence import Cgroup
    from harness.findings import Finding
    from harness.rules.scene import Scene
    from harness.rules.view import ProcessView

_PRESSED_PERCENT = 20.0
# Throttled in most periods of its life, and using what it may now.
_THROTTLED_RATIO = 0.5
_USES_RATIO = 0.6
# With a whole CPU a training is slow by its own doing.
_STARVED_CORES = 1.0


def throttled(scene: Scene) -> Iterator[Finding]:
    """memory-pressure: less than one CPU by its control group's limit, and throttled most of the time."""
    for chain in scene.chains:
        group = _group(chain.end.thread.process)
        if group is None or chain.end.kind != "busy":
            continue
        limit, periods, late = group.cpu_limit_cores, group.periods, group.throttled_periods
        if not (isinstance(limit, Reading) and isinstance(periods, Reading) and isinstance(late, Reading)):
            continue
        used = sum(each.cpu_cores or 0.0 for each in scene.view.processes if _group(each) == group)
        ratio = late.value / periods.value if periods.value else 0.0
        if limit.value >= _STARVED_CORES or ratio < _THROTTLED_RATIO or used < _USES_RATIO * limit.value:
            continue
        moves = progress(scene, chain)
        # What stands in one call may be as long as that because it hardly runs; a loop without an end is one
        # however slowly it turns.
        if moves is None and spins.turns(scene, chain):
            continue
        yield say.finding(
            scene,
            chain,
            "slow",
            "memory-pressure",
            0.94 if moves is not None else 0.87,
            f"It gets {limit.value:.2g} of a CPU by the limit of its control group, and is throttled.",
            evidence=[
                f"its control group was throttled in {late.value:,} of {periods.value:,} periods",
                f"the group used {used:.2g} of a CPU while we looked; it may use {limit.value:.2g}",
                *([moves.words] if moves is not None else []),
            ],
            next_steps=["raise the CPU limit of its container", "cat cpu.stat of its control group"],
        )


def memory_pressure(scene: Scene) -> Iterator[Finding]:
    """memory-pressure: waiting for memory most of the time."""
    for chain in scene.chains:
        group = _group(chain.end.thread.process)
        facts: list[str] = []
        if group is not None and isinstance(group.pressure, Reading):
            facts += [
                f"its control group stood still for memory {each.full_avg10:.0f} % of the last 10 s"
                for each in group.pressure.value
                if each.resource == "memory" and each.full_avg10 >= _PRESSED_PERCENT
            ]
        pressure = scene.view.case.pressure
        if isinstance(pressure, Reading):
            facts += [
                f"the machine stood still for memory {each.full_avg10:.0f} % of the last 10 s"
                for each in pressure.value
                if each.resource == "memory" and each.full_avg10 >= _PRESSED_PERCENT
            ]
        if facts:
            yield say.finding(
                scene,
                chain,
                "slow",
                "memory-pressure",
                0.7,
                "It lacks memory: it waits for pages, or swaps.",
                evidence=facts,
                next_steps=["give it more memory, or a smaller batch", "see the limits of its container"],
            )


def _group(process: ProcessView) -> Cgroup | None:
    found = process.process.cgroup
    return found.value if isinstance(found, Reading) else None
