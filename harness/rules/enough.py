"""Whether enough was seen to call a process hung: with a needed reading missing, a finding is a guess.

What waits looks like what hangs until it is seen a second time, with all that could have moved. Not covered:
what proves itself (a cycle of locks, a stopped or ended process), and progress that was seen (`progress`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from harness.evidence import Missing
from harness.rules import runs
from harness.rules.flights import parting
from harness.rules.threads import user_frames

if TYPE_CHECKING:
    from harness.findings import Blame, Finding, Link
    from harness.rules.scene import Scene
    from harness.rules.threads import ThreadView

# Of a finding that stands on too little: below what makes a verdict.
GUESS = 0.4
# One look is enough: it is a cycle, a state of the kernel, or somebody who is gone.
_PROVED = frozenset(
    ("exited", "stopped", "lock-deadlock", "fork-deadlock", "disk-wait", "rank-dead", "worker-dead")
)


def weighed(scene: Scene, finding: Finding) -> Finding:
    """The finding; a guess, with the reason, where it says hung and too little was seen for that."""
    if finding.state != "hung" or finding.cause in _PROVED or _was_recorded(scene, finding):
        return finding
    why = next((why for each in _threads(scene, finding) if (why := _lacks(scene, finding, each))), "")
    if not why:
        return finding
    return replace(finding, confidence=min(finding.confidence, GUESS), evidence=(why, *finding.evidence))


def _was_recorded(scene: Scene, finding: Finding) -> bool:
    """Whether torch's flight recorder shows it: it writes when a collective was waited for too long."""
    return finding.cause in ("collective-mismatch", "collective-straggler") and parting(scene) is not None


def _threads(scene: Scene, finding: Finding) -> list[ThreadView]:
    """Where it begins and where it ends: the chain's last waiter, and the line that is blamed."""
    found = []
    places: list[Link | Blame] = [*finding.chain[-1:]]
    if finding.blame is not None:
        places.append(finding.blame)
    for place in places:
        thread = _thread(scene, place)
        if thread is not None and thread not in found:
            found.append(thread)
    return found


def _thread(scene: Scene, place: Link | Blame) -> ThreadView | None:
    process = scene.view.by_pid.get(place.pid)
    threads = process.threads if process is not None else ()
    return next((each for each in threads if each.tid == place.tid), None)


def _lacks(scene: Scene, finding: Finding, thread: ThreadView) -> str:
    """What would have to be seen of this thread, or nothing."""
    process = thread.process
    seen = sum(each is not None for each in thread.samples)
    if max(seen, len(thread.shapes)) < 2:
        return "it was seen once: what only waits looks the same"
    if finding.cause == "native-wait" and not any(thread.syscalls):
        return "which system call it stands in could not be read"
    if finding.cause == "native-wait" and isinstance(process.process.descriptors, Missing):
        return "what its file descriptors are could not be read"
    if not any(sample for each in process.threads for sample in each.samples):
        return "what its threads do in the kernel could not be read"
    if _rests(thread) and all(_rests(each) for each in process.threads if user_frames(each)):
        return ""
    # Something runs now and then, for all we know: what could tell that it gets on must have been seen.
    if isinstance(_io(scene, thread), Missing):
        return "its I/O, which would tell whether it gets on, could not be read"
    trusted = sum(
        stack is not None and trusted for stack, trusted in zip(thread.stacks, thread.trusted, strict=True)
    )
    if trusted < 2 or not process.has_trusted_locals:
        return "its variables, which would tell whether it gets on, were not read twice"
    if thread.user_frame is not None and scene.sources.of(thread.user_frame) is None:
        return "its source, which would tell whether it gets on, could not be read"
    return ""


def _rests(thread: ThreadView) -> bool:
    """Whether it was seen not to run at all while nothing disturbed it."""
    ran, cpu_seconds, seconds = runs.counted(thread)
    return seconds > 0 and not ran and not cpu_seconds


def _io(scene: Scene, thread: ThreadView) -> object:
    seen = [
        each.io
        for sample in scene.view.case.samples
        for each in sample.processes
        if each.pid == thread.process.pid
    ]
    return next((each for each in seen if not isinstance(each, Missing)), seen[-1] if seen else None)
