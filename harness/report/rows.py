"""metrics.jsonl from end to end, in bounded memory: lines to rows, rows to columns.

A line is believed if it is JSON with a whole `step` and a finite `time`; anything else is counted and passed
over: a line cut short by a full disk, NULs after a power cut, somebody else's text. Not here: what is made of
the rows (`history`, `judge`).
"""

from __future__ import annotations

import json
import math
import os
import stat
from itertools import groupby
from operator import itemgetter, le, truediv
from typing import TYPE_CHECKING, Any, cast

from harness.report.history import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from harness.report.history import Numbers

_CHUNK_BYTES = 1 << 17  # what is parsed together should fit into a processor's cache: half the time
_LINE_BYTES = 1 << 18  # a row has some 300; what is longer is none
_MAX_STEP = 2**53
_MAX_SECONDS = 1e11
_MAX_PHASES = 64
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_IDENTITY = itemgetter("step", "time", "attempt")
_FIELDS = ("loss", "lr", "grad_norm", "tokens", "step_seconds", "phases")
_GPU = (
    ("gpu_allocated_bytes", "allocated"),
    ("gpu_reserved_bytes", "reserved"),
    ("gpu_peak_bytes", "peak"),
)


class RowReader:
    """Reads one file once.

    Args:
        path: metrics.jsonl.
        progress: told now and then which part of the file has been read.
    """

    def __init__(self, path: Path, progress: Callable[[float], None] | None = None) -> None:
        self._path = path
        self._progress = progress
        self.rows_lost = 0
        self.unreadable_lines = 0
        self.problem: str | None = None

    def runs(self) -> Iterator[Run]:
        """The rows in the order of the file, in runs of a few thousand at most."""
        after_gap = False
        for lines in self._chunks():
            for group in self._groups(_documents(lines)):
                if isinstance(group, int):
                    self.rows_lost += group
                    after_gap = True
                    continue
                for run in self._ascending(group):
                    run.after_gap, after_gap = after_gap, False
                    yield run

    def _chunks(self) -> Iterator[list[bytes]]:
        """Whole lines, a megabyte at a time; the last one too if it has not ended yet."""
        try:
            # NONBLOCK: a FIFO of that name must not hold us.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except FileNotFoundError:
            self.problem = "no step was recorded"
            return
        except OSError as error:
            self.problem = f"{self._path.name} cannot be read: {error.strerror}"
            return
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            os.close(descriptor)
            self.problem = f"{self._path.name} is not a regular file"
            return
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            # What is written while we read is left for the next report.
            left, rest, skipping = facts.st_size, b"", False
            while left > 0:
                try:
                    data = file.read(min(left, _CHUNK_BYTES))
                except OSError as error:
                    self.problem = f"{self._path.name} could be read in part only: {error.strerror}"
                    return
                if not data:
                    break
                left -= len(data)
                if skipping:
                    cut = data.find(b"\n")
                    if cut < 0:
                        continue
                    data, skipping = data[cut + 1 :], False
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > _LINE_BYTES:
                    rest, skipping = b"", True
                    self.unreadable_lines += 1
                yield lines
                if self._progress is not None:
                    self._progress(1.0 - left / facts.st_size)
            if rest:
                yield [rest]

    def _groups(self, documents: list[Any]) -> Iterator[list[dict[str, Any]] | int]:
        """Rows of one attempt with nothing missing between them; or how many rows a hole has."""
        if _is_one_run(documents):
            yield documents
            return
        rows: list[dict[str, Any]] = []
        for is_row, several in groupby(documents, key=_is_row):
            if is_row:
                rows = list(several)
                for _, attempt in groupby(rows, key=_attempt):
                    yield list(attempt)
                continue
            for document in several:
                lost = _lost(document)
                if lost is None:
                    self.unreadable_lines += 1
                else:
                    yield lost

    def _ascending(self, rows: list[dict[str, Any]]) -> Iterator[Run]:
        """Runs whose steps do not go back."""
        steps = [row["step"] for row in rows]
        if all(map(le, steps, steps[1:])):
            yield run_of(rows)
            return
        begin = 0
        for index in range(1, len(steps) + 1):
            if index == len(steps) or steps[index] < steps[index - 1]:
                yield run_of(rows[begin:index])
                begin = index


def _documents(lines: Sequence[bytes]) -> list[Any]:
    """Each line's JSON; None for what is none. Parsed together, which takes two thirds of the time."""
    lines = [line for line in lines if line and not line.isspace()]
    try:
        found = json.loads(b"[" + b",".join(lines) + b"]")
        if len(found) == len(lines):
            return found  # type: ignore[no-any-return]
    except (ValueError, RecursionError):
        pass
    return [_document(line) for line in lines]


def _document(line: bytes) -> Any:
    try:
        return json.loads(line) if len(line) <= _LINE_BYTES else None
    except (ValueError, RecursionError):
        return None


def _is_one_run(documents: list[Any]) -> bool:
    """Whether all are rows of one attempt; the quick way to see what is so nearly always."""
    try:
        steps, seconds, attempts = zip(*map(_IDENTITY, documents), strict=True)
    except (TypeError, KeyError, IndexError, ValueError):
        return False
    return (
        set(attempts) == {attempts[0]}
        and set(map(type, documents)) == {dict}
        and set(map(type, steps)) == {int}
        and set(map(type, seconds)) == {float}
        and -_MAX_STEP < min(steps) <= max(steps) < _MAX_STEP
        and math.isfinite(sum(seconds))
        and 0 <= min(seconds) <= max(seconds) < _MAX_SECONDS
    )


