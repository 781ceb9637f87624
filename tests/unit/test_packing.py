"""Packing by example: the lengths at which packers go wrong, and the case that started it."""

from __future__ import annotations

import pytest

from tests.support import needs

np = needs.require("numpy")

from nsa.data.packing import Packer

EOS = 50256


def packed(documents, sequence_length, *, truncate=False):
    packer = Packer(sequence_length, eos_id=EOS, truncate=truncate)
    sequences = []
    for number, document in enumerate(documents):
        packer.add(document, number)
        while packer.ready:
            sequences.append(packer.take())
    return packer, sequences


def test_a_document_of_1249_tokens_and_a_limit_of_1024_lose_nothing():
    document = list(range(1249))
    packer, (first,) = packed([document], 1024)
    assert first.tokens.tolist() == document[:1025]
    packer.add(range(5000, 5800), 1)
    assert packer.take().tokens[: 1249 - 1025 + 1].tolist() == [*document[1025:], EOS]
    assert packer.dropped_tokens == 0


@pytest.mark.parametrize("limit", [1023, 1024])
def test_where_truncation_is_asked_for_the_limit_holds_the_end_survives_and_the_loss_is_counted(limit):
    packer, sequences = packed([list(range(1249)), [7, 7], list(range(100, 1400))], limit, truncate=True)
    tokens = np.concatenate([s.tokens for s in sequences]).tolist()
    assert tokens[: limit + 3] == [*range(limit - 1), EOS, 7, 7, EOS]
    assert packer.dropped_tokens == (1249 - (limit - 1)) + (1300 - (limit - 1))
    assert packer.truncated_documents == 2


@pytest.mark.parametrize("length", [1, 2, 6, 7])
def test_a_document_that_fits_with_its_end_is_not_truncated(length):
    packer, _ = packed([list(range(length))] * 8, 8, truncate=True)
    assert packer.dropped_tokens == 0


def test_a_document_of_exactly_the_limit_loses_one_token_to_its_end():
    packer, (first, *_) = packed([list(range(1, 9))] * 2, 8, truncate=True)
    assert first.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, EOS, 1]
    assert packer.dropped_tokens == 2


def test_the_end_of_text_belongs_to_the_document_that_it_ends():
    _, (first,) = packed([[1, 2], [], [3]], 5)
    assert first.tokens.tolist() == [1, 2, EOS, EOS, 3, EOS]
    assert first.document_ids.tolist() == [0, 0, 0, 1, 2, 2]
    assert first.documents == 3


def test_a_document_carried_on_is_number_0_of_the_next_sequence_and_begins_only_once():
    _, (first, second) = packed([[1, 2, 3, 4, 5, 6, 7]], 3)
    assert (first.documents, second.documents) == (1, 0)
    assert second.tokens.tolist() == [5, 6, 7, EOS]
    assert second.document_ids.tolist() == [0, 0, 0, 0]


def test_the_cut_names_the_document_and_the_offset_where_the_next_sequence_begins():
    packer, _ = packed([[1, 2], [3, 4, 5, 6, 7, 8]], 3)
    assert (packer.cut.ref, packer.cut.offset) == (1, 5)
    packer, _ = packed([[1, 2, 3]], 3)
    assert packer.cut is None


def test_tokens_are_int32_and_own_their_memory():
    _, (first, *_) = packed([[1] * 30], 3)
    assert first.tokens.dtype == first.document_ids.dtype == np.int32
    assert first.tokens.flags.owndata


def test_taking_what_is_not_there_is_refused():
    packer, _ = packed([[1]], 8)
    with pytest.raises(ValueError, match="2 tokens are here, a sequence takes 9"):
        packer.take()
