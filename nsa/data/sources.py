"""Sources of text: which shards there are, and the rows of one shard, through `datasets` where it is there.

A source is resolved once into a list of shards and an identity; reading goes shard by shard, from any row,
and begins again at that row when a remote read fails. Not here: the order of shards and documents
(nsa.data.stream), the hub's answers (nsa.data.hub, nsa.data.hubclient).
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from nsa.data import files, local_docs, plain, rowgroups
from nsa.errors import ConfigError, DataSourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa

    from nsa.config import DataConfig
    from nsa.data.meter import Meter

_ROWS = 256
_LONGEST_BACKOFF_SECONDS = 8.0
_REFUSALS = frozenset({400, 401, 403, 404, 410, 416})
OFFLINE = (
    "Without a network: stage documents elsewhere with `nsa data fetch` and set data.source to files, "
    "or set data.source to local-docs"
)
CHECK_FILES = "Check the file, or take it out of data.paths"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of documents."""

    name: str
    url: str  # a path, or hf://datasets/…@commit/…
    format: Literal["parquet", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A resolved source: its shards in the order of their names."""

    label: str  # as a message names it
    identity: str  # equal for equal data
    revision: str | None  # the hub's commit
    shards: tuple[Shard, ...]
    text_column: str
    remedy: str
    retries: int = 0

    @property
    def remote(self) -> bool:
        """Whether a network stands between."""
        return self.revision is not None


def label(data: DataConfig) -> str:
    """How messages name the configured source, before it is resolved."""
    return f"{data.dataset} ({data.subset}) on the hub" if data.source == "fineweb-edu" else data.source


def remedy(data: DataConfig) -> str:
    """What to do when it is out of reach."""
    return OFFLINE if data.source == "fineweb-edu" else CHECK_FILES


def resolve(
    data: DataConfig,
    *,
    meter: Meter,
    revision: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Source:
    """Find the shards of the configured source; ConfigError or DataSourceError where there are none."""
    if data.source == "fineweb-edu":
        if plain.is_needed():
            raise ConfigError(
                "data.source: fineweb-edu: datasets is not installed. Install it (pip install datasets), "
                "or set data.source to local-docs or files"
            )
        from nsa.data import hub

        return hub.resolve(data, meter=meter, revision=revision)
    if data.source == "local-docs":
        folder = local_docs.gathered(data.cache_dir, progress)
        paths, column = sorted(folder.glob("*.parquet")), "text"
    else:
        paths, column = files.expand(data.paths), data.text_column
    return Source(
        label=data.source,
        identity=files.identity(paths),
        revision=None,
        shards=tuple(
            Shard(name=path.name, url=str(path.resolve()), format=files.FORMATS[path.suffix])
            for path in paths
        ),
        text_column=column,
        remedy=CHECK_FILES,
    )


def documents(source: Source, shard: Shard, start_row: int, meter: Meter) -> Iterator[tuple[int, str]]:
    """Rows of `shard` from `start_row` on: number and text. A row without text is an empty document."""
    column = source.text_column
    for row, table in tables(source, shard, start_row, meter, columns=(column,)):
        for number, text in enumerate(table[column].to_pylist(), start=row):
            if text is not None and not isinstance(text, str):
                raise DataSourceError(
                    f"data source {source.label}: {shard.name}: row {number}: column {column!r} holds "
                    f"{type(text).__name__}, not text. Name the text's column in data.text_column"
                )
            yield number, text or ""


def tables(
    source: Source, shard: Shard, start_row: int, meter: Meter, *, columns: tuple[str, ...] | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Rows of `shard` from `start_row` on, some at a time, each with the first one's number.

    A remote read that fails is begun again at the row it had come to, `source.retries` times in a row
    without a new row.
    """
    row = start_row
    attempts = Attempts(source.retries, meter)

    def what() -> str:
        return f"data source {source.label}: cannot read {shard.name} at row {row}"

    while True:
        with attempts.next(what, source.remedy):
            for first, table in _tables(source, shard, row, meter, columns):
                yield first, table
                row = first + len(table)
                attempts.succeeded()
            return


class Attempts:
    """Counts attempts in a row; swallows a failure that may be tried again, after a pause."""

    def __init__(self, retries: int, meter: Meter) -> None:
        self._retries = retries
        self._meter = meter
        self._failures = 0
        self._since = time.monotonic()

    def succeeded(self) -> None:
        """The next failure is the first one in a row."""
        self._failures = 0
        self._since = time.monotonic()

    @contextlib.contextmanager
    def next(self, what: str | Callable[[], str], remedy: str) -> Iterator[None]:
        """Run one attempt; DataSourceError once there have been too many, or none can help."""
        try:
            yield
        except DataSourceError:
            raise
        except unreadable() as error:
            self._failures += 1
            why = reason(error)
            said = what if isinstance(what, str) else what()  # where it has come to by now
            if final(error):
                raise DataSourceError(f"{said}: {why}. {_final_remedy(error) or remedy}") from error
            if self._failures > self._retries or self._meter.abandoned.is_set():
                seconds = time.monotonic() - self._since
                tried = f" (attempt {self._failures}, after {seconds:.0f} s)" if self._retries else ""
                raise DataSourceError(f"{said}: {why}{tried}. {remedy}") from error
            self._meter.refused(why)
            self._meter.abandoned.wait(min(_LONGEST_BACKOFF_SECONDS, 0.25 * 2.0**self._failures))


def _tables(
    source: Source, shard: Shard, start_row: int, meter: Meter, columns: tuple[str, ...] | None
) -> Iterator[tuple[int, pa.Table]]:
    for first, table in _read(source, shard, start_row, meter, columns):
        missing = [name for name in columns or () if name not in table.column_names]
        if missing:
            raise DataSourceError(
                f"data source {source.label}: {shard.name} has no column {missing[0]!r}, only "
                f"{', '.join(table.column_names) or 'none'}. Name the text's column in data.text_column"
            )
        # Rows on the way to a saved place, or of the other split, are progress: no document tells of them.
        meter.moved()
        if first + len(table) <= start_row:
            continue
        skipped = max(0, start_row - first)
        yield first + skipped, table.slice(skipped)


def _read(
    source: Source, shard: Shard, start_row: int, meter: Meter, columns: tuple[str, ...] | None
) -> Iterator[tuple[int, pa.Table]]:
    """The rows of `shard`, some at a time, each with its first number; from `start_row` or before it."""
    lines_of_text = shard.format == "json" and not source.remote and columns is not None
    if plain.is_needed() or lines_of_text:
        yield from _numbered(
            0,
            plain.tables(shard.url, shard.format, columns=list(columns) if columns else None, rows=_ROWS),
        )
        return
    _prepare(source, meter)
    import datasets

    options: dict[str, Any] = {"columns": list(columns)} if shard.format == "parquet" and columns else {}
    try:
        stream = datasets.load_dataset(
            shard.format, data_files={"train": [shard.url]}, split="train", streaming=True, **options
        )
    except StopIteration:
        return  # what it makes of an empty file of lines
    parquet = shard.format == "parquet"
    entered = rowgroups.leave_out(stream, shard.url, start_row) if parquet and start_row else 0
    yield from _numbered(entered, stream.with_format("arrow").iter(batch_size=_ROWS))


def _numbered(first: int, found: Iterable[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    for table in found:
        yield first, table
        first += len(table)


def import_all() -> None:
    """What reading imports, torch by `datasets` included: seconds that no stall limit should count."""
    if plain.is_needed():
        return
    import datasets

    if datasets.config.TORCH_AVAILABLE:
        import torch  # noqa: F401


def _prepare(source: Source, meter: Meter) -> None:
    """`datasets` as a trainer needs it: no bars on the terminal, no call home, bounded retries."""
    import datasets

    datasets.disable_progress_bars()
    # Each load_dataset, of local files too, otherwise sends a HEAD to a counter on S3 and waits 3 s for it.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    # Its own 20 attempts, 5 s apart and 60 s on 429, would be silence; `tables` tries again, and counts.
    for name in ("STREAMING_READ_MAX_RETRIES", "STREAMING_OPEN_MAX_RETRIES"):
        setattr(datasets.config, name, 1)
    for name in (
        "STREAMING_READ_RETRY_INTERVAL",
        "STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL",
        "STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL",
        "STREAMING_OPEN_RETRY_INTERVAL",
    ):
        setattr(datasets.config, name, 0)
    if source.remote:
        from nsa.data import hubclient

        hubclient.guard(meter)


def unreadable() -> tuple[type[BaseException], ...]:
    """What reading raises when a file or its server is at fault, and not this program."""
    import pyarrow as pa

    if plain.is_needed():
        return (OSError, ValueError, pa.ArrowException)
    import datasets

    from nsa.data import hubclient

    http_error = hubclient.http().HTTPError
    # TypeError is what `datasets` makes of a column that holds something else further down.
    return (OSError, TypeError, ValueError, pa.ArrowException, datasets.exceptions.DatasetsError, http_error)


def final(error: BaseException) -> bool:
    """Whether trying again cannot help."""
    status = _status(error)
    if status is not None:
        return status in _REFUSALS
    return isinstance(error, TypeError | ValueError | FileNotFoundError)


def _final_remedy(error: BaseException) -> str | None:
    if _status(error) in _REFUSALS:
        return (
            "The hub has no such repository, or not for you: check its name (data.dataset), and log in with "
            "`hf auth login` if it is private or gated"
        )
    return None


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def reason(error: BaseException) -> str:
    """The first line of the innermost cause's message, with its kind."""
    inner = error
    while isinstance(inner, ConnectionError) and inner.__cause__ is not None:
        inner = inner.__cause__  # datasets says "Server Disconnected" whatever happened
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return f"{type(inner).__name__}: {lines[0][:300]}" if lines else type(inner).__name__
