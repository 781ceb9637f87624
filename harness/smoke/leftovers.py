"""What a stage left in its run directory: steps, log, incidents, files. Read once it has ended.

What cannot be read is left out; what is shown of a log is short, harmless and without secrets. Not here: what
was seen while it ran (`observe`).
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from harness.redaction import strike_out_text
from harness.render.text import single_line
from harness.smoke.observed import Row, SeenIncident
from harness.supervise.incidentstore import INCIDENT_FILE, parse_incident

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.rundir import RunDirectory
    from harness.smoke.observed import Scalar

MEASURED_LINE = b"measured {"
_MAX_LINE_BYTES = 64 << 10
_MATCHED_CHARACTERS = 4096
_SHOWN_CHARACTERS = 300
_MAX_ROWS = 1_000_000
_MAX_FILES = 1000


def steps(path: Path) -> tuple[tuple[Row, ...], int]:
    """The steps in metrics.jsonl, and how many were lost."""
    rows: list[Row] = []
    lost = 0
    for line in _lines(path):
        try:
            found = json.loads(line)
            if "gap" in found:
                lost += int(found["rows"])
                continue
            rate = found["lr"]
            rows.append(
                Row(
                    step=int(found["step"]),
                    loss=_float(found["loss"]),
                    learning_rate=_float(rate[0] if isinstance(rate, list) else rate),
                    tokens=found.get("tokens"),
                    seconds=_float(found.get("step_seconds")),
                )
            )
        except (ValueError, KeyError, TypeError, IndexError):  # one line's damage is its own
            continue
        if len(rows) >= _MAX_ROWS:
            break
    return tuple(rows), lost


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _lines(path: Path) -> Iterator[bytes]:
    with contextlib.suppress(OSError), path.open("rb") as file:
        while line := file.readline(_MAX_LINE_BYTES):
            yield line


class Log:
    """What a log says: the lines looked for, the values measured, and its last words."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._patterns = {pattern: re.compile(pattern) for pattern in patterns}
        self.found: dict[str, str | None] = dict.fromkeys(patterns)
        self.measured: dict[str, Scalar] = {}
        self.last_line = ""

    def read(self, path: Path) -> None:
        """All of it, line by line."""
        for raw in _lines(path):
            raw = raw.lstrip(b"\0").rstrip(b"\n")  # a punched hole reads as zeros
            if raw.startswith(MEASURED_LINE):
                self._measure(raw)
                continue
            text = raw.decode(errors="replace")[:_MATCHED_CHARACTERS]
            for pattern, compiled in self._patterns.items():
                if self.found[pattern] is None and compiled.search(text):
                    self.found[pattern] = _shown(text)
            if any(character.isalnum() for character in text):  # torchrun ends with rules of dashes
                self.last_line = text

        self.last_line = _shown(self.last_line)

    def _measure(self, raw: bytes) -> None:
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(raw[len(MEASURED_LINE) - 1 :])
            for name, value in found.items():
                if isinstance(value, str):
                    self.measured[str(name)] = _shown(value)
                elif isinstance(value, (int, bool)) or (isinstance(value, float) and not math.isnan(value)):
                    self.measured[str(name)] = value


def _shown(text: str) -> str:
    """A line as the report keeps it: short, harmless, without what looks like a secret."""
    return strike_out_text(single_line(text))[:_SHOWN_CHARACTERS]


def incidents(run: RunDirectory) -> Iterator[SeenIncident]:
    """Every stall that was found, the first one first."""
    for path in sorted(run.incidents.glob(f"*/{INCIDENT_FILE}")):
        with contextlib.suppress(OSError, ValueError):
            incident = parse_incident(path.read_text(encoding="utf-8", errors="replace"))
            if incident is not None:
                opened = datetime.fromisoformat(incident.opened_at).timestamp()
                yield SeenIncident(
                    cause=incident.cause or "unknown",
                    headline=single_line(incident.headline or incident.summary),
                    found_after_seconds=max(0.0, opened - incident.last_progress_at_seconds),
                    path=str(path.parent),
                )


def count_files(folder: Path, pattern: str) -> int:
    """How many files of that pattern are there and not empty."""
    count = 0
    with contextlib.suppress(OSError, ValueError, NotImplementedError):  # an absolute pattern, say
        for path in folder.glob(pattern):
            count += path.is_file() and path.stat().st_size > 0
            if count >= _MAX_FILES:
                break
    return count
