"""Every known-bad variant, by the properties that have to refuse it: seen in use, each of them.

Here are variants of what other people's code does, and the table of the schedules. The variants of our own
code stand beside it: faulty_schedule, faulty_packing (by property there), faulty_attention (by property in
test_attention_properties).
"""

from __future__ import annotations

from tests.property import faulty_schedule

# Schedules: the fault, and the properties that refuse it, no more and no fewer.
SCHEDULES = {
    faulty_schedule.zero_at_first: {
        "above_zero_and_at_most_the_peak",
        "reaches_the_peak",  # where all of the run is warm-up
        "stays_at_the_floor",
    },
    faulty_schedule.rises_past_the_end: {"rises_then_falls", "stays_at_the_floor"},
    faulty_schedule.negative_past_the_end: {"stays_at_the_floor"},
    faulty_schedule.jump_at_full_warmup: {"stays_at_the_floor"},
    faulty_schedule.reported: {"jumps_nowhere", "rises_then_falls", "stays_at_the_floor"},
    faulty_schedule.reported_fix: {"jumps_nowhere", "rises_then_falls", "stays_at_the_floor"},
    faulty_schedule.absolute_floor: {
        "above_zero_and_at_most_the_peak",
        "jumps_nowhere",
        "linear_in_the_peak",
        "rises_then_falls",
        "stays_at_the_floor",
    },
    faulty_schedule.peak_missed: {"above_zero_and_at_most_the_peak", "reaches_the_peak"},
    faulty_schedule.floor_in_steps: {"jumps_nowhere", "stays_at_the_floor"},
    faulty_schedule.remembers(): {
        "jumps_nowhere",
        "reaches_the_peak",
        "rises_then_falls",
        "same_when_resumed",
        "stays_at_the_floor",
    },
}

EOS = 256


def tokens(text):
    """A tokenizer of one token a byte."""
    return list(text.encode("utf-8", "surrogatepass"))


class Bytes:
    """`tokens` behind the calls of transformers' tokenizers."""

    def __call__(self, text, truncation=False, max_length=None):
        return tokens(text)[: max_length if truncation else None]


def one_less(text, limit):
    """The case's "fix": max_length 1023 for a limit of 1024."""
    return tokens(text)[: limit - 1]


def truncates_nothing(text, limit):
    return tokens(text)


def end_on_top(text, limit):
    """Truncates to the limit and appends the end then: one too many."""
    return [*tokens(text)[:limit], EOS]


def end_cut_off(text, limit):
    """Appends the end and truncates then: a long document runs into the next."""
    return [*tokens(text), EOS][:limit]


def keeps_the_tail(text, limit):
    """truncation_side="left"."""
    return tokens(text)[-limit:]


# Truncation: what is under test, whether it appends the end, and the property that refuses it.
TRUNCATIONS = (
    (one_less, None, "nothing is lost that fits"),
    (truncates_nothing, None, "never more than the limit"),
    (end_on_top, EOS, "never more than the limit"),
    (end_cut_off, EOS, "the end-of-text token survives"),
    (keeps_the_tail, None, "what leaves is the text's beginning"),
)


def each_batch_by_itself(documents, sequence_length):
    """`group_texts` of transformers' run_clm under `datasets.map(batched=True)`: each drops its remainder."""
    documents = list(documents)
    for first in range(0, len(documents), 3):
        joined = [token for document in documents[first : first + 3] for token in (*document, 0)]
        whole = len(joined) // sequence_length * sequence_length
        yield from (joined[at : at + sequence_length] for at in range(0, whole, sequence_length))


def no_end_between(documents, sequence_length):
    joined = [token for document in documents for token in document]
    yield from _cut(joined, sequence_length)


def drops_long_documents(documents, sequence_length):
    kept = [document for document in documents if len(document) < sequence_length]
    yield from _cut([token for document in kept for token in (*document, 0)], sequence_length)


def pads_the_rest(documents, sequence_length):
    joined = [token for document in documents for token in (*document, 0)]
    joined += [0] * (-len(joined) % sequence_length)
    yield from _cut(joined, sequence_length)


def inputs_and_targets_apart(documents, sequence_length):
    """The last token of a sequence is the first of the next."""
    joined = [token for document in documents for token in (*document, 0)]
    for first in range(0, len(joined) - sequence_length + 1, sequence_length - 1):
        yield joined[first : first + sequence_length]


def one_too_long(documents, sequence_length):
    joined = [token for document in documents for token in (*document, 0)]
    yield from _cut(joined, sequence_length + 1)


_left_over = []


def remembers(documents, sequence_length):
    """What was left over in one pass comes first in the next."""
    joined = _left_over + [token for document in documents for token in (*document, 0)]
    whole = len(joined) // sequence_length * sequence_length
    _left_over[:] = joined[whole:]
    yield from _cut(joined[:whole], sequence_length)


def _cut(joined, length):
    for at in range(0, len(joined) - length + 1, length):
        yield joined[at : at + length]


_LOST, _KEPT_BACK = "nothing lost, repeated or moved", "less than one sequence is kept back"
# Packers, and the properties that refuse them.
PACKERS = {
    each_batch_by_itself: {_LOST, _KEPT_BACK},
    no_end_between: {_LOST, _KEPT_BACK},
    drops_long_documents: {_LOST, _KEPT_BACK},
    pads_the_rest: {_LOST},
    inputs_and_targets_apart: {_LOST},
    one_too_long: {"every sequence has its length", _KEPT_BACK},
    remembers: {_LOST, "the same for the same documents"},
}
