"""Packing: documents joined by the end-of-text token, cut into sequences of S + 1, the rest carried on.

Pure: tokens in, sequences out, nothing lost, nothing repeated. Which document comes next is not decided
here (nsa.data.stream), nor how text becomes tokens (nsa.tokenizer).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

Ref = TypeVar("Ref")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packed:
    """One sequence of S + 1 tokens; inputs are its first S, targets its last S."""

    tokens: np.ndarray
    # One number a position, from 0 in each sequence; an end-of-text token belongs to the document it ends.
    document_ids: np.ndarray
    # How many documents begin in it.
    documents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut(Generic[Ref]):
    """Where the next sequence begins: a document, and how many of its tokens are already out."""

    ref: Ref
    offset: int


class Packer(Generic[Ref]):
    """Packs documents of tokens; `ref` is whatever the caller wants to know a document by."""

    def __init__(self, sequence_length: int, *, eos_id: int, truncate: bool = False) -> None:
        self._sequence_length = sequence_length
        self._eos_id = eos_id
        self._truncate = truncate
        # A document, its tokens, and how many truncation took from it.
        self._pending: deque[tuple[Ref, np.ndarray, int]] = deque()
        # Tokens of the first pending document that are out already.
        self._offset = 0
        self._available = 0
        # Of documents that have begun to leave, so that reading ahead changes no count.
        self.dropped_tokens = 0
        self.truncated_documents = 0

    def add(self, tokens: Sequence[int] | np.ndarray, ref: Ref, *, skip: int = 0) -> None:
        """Append one document, without its end-of-text token; `skip` tokens of it are out already.

        With truncation at most S tokens of it leave, the end-of-text token among them.
        """
        dropped = max(0, len(tokens) - (self._sequence_length - 1)) if self._truncate else 0
        if dropped:
            tokens = tokens[: len(tokens) - dropped]
        document = np.empty(len(tokens) + 1, dtype=np.int32)
        document[:-1] = tokens
        document[-1] = self._eos_id
        if skip >= len(document):
            raise ValueError(f"{skip} tokens to skip in a document of {len(document)}")
        if skip:
            assert not self._pending, "only the first document after a resume has been begun before"
            self._offset = skip
        self._pending.append((ref, document, dropped))
        self._available += len(document) - skip

    @property
    def ready(self) -> bool:
        """Whether a whole sequence can be taken."""
        return self._available > self._sequence_length

    @property
    def remainder_tokens(self) -> int:
        """Tokens that are here and not out yet."""
        return self._available

    @property
    def cut(self) -> Cut[Ref] | None:
        """Where the next sequence begins; None when it begins with the next document to be added."""
        if not self._pending:
            return None
        return Cut(ref=self._pending[0][0], offset=self._offset)

    def take(self) -> Packed:
        """The next S + 1 tokens."""
        wanted = self._sequence_length + 1
        if self._available < wanted:
            raise ValueError(f"{self._available} tokens are here, a sequence takes {wanted}")
        tokens = np.empty(wanted, dtype=np.int32)
        document_ids = np.empty(wanted, dtype=np.int32)
        filled = number = begun = 0
        while filled < wanted:
            _, document, dropped = self._pending[0]
            count = min(wanted - filled, len(document) - self._offset)
            tokens[filled : filled + count] = document[self._offset : self._offset + count]
            document_ids[filled : filled + count] = number
            if self._offset == 0:
                begun += 1
                self.dropped_tokens += dropped
                self.truncated_documents += dropped > 0
            filled += count
            number += 1
            self._offset += count
            if self._offset == len(document):
                self._pending.popleft()
                self._offset = 0
        self._available -= wanted
        return Packed(tokens=tokens, document_ids=document_ids, documents=begun)
