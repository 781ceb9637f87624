"""From the configuration to a stream and a tokenizer: the pieces of this package put together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nsa import tokenizer as tokenizers
from nsa.data import sources, stream
from nsa.data.batches import Batches
from nsa.data.cursor import Cursor
from nsa.data.meter import Meter
from nsa.data.readahead import bounded
from nsa.errors import DataSourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from nsa.config import Config, DataConfig
    from nsa.data.meter import LoaderProgress
    from nsa.data.sources import Shard, Source
    from nsa.tokenizer import Tokenizer

# A tokenizer gains nothing from more text than this.
_TRAINING_CHARACTERS = 32 << 20
_TOKENIZER_REMEDY = (
    "Without a network: set tokenizer.path to a folder with its vocab.json and merges.txt, "
    "or tokenizer.kind to bpe or byte"
)


def open_stream(
    config: Config,
    tokenizer: Tokenizer,
    *,
    rank: int,
    world_size: int,
    split: Literal["train", "eval"] = "train",
    cursor: Mapping[str, Any] | None = None,
    revision: str | None = None,
    progress: Callable[[LoaderProgress], None] | None = None,
) -> Batches:
    """Open this rank's batches of `train.micro_batch` sequences; continue at `cursor` if one is given.

    `revision` is the hub's commit to read where no cursor names one; by default the newest.

    Train never ends: it passes over the source again, in another order of shards. Eval ends after one pass
    over the held-out documents (`data.eval_documents` of them at most), with equally many batches on all
    ranks. CursorMismatchError if the cursor belongs to other data, another tokenizer or number of ranks.
    """
    if split == "eval" and cursor is not None:
        raise ValueError("eval starts from the beginning each time: it takes no cursor")
    saved = None if cursor is None else Cursor.from_json(cursor)
    meter = Meter(sources.label(config.data), config.data.stall_timeout_seconds)
    source = resolve(
        config.data, meter=meter, revision=revision if saved is None else saved.revision, progress=progress
    )
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
    start = Cursor(world_size=world_size, identity=identity, revision=source.revision)
    if saved is not None:
        saved.check(world_size=world_size, identity=identity)
        start = saved

    def read(shard: Shard, row: int) -> Iterator[tuple[int, str]]:
        return sources.documents(source, shard, row, meter)

    def seen(document: stream.Document) -> None:
        meter.document(len(document.text), document.place.epoch)

    def produce() -> Generator[tuple[stream.Batch, Cursor], None, None]:
        yield from stream.rounds(source, tokenizer, shape, start, read, seen)

    return Batches(produce, start=start, meter=meter, remedy=source.remedy, progress=progress)


def resolve(
    data: DataConfig,
    *,
    meter: Meter,
    revision: str | None = None,
    progress: Callable[[LoaderProgress], None] | None = None,
) -> Source:
    """Find the source's files: the hub's within the stall limit; local-docs are gathered at first use."""
    sources.import_all()
    if data.source == "fineweb-edu":
        return bounded(
            lambda: sources.resolve(data, meter=meter, revision=revision),
            meter=meter,
            remedy=sources.remedy(data),
            progress=progress,
        )

    def told(_: str) -> None:
        meter.moved()
        if progress is not None:
            progress(meter.snapshot())

    return sources.resolve(data, meter=meter, progress=told)


def build_tokenizer(config: Config, *, progress: Callable[[str], None] | None = None) -> Tokenizer:
    """The configured tokenizer; a BPE is trained at first use (seconds) and kept in the user's cache.

    It is trained on the training documents of the configured source if that is local, else on local-docs.
    """
    chosen, data = config.tokenizer, config.data
    if chosen.kind == "byte":
        return tokenizers.ByteTokenizer()
    if chosen.path is not None:
        folder = Path(os.path.expanduser(chosen.path))  # noqa: PTH111 -- without a home `~` stays as it is
        return tokenizers.from_folder(folder, vocab_size=chosen.vocab_size)
    if chosen.kind == "gpt2":
        return _gpt2(data)
    if chosen.vocab_size is None:
        raise ValueError("nsa.config refuses a bpe without a size")
    if data.source == "fineweb-edu":
        data = data.model_copy(update={"source": "local-docs"})
    meter = Meter(sources.label(data), data.stall_timeout_seconds)
    source = sources.resolve(data, meter=meter, progress=progress)

    def texts() -> Iterator[str]:
        left = _TRAINING_CHARACTERS
        for shard in source.shards:
            for _, text in sources.documents(source, shard, 0, meter):
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


def _gpt2(data: DataConfig) -> Tokenizer:
    """From the cache if it is there (it never changes), else from the hub."""
    try:
        return tokenizers.gpt2(local_only=True)
    except (OSError, ValueError):
        pass
    from nsa.data import hubclient

    meter = Meter(f"{tokenizers.GPT2_REPOSITORY} on the hub", data.stall_timeout_seconds)
    # What transformers would repeat for half a minute, one question settles soon.
    attempts = sources.Attempts(min(data.retries, 2), meter)

    def load() -> Tokenizer:
        from huggingface_hub import HfApi

        hubclient.guard(meter)
        while True:
            with attempts.next(f"the tokenizer {meter.source} is out of reach", _TOKENIZER_REMEDY):
                HfApi().model_info(tokenizers.GPT2_REPOSITORY)
                return _gpt2_downloaded()

    return bounded(load, meter=meter, remedy=_TOKENIZER_REMEDY)


def _gpt2_downloaded() -> Tokenizer:
    try:
        return tokenizers.gpt2(local_only=False)
    except OSError:
        raise
    except Exception as error:  # whatever transformers makes of an answer that it did not expect
        raise DataSourceError(
            f"the tokenizer {tokenizers.GPT2_REPOSITORY} cannot be used as the hub sends it: "
            f"{sources.reason(error)}. {_TOKENIZER_REMEDY}"
        ) from error
