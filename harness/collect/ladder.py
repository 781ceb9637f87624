"""Which rung of the ladder for which process, sample by sample.

The first sample is `nonblocking` for every process: it always returns. Later ones block, for their
locals, where all threads of the process are in R or S and the first dump succeeded; where blocking fails
the sample falls back to `nonblocking`. What was denied is not asked for again, nor a py-spy that did not
even answer without pausing: the time is better spent on the rest. Not covered: the dump itself (`stacks`).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from harness.collect import stacks
from harness.evidence import Missing, Piece, Reading, StackMethod, Stacks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.collect.deadline import Deadline
    from harness.collect.procfs import Proc
    from harness.evidence import ThreadSample

# A dump takes 0.01 to 0.2 s, with native frames 0.2 to 0.5 s; a large or swapped process more.
_PATIENCE_SECONDS: dict[StackMethod, float] = {"nonblocking": 3.0, "blocking": 3.0, "native": 6.0}


# What will not change; anything else (an interpreter that just starts) is looked at again.
_FINAL = (stacks.NO_PY_SPY, stacks.NOT_PYTHON, stacks.KERNEL_THREAD, stacks.ZOMBIE)


class Ladder:
    """Climbs for one process over the samples."""

    def __init__(self, proc: Proc, pid: int, start_time_ticks: int, options: LadderOptions) -> None:
        self._proc = proc
        self._pid = pid
        self._start_time_ticks = start_time_ticks
        self._options = options
        self._final: Missing | None = None
        self._climbed = False
        self._no_more = ""

    def dump(self, threads: Piece[tuple[ThreadSample, ...]], deadline: Deadline) -> Piece[Stacks]:
        """The stacks for this sample."""
        if self._final is not None:
            return self._final
        wanted = self._wanted()
        limit = (
            obstacle(threads.value if isinstance(threads, Reading) else ()) if wanted != "nonblocking" else ""
        )
        if wanted != "nonblocking" and not limit and not self._no_more:
            found = self._at(wanted, deadline)
            if isinstance(found, Reading):
                return found
            # One failure is enough: a blocking dump that was killed once is not tried again on this process.
            limit = self._no_more = f"{wanted}: {found.detail}"
        found = self._at("nonblocking", deadline)
        self._climbed = True
        if isinstance(found, Missing):
            if found.reason in ("denied", "timed_out") or found in _FINAL:
                self._final = found
            return found
        limit = limit or self._no_more
        return (
            dataclasses.replace(found, value=dataclasses.replace(found.value, limits=limit))
            if limit
            else found
        )

    def _wanted(self) -> StackMethod:
        if not self._climbed:
            return "nonblocking"
        if self._options.native:
            return "native"
        return "blocking" if self._options.blocking else "nonblocking"

    def _at(self, method: StackMethod, deadline: Deadline) -> Piece[Stacks]:
        at = deadline.elapsed()
        found = stacks.dump(
            self._proc,
            self._pid,
            self._start_time_ticks,
            method,
            seconds=deadline.within(_PATIENCE_SECONDS[method]),
            py_spy=self._options.py_spy,
            text=self._options.text,
        )
        return dataclasses.replace(found, at_seconds=at) if isinstance(found, Reading) else found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LadderOptions:
    """What the dumps may do."""

    py_spy: str | None
    blocking: bool
    native: bool
    text: bool


def obstacle(threads: Sequence[ThreadSample]) -> str:
    """Why a blocking dump must not be tried, or nothing: ptrace waits for every thread to stop."""
    for thread in threads:
        if thread.state not in ("R", "S", "I"):
            return f"thread {thread.tid} is in state {thread.state}: a blocking dump might never return"
    return "" if threads else "the threads' states are unknown: a blocking dump might never return"
