"""From the configuration to a stream and a tokenizer: the pieces of this package put together."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal

from nsa import tokenizer as tokenizers
from nsa.data import sources, stream
from nsa.data.cursor import Cursor
from nsa.data.meter import Meter
from nsa.data.prefetch import Batches

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from pathlib import Path

    from nsa.config import Config
    from nsa.data.meter import LoaderProgress
    from nsa.data.sources import Shard
    from nsa.tokenizer import Tokenizer

# A tokenizer gains nothing from more text than this.
_TRAINING_CHARACTERS = 32 << 20


def open_stream(
    config: Config,
    tokenizer: Tokenizer,
    *,
    rank: int,
    world_size: int,
    split: Literal["train", "eval"] = "train",
    cursor: Mapping[str, Any] | None = None,
    progress: Callable[[LoaderProgress], None] | None = None,
) -> Batches:
    """Open this rank's batches of `train.micro_batch` sequences; continue at `cursor` if one is given.

    Train never ends: it passes over the source again, in another order of shards. Eval ends after one pass
    over the held-out documents (`data.eval_documents` of them at most), with equally many batches on all ranks.
    CursorMismatchError if the cursor belongs to other data, another tokenizer or another number of ranks.
    """
    if split == "eval" and cursor is not None:
        raise ValueError("eval starts from the beginning each time: it takes no cursor")
    meter = Meter(config.data.source)
    source = sources.resolve(config.data, _as_text(meter, progress))
    shape = stream.Shape(
        sequence_length=config.data.sequence_length,
        truncate=config.data.truncate,
        batch_sequences=config.train.micro_batch,
        rank=rank,
        world_size=world_size,
        seed=config.seed,
        split=split,
        eval_fraction=config.data.eval_fraction,
        eval_documents=config.data.eval_documents,
    )
    identity = {
        "source": source.label,
        "data": source.identity,
        "text_column": source.text_column,
        "tokenizer": tokenizer.fingerprint,
        "sequence_length": shape.sequence_length,
        "truncate": shape.truncate,
        "seed": shape.seed,
        "split": split,
        "eval_fraction": shape.eval_fraction,
    }
    start = Cursor(world_size=world_size, identity=identity)
    if cursor is not None:
        start = Cursor.from_json(cursor)
        start.check(world_size=world_size, identity=identity)

    def read(shard: Shard, row: int) -> Iterator[tuple[int, str]]:
        return sources.documents(source, shard, row)

    def seen(document: stream.Document) -> None:
        meter.document(len(document.text), document.place.epoch)

    def produce() -> Generator[tuple[stream.Batch, Cursor], None, None]:
        yield from stream.rounds(source, tokenizer, shape, start, read, seen)

    return Batches(
        produce,
        start=start,
        meter=meter,
        label=source.label,
        stall_timeout_seconds=config.data.stall_timeout_seconds,
        progress=progress,
    )


def build_tokenizer(config: Config, *, progress: Callable[[str], None] | None = None) -> Tokenizer:
    """The configured tokenizer; a BPE is trained at first use (seconds) and kept in the user's cache.

    It is trained on the training documents of the configured source if that is local, else on local-docs.
    """
    chosen = config.tokenizer
    if chosen.kind == "byte":
        return tokenizers.ByteTokenizer()
    if chosen.path is not None:
        return tokenizers.from_folder(_user_path(chosen.path), vocab_size=chosen.vocab_size)
    if chosen.kind == "gpt2":
        return tokenizers.gpt2_from_hub()
    assert chosen.vocab_size is not None, "nsa.config refuses a bpe without a size"
    data = config.data
    if data.source == "fineweb-edu":
        data = data.model_copy(update={"source": "local-docs", "text_column": "text"})
    source = sources.resolve(data, progress)

    def texts() -> Iterator[str]:
        left = _TRAINING_CHARACTERS
        for shard in source.shards:
            for _, text in sources.documents(source, shard, 0):
                if stream.held_out(text, data.eval_fraction):
                    continue
                yield text
                left -= len(text)
                if left <= 0:
                    return

    return tokenizers.trained(
        texts,
        vocab_size=chosen.vocab_size,
        source_fingerprint=f"{source.identity}:{source.text_column}:{data.eval_fraction}",
        cache_dir=data.cache_dir,
        progress=progress,
    )


def _user_path(text: str) -> Path:
    from pathlib import Path

    return Path(text).expanduser()


def _as_text(meter: Meter, progress: Callable[[LoaderProgress], None] | None) -> Callable[[str], None] | None:
    if progress is None:
        return None
    report = functools.partial(_told, meter, progress)
    return report


def _told(meter: Meter, progress: Callable[[LoaderProgress], None], _: str) -> None:
    meter.moved()
    progress(meter.snapshot())
