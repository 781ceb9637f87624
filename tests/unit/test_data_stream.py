"""The stream from local files: exact places, ranks, epochs, splits, and data that changed or is broken."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from tests.support import needs

np = needs.require("numpy")
pa = needs.require("pyarrow")
needs.require("datasets")
needs.require("pydantic")

import pyarrow.parquet as pq

from nsa.config import Config
from nsa.data import CursorMismatchError, fetch, open_stream, sources
from nsa.data.meter import Meter
from nsa.data.sources import Shard
from nsa.data.stream import held_out, shard_order
from nsa.errors import ConfigError, DataSourceError
from nsa.tokenizer import ByteTokenizer

SEQUENCE = 32


def documents(count=60, seed=0):
    generator = random.Random(seed)
    lengths = [0, 1, SEQUENCE - 1, SEQUENCE, SEQUENCE + 1, 10 * SEQUENCE]
    for number in range(count):
        length = generator.choice([*lengths, generator.randrange(200)])
        yield f"{seed}:{number}|".ljust(length, generator.choice("abcdé☃"))[: length or 0]


@pytest.fixture
def folder(tmp_path):
    """Three parquet shards of several row groups, and one of lines."""
    for shard in range(3):
        table = pa.table({"text": list(documents(seed=shard)), "id": [str(n) for n in range(60)]})
        pq.write_table(table, tmp_path / f"shard-{shard}.parquet", row_group_size=7)
    lines = [json.dumps({"text": text, "id": str(n)}) for n, text in enumerate(documents(seed=9))]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def configured(*paths, micro_batch=2, seed=1, **data):
    return Config.model_validate(
        {
            "name": "t",
            "seed": seed,
            "model": {"dim": 8, "layers": 1, "heads": 1, "kv_groups": 1},
            "tokenizer": {"kind": "byte"},
            "data": {"source": "files", "paths": list(map(str, paths)), "sequence_length": SEQUENCE,
                     "eval_fraction": 0.1, **data},
            "train": {"steps": 1, "micro_batch": micro_batch},
            "schedule": {"peak": 0.1, "warmup_steps": 0},
        }
    )  # fmt: skip


def opened(config, *, rank=0, world_size=1, **options):
    return open_stream(config, ByteTokenizer(), rank=rank, world_size=world_size, **options)


def taken(stream, count):
    return [
        (b.tokens.tolist(), b.document_ids.tolist(), b.documents) for b in itertools.islice(stream, count)
    ]


@pytest.fixture
def config(folder):
    return configured(folder / "*.parquet", folder / "lines.jsonl")


def test_a_batch_has_the_promised_shape(config):
    with opened(config) as stream:
        batch = next(stream)
    assert batch.tokens.shape == batch.document_ids.shape == (2, SEQUENCE + 1)
    assert batch.tokens.dtype == batch.document_ids.dtype == np.int32


def test_one_pass_holds_every_training_document_once_and_none_that_is_held_out(config):
    with opened(config, split="eval") as stream:
        held_out_tokens = [t for batch in stream for t in batch.tokens.ravel().tolist()]
    with opened(config) as stream:
        tokens = []
        while stream.cursor()["place"]["epoch"] == 0:
            tokens += next(stream).tokens.ravel().tolist()
    seen = ByteTokenizer().decode(tokens)
    shards = {f"shard-{n}.parquet": list(documents(seed=n)) for n in range(3)}
    shards["lines.jsonl"] = list(documents(seed=9))
    named = tuple(Shard(name=name, url="", format="json") for name in sorted(shards))

    def joined(order, held):
        texts = [t for shard in order for t in shards[shard.name] if held_out(t, 0.1) is held]
        return "".join(f"{text}<|endoftext|>" for text in texts)

    assert seen.startswith(joined(shard_order(named, 1, 0), False))
    expected = _tokens(joined(named, True))
    assert held_out_tokens == expected[: len(held_out_tokens)]
    # Only the last, incomplete round stays out.
    assert len(expected) - len(held_out_tokens) < 2 * (SEQUENCE + 1)


def _tokens(text):
    byte = ByteTokenizer()
    first, *rest = text.split("<|endoftext|>")
    return [*byte.encode(first), *(t for part in rest for t in [byte.eos_id, *byte.encode(part)])]


def test_a_cursor_continues_exactly_to_the_token_at_every_batch_twice_in_a_row(config):
    with opened(config) as stream:
        whole = taken(stream, 600)
        assert stream.cursor()["place"]["epoch"] >= 1, "well into the second pass"
    position, saved = 0, None
    for step in (1, 2, 3, 5, 40, 400, 30):
        with opened(config, cursor=saved) as stream:
            assert taken(stream, step) == whole[position : position + step]
            saved = json.loads(json.dumps(stream.cursor()))
        position += step
        assert saved["totals"]["sequences"] == 2 * position


def test_the_cursor_belongs_to_what_was_handed_out_not_to_what_was_read_ahead(config):
    with opened(config) as stream:
        before = stream.cursor()
        next(stream)
        after = stream.cursor()
    assert before["totals"]["sequences"] == 0
    assert after["totals"]["sequences"] == 2
    with opened(config, cursor=before) as one, opened(config) as other:
        assert taken(one, 3) == taken(other, 3)


def test_counts_of_truncation_go_on_where_they_were(config, folder):
    config = configured(folder / "*.parquet", truncate=True)
    with opened(config) as stream:
        taken(stream, 40)
        totals = stream.cursor()["totals"]
    assert totals["dropped_tokens"] > 0
    assert totals["truncated_documents"] > 0
    saved = None
    for _ in range(8):
        with opened(config, cursor=saved) as stream:
            taken(stream, 5)
            saved = stream.cursor()
    assert saved["totals"] == totals


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_see_what_one_process_sees_at_the_same_global_batch(config, folder, world_size):
    one = configured(folder / "*.parquet", folder / "lines.jsonl", micro_batch=2 * world_size)
    with opened(one) as stream:
        expected = taken(stream, 50)
    ranks = [opened(config, rank=rank, world_size=world_size) for rank in range(world_size)]
    for tokens, ids, begun in expected:
        batches = [next(rank) for rank in ranks]
        together = [row for pair in zip(*(b.tokens.tolist() for b in batches), strict=True) for row in pair]
        assert together == tokens
        assert [
            row for pair in zip(*(b.document_ids.tolist() for b in batches), strict=True) for row in pair
        ] == ids
        assert sum(b.documents for b in batches) == begun
        assert len({json.dumps(rank.cursor()) for rank in ranks}) == 1
    assert len({rank.fingerprint for rank in ranks}) == 1
    for rank in ranks:
        rank.close()


def test_all_ranks_get_equally_many_held_out_batches(config):
    counts = set()
    for rank in range(3):
        with opened(config, rank=rank, world_size=3, split="eval") as stream:
            counts.add(sum(1 for _ in stream))
    assert len(counts) == 1


def test_eval_is_the_same_each_time_and_can_be_capped(config, folder):
    with opened(config, split="eval") as one, opened(config, split="eval") as other:
        assert taken(one, 10**6) == taken(other, 10**6)
    capped = configured(folder / "*.parquet", micro_batch=1, eval_documents=2)
    with opened(capped, split="eval") as stream:
        assert sum(b.documents for b in stream) <= 2
    with pytest.raises(ValueError, match="takes no cursor"):
        opened(config, split="eval", cursor={})


def test_only_the_order_of_shards_depends_on_the_seed(folder):
    def first_documents(seed):
        with opened(configured(folder / "*.parquet", seed=seed)) as stream:
            return str(taken(stream, 3))

    assert first_documents(1) == first_documents(1)
    assert len({first_documents(seed) for seed in range(8)}) > 1


def test_the_second_pass_repeats_the_documents_in_another_order_of_shards(folder):
    shards = tuple(Shard(name=f"{n}", url="", format="parquet") for n in range(6))
    orders = [[s.name for s in shard_order(shards, 1, epoch)] for epoch in range(4)]
    assert len({tuple(o) for o in orders}) > 1
    assert all(sorted(o) == [s.name for s in shards] for o in orders)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"micro_batch": 2, "seed": 2}, "seed was 1, is 2"),
        ({"truncate": True}, "truncate was False, is True"),
        ({"eval_fraction": 0.2}, "eval_fraction was 0.1, is 0.2"),
        ({"sequence_length": 16}, "sequence_length was 32, is 16"),
    ],
)
def test_a_cursor_of_another_stream_is_refused_naming_what_differs(config, folder, changes, named):
    with opened(config) as stream:
        next(stream)
        saved = stream.cursor()
    other = configured(folder / "*.parquet", folder / "lines.jsonl", **changes)
    with pytest.raises(CursorMismatchError, match=f"belongs to another stream: {named}"):
        opened(other, cursor=saved)


def test_another_number_of_ranks_another_tokenizer_and_changed_files_are_refused(config, folder):
    with opened(config) as stream:
        next(stream)
        saved = stream.cursor()
    with pytest.raises(CursorMismatchError, match=r"belongs to 1 rank\(s\), this run has 2") as caught:
        opened(config, world_size=2, cursor=saved)
    assert caught.value.exit_status == 2

    class Other(ByteTokenizer):
        fingerprint = "other"

    with pytest.raises(CursorMismatchError, match="tokenizer was byte-1, is other"):
        open_stream(config, Other(), rank=0, world_size=1, cursor=saved)
    table = pq.read_table(folder / "shard-1.parquet")
    pq.write_table(table.slice(1), folder / "shard-1.parquet")
    with pytest.raises(CursorMismatchError, match="data was "):
        opened(config, cursor=saved)


def test_files_that_moved_are_the_same_data(config, folder, tmp_path_factory):
    with opened(config) as stream:
        expected = taken(stream, 4)
        saved = stream.cursor()
        more = taken(stream, 4)
    moved = tmp_path_factory.mktemp("moved")
    for path in list(folder.iterdir()):
        path.rename(moved / path.name)
    with opened(configured(moved / "*.parquet", moved / "*.jsonl")) as stream:
        assert taken(stream, 4) == expected
    with opened(configured(moved / "*.parquet", moved / "*.jsonl"), cursor=saved) as stream:
        assert taken(stream, 4) == more


def test_another_document_at_the_saved_place_is_refused_though_the_identity_is_the_same(config):
    with opened(config) as stream:
        while True:
            next(stream)
            saved = stream.cursor()
            if saved["offset"]:
                break
    saved["digest"] = "0" * 32
    with (
        opened(config, cursor=saved) as stream,
        pytest.raises(CursorMismatchError, match="the data changed under"),
    ):
        next(stream)


@pytest.mark.parametrize(
    "damage", [{}, {"version": 1}, {"version": 2}, 7, {"version": 1, "place": {"row": -1}}]
)
def test_a_damaged_or_foreign_cursor_is_one_clear_line(config, damage):
    with pytest.raises(CursorMismatchError, match="start anew with --resume never"):
        opened(config, cursor=damage)


def test_paths_that_match_nothing_or_the_wrong_thing_are_one_clear_line(tmp_path):
    with pytest.raises(ConfigError, match=r"data.paths: '.*\.parquet' matches no file"):
        opened(configured(tmp_path / "*.parquet"))
    (tmp_path / "a.csv").write_text("text\n")
    with pytest.raises(ConfigError, match=r"neither \.parquet nor \.jsonl"):
        opened(configured(tmp_path / "a.csv"))


BROKEN = {
    "truncated.parquet": b"PAR1 and no more",
    "empty.parquet": b"",
    "prose.jsonl": b"this is not json\n",
    "half.jsonl": b'{"text": "good"}\n{"text": "bad\n',
    "number.jsonl": b'{"text": 1}\n',
    "nested.jsonl": b'{"text": ["a"]}\n',
    "other.jsonl": b'{"body": "a"}\n',
    "empty.jsonl": b"",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_ends_with_its_name_and_a_remedy(name, tmp_path):
    (tmp_path / name).write_bytes(BROKEN[name])
    with opened(configured(tmp_path / name)) as stream, pytest.raises(DataSourceError) as caught:
        next(stream)
    assert "data source files" in str(caught.value)
    assert str(caught.value).count("\n") == 0
    assert caught.value.exit_status == 4


def test_rows_without_text_are_empty_documents_and_other_columns_can_be_named(tmp_path):
    lines = ['{"body": null}', '{"body": ""}', *(json.dumps({"body": f"text {n}"}) for n in range(200))]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with opened(
        configured(tmp_path / "a.jsonl", text_column="body", micro_batch=1, eval_fraction=1e-9)
    ) as stream:
        assert (
            ByteTokenizer()
            .decode(next(stream).tokens[0].tolist())
            .startswith("<|endoftext|><|endoftext|>text 0")
        )


def test_lines_give_their_text_whatever_their_other_keys_hold_and_wherever_these_begin(tmp_path):
    """`datasets` takes each column for what the first 10 MB of it were, and for nothing else after."""
    long = "word " * 80_000
    rows = [{"text": f"{n} {long}", "title": None, "id": n, "meta": {"a": 1}} for n in range(28)]
    rows += [
        {"text": "other kinds", "title": "a title", "id": "28", "meta": {"b": 2}, "score": float("nan")},
        {"lang": "a later key, and no text"},
        {"text": "half a pair \ud800 é", "id": 10**30},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert path.stat().st_size > 10 << 20
    meter = Meter("files", 60.0)
    source = sources.resolve(configured(path).data, meter=meter)
    texts = [text for _, text in sources.documents(source, source.shards[0], 0, meter)]
    assert texts[:28] == [row["text"] for row in rows[:28]]
    assert texts[28:] == ["other kinds", "", "half a pair \ufffd é"]


def test_a_file_that_breaks_off_says_at_which_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n' * 1000 + '{"text": "half')
    meter = Meter("files", 60.0)
    source = sources.resolve(configured(path).data, meter=meter)
    with pytest.raises(DataSourceError, match=r"a\.jsonl at row 768: ValueError: line 1001 is not JSON"):
        list(sources.documents(source, source.shards[0], 0, meter))


def test_rows_of_the_other_split_are_progress(folder):
    """One held-out document in a million: until it comes, nothing else would tell that the source moves."""
    config = configured(folder / "shard-0.parquet", eval_fraction=1e-9)
    meter = Meter("files", 60.0)
    source = sources.resolve(config.data, meter=meter)
    before = meter.moves
    assert all(not held_out(text, 1e-9) for _, text in sources.documents(source, source.shards[0], 0, meter))
    assert meter.moves > before


def test_nul_and_strange_unicode_pass_through_files_unchanged(tmp_path):
    text = "nul \x00 e\u0301 𝄞 \u2028 \ufeff end"
    pq.write_table(pa.table({"text": [text] * 50}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text("\n".join([json.dumps({"text": text})] * 50))
    for path in ("a.parquet", "b.jsonl"):
        with opened(configured(tmp_path / path, micro_batch=1)) as stream:
            decoded = ByteTokenizer().decode(
                np.concatenate([next(stream).tokens[0] for _ in range(3)]).tolist()
            )
        assert decoded.startswith(f"{text}<|endoftext|>{text}")


def test_documents_that_are_all_held_out_are_an_error_and_not_an_endless_search(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    config = configured(tmp_path / "a.jsonl", eval_fraction=0.999999)
    with opened(config) as stream, pytest.raises(DataSourceError, match="no documents to train on"):
        next(stream)


def test_what_is_fetched_is_what_the_source_holds_and_streams_alike(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("staged") / "deep" / "er"
    told = []
    data = configured(folder / "shard-*.parquet").data
    assert fetch(data, out, 130, told.append) == out
    table = pa.concat_tables([pq.read_table(p) for p in sorted(out.glob("*.parquet"))])
    assert table.column_names == ["text", "id"]
    assert table["text"].to_pylist() == [t for seed in range(3) for t in documents(seed=seed)][:130]
    assert json.loads((out / "fetched.json").read_text())["documents"] == 130
    assert told[-1].startswith("files: 130 documents, ")
    assert [p.name for p in out.parent.iterdir()] == ["er"]
    with opened(configured(out / "*.parquet")) as stream:
        next(stream)


def test_shards_whose_columns_differ_are_fetched_into_files_of_their_own(tmp_path):
    texts = [f"text {n}" for n in range(50)]
    pq.write_table(pa.table({"text": texts, "id": list(range(50))}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": texts, "id": list(map(str, range(50)))}), tmp_path / "b.parquet")
    fetch(configured(tmp_path / "*.parquet").data, tmp_path / "out", 80)
    found = [pq.read_table(path) for path in sorted((tmp_path / "out").glob("*.parquet"))]
    assert [table["id"].to_pylist() for table in found] == [list(range(50)), list(map(str, range(30)))]
    with opened(configured(tmp_path / "out/*.parquet")) as stream:
        next(stream)


def test_a_fetch_that_cannot_be_whole_leaves_nothing(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("staged") / "out"
    data = configured(folder / "shard-*.parquet").data
    with pytest.raises(DataSourceError, match="holds 180 documents, 500 were asked for"):
        fetch(data, out, 500)
    assert list(out.parent.iterdir()) == []
    with pytest.raises(ConfigError, match="less than 1"):
        fetch(data, out, 0)
    out.mkdir()
    (out / "precious").touch()
    with pytest.raises(ConfigError, match="exists already"):
        fetch(data, out, 5)
    assert (out / "precious").exists()
    with pytest.raises(ConfigError, match=r"out: cannot (read|write) .*: File name too long"):
        fetch(data, out / ("n" * 300), 5)
    with pytest.raises(ConfigError, match="Name a new folder"):
        fetch(data, Path(), 5)


def test_a_fetch_that_was_killed_half_way_is_begun_anew(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("staged") / "out"
    left = out.with_name(".out.partial")
    left.mkdir()
    (left / "documents-00007.parquet").write_bytes(b"half")
    fetch(configured(folder / "shard-*.parquet").data, out, 5)
    assert sorted(p.name for p in out.iterdir()) == ["documents-00000.parquet", "fetched.json"]
