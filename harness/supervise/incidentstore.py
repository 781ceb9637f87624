"""Incidents on disk: `incidents/NNN/incident.json` beside the evidence, bounded, whole or absent.

Not here: when an incident begins and ends (`incidents`), and the evidence itself (`harness.bundle`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import RecordError
from harness.rundir import read_regular

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA = "harness.incident/1"
INCIDENT_FILE = "incident.json"
MAX_KEPT = 50
MAX_BYTES = 256 * 2**20
_PENDING = ".pending-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """What `incident.json` says. Times are ISO 8601, UTC."""

    number: int
    attempt: int
    opened_at: str
    stage: str
    where: str
    phase: str | None
    step: int | None
    rank: int | None
    ranks: tuple[int | None, ...]
    last_progress_at_seconds: float  # wall clock of the first rank's last progress
    idle_seconds: float
    limit_seconds: float
    why: str
    summary: str
    headline: str | None = None
    cause: str | None = None
    evidence: str = "whole"  # "whole", "dropped" (to make room), or what went wrong
    closed_at: str | None = None
    closed_after_seconds: float | None = None
    how: str | None = None

    def to_json(self) -> str:
        """The text of incident.json."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=1, ensure_ascii=False) + "\n"


def parse_incident(text: str) -> Incident | None:
    """Text of an incident.json; None where it is not one of ours."""
    try:
        document: Mapping[str, Any] = json.loads(text)
        if document["schema"] != SCHEMA:
            return None
        known = {each.name for each in dataclasses.fields(Incident)}
        values = {key: value for key, value in document.items() if key in known}
        found = Incident(**{**values, "ranks": tuple(values["ranks"])})
        texts = (found.opened_at, found.where, found.summary, found.headline or "", found.cause or "")
        return found if all(isinstance(each, str) for each in texts) else None
    except (ValueError, KeyError, TypeError):
        return None


def read_incident(folder: Path) -> Incident | None:
    """The record of the incident in `folder`; None where it is none, or cannot be read."""
    try:
        return parse_incident(read_regular(folder / INCIDENT_FILE))
    except (OSError, RecordError):
        return None


class IncidentStore:
    """The folder of a run's incidents."""

    def __init__(self, folder: Path, *, max_kept: int = MAX_KEPT, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_kept, self._max_bytes = max_kept, max_bytes

    def pending(self, number: int) -> Path:
        """Where the evidence of an incident to be is gathered."""
        return self._folder / f"{_PENDING}{os.getpid()}-{number}"

    def discard(self, pending: Path) -> None:
        """Remove evidence that is not needed after all."""
        _remove(pending)

    def settle(self, incident: Incident, pending: Path) -> Path:
        """Give gathered evidence (or none) its number; OSError where nothing can be written."""
        path = self._folder / f"{incident.number:03d}"
        try:
            pending.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(pending / INCIDENT_FILE, incident.to_json())
            pending.rename(path)
        except OSError:
            _remove(pending)
            raise
        return path

    def update(self, incident: Incident) -> Path:
        """Write an incident's record again; OSError."""
        path = self._folder / f"{incident.number:03d}"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(path / INCIDENT_FILE, incident.to_json())
        return path

    def make_room(self) -> list[int]:
        """Drop the oldest evidence beyond the bounds; whose it was. The newest stays whatever its size."""
        sized = [(path, _evidence_bytes(path)) for path in self._numbered()]
        held = [(path, size) for path, size in sized if size > 0]
        dropped: list[int] = []
        kept = total = 0
        for path, size in reversed(held):
            kept, total = kept + 1, total + size
            if kept > 1 and (kept > self._max_kept or total > self._max_bytes):
                with contextlib.suppress(OSError):
                    _drop_evidence(path)
                    dropped.append(int(path.name))
        return dropped

    def look_back(self) -> tuple[int, Incident | None]:
        """The highest number so far and its incident; clears what an earlier supervisor left half done."""
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if path.name.startswith(_PENDING):
                    _remove(path)
        numbered = self._numbered()
        return (int(numbered[-1].name), read_incident(numbered[-1])) if numbered else (0, None)

    def _numbered(self) -> list[Path]:
        with contextlib.suppress(OSError):
            found = [path for path in self._folder.iterdir() if path.name.isdigit() and path.is_dir()]
            return sorted(found, key=lambda path: int(path.name))
        return []


def _drop_evidence(path: Path) -> None:
    for each in path.iterdir():
        if each.name != INCIDENT_FILE:
            _remove(each)
    incident = read_incident(path)
    if incident is not None:
        _write(path / INCIDENT_FILE, dataclasses.replace(incident, evidence="dropped").to_json())


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a full disk must not leave half a JSON."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _evidence_bytes(path: Path) -> int:
    """Size of an incident's evidence, its incident.json apart."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            if name == INCIDENT_FILE:
                continue
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 -- as os.walk gives it
    return total
