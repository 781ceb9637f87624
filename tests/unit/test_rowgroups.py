"""Where a parquet file is entered in its middle; that less is read is shown in integration/test_hub.py."""

from __future__ import annotations

import pytest

from tests.support import needs

needs.require("pyarrow")
needs.require("datasets")

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from nsa.data import rowgroups

# Row groups of 4, 4 and 2 rows.
ENTRIES = [(0, 0), (3, 0), (4, 4), (7, 4), (8, 8), (9, 8), (10, 10), (99, 10)]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "ten.parquet"
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(10)]}), path, row_group_size=4)
    return path


@pytest.mark.parametrize(("row", "entered"), ENTRIES)
def test_a_file_is_entered_at_the_row_group_that_holds_the_row(file, row, entered):
    stream = datasets.load_dataset(
        "parquet", data_files={"train": [str(file)]}, split="train", streaming=True
    )
    assert rowgroups.leave_out(stream, str(file), row) == entered
    read = [text for table in stream.with_format("arrow").iter(3) for text in table["text"].to_pylist()]
    assert read == [f"row {n}" for n in range(entered, 10)]


@pytest.mark.parametrize("arguments", [None, {}, {"row_groups_list": [(0,)]}, {"files": ["a"]}])
def test_another_versions_stream_is_left_alone(arguments):
    class Examples:
        kwargs = arguments

    class Stream:
        _ex_iterable = Examples()

    assert rowgroups.leave_out(Stream(), "nowhere", 5) == 0
    assert rowgroups.leave_out(object(), "nowhere", 5) == 0
