"""What packing must do: documents joined by the end-of-text token and cut into equal sequences, nothing lost.

Not covered: attention masks and document ids (they have no common form), and truncation.
"""

from __future__ import annotations

import inspect
import itertools
from typing import TYPE_CHECKING, Any

from harness.properties.faults import EXAMPLES, Fault, PropertyFault, distinct, name_of, smallest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_LONGEST = 16
_DOCUMENTS = 8

Stream = tuple[int, list[list[int]]]


def check_packing(
    pack: Callable[..., Iterable[Sequence[int]]],
    *,
    sequence_length: int | None = None,
    eos_id: int | None = 0,
    examples: int = EXAMPLES,
    seed: int = 0,
) -> None:
    """Raise PropertyFault where a packer loses, repeats or moves a token, or gives another length.

    Args:
        pack: `pack(documents, sequence_length) -> sequences` (or `pack(documents)`, with `sequence_length`
            given here): from an iterable of documents, each a list of token ids without an end, sequences of
            ids that a list can be made of. It may keep back less than one sequence at the end.
        sequence_length: tokens of each sequence that leaves; drawn where it is not given.
        eos_id: what joins documents; None where nothing does.
        examples: streams of documents to draw.
        seed: of the draw.
    """
    __tracebackhide__ = True
    takes_length = len(inspect.signature(pack).parameters) > 1
    if sequence_length is None and not takes_length:
        raise ValueError("pack takes no sequence_length: say which one it uses, sequence_length=…")
    if sequence_length is not None and sequence_length < 1:
        raise ValueError(f"sequence_length is {sequence_length}: it must be 1 or more")

    def run(stream: Stream, *, lazily: bool) -> list[list[int]]:
        length, documents = stream
        given: Iterable[list[int]] = (list(each) for each in documents)
        if not lazily:
            given = list(given)
        packed = pack(given, length) if takes_length else pack(given)
        return [[int(token) for token in sequence] for sequence in packed]

    def streams(st: Any) -> Any:
        return _streams(st, sequence_length, 1 if eos_id is None else max(eos_id, 0) + 1)

    found = distinct(
        smallest(
            streams,
            lambda stream, rule=rule: rule(run, stream, eos_id),  # type: ignore[misc]
            said=_said,
            examples=examples,
            seed=seed,
        )
        for rule in _RULES
    )
    if found:
        raise PropertyFault(name_of(pack), found)


def _streams(st: Any, sequence_length: int | None, first_id: int) -> Any:
    """A sequence length, and documents of which no two tokens are alike."""

    def draw_stream(draw: Any) -> Stream:
        length = sequence_length or draw(st.integers(2, _LONGEST))
        edges = st.sampled_from([0, 1, max(0, length - 1), length, length + 1, 2 * length + 1])
        sizes = draw(st.lists(edges | st.integers(0, 3 * length), max_size=_DOCUMENTS))
        ids = itertools.count(first_id)
        return length, [[next(ids) for _ in range(size)] for size in sizes]

    return st.composite(draw_stream)()


def _expected(stream: Stream, eos_id: int | None) -> list[int]:
    end = [] if eos_id is None else [eos_id]
    return [token for document in stream[1] for token in (*document, *end)]


def _said(stream: Stream) -> str:
    return f"documents of {[len(each) for each in stream[1]]} tokens into sequences of {stream[0]}"


def _length(run: Any, stream: Stream, _: int | None) -> Fault | None:
    for number, sequence in enumerate(run(stream, lazily=False)):
        if len(sequence) != stream[0]:
            return Fault(
                property="every sequence has its length",
                example=f"sequence {number} has {len(sequence)} tokens; {_said(stream)}",
                remedy="Cut at the length, and carry the rest on",
            )
    return None


def _order(run: Any, stream: Stream, eos_id: int | None) -> Fault | None:
    together = [token for sequence in run(stream, lazily=False) for token in sequence]
    expected = _expected(stream, eos_id)
    for place, (token, wanted) in enumerate(zip(together, expected, strict=False)):
        if token != wanted:
            owner, at = _where(stream, eos_id, place)
            return Fault(
                property="nothing lost, repeated or moved",
                example=f"token {place} that leaves is {token}, not {wanted} ({at} of document {owner}); "
                f"{_said(stream)}",
                remedy="Join documents by the end-of-text token and cut the whole, not each document",
            )
    if len(together) > len(expected):
        return Fault(
            property="nothing lost, repeated or moved",
            example=f"{len(together)} tokens leave of {len(expected)}; {_said(stream)}",
            remedy="Padding, or a repeated token, is no text",
        )
    return None


def _rest(run: Any, stream: Stream, eos_id: int | None) -> Fault | None:
    left = len(_expected(stream, eos_id)) - sum(len(each) for each in run(stream, lazily=False))
    if left < stream[0]:
        return None
    return Fault(
        property="less than one sequence is kept back",
        example=f"{left} tokens never leave; {_said(stream)}",
        remedy="Carry the remainder on into the next batch of documents",
    )


def _same_lazily(run: Any, stream: Stream, _: int | None) -> Fault | None:
    if run(stream, lazily=True) == run(stream, lazily=False) == run(stream, lazily=False):
        return None
    return Fault(
        property="the same for the same documents",
        example=f"a second pass, or a generator of documents, gives other sequences; {_said(stream)}",
        remedy="Keep no state between calls, and read the documents once",
    )


def _where(stream: Stream, eos_id: int | None, place: int) -> tuple[int, str]:
    """Which document a token of the joined stream belongs to, and what it is there."""

    def places() -> Iterator[tuple[int, str]]:
        for number, document in enumerate(stream[1]):
            yield from ((number, f"token {each}") for each in range(len(document)))
            if eos_id is not None:
                yield number, "the end"

    return next(itertools.islice(places(), place, None))


_RULES = (_length, _order, _rest, _same_lazily)
