"""Which collectors were late or broke: what `harness_collect_errors_total` counts.

Not covered: what is merely absent or denied, which is no collector's fault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.collect import facts
from harness.collect.deadline import BROKEN
from harness.evidence import CollectError, Missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.evidence import Case

_CASE_PIECES = (
    "pipes",
    "locks",
    "pressure",
    "run",
    "log",
    "gpus",
    "artifacts",
    "disks",
    "known_lines",
    "steps",
    "flight",
    "settings",
)
_SAMPLE_PIECES = ("io", "threads", "stacks")


def of(case: Case) -> Iterator[CollectError]:
    """Each collector that failed, once, with what its first failure says."""
    pieces = [(name, getattr(case, name)) for name in _CASE_PIECES]
    pieces += [(name, getattr(each, name)) for each in case.processes for name, _ in facts.PROCESS_READS]
    sampled = [each for sample in case.samples for each in sample.processes]
    pieces += [(name, getattr(each, name)) for each in sampled for name in _SAMPLE_PIECES]
    seen: set[str] = set()
    for name, found in pieces:
        if isinstance(found, Missing) and name not in seen and _is_failure(found):
            seen.add(name)
            yield CollectError(collector=name, detail=found.detail)


def _is_failure(missing: Missing) -> bool:
    return missing.reason == "timed_out" or missing.detail.startswith(BROKEN)
