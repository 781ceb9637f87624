"""Staging: N documents of a source as local parquet, for a machine without a network.

All columns of the source are kept. The folder appears whole or not at all: it is written under another
name beside its place, and a fetch that was cut off starts anew.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from nsa.data import opening, sources
from nsa.data.meter import Meter
from nsa.data.readahead import ReadAhead
from nsa.errors import ConfigError, DataSourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    import pyarrow as pa

    from nsa.config import DataConfig
    from nsa.data.meter import LoaderProgress
    from nsa.data.sources import Source

DOCUMENTS_PER_FILE = 5000
MANIFEST = "fetched.json"


def fetch(data: DataConfig, out: Path, documents: int, progress: Callable[[str], None] | None = None) -> Path:
    """Write the first `documents` documents of the configured source into the new folder `out`.

    Use them with `data.source: files` and `data.paths: [OUT/*.parquet]`. DataSourceError when the source
    is out of reach or holds fewer documents; nothing is left at `out` then.
    """
    if documents < 1:
        raise ConfigError(f"documents: {documents} is less than 1. Ask for at least one")
    if not out.name:
        raise ConfigError(f"out: {out} cannot be replaced as a whole. Name a new folder")
    try:
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise ConfigError(f"out: cannot read {out}: {error.strerror}. Name another folder") from error
    if taken:
        raise ConfigError(f"out: {out} exists already. Name a new folder, or remove it first")
    meter = Meter(sources.label(data), data.stall_timeout_seconds)

    def told(look: LoaderProgress) -> None:
        if progress is not None:
            progress(look.detail)

    source = opening.resolve(data, meter=meter, progress=told)
    temporary = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        written = _write(source, temporary, documents, meter, told)
        if written < documents:
            raise DataSourceError(
                f"data source {source.label} holds {written} documents, {documents} were asked for. "
                f"Ask for {written} or fewer"
            )
        (temporary / MANIFEST).write_text(
            json.dumps({"source": source.label, "revision": source.revision, "documents": written}) + "\n",
            encoding="utf-8",
        )
        if out.exists():
            out.rmdir()
        temporary.rename(out)
    except OSError as error:
        raise ConfigError(
            f"out: cannot write {out}: {error.strerror or error}. Name another folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _write(
    source: Source,
    folder: Path,
    documents: int,
    meter: Meter,
    progress: Callable[[LoaderProgress], None],
) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def produce() -> Generator[pa.Table, None, None]:
        for shard in source.shards:
            for _, table in sources.tables(source, shard, 0, meter):
                yield table

    ahead = ReadAhead(produce, meter=meter, remedy=source.remedy, progress=progress, ahead=8)
    written = number = rows = 0
    held: list[pa.Table] = []

    def put() -> None:
        nonlocal written, number, rows
        pq.write_table(
            pa.concat_tables(held, promote_options="default"),
            folder / f"documents-{number:05d}.parquet",
            row_group_size=1000,
            compression="zstd",
        )
        written, number, rows = written + rows, number + 1, 0
        held.clear()

    def fits(table: pa.Table) -> bool:
        """Whether it can stand in one file with what is held: another shard may have other types."""
        try:
            pa.unify_schemas([each.schema for each in (*held, table)])
        except pa.ArrowException:
            return False
        return True

    try:
        while written + rows < documents and (table := next(ahead, None)) is not None:
            if held and (rows >= DOCUMENTS_PER_FILE or not fits(table)):
                put()
            table = table.slice(0, documents - written - rows)
            held.append(table)
            rows += len(table)
            meter.documents(len(table), table.nbytes)
        if held:
            put()
    finally:
        ahead.close()
    progress(meter.snapshot())
    return written
