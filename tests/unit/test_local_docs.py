"""`local-docs`: gathered from what is installed, the same each time, English, each text once."""

from __future__ import annotations

import os

import pytest

from tests.support import needs

pa = needs.require("pyarrow")
needs.require("torch")
needs.require("transformers")

import pyarrow.parquet as pq

from nsa.data import local_docs
from nsa.data.stream import held_out

FINEWEB_EDU = {
    "text": "string", "id": "string", "dump": "string", "url": "string", "file_path": "string",
    "language": "string", "language_score": "double", "token_count": "int64", "score": "double",
    "int_score": "int64",
}  # fmt: skip


@pytest.fixture(scope="module")
def gathered(worker_cache):
    folder = local_docs.gathered(str(worker_cache))
    assert local_docs.gathered(str(worker_cache), lambda _: pytest.fail("gathered again")) == folder
    return folder


@pytest.fixture(scope="module")
def worker_cache(tmp_path_factory):
    """One for all of pytest-xdist's workers: the first gathers, the others wait for it, as ranks do."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "local-docs-cache"


@pytest.fixture(scope="module")
def table(gathered):
    return pa.concat_tables([pq.read_table(path) for path in sorted(gathered.glob("*.parquet"))])


def test_it_has_fineweb_edus_columns_and_over_7_million_characters(gathered, table):
    assert {field.name: str(field.type) for field in table.schema} == FINEWEB_EDU
    assert sum(map(len, table["text"].to_pylist())) > 7_000_000
    assert len(list(gathered.glob("*.parquet"))) == local_docs.SHARDS


def test_progress_is_told_while_it_is_gathered():
    told = []
    for _ in local_docs.collect(told.append):
        if told:
            break
    assert told[0].startswith("gathering local-docs: python 0/")


def test_every_text_is_there_once_and_is_long_enough(table):
    texts = table["text"].to_pylist()
    assert len(set(texts)) == len(texts)
    assert min(map(len, texts)) >= local_docs.MINIMUM_DOCUMENT_CHARACTERS
    assert len(set(table["id"].to_pylist())) == len(texts)


def test_all_four_origins_are_mixed_in_every_file(gathered):
    for path in gathered.glob("*.parquet"):
        origins = {url.split("/")[0].split("-")[0] for url in pq.read_table(path)["url"].to_pylist()}
        assert origins == {"file:python", "file:torch", "file:transformers"}


def test_no_path_of_this_machine_is_in_the_addresses(table):
    assert not any("site-packages" in url or "//" in url for url in table["url"].to_pylist())


def test_the_hash_splits_off_about_the_fraction_asked_for(table):
    texts = table["text"].to_pylist()
    share = sum(held_out(text, 0.05) for text in texts) / len(texts)
    assert 0.03 < share < 0.07
    once = {text for text in texts if held_out(text, 0.05)}
    assert once <= {text for text in texts if held_out(text, 0.1)}, "a larger fraction contains the smaller"


def test_the_same_documents_give_the_same_bytes(tmp_path):
    source = b'"""' + b"This is what the module does, and it is said in the words of a person. " * 6 + b'"""'
    documents = [
        local_docs.Document(origin="python", path=f"m{n}.py#0", text=f"{n} {text}")
        for n in range(40)
        for text in local_docs.docstrings(source)
    ]
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, order in ((first, documents), (second, documents[::-1])):
        folder.mkdir()
        local_docs.write(local_docs.select(order), folder)
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


SOURCE = '''"""What the module is for, told at a length that makes it worth the parsing of the whole file."""

import nothing_that_exists

class Thing:
    """What the class is for."""

    def method(self):
        """What the method does.

            Indented.
        Not indented.
        """
        return "not a docstring"

    async def other(self):
        r"""A raw one, with \\\\d."""

    x = 1
    """Not the docstring of anything."""
'''


def test_docstrings_are_read_in_order_and_nothing_is_imported():
    found = list(local_docs.docstrings(SOURCE.encode()))
    assert [text.split()[0] for text in found] == ["What", "What", "What", "A"]
    assert found[2] == "What the method does.\n\n    Indented.\nNot indented."


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"x = 1",
        b'"""unclosed' * 2,
        b'"""\xff\xfe bytes that are not UTF-8"""',
        b'def f(:\n    """x"""',
        b"\x00" * 9,
    ],
    ids=["empty", "no text", "unclosed", "not UTF-8", "syntax error", "NUL"],
)
def test_a_file_that_cannot_be_parsed_gives_nothing(source):
    assert list(local_docs.docstrings(source)) == []


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("The function returns the value that is given to it, and it does so for all of a list. " * 2, True),
        ("Die Funktion gibt den Wert zurück, der ihr gegeben wurde, und zwar für alle. " * 3, False),
        ("| a | b |\n|---|---|\n" + "| 1.25 | 3.75 |\n" * 40, False),
        (">>> the_function(of, the, value)\n" * 30, False),
        ("short and in English", False),
    ],
    ids=["English", "German", "a table", "examples", "short"],
)  # fmt: skip
def test_prose_in_english_passes_and_the_rest_does_not(text, english):
    assert (local_docs.englishness(text) > 0) is english
