"""Which system call a thread stands in, also where a pause has put `restart_syscall` in its place.

After a signal or a pause (ptrace, ours too) the kernel resumes a wait with a time limit by `restart_syscall`,
with the registers of the call that it resumes. An earlier sample, or where in the kernel the thread sleeps,
tells which that was. Not covered: what the call means (`waits`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from harness.evidence import Reading, Running

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.evidence import Syscall, ThreadSample

RESTARTED = "restart_syscall"
# Functions of the kernel that only these sleep in, over its versions.
_SLEEPS_IN = (
    ("nanosleep", "clock_nanosleep"),
    ("futex", "futex"),
    ("do_select", "select"),
    ("poll", "poll"),
)


def standing(samples: Iterable[ThreadSample | None]) -> Iterator[Syscall | None]:
    """Per sample that shows it, the call; None where the thread ran on a CPU."""
    before: Syscall | None = None
    for sample in samples:
        if sample is None or not isinstance(sample.syscall, Reading):
            continue
        if isinstance(sample.syscall.value, Running):
            yield None
            continue
        call = sample.syscall.value
        if call.name == RESTARTED:
            call = _resumed(call, before, sample)
        elif call.number >= 0:
            before = call
        yield call


def _resumed(call: Syscall, before: Syscall | None, sample: ThreadSample) -> Syscall:
    if before is not None and before.arguments[:1] == call.arguments[:1]:
        return before
    where = sample.wchan.value if isinstance(sample.wchan, Reading) else ""
    name = next((name for word, name in _SLEEPS_IN if word in where), None)
    return replace(call, name=name) if name is not None else call
