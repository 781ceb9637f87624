"""Sources of text: which shards there are, and the documents of one shard, all through `datasets` streaming.

A source is resolved once into a list of shards and an identity; reading goes shard by shard, from any row.
Not here: the order of shards and documents (nsa.data.stream), talking to the hub (nsa.data.hub).
"""

from __future__ import annotations

import glob
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nsa.data import local_docs
from nsa.errors import ConfigError, DataSourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nsa.config import DataConfig

# Hashing whole files would take minutes for large ones; their ends (a parquet file's footer) do.
_WHOLE_BYTES = 64 << 20
_END_BYTES = 1 << 20
_FORMATS: dict[str, Literal["parquet", "json"]] = {".parquet": "parquet", ".jsonl": "json", ".ndjson": "json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of documents."""

    name: str
    url: str  # a path, or hf://datasets/…@commit/…
    format: Literal["parquet", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A resolved source: its shards in the order of their names."""

    label: str  # as an error message names it
    identity: str  # equal for equal data
    shards: tuple[Shard, ...]
    text_column: str
    remote: bool


def resolve(data: DataConfig, progress: Callable[[str], None] | None = None) -> Source:
    """Find the shards of the configured source; ConfigError or DataSourceError where there are none."""
    if data.source == "fineweb-edu":
        from nsa.data import hub

        return hub.resolve(data)
    if data.source == "local-docs":
        folder = local_docs.gathered(data.cache_dir, progress)
        return local("local-docs", sorted(folder.glob("*.parquet")), "text")
    return local("files", expand(data.paths), data.text_column)


def local(label: str, paths: list[Path], text_column: str) -> Source:
    """A source of local files."""
    digest = hashlib.blake2b(digest_size=16)
    shards = []
    for path in paths:
        try:
            digest.update(f"{path.name}\0{_content(path)}\0".encode())
        except OSError as error:
            raise DataSourceError(
                f"data source {label}: cannot read {path}: {error.strerror}. Check the file and data.paths"
            ) from error
        shards.append(Shard(name=path.name, url=str(path.resolve()), format=_FORMATS[path.suffix]))
    return Source(
        label=label, identity=digest.hexdigest(), shards=tuple(shards), text_column=text_column, remote=False
    )


def expand(patterns: tuple[str, ...]) -> list[Path]:
    """The files that `data.paths` names, each once, by name; ConfigError on a pattern without any."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        matches = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))  # noqa: PTH207, PTH111
        files = [Path(match) for match in matches if Path(match).is_file()]
        if not files:
            raise ConfigError(
                f"data.paths: {pattern!r} matches no file. Name .parquet or .jsonl files that exist"
            )
        for path in files:
            if path.suffix not in _FORMATS:
                raise ConfigError(
                    f"data.paths: {str(path)!r} is neither .parquet nor .jsonl. Name such files, or convert it"
                )
            found.setdefault(path)
    return sorted(found, key=lambda path: (path.name, str(path)))


def _content(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            digest.update(file.read())
        else:
            digest.update(file.read(_END_BYTES))
            file.seek(-_END_BYTES, os.SEEK_END)
            digest.update(file.read())
    return digest.hexdigest()


def documents(source: Source, shard: Shard, start_row: int) -> Iterator[tuple[int, str]]:
    """Rows of `shard` from `start_row` on: number and text. A row without text is an empty document."""
    _prepare()
    import datasets

    options: dict[str, Any] = {"columns": [source.text_column]} if shard.format == "parquet" else {}
    try:
        stream = datasets.load_dataset(
            shard.format, data_files={"train": [shard.url]}, split="train", streaming=True, **options
        )
    except (ValueError, KeyError) as error:
        raise _no_column(source, shard, str(error)) from error
    if stream.features is not None and source.text_column not in stream.features:
        raise _no_column(source, shard, f"its columns are {', '.join(stream.features)}")
    if start_row:
        stream = stream.skip(start_row)
    for row, example in enumerate(stream, start=start_row):
        text = example.get(source.text_column)
        if text is None:
            text = ""
        if not isinstance(text, str):
            raise DataSourceError(
                f"data source {source.label}: {shard.name}: row {row}: column {source.text_column!r} holds "
                f"{type(text).__name__}, not text. Name the text's column in data.text_column"
            )
        yield row, text


def _no_column(source: Source, shard: Shard, why: str) -> DataSourceError:
    return DataSourceError(
        f"data source {source.label}: {shard.name} has no column {source.text_column!r}: {why}. "
        "Name the text's column in data.text_column"
    )


def _prepare() -> None:
    """`datasets` as a trainer needs it: no bars on the terminal, no call home."""
    import datasets

    datasets.disable_progress_bars()
    # Each load_dataset, of local files too, otherwise sends a HEAD to a counter on S3 and waits 3 s for it.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
