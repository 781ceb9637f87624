"""Local files read with pyarrow alone, for machines without `datasets`: the same rows in the same order.

Where `datasets` is installed it reads local files too, so that one path is the tried one. Not here: the hub,
which needs it.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    import pyarrow as pa


@cache
def is_needed() -> bool:
    """Whether `datasets` is missing here."""
    return importlib.util.find_spec("datasets") is None


def tables(
    path: str, kind: Literal["parquet", "json"], *, columns: list[str] | None, rows: int
) -> Iterator[pa.Table]:
    """The rows of a file, at most `rows` at a time; of its columns those named, if it has them all."""
    return _parquet(path, columns, rows) if kind == "parquet" else _lines(path, columns, rows)


def _parquet(path: str, columns: list[str] | None, rows: int) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        # A column that is not there is the caller's to tell: it names those that are.
        chosen = columns if columns and set(columns) <= set(file.schema_arrow.names) else None
        for batch in file.iter_batches(batch_size=rows, columns=chosen):
            yield pa.Table.from_batches([batch])


def _lines(path: str, columns: list[str] | None, rows: int) -> Iterator[pa.Table]:
    import pyarrow as pa

    with Path(path).open(encoding="utf-8") as file:
        numbered = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        while some := list(itertools.islice(numbered, rows)):
            documents = [_document(number, line) for number, line in some]
            names = dict.fromkeys(name for document in documents for name in document)
            if columns and set(columns) <= set(names):
                names = dict.fromkeys(columns)
            yield pa.table({name: [document.get(name) for document in documents] for name in names})


def _document(number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"line {number} holds no object with keys")  # noqa: TRY004 -- the file's fault
    return found
