"""Where a parquet file is entered in its middle: at a row group, so that those before it are not read.

A file of FineWeb-Edu has 2 GB, and `datasets` passes over rows by reading them, its own `state_dict` not
excepted. What row groups its stream of a file reads is an argument of it that nothing public sets; where that
argument is not found (another version), all is read, and the rows are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow.parquet as pq


def before(metadata: pq.FileMetaData, row: int) -> tuple[int, int]:
    """How many row groups end before `row`, and how many rows they hold."""
    groups = rows = 0
    while groups < metadata.num_row_groups and (after := rows + metadata.row_group(groups).num_rows) <= row:
        groups, rows = groups + 1, after
    return groups, rows


def leave_out(stream: Any, url: str, row: int) -> int:
    """Have a stream of the one file `url` begin at the row group that holds `row`; its first row's number."""
    arguments = getattr(getattr(stream, "_ex_iterable", None), "kwargs", None)
    if not isinstance(arguments, dict) or arguments.get("row_groups_list") != [None]:
        return 0
    metadata = _metadata(url)
    groups, rows = before(metadata, row)
    arguments["row_groups_list"] = [tuple(range(groups, metadata.num_row_groups))]
    return rows


def _metadata(url: str) -> pq.FileMetaData:
    import pyarrow.parquet as pq

    if not url.startswith("hf://"):
        return pq.read_metadata(url)
    from huggingface_hub import HfFileSystem

    with HfFileSystem().open(url, "rb") as file:
        return pq.read_metadata(file)
