"""What packing promises, over documents of every length; and known faults, each of which it must reject."""

from __future__ import annotations

import itertools

import pytest

from tests.support import needs
from tests.support.examples import examples

np = needs.require("numpy")
hypothesis = pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from nsa.data.packing import Packer
from tests.property.faulty_packing import FAULTY

EOS = 0


def _lengths(sequence_length):
    s = sequence_length
    edges = st.sampled_from([0, 1, s - 2, s - 1, s, s + 1, s + 2, 2 * s + 1, 10 * s]).map(lambda n: max(n, 0))
    return st.lists(edges | st.integers(0, 3 * s), max_size=12)


@st.composite
def streams(draw):
    """A sequence length, documents (their tokens unlike each other, none the end of text), and truncation."""
    sequence_length = draw(st.integers(2, 24))
    numbers = itertools.count(1)
    documents = [[next(numbers) for _ in range(n)] for n in draw(_lengths(sequence_length))]
    return sequence_length, documents, draw(st.booleans())


def _leaving(document, sequence_length, truncate):
    """The specification: what of a document leaves."""
    return [*(document[: sequence_length - 1] if truncate else document), EOS]


def _drained(packer, sequences):
    while packer.ready:
        sequences.append(packer.take())


def check(make, sequence_length, documents, truncate, *, eager=True):
    """All properties at once, of one packer over one stream; AssertionError names the broken one."""
    packer = make(sequence_length, eos_id=EOS, truncate=truncate)
    sequences = []
    # The last document pushes all that was before it out.
    filler = [10**6] * (sequence_length + 1)
    for number, document in enumerate([*documents, filler]):
        packer.add(document, number)
        if eager:
            _drained(packer, sequences)
    _drained(packer, sequences)

    stream = [t for d in [*documents, filler] for t in _leaving(d, sequence_length, truncate)]
    owners = [n for n, d in enumerate([*documents, filler]) for _ in _leaving(d, sequence_length, truncate)]
    width = sequence_length + 1
    assert all(len(s.tokens) == width for s in sequences), "a sequence is not S + 1 long"
    assert all(len(s.document_ids) == width for s in sequences), "ids are not S + 1 long"
    assert len(sequences) == len(stream) // width, "sequences are missing, or too many"
    together = [int(t) for s in sequences for t in s.tokens]
    assert together == stream[: len(together)], "tokens were lost, repeated or moved"
    assert packer.remainder_tokens == len(stream) - len(together), "the remainder is not the rest"
    for number, sequence in enumerate(sequences):
        first = number * width
        expected = [o - owners[first] for o in owners[first : first + width]]
        assert sequence.document_ids.tolist() == expected, "document ids do not follow the documents"
        begun = {owners[p] for p in range(first, first + width) if p == 0 or owners[p] != owners[p - 1]}
        assert sequence.documents == len(begun), "documents that begin here are miscounted"
    reached = {owners[p] for p in range(len(together))}
    dropped = (
        [max(0, len([*documents, filler][n]) - (sequence_length - 1)) for n in reached] if truncate else []
    )
    assert packer.dropped_tokens == sum(dropped), "dropped tokens are miscounted"
    assert packer.truncated_documents == sum(n > 0 for n in dropped), "truncated documents are miscounted"


@given(streams())
def test_every_token_leaves_once_in_order_with_its_document(stream):
    check(Packer, *stream)


@given(streams())
def test_sequences_do_not_depend_on_how_the_stream_is_chunked(stream):
    check(Packer, *stream, eager=False)


@given(streams(), st.data())
@settings(max_examples=examples(60))
def test_packing_resumes_exactly_at_any_cut_twice(stream, data):
    sequence_length, documents, truncate = stream
    documents = [*documents, [10**6] * (3 * sequence_length)]

    def run(first, skip):
        """Sequences from document `first` on, each with the cut after it."""
        packer = Packer(sequence_length, eos_id=EOS, truncate=truncate)
        for number in range(first, len(documents)):
            packer.add(documents[number], number, skip=skip if number == first else 0)
        while packer.ready:
            taken = packer.take()
            yield taken, packer.cut

    whole = list(run(0, 0))
    seen = 0
    first, skip = 0, 0
    for _ in range(2):
        rest = list(run(first, skip))
        assert [r.tokens.tolist() for r, _ in rest] == [w.tokens.tolist() for w, _ in whole[seen:]]
        assert [r.document_ids.tolist() for r, _ in rest] == [
            w.document_ids.tolist() for w, _ in whole[seen:]
        ]
        if not rest:
            return
        steps = data.draw(st.integers(1, len(rest)))
        cut = rest[steps - 1][1]
        seen += steps
        if cut is None:
            return
        first, skip = cut.ref, cut.offset


def _broken(faulty) -> set[str]:
    """What is said of a packer over a few streams."""
    said = set()
    lengths = [(0,), (1, 0, 5), (3, 9, 4), (40, 2, 8), (7, 8, 9, 80, 1)]
    for sequence_length, sizes, truncate in itertools.product((2, 8), lengths, (False, True)):
        numbers = itertools.count(1)
        documents = [[next(numbers) for _ in range(n)] for n in sizes]
        try:
            check(faulty, sequence_length, documents, truncate)
        except AssertionError as error:
            said.add(str(error))
    return said


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda cls: cls.__name__)
def test_a_known_fault_is_rejected_by_its_property(faulty):
    assert any(said.startswith(FAULTY[faulty]) for said in _broken(faulty))


def test_the_sound_packer_passes_where_the_faulty_ones_fall():
    assert not _broken(Packer)
