"""Text to tokens and back: bytes, a BPE trained on the source's text, and GPT-2's.

Every kind is deterministic, never warns about long documents (packing cuts them), never truncates, and
takes the literal text `<|endoftext|>` in a document for text: the end-of-text token comes from the packer
alone. Any Python string can be encoded. Bytes return it exactly, lone surrogates included; the BPEs, whose
text is UTF-8, replace each lone surrogate by U+FFFD and return all else exactly, NUL included.

Not here: which text a BPE is trained on (nsa.data.opening hands it in).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import TYPE_CHECKING, Any, Protocol, cast

from nsa import cache
from nsa.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

END_OF_TEXT = "<|endoftext|>"
GPT2_REPOSITORY = "openai-community/gpt2"
# transformers warns once an encoding is longer than this; nothing here is.
UNLIMITED = int(1e30)
_FORMAT = 1
# Splits differently with and without a prefix space, digit groups, contractions, special tokens.
_SAMPLE = f"It's  12345 dogs'\u00e9\n\n\tdef f(x): return x{END_OF_TEXT} end "
_SURROGATES = re.compile("[\ud800-\udfff]")


class Tokenizer(Protocol):
    """What the data stream and the model need of a tokenizer."""

    @property
    def eos_id(self) -> int:
        """The end-of-text token, which no text encodes to."""
        ...

    @property
    def vocab_size(self) -> int:
        """Every id is below this; the model's embedding needs as many rows."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for tokenizers that encode everything alike."""
        ...

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, without an end-of-text token."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each, quicker."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`; an end-of-text token becomes its literal text."""
        ...


class ByteTokenizer:
    """UTF-8 bytes, and 256 for the end of text."""

    eos_id = 256
    vocab_size = 257
    fingerprint = "byte-1"

    def encode(self, text: str) -> list[int]:
        """The bytes of `text`; a lone surrogate becomes the three bytes its code point would have."""
        return list(text.encode("utf-8", "surrogatepass"))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each."""
        return [self.encode(text) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text; what no text encodes to (a model may write it) becomes U+FFFD."""
        pieces: list[str] = []
        run = bytearray()
        for token in [*tokens, self.eos_id]:
            if token < self.eos_id:
                run.append(token)
                continue
            try:
                pieces.append(run.decode("utf-8", "surrogatepass"))
            except UnicodeDecodeError:
                pieces.append(run.decode("utf-8", "replace"))
            run.clear()
            pieces.append(END_OF_TEXT)
        return "".join(pieces[:-1])


class BpeTokenizer:
    """A byte-level BPE in GPT-2's file format, through transformers' GPT-2 tokenizer."""

    def __init__(self, tokenizer: Any, *, vocab_size: int | None = None) -> None:
        backend = tokenizer.backend_tokenizer
        # Also what split_special_tokens=True does: the literal `<|endoftext|>` stays text.
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        end = backend.token_to_id(END_OF_TEXT)
        if end is None:
            raise ValueError(f"the vocabulary has no {END_OF_TEXT}")
        self.eos_id = int(end)
        # Not their number: a vocabulary may leave ids out.
        used = 1 + max(backend.get_vocab(with_added_tokens=True).values())
        if vocab_size is not None and used > vocab_size:
            raise ValueError(f"the vocabulary has {used} tokens, more than vocab_size {vocab_size}")
        self.used_size = used
        self.vocab_size = used if vocab_size is None else vocab_size
        self.fingerprint = f"bpe-{_FORMAT}-{_fingerprint(backend)}"

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`."""
        ids: list[int] = self._backend.encode(_writable(text), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each."""
        encoded = self._backend.encode_batch_fast(
            [_writable(text) for text in texts], add_special_tokens=False
        )
        return [one.ids for one in encoded]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`; padding ids of a model larger than the vocabulary have none."""
        known = [token for token in tokens if token < self.used_size]
        text: str = self._backend.decode(known, skip_special_tokens=False)
        return text


def _fingerprint(backend: Any) -> str:
    """Of vocabulary, merges and a sample of the rest: not of how this version of tokenizers writes itself."""
    merges = json.loads(backend.to_str())["model"]["merges"]
    parts = [
        sorted(backend.get_vocab(with_added_tokens=True).items()),
        [pair if isinstance(pair, str) else " ".join(pair) for pair in merges],
        backend.encode(_SAMPLE, add_special_tokens=False).ids,
    ]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _writable(text: str) -> str:
    """`text` with each lone surrogate replaced, since UTF-8 cannot hold one."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def from_folder(folder: Path, *, vocab_size: int | None = None) -> BpeTokenizer:
    """Read vocab.json and merges.txt; ConfigError naming what is missing or wrong."""
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise ConfigError(
                f"tokenizer.path: {folder} has no {name}. Name a folder in GPT-2's file format "
                "(vocab.json and merges.txt)"
            )
    _prepare_environment()
    from transformers import GPT2Tokenizer

    try:
        # From the files themselves, not from_pretrained: that asks the hub for what the folder lacks.
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        merges = [
            tuple(line.split(" "))
            for line in (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
            if line and not line.startswith("#version")
        ]
        loaded = GPT2Tokenizer(
            vocab=vocabulary,
            merges=cast("list[str]", merges),
            model_max_length=UNLIMITED,
            split_special_tokens=True,
        )
        return BpeTokenizer(loaded, vocab_size=vocab_size)
    except Exception as error:  # tokenizers raises plain Exception
        raise ConfigError(
            f"tokenizer.path: {folder} is not a tokenizer in GPT-2's file format: {error}. Name one that is"
        ) from error


def gpt2(*, local_only: bool) -> BpeTokenizer:
    """GPT-2's own, from transformers' cache or also from the hub; raises what transformers raises."""
    _prepare_environment()
    from transformers import AutoTokenizer

    return BpeTokenizer(
        AutoTokenizer.from_pretrained(
            GPT2_REPOSITORY,
            model_max_length=UNLIMITED,
            split_special_tokens=True,
            local_files_only=local_only,
        )
    )


def trained(
    texts: Callable[[], Iterable[str]],
    *,
    vocab_size: int,
    source_fingerprint: str,
    cache_dir: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> BpeTokenizer:
    """A BPE of `vocab_size` tokens trained on `texts()`, kept in the user's cache, keyed by their content."""
    import tokenizers

    key = hashlib.blake2b(
        json.dumps([_FORMAT, tokenizers.__version__, vocab_size, source_fingerprint]).encode(), digest_size=10
    ).hexdigest()
    place = cache.cache_root(cache_dir) / "tokenizers" / f"bpe-{vocab_size}-{key}"

    def waiting() -> None:
        if progress is not None:
            progress("waiting for another process that trains the tokenizer")

    def build(folder: Path) -> None:
        if progress is not None:
            progress(f"training a BPE of {vocab_size} tokens")
        _train(texts(), vocab_size, folder, progress)

    cache.publish(place, build, waiting=waiting)
    return from_folder(place, vocab_size=vocab_size)


def _train(
    texts: Iterable[str], vocab_size: int, folder: Path, progress: Callable[[str], None] | None
) -> None:
    _prepare_environment()
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        # GPT-2 keeps its end of text last; the trainer puts special tokens first, so it is added after.
        vocab_size=vocab_size - 1,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )

    def reported() -> Iterator[str]:
        for count, text in enumerate(texts):
            if progress is not None and count % 1000 == 999:
                progress(f"training a BPE of {vocab_size} tokens: {count + 1} documents")
            yield _writable(text)

    backend.train_from_iterator(reported(), trainer)
    model = json.loads(backend.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    vocabulary[END_OF_TEXT] = len(vocabulary)
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def _prepare_environment() -> None:
    """Before tokenizers and transformers are imported; a user's own choice stands."""
    # One thread encodes while the others train: more would take the trainer's cores, and warn after a fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # transformers says so when torch is absent or old; the tokenizer needs none.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
