"""What a stall looks like on the terminal: pure, notices to lines.

Not here: the live line and the writing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.notices import IncidentClosed, IncidentOpened
from harness.render.text import single_line
from harness.rundir import INCIDENTS

if TYPE_CHECKING:
    from pathlib import Path

    from harness.notices import Notice


def notice_lines(notice: Notice, shown_run: str) -> list[str]:
    """The lines for a notice, none for what nobody need know; `shown_run` is the run as its user names it."""
    if isinstance(notice, IncidentOpened):
        return _opened(notice, shown_run)
    if isinstance(notice, IncidentClosed):
        number, after = f"incident {notice.number:03d}", f"after {notice.after_seconds:.1f} s"
        if notice.how == "progress":
            return [f"progress again {after} · {number} closed"]
        return [f"{number} closed {after}: {single_line(notice.how)}"]
    return []


def _opened(notice: IncidentOpened, shown_run: str) -> list[str]:
    suspicion = notice.suspicion
    rank = "" if suspicion.rank is None else f" of rank {suspicion.rank}" if suspicion.rank else ""
    limit = f"limit {suspicion.limit_seconds:.1f} s, {suspicion.why}"
    lines = [f"stalled · {suspicion.summary} in {suspicion.where}{rank} ({limit})"]
    if notice.headline:
        lines.append(f"  {notice.headline}")
    if notice.path is None:
        lines.append(f"  no evidence: {single_line(notice.problem or 'it could not be written')}")
        return lines
    if notice.problem:
        lines.append(f"  evidence is incomplete: {single_line(notice.problem)}")
    folder = f"{shown_run}/{'/'.join(_inside_run(notice.path))}"
    # One to a line: both are there to be copied, also from a narrow terminal.
    return [*lines, f"  evidence  {folder}", f"  explain it again: harness explain {folder}"]


def _inside_run(path: Path) -> tuple[str, ...]:
    """`incidents/001`, or `incidents/on-node-b/001` where nodes share the directory."""
    return path.parts[-2:] if path.parent.name == INCIDENTS else path.parts[-3:]
