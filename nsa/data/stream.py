"""The one global stream: documents in order, tokenized, packed, and dealt to the ranks.

Every rank reads and packs the same stream and keeps sequences r, r + W, r + 2W, … of it, so that W ranks
together see exactly what one process sees at the same global batch (docs/decisions/0003-data-cursor.md).
Single-threaded and lazy; the thread that runs it ahead is nsa.data.readahead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from nsa.data.cursor import Cursor, CursorMismatchError, Place, Totals, document_digest
from nsa.data.packing import Packer
from nsa.errors import DataSourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nsa.data.sources import Shard, Source
    from nsa.tokenizer import Tokenizer

Split = Literal["train", "eval"]
# Encoded together: enough to be quick, little enough to be early and small.
_CHUNK_DOCUMENTS = 64
_CHUNK_CHARACTERS = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """What a rank trains on in one forward pass."""

    tokens: np.ndarray  # int32 (B, S + 1)
    document_ids: np.ndarray  # int32 (B, S + 1), from 0 in each sequence
    documents: int  # that begin in these sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How the stream is cut and dealt."""

    sequence_length: int
    truncate: bool
    batch_sequences: int  # B: of one rank's batch
    rank: int
    world_size: int
    seed: int
    split: Split
    eval_fraction: float
    eval_documents: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document of this stream's split, where it stands, and its text."""

    place: Place
    text: str


def held_out(text: str, fraction: float) -> bool:
    """Whether a document is held out: by a hash of its text, so that equal texts are never on both sides."""
    digest = hashlib.blake2b(
        text.encode("utf-8", "surrogatepass"), digest_size=8, person=b"nsa-held-out"
    ).digest()
    return int.from_bytes(digest, "big") < fraction * 2.0**64


def shard_order(shards: tuple[Shard, ...], seed: int, epoch: int) -> list[Shard]:
    """The shards in the order of one pass: shuffled by seed and pass, by nothing else."""

    def key(item: tuple[int, Shard]) -> bytes:
        number, shard = item
        return hashlib.blake2b(f"{seed}:{epoch}:{number}:{shard.name}".encode(), digest_size=16).digest()

    return [shard for _, shard in sorted(enumerate(shards), key=key)]


def documents(
    source: Source, shape: Shape, start: Place, read: Callable[[Shard, int], Iterator[tuple[int, str]]]
) -> Iterator[Document]:
    """The documents of the split from `start` on; train repeats for ever, eval passes once, unshuffled."""
    epoch = start.epoch
    taken = 0
    while True:
        training = shape.split == "train"
        shards = shard_order(source.shards, shape.seed, epoch) if training else list(source.shards)
        found = 0
        for number in range(start.shard, len(shards)):
            start_row = start.row if number == start.shard else 0
            for row, text in read(shards[number], start_row):
                if held_out(text, shape.eval_fraction) is training:
                    continue
                found += 1
                yield Document(place=Place(epoch=epoch, shard=number, row=row), text=text)
                taken += 1
                if not training and taken == shape.eval_documents:
                    return
        if not training:
            return
        if not found and not (start.shard or start.row):
            raise DataSourceError(
                f"data source {source.label}: no documents to train on in {len(shards)} file(s). "
                "Name other files, or lower data.eval_fraction"
            )
        epoch += 1
        start = Place(epoch=epoch)


def rounds(
    source: Source,
    tokenizer: Tokenizer,
    shape: Shape,
    cursor: Cursor,
    read: Callable[[Shard, int], Iterator[tuple[int, str]]],
    document_read: Callable[[Document], None] = lambda _: None,
) -> Iterator[tuple[Batch, Cursor]]:
    """This rank's batches, each with the cursor after the round of all ranks' batches that it belongs to."""
    packer: Packer[Document] = Packer(shape.sequence_length, eos_id=tokenizer.eos_id, truncate=shape.truncate)
    ordered = documents(source, shape, cursor.place, read)
    resumed = _Resumed(cursor)
    dealt = shape.batch_sequences * shape.world_size
    next_place = cursor.place
    totals = cursor.totals
    before = cursor.totals
    finished = False
    while True:
        mine = []
        begun = 0
        for number in range(dealt):
            while not packer.ready and not finished:
                chunk = _chunk(ordered)
                if not chunk:
                    finished = True
                    break
                for document, tokens in zip(
                    chunk, tokenizer.encode_batch([document.text for document in chunk]), strict=True
                ):
                    document_read(document)
                    packer.add(tokens, document, skip=resumed.skip(document))
                    next_place = replace(document.place, row=document.place.row + 1)
            if not packer.ready:
                return  # the last, incomplete round: no rank gets a batch of it
            packed = packer.take()
            begun += packed.documents
            if number % shape.world_size == shape.rank:
                mine.append(packed)
        totals = Totals(
            sequences=totals.sequences + dealt,
            tokens=totals.tokens + dealt * (shape.sequence_length + 1),
            documents=totals.documents + begun,
            dropped_tokens=before.dropped_tokens + packer.dropped_tokens,
            truncated_documents=before.truncated_documents + packer.truncated_documents,
        )
        batch = Batch(
            tokens=np.stack([packed.tokens for packed in mine]),
            document_ids=np.stack([packed.document_ids for packed in mine]),
            documents=sum(packed.documents for packed in mine),
        )
        cut = packer.cut
        yield (
            batch,
            replace(
                cursor,
                place=next_place if cut is None else cut.ref.place,
                offset=0 if cut is None else cut.offset,
                digest=None if cut is None else document_digest(cut.ref.text),
                totals=totals,
            ),
        )


class _Resumed:
    """The tokens to skip in the first document after a resume, if it is still the one that was begun."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor: Cursor | None = cursor if cursor.digest is not None else None

    def skip(self, document: Document) -> int:
        cursor, self._cursor = self._cursor, None
        if cursor is None:
            return 0
        if document.place != cursor.place or document_digest(document.text) != cursor.digest:
            raise CursorMismatchError(
                f"the data changed under the saved cursor: document {cursor.place.row} of shard "
                f"{cursor.place.shard} is another now. Restore the data, or start anew with --resume never"
            )
        return cursor.offset


def _chunk(ordered: Iterator[Document]) -> list[Document]:
    chunk: list[Document] = []
    size = 0
    for document in ordered:
        chunk.append(document)
        size += len(document.text)
        if len(chunk) >= _CHUNK_DOCUMENTS or size >= _CHUNK_CHARACTERS:
            break
    return chunk