def _is_row(document: Any) -> bool:
    if document.__class__ is not dict:
        return False
    step, seconds = document.get("step"), document.get("time")
    return (
        step.__class__ is int
        and -_MAX_STEP < step < _MAX_STEP
        and (seconds.__class__ is float or seconds.__class__ is int)
        and 0 <= seconds < _MAX_SECONDS
    )


def _attempt(row: Mapping[str, Any]) -> int:
    found = row.get("attempt")
    return found if found.__class__ is int and 0 <= found < _MAX_STEP else 0


def _lost(document: Any) -> int | None:
    """How many rows a line of the kind {"gap": [first, last], "rows": n} says are missing."""
    if document.__class__ is not dict or "gap" not in document:
        return None
    rows = document.get("rows")
    return rows if rows.__class__ is int and 0 <= rows < _MAX_STEP else 0


def run_of(rows: Sequence[dict[str, Any]]) -> Run:
    """Columns from rows that were found good."""
    columns: dict[str, Numbers] = {}
    clean: set[str] = set()

    def put(name: str, values: Sequence[Any]) -> None:
        column, is_clean = numbers(values)
        if column is not None:
            columns[name] = column
            if is_clean:
                clean.add(name)

    found = _columns(rows, _FIELDS)
    put("loss", found["loss"])
    put("lr", [rate[0] if rate.__class__ is list and rate else rate for rate in found["lr"]])
    put("grad_norm", found["grad_norm"])
    put("step_seconds", found["step_seconds"])
    put("resident_bytes", [row.get("resident_bytes") for row in rows])
    memory = [row.get("gpu_memory_bytes") for row in rows]
    if any(memory):
        parts = _columns(memory, [key for _, key in _GPU])
        for name, key in _GPU:
            put(name, parts[key])
    tokens, has_tokens = numbers(found["tokens"])
    seconds = columns.get("step_seconds")
    if tokens is not None and seconds is not None:
        if has_tokens and "step_seconds" in clean and min(cast("list[float]", seconds)) > 0:
            put("tokens_per_second", list(map(truediv, tokens, seconds)))
        else:
            put(
                "tokens_per_second",
                [
                    count / took if count is not None and took is not None and took > 0 else None
                    for count, took in zip(tokens, seconds, strict=True)
                ],
            )
    phases, phase_rows = _phases(found["phases"])
    return Run(
        attempt=_attempt(rows[0]),
        steps=[row["step"] for row in rows],
        seconds=[row["time"] for row in rows],
        columns=columns,
        clean=frozenset(clean),
        phases=phases,
        phase_rows=phase_rows,
    )


def _columns(documents: Sequence[Any], names: Sequence[str]) -> dict[str, Sequence[Any]]:
    """The values of several keys, a column each; None where a document has no such key, or is none."""
    try:
        return dict(zip(names, zip(*map(itemgetter(*names), documents), strict=True), strict=True))
    except (TypeError, KeyError, IndexError):
        each = [document if document.__class__ is dict else {} for document in documents]
        return {name: [document.get(name) for document in each] for name in names}


def numbers(values: Sequence[Any]) -> tuple[Numbers | None, bool]:
    """The values as floats, None where there is none; whether all are there and finite. None: not one is."""
    kinds = set(map(type, values))
    if kinds == {int} and -_MAX_STEP < min(values) <= max(values) < _MAX_STEP:
        return list(map(float, values)), True
    if kinds == {float} and math.isfinite(sum(values)):
        return list(values), True
    if kinds == {type(None)}:
        return None, False
    found = [_number(value) for value in values]
    if all(value is None for value in found):
        return None, False
    return found, all(value is not None and math.isfinite(value) for value in found)


def _number(value: Any) -> float | None:
    if value.__class__ is float:
        return float(value)
    if value.__class__ is int:
        try:
            return float(value)
        except OverflowError:
            return None
    return _WORDS.get(value) if value.__class__ is str else None


def _phases(found: Sequence[Any]) -> tuple[dict[str, list[float]], list[int]]:
    """Seconds by phase, a column each, and for each row whether it has any."""
    each_row = [phases if phases.__class__ is dict else {} for phases in found]
    names = list(dict.fromkeys(name for phases in each_row for name in phases))[:_MAX_PHASES]
    columns: dict[str, list[float]] = {}
    for name, values in _columns(each_row, names).items() if len(names) > 1 else _one(each_row, names):
        column, clean = numbers(values)
        if clean and 0 <= min(cast("list[float]", column)) <= max(cast("list[float]", column)) < _MAX_SECONDS:
            columns[name[:40]] = cast("list[float]", column)
        else:
            columns[name[:40]] = [
                value if value is not None and 0 <= value < _MAX_SECONDS else 0.0
                for value in column or [0.0] * len(each_row)
            ]
    return columns, [1 if phases else 0 for phases in each_row]


def _one(documents: Sequence[dict[str, Any]], names: Sequence[str]) -> list[tuple[str, list[Any]]]:
    """`_columns` of one key, or of none."""
    return [(name, [document.get(name) for document in documents]) for name in names]
