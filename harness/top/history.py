"""The newest rows of metrics.jsonl, followed as the file grows; bounded in memory and in what one look reads.

Not here: the whole file (`harness.report`).
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections import deque
from typing import TYPE_CHECKING, Any

from harness.top.model import History

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 600
_TAIL_BYTES = 1 << 18
_LOOK_BYTES = 1 << 20
_PHASE_ROWS = 50
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MetricsTail:
    """Follows one metrics.jsonl."""

    def __init__(self, path: Path, rows: int = ROWS) -> None:
        self._path = path
        self._rows: deque[dict[str, Any]] = deque(maxlen=rows)
        self._inode: int | None = None
        self._at = 0
        self._rest = b""
        self._built: History | None = None

    def poll(self) -> History:
        """Read what is new; what cannot be read is passed over."""
        for line in self._new().split(b"\n"):
            row = _row(line)
            if row is not None:
                self._rows.append(row)
                self._built = None
        if self._built is None:
            self._built = history(list(self._rows))
        return self._built

    def _new(self) -> bytes:
        """Whole lines that came since the last look."""
        try:
            # It may be anybody's: no FIFO to wait at, no link out of the run directory.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                return b""
            if self._inode != facts.st_ino or facts.st_size < self._at:
                self._inode, self._rest = facts.st_ino, b""
                self._rows.clear()
                self._built = None
                self._at = max(0, facts.st_size - _TAIL_BYTES)
            elif facts.st_size - self._at > _LOOK_BYTES:  # far behind: only the newest are of interest
                self._at, self._rest = facts.st_size - _TAIL_BYTES, b""
            data = os.pread(descriptor, _LOOK_BYTES, self._at)
        except OSError:
            return b""
        finally:
            os.close(descriptor)
        self._at += len(data)
        whole, end, rest = (self._rest + data).rpartition(b"\n")
        self._rest = rest[-_TAIL_BYTES:]
        return whole if end else b""


def _row(line: bytes) -> dict[str, Any] | None:
    if not line:
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = found.get("step") if isinstance(found, dict) else None
    return found if isinstance(step, int) and not isinstance(step, bool) else None


def history(rows: list[dict[str, Any]]) -> History:
    """Columns of the rows."""
    seconds = [_number(row.get("step_seconds")) for row in rows]
    tokens = [_number(row.get("tokens")) for row in rows]
    phases: dict[str, float] = {}
    counted, taken = 0, 0.0
    for row, took in list(zip(rows, seconds, strict=True))[-_PHASE_ROWS:]:
        found = row.get("phases")
        if isinstance(found, dict) and found and took is not None:
            counted, taken = counted + 1, taken + took
            for name, value in found.items():
                phases[str(name)] = phases.get(str(name), 0.0) + (_number(value) or 0.0)
    return History(
        steps=tuple(row["step"] for row in rows),
        loss=tuple(_number(row.get("loss")) for row in rows),
        learning_rate=tuple(_first(row.get("lr")) for row in rows),
        grad_norm=tuple(_number(row.get("grad_norm")) for row in rows),
        tokens_per_second=tuple(
            count / took if count is not None and took else None
            for count, took in zip(tokens, seconds, strict=True)
        ),
        step_seconds=tuple(seconds),
        phase_seconds=phases,
        phase_steps=counted,
        phase_step_seconds=taken,
    )


def _first(value: object) -> float | None:
    return _number(value[0]) if isinstance(value, list) and value else _number(value)


def _number(value: object) -> float | None:
    if isinstance(value, str):
        return _WORDS.get(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 or not isinstance(value, int) else None
    return None
