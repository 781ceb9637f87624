"""Packers with one known fault each: the properties must reject every one of them."""

from __future__ import annotations

import dataclasses

import numpy as np

from nsa.data.packing import Packed, Packer


class DropsItsRemainder(Packer):
    """Cuts each document by itself; what does not fill a sequence is gone."""

    def take(self) -> Packed:
        packed = super().take()
        if not self.ready:
            self._pending.clear()
            self._offset = self._available = 0
        return packed


class TruncatesUnasked(Packer):
    """The "fix" for the warning about long documents: `max_length`, and the rest of the text thrown away."""

    def add(self, tokens, ref, *, skip=0):
        super().add(tokens[: self._sequence_length - 1], ref, skip=skip)


class TruncatesOneTooFew(Packer):
    """Truncates to S and then appends the end of text: S + 1 tokens leave."""

    def add(self, tokens, ref, *, skip=0):
        if self._truncate:
            tokens = tokens[: self._sequence_length]
            self._truncate = False
            super().add(tokens, ref, skip=skip)
            self._truncate = True
        else:
            super().add(tokens, ref, skip=skip)


class TruncatesTheEndOfText(Packer):
    """Appends the end of text first and truncates then: a long document has none, and runs into the next."""

    def add(self, tokens, ref, *, skip=0):
        super().add(tokens, ref, skip=skip)
        if self._truncate and len(tokens) >= self._sequence_length:
            document = self._pending[-1][1]
            document[-1] = tokens[self._sequence_length - 1]


class CountsNothing(Packer):
    """Truncates and says nothing."""

    def add(self, tokens, ref, *, skip=0):
        super().add(tokens[: self._sequence_length - 1] if self._truncate else tokens, ref, skip=skip)


class RepeatsAToken(Packer):
    """The last token of a sequence is the first of the next, as in inputs and targets cut apart."""

    def take(self) -> Packed:
        packed = super().take()
        self._pending.appendleft((None, packed.tokens[-1:].copy(), 0))
        if self._offset:
            ref, document, _ = self._pending[1]
            self._pending[1] = (ref, document[self._offset :], 0)
            self._offset = 0
        self._available += 1
        return packed


class IdsOneOff(Packer):
    """The end of text counts for the document after it."""

    def take(self) -> Packed:
        packed = super().take()
        ids = packed.document_ids + (packed.tokens == self._eos_id)
        return dataclasses.replace(packed, document_ids=(ids - ids[0]).astype(np.int32))


class IdsRunOn(Packer):
    """Numbers documents from the first of the stream, and overflows some day."""

    taken = 0

    def take(self) -> Packed:
        packed = super().take()
        self.taken += 1
        return dataclasses.replace(packed, document_ids=packed.document_ids + self.taken - 1)


class SkipsEmptyDocuments(Packer):
    """Loses the end of text of a document without tokens."""

    def add(self, tokens, ref, *, skip=0):
        if len(tokens):
            super().add(tokens, ref, skip=skip)


class ForgetsTheEndOfText(Packer):
    """Joins documents without a token between them."""

    def add(self, tokens, ref, *, skip=0):
        super().add(tokens, ref, skip=skip)
        if len(tokens):
            *_, (ref, document, dropped) = self._pending
            self._pending[-1] = (ref, document[:-1], dropped)
            self._available -= 1


class OneTooLong(Packer):
    """Gives S + 2 tokens."""

    def take(self) -> Packed:
        packed = super().take()
        return dataclasses.replace(
            packed,
            tokens=np.append(packed.tokens, packed.tokens[-1]),
            document_ids=np.append(packed.document_ids, packed.document_ids[-1]),
        )


class BegunTwice(Packer):
    """Counts a document in each sequence that holds a part of it."""

    def take(self) -> Packed:
        packed = super().take()
        return dataclasses.replace(packed, documents=int(packed.document_ids[-1]) + 1)


# By the property that refuses it: how its assertion begins.
FAULTY = {
    DropsItsRemainder: "sequences are missing",
    TruncatesUnasked: "sequences are missing",
    TruncatesOneTooFew: "tokens were lost",
    TruncatesTheEndOfText: "tokens were lost",
    CountsNothing: "dropped tokens are miscounted",
    RepeatsAToken: "tokens were lost",
    IdsOneOff: "document ids do not follow",
    IdsRunOn: "document ids do not follow",
    SkipsEmptyDocuments: "tokens were lost",
    ForgetsTheEndOfText: "tokens were lost",
    OneTooLong: "a sequence is not S + 1 long",
    BegunTwice: "documents that begin here are miscounted",
}
