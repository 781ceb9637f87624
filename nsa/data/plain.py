"""Local files read with pyarrow alone, for machines without `datasets`: the same rows in the same order.

Where `datasets` is installed it reads local parquet too, so that one path is the tried one. Lines of text are
always read here: `datasets` takes every column for what the first 10 MB of it were, and ends where another
one than the text's changes. Not here: the hub, which needs it.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    import pyarrow as pa

_SURROGATES = re.compile("[\ud800-\udfff]")


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

    seen: dict[str, None] = {}
    with Path(path).open(encoding="utf-8-sig") as file:
        numbered = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        while some := list(itertools.islice(numbered, rows)):
            documents = [_document(number, line) for number, line in some]
            seen.update(dict.fromkeys(name for document in documents for name in document))
            if columns and not set(columns) <= set(seen):
                documents = [{}] * len(documents)  # as in _parquet: their names are what is told
            names = columns if columns and set(columns) <= set(seen) else list(seen)
            yield pa.table(
                {name: [_storable(document.get(name)) for document in documents] for name in names}
            )


def _storable(value: Any) -> Any:
    """Arrow's text is UTF-8: each lone surrogate becomes U+FFFD, as it does in a BPE."""
    if not isinstance(value, str) or value.isascii():
        return value
    return _SURROGATES.sub("\ufffd", value)


def _document(number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"line {number} holds no object with keys")  # noqa: TRY004 -- the file's fault
    return found
