"""The incidents of a run and what their evidence says, one at a time, for each may be tens of megabytes.

A Case that cannot be read costs its own verdict, not the report. Not here: how a Case is judged
(`harness.rules`), how an incident looks (`harness.render`).
"""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import TYPE_CHECKING

from harness import bundle
from harness.errors import HarnessError
from harness.redaction import strike_out_text
from harness.render import tree
from harness.render.markdown import single_line_keeping_indent
from harness.render.terminal import HEADINGS, link_text, source_window
from harness.report.facts import IncidentFacts, Verdict
from harness.rules import diagnose
from harness.rules.view import View
from harness.supervise.incidentstore import INCIDENT_FILE, parse_incident

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from harness.rundir import RunDirectory
    from harness.supervise.incidentstore import Incident

MAX_SHOWN = 50
MAX_STACK_LINES = 400
MAX_STACK_BYTES = 60_000
_MAX_RECORD_BYTES = 1 << 20


def folders(run: RunDirectory) -> list[tuple[str, Path]]:
    """Every incident's name and folder, the oldest first, of all nodes."""
    found = []
    for one in run.incidents_of_all():
        try:
            entries = [path for path in one.iterdir() if path.name.isdigit() and path.is_dir()]
        except OSError:
            continue
        prefix = f"{one.name}/" if one.name != "incidents" else ""
        found += [(f"{prefix}{path.name}", path) for path in entries]
    return sorted(found, key=lambda each: (each[0].rpartition("/")[0], int(each[1].name)))


def read(run: RunDirectory, said: Callable[[str], None]) -> tuple[tuple[IncidentFacts, ...], int]:
    """The newest incidents, and how many there are; `said` is told which one is looked at."""
    found = folders(run)
    facts = []
    for name, folder in found[-MAX_SHOWN:]:
        said(f"incident {name}")
        incident = _incident(folder)
        if incident is not None:
            facts.append(_facts(name, folder, incident))
    return tuple(sorted(facts, key=lambda each: each.begin_seconds)), len(found)


def _incident(folder: Path) -> Incident | None:
    try:
        path = folder / INCIDENT_FILE
        if not path.is_file() or path.stat().st_size > _MAX_RECORD_BYTES:
            return None
        return parse_incident(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None


def _facts(name: str, folder: Path, incident: Incident) -> IncidentFacts:
    verdict, problem = None, None
    if incident.evidence == "dropped":
        problem = "its evidence was dropped to make room for newer ones"
    else:
        try:
            verdict = verdict_of(folder)
        except HarnessError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001 -- evidence from a stranger: one Case's damage is its own
            problem = f"its evidence cannot be judged ({type(error).__name__}: {error})"
    return IncidentFacts(
        name=name,
        attempt=_whole(incident.attempt) or 0,
        begin_seconds=_number(incident.last_progress_at_seconds) or _seconds(incident.opened_at) or 0.0,
        lasted_seconds=_number(incident.closed_after_seconds) if incident.closed_at is not None else None,
        ending=str(incident.how) if incident.how is not None else None,
        where=str(incident.where),
        step=_whole(incident.step),
        ranks=tuple(each for each in incident.ranks if isinstance(each, int)),
        why=str(incident.why),
        limit_seconds=_number(incident.limit_seconds) or 0.0,
        headline=str(incident.headline) if incident.headline else None,
        verdict=verdict,
        problem=problem,
    )


def verdict_of(folder: Path) -> Verdict:
    """What the Case in `folder` says; RecordError where there is none."""
    case = bundle.load(folder)
    diagnosis = diagnose(case)
    found = diagnosis.verdict
    blamed = found.blame
    stacks, left_out = _bounded(
        single_line_keeping_indent(each) for each in tree.lines(tree.merged(View(case)))
    )
    return Verdict(
        heading=HEADINGS[found.state],
        state=found.state,
        cause=found.cause,
        summary=strike_out_text(found.summary),
        confidence=found.confidence,
        where=f"{blamed.file}:{blamed.line} in {blamed.function} ({blamed.thread})" if blamed else None,
        source=tuple(
            (number, strike_out_text(text))
            for number, text in source_window(case, blamed.file, blamed.line, blamed.function)
        )
        if blamed
        else (),
        line=blamed.line if blamed else None,
        chain=_struck(link_text(each) for each in found.chain) if len(found.chain) > 1 else (),
        because=_struck(found.evidence),
        next_steps=tuple(found.next_steps),
        others=_struck(
            f"{each.cause} ({each.confidence:.0%}): {each.summary}" for each in diagnosis.findings[1:]
        ),
        notes=_struck(f"{each.cause}: {each.summary}" for each in diagnosis.notes),
        not_checked=_struck(
            f"{each.what}: {each.reason.replace('_', ' ')}, {each.detail}" for each in diagnosis.not_checked
        ),
        stacks=stacks,
        stacks_left_out=left_out,
    )


def _bounded(lines: Iterable[str]) -> tuple[tuple[str, ...], int]:
    """As many of the lines as are to be shown, and how many are not."""
    kept: list[str] = []
    size = 0
    every = iter(lines)
    for line in every:
        size += len(line)
        if len(kept) == MAX_STACK_LINES or size > MAX_STACK_BYTES:
            return tuple(kept), 1 + sum(1 for _ in itertools.islice(every, 1_000_000))
        kept.append(line)
    return tuple(kept), 0


def _struck(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(strike_out_text(line) for line in lines)


def _seconds(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):
        return None


def _number(value: object) -> float | None:
    """A number that a clock or a limit may be, whatever stands in the file."""
    return float(value) if isinstance(value, (int, float)) and -1e11 < value < 1e11 else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and abs(value) < 2**53 else None
