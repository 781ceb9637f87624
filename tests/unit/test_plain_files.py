"""Local files without `datasets`: the same batches as with it, and its absence said where it is needed."""

from __future__ import annotations

import itertools
import json
import sys

import pytest

from tests.support import needs, tiny_run
from tests.support.env import REPOSITORY
from tests.support.programs import completed

np = needs.require("numpy")
pa = needs.require("pyarrow")
needs.require("datasets")
needs.require("pydantic")

import pyarrow.parquet as pq

from nsa import config as configuration
from nsa.data import open_stream, plain
from nsa.errors import ConfigError, DataSourceError
from nsa.tokenizer import ByteTokenizer

WITHOUT = """
import importlib.util, sys
sys.modules["datasets"] = None
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "datasets" else found(name, package)
from nsa.cli import main
sys.exit(main(sys.argv[1:]))
"""


def batches(path, count=40, cursor=None):
    config = configuration.load(path)
    with open_stream(config, ByteTokenizer(), rank=0, world_size=1, cursor=cursor) as stream:
        taken = [batch.tokens for batch in itertools.islice(stream, count)]
        return np.stack(taken), stream.cursor()


@pytest.fixture
def path(tmp_path):
    """Lines, and parquet with another column and several row groups."""
    lines = tiny_run.text_file(tmp_path)
    rows = [json.loads(line)["text"] for line in lines.read_text().splitlines()]
    table = pa.table({"n": list(range(len(rows))), "text": [row[::-1] for row in rows]})
    pq.write_table(table, tmp_path / "more.parquet", row_group_size=7)
    return tiny_run.config(tmp_path, data={"paths": [str(lines), str(tmp_path / "more.parquet")]})


def test_the_same_batches_and_the_same_place(path, monkeypatch):
    with_datasets, cursor = batches(path)
    monkeypatch.setattr(plain, "is_needed", lambda: True)
    without, its_cursor = batches(path)
    np.testing.assert_array_equal(with_datasets, without)
    assert cursor == its_cursor
    after, _ = batches(path, 3, cursor)
    monkeypatch.undo()
    np.testing.assert_array_equal(after, batches(path, 3, cursor)[0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"text": "a"}\n{"te', "line 2 is not JSON"),
        ('"text"\n', "line 1 holds no object"),
        ('{"title": "a"}\n', "no column 'text', only title"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text, said, tmp_path, monkeypatch):
    path = tiny_run.config(tmp_path)
    (tmp_path / "text.jsonl").write_text(text)
    monkeypatch.setattr(plain, "is_needed", lambda: True)
    with pytest.raises(DataSourceError, match=said):
        batches(path)


def test_the_hub_needs_it(path, monkeypatch):
    monkeypatch.setattr(plain, "is_needed", lambda: True)
    config = configuration.load(path, ["data.source=fineweb-edu", "data.paths=[]"])
    with pytest.raises(ConfigError, match="datasets is not installed"):
        open_stream(config, ByteTokenizer(), rank=0, world_size=1)


@pytest.mark.needs("torch")
def test_a_whole_training_runs_without_it(path, tmp_path):
    out = tmp_path / "out"
    done = completed(
        [sys.executable, "-c", WITHOUT, "train", str(path), "--out", str(out), "--set", "train.steps=4"],
        cwd=REPOSITORY,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in tiny_run.rows(out)] == [1, 2, 3, 4]
