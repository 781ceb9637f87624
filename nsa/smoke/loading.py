"""Stage `data`: the loader alone, with the run's own configuration: rate, shapes, range of ids.

A source that stands still ends it after data.stall_timeout_seconds, with a line that says so.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from nsa.report import say
from nsa.smoke.stage import SmokeError, measured, tokenizer_of, vocabulary

if TYPE_CHECKING:
    from nsa.data import Batches
    from nsa.data.meter import LoaderProgress
    from nsa.smoke.stage import Task

_BATCHES = 100
_TOLD_SECONDS = 2.0


def run(task: Task) -> None:
    """Read batches, and look at each."""
    from nsa.data import open_stream

    config = task.load()
    tokenizer = tokenizer_of(config)
    rows = vocabulary(config, tokenizer)
    told_at = 0.0

    def progress(look: LoaderProgress) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _TOLD_SECONDS:
            told_at = time.monotonic()
            say(look.detail)

    shape = (config.train.micro_batch, config.data.sequence_length + 1)
    with open_stream(config, tokenizer, rank=0, world_size=1, progress=progress) as stream:
        began = time.monotonic()
        first = _taken(stream, 1, shape, rows)
        first_seconds = time.monotonic() - began
        began = time.monotonic()
        count = _taken(stream, (task.steps or _BATCHES) - 1, shape, rows) + first
        seconds = time.monotonic() - began
        totals = stream.cursor()["totals"]
    tokens = (count - 1) * shape[0] * config.data.sequence_length
    say(f"{count} batches of {shape[0]} by {shape[1]} tokens, {totals['documents']:,} documents begun")
    measured(
        batches=count,
        first_batch_seconds=first_seconds,
        data_tokens_per_second=tokens / max(seconds, 1e-9),
        documents=totals["documents"],
        dropped_tokens=totals["dropped_tokens"],
    )


def _taken(stream: Batches, count: int, shape: tuple[int, int], rows: int) -> int:
    """Take so many batches, each as it has to be."""
    taken = 0
    for batch in itertools.islice(stream, count):
        taken += 1
        if batch.tokens.shape != shape or batch.document_ids.shape != shape:
            raise SmokeError(
                f"batch {taken} has shape {batch.tokens.shape}, not {shape}. See data.sequence_length and"
                " train.micro_batch"
            )
        least, most = int(batch.tokens.min()), int(batch.tokens.max())
        if least < 0 or most >= rows:
            raise SmokeError(
                f"batch {taken} holds ids from {least} to {most}, the embedding has {rows} rows. Raise"
                " model.vocab_size, or use the tokenizer it was made for"
            )
        if (batch.document_ids[:, 1:] < batch.document_ids[:, :-1]).any():
            raise SmokeError(f"batch {taken}: documents are not in order. Please report it")
    return taken
