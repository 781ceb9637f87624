"""Tokenizers: any text in, the same text out; no warning, no truncation, no end of text from a text."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys

import pytest

from tests.support import needs
from tests.support.env import clean_env
from tests.support.examples import examples

pytest.importorskip("hypothesis")
transformers = needs.require("transformers")

from hypothesis import given, settings
from hypothesis import strategies as st

from nsa import tokenizer as tokenizers
from nsa.errors import ConfigError

SENTENCE = (
    "the model reads what a person wrote and learns 12 345 of its words, isn't that so?\n\n  def f(x):\n"
)
WORDS = re.split(" ", SENTENCE)
END = tokenizers.END_OF_TEXT


def some_text(count=4000, seed=0):
    return " ".join(random.Random(seed).choices(WORDS, k=count))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def bpe(cache):
    return tokenizers.trained(
        lambda: [some_text(seed=n) for n in range(5)],
        vocab_size=300,
        source_fingerprint="words",
        cache_dir=str(cache),
    )


@pytest.fixture(params=["byte", "bpe"])
def tokenizer(request, bpe):
    return tokenizers.ByteTokenizer() if request.param == "byte" else bpe


ANY_TEXT = st.text(st.characters(codec=None), max_size=60) | st.text(
    "\ud800\udc00\udfff\x00aé☃𝄞", max_size=20
)


def test_any_text_survives_bytes_exactly_lone_surrogates_and_nul_too():
    byte = tokenizers.ByteTokenizer()

    @given(ANY_TEXT)
    def exact(text):
        tokens = byte.encode(text)
        assert byte.decode(tokens) == text
        assert all(0 <= token < 256 for token in tokens)

    exact()


def test_any_text_survives_a_bpe_but_for_lone_surrogates_which_become_the_replacement_character(bpe):
    @given(ANY_TEXT)
    @settings(max_examples=examples(60))
    def exact(text):
        expected = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
        tokens = bpe.encode(text)
        assert bpe.decode(tokens) == expected
        assert all(0 <= token < bpe.vocab_size for token in tokens)
        assert bpe.eos_id not in tokens

    exact()


def test_a_batch_is_what_its_texts_are_one_by_one(tokenizer):
    texts = ["", "a", "\x00", "lone \ud800 one", END, some_text(50)]
    assert [list(t) for t in tokenizer.encode_batch(texts)] == [list(tokenizer.encode(t)) for t in texts]


def test_the_literal_end_of_text_in_a_document_stays_text(tokenizer):
    tokens = tokenizer.encode(f"before {END} after")
    assert tokenizer.eos_id not in tokens
    assert tokenizer.decode(tokens) == f"before {END} after"


def test_nothing_is_added_or_cut_at_any_length(tokenizer):
    text = some_text(30_000)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_that_no_text_has_decode_without_an_error(tokenizer):
    assert tokenizer.decode([tokenizer.eos_id]) == END
    assert isinstance(tokenizer.decode([0xFF, 0xC0, tokenizer.eos_id, 0x41]), str)
    assert isinstance(tokenizer.decode([tokenizer.vocab_size + 7]), str) or tokenizer.vocab_size == 257


def test_a_trained_bpe_has_the_size_asked_for_and_its_end_of_text_last(bpe):
    assert bpe.vocab_size == bpe.used_size == 300
    assert bpe.eos_id == 299


def test_text_too_small_for_the_size_leaves_the_size_as_asked(cache):
    small = tokenizers.trained(
        lambda: ["ab ab ab"], vocab_size=1000, source_fingerprint="small", cache_dir=str(cache)
    )
    assert small.used_size < 290
    assert small.vocab_size == 1000
    assert isinstance(small.decode([999, 97]), str)


def test_the_cached_files_are_in_gpt2s_format_and_load_through_transformers(bpe, cache):
    (folder,) = (cache / "tokenizers").glob("bpe-300-*")
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    assert sorted(vocabulary.values()) == list(range(300))
    assert (folder / "merges.txt").read_text(encoding="utf-8").startswith("#version: 0.2\n")
    loaded = transformers.GPT2Tokenizer.from_pretrained(str(folder))
    text = some_text(200)
    assert loaded.encode(text) == bpe.encode(text)
    assert loaded.eos_token_id == bpe.eos_id
    again = tokenizers.from_folder(folder)
    assert again.fingerprint == bpe.fingerprint
    assert again.encode(text) == bpe.encode(text)


def test_a_second_use_takes_the_cached_one_and_never_asks_for_the_texts(bpe, cache):
    def texts():
        raise AssertionError("trained again")

    again = tokenizers.trained(texts, vocab_size=300, source_fingerprint="words", cache_dir=str(cache))
    assert again.fingerprint == bpe.fingerprint


def test_training_twice_gives_the_same_tokenizer_and_other_text_another(bpe, tmp_path):
    def trained(name, seed):
        return tokenizers.trained(
            lambda: [some_text(seed=n) for n in range(seed, seed + 5)],
            vocab_size=300,
            source_fingerprint="words",
            cache_dir=str(tmp_path / name),
        ).fingerprint

    assert trained("same", 0) == bpe.fingerprint
    assert trained("other", 50) != bpe.fingerprint


def test_a_folder_without_a_tokenizer_is_one_clear_line(tmp_path):
    with pytest.raises(ConfigError, match=r"tokenizer.path: .* has no vocab.json. Name a folder"):
        tokenizers.from_folder(tmp_path)
    (tmp_path / "vocab.json").write_text("{")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(ConfigError, match="is not a tokenizer in GPT-2's file format"):
        tokenizers.from_folder(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(ConfigError, match="not a tokenizer"):
        tokenizers.from_folder(tmp_path, vocab_size=0)


def test_every_id_is_below_the_size_of_a_vocabulary_that_leaves_some_out(bpe, cache, tmp_path):
    (folder,) = (cache / "tokenizers").glob("bpe-300-*")
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    (tmp_path / "vocab.json").write_text(json.dumps({**vocabulary, END: 511}))
    (tmp_path / "merges.txt").write_text((folder / "merges.txt").read_text(encoding="utf-8"))
    loaded = tokenizers.from_folder(tmp_path)
    assert loaded.eos_id == 511
    assert loaded.vocab_size == 512
    assert loaded.decode([*loaded.encode("the model"), 400, loaded.eos_id]) == f"the model{END}"


PROGRAM = """
import os, sys, pathlib
from nsa import tokenizer as tokenizers
folder = pathlib.Path(sys.argv[1])
loaded = tokenizers.from_folder(folder)
print(len(loaded.encode(sys.argv[2] * 3000)), loaded.encode("a")[0])
loaded.encode_batch(["some text"] * 64)
pid = os.fork()
if pid == 0:
    loaded.encode_batch(["some text"] * 64)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""


def test_neither_long_documents_nor_a_fork_print_a_word(bpe, cache, tmp_path):
    """The warning "Token indices sequence length is longer than …" and tokenizers' one about forks."""
    (folder,) = (cache / "tokenizers").glob("bpe-300-*")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), "the model reads "],
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_env(home=tmp_path),
        check=True,
    )
    assert done.stderr == ""
    assert int(done.stdout.split()[0]) > 2000


def test_plain_transformers_would_have_warned(bpe, cache, caplog):
    """The control: with transformers' own construction the same text does warn."""
    (folder,) = (cache / "tokenizers").glob("bpe-300-*")
    loaded = transformers.GPT2Tokenizer.from_pretrained(str(folder), model_max_length=1024)
    transformers.logging.enable_propagation()
    try:
        loaded.encode(some_text(3000))
    finally:
        transformers.logging.disable_propagation()
    assert "Token indices sequence length is longer" in caplog.text


def test_importing_tokenizer_and_data_imports_nothing_heavy(tmp_path):
    heavy = {"torch", "transformers", "datasets", "tokenizers", "pyarrow"}
    program = f"import sys, nsa.tokenizer, nsa.data; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_env(home=tmp_path),
        check=True,
    )
    assert done.stdout.strip() == "[]"
