"""Whatever the bytes and however they come: the same lines, the same bytes, and nothing held in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.render.text import harmless, single_line
from harness.watch.lines import MAX_LINE_BYTES, LineSplitter, split_lines
from harness.watch.logend import stamped_tail, tail
from harness.watch.logindex import times
from harness.watch.logtail import LogFollower
from tests.support.examples import examples
from tests.support.views import Clock

# Line ends, carriage returns, escapes and cut UTF-8 far more often than chance would have them.
PIECES = st.one_of(
    st.sampled_from(
        [b"\n", b"\r", b"\r\n", b"", b"\x1b[31m", "é━".encode(), b"\xe2\x94", b"100%|###|", b"\x00"]
    ),
    st.binary(max_size=40),
)
CHUNKS = st.lists(PIECES, max_size=40)


def lines_by_definition(data: bytes) -> list[bytes]:
    """Of each line the last frame that a carriage return leaves standing, cut to a length."""
    found = []
    for line in data.split(b"\n"):
        frames = [frame for frame in line.split(b"\r") if frame]
        found.append(frames[-1][:MAX_LINE_BYTES] if frames else b"")
    return found if found[-1] else found[:-1]


@given(CHUNKS)
def test_any_chunking_gives_the_lines_of_the_whole(chunks):
    splitter = LineSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    if splitter.partial:
        lines.append(splitter.partial)
    assert lines == lines_by_definition(b"".join(chunks)) == split_lines(b"".join(chunks))


@given(st.lists(st.integers(1, 3 * MAX_LINE_BYTES), max_size=6), st.sampled_from([b"", b"\r", b"\n"]))
def test_a_line_without_end_takes_bounded_memory(lengths, between):
    splitter = LineSplitter()
    data = between.join(b"x" * length for length in lengths)
    for begin in range(0, len(data), 10_000):
        splitter.feed(data[begin : begin + 10_000])
        assert len(splitter.partial) <= MAX_LINE_BYTES
    assert split_lines(data) == lines_by_definition(data)


@given(CHUNKS)
@settings(max_examples=examples(50), deadline=None)
def test_a_follower_hands_on_every_byte_once_and_knows_when_lines_came(chunks):
    with tempfile.TemporaryDirectory() as folder:
        log, index, clock = Path(folder, "output.log"), Path(folder, "output.index"), Clock()
        follower = LogFollower(log, index_path=index, keep_bytes=1 << 30, clock=clock)
        log.touch()
        follower.poll()
        seen, known_ends, end = b"", [], 0
        for chunk in chunks:
            clock.now += 1
            with log.open("ab") as file:
                file.write(chunk)
            update = follower.poll()
            end += len(chunk)
            assert update.grown_bytes == len(chunk)
            assert update.lines == chunk.count(b"\n")
            assert update.size_bytes == end
            if chunk:
                known_ends.append((end, clock.wall()))
            seen += update.new
        follower.close()
        whole = b"".join(chunks)
        assert seen == whole
        assert follower.partial == (lines_by_definition(whole.rpartition(b"\n")[2]) or [b""])[-1]
        assert [(entry.end_offset, entry.wall_seconds) for entry in times(index)] == known_ends
        assert tail(log, 5) == tuple(lines_by_definition(whole)[-5:])
        assert [each.line for each in stamped_tail(log, index, 5)] == [
            (split_lines(line) or [b""])[0] for line in (whole.split(b"\n")[:-1] + whole.split(b"\n")[-1:])
        ][: None if not whole.endswith(b"\n") and whole else -1][-5:]


@given(st.text(), st.booleans())
def test_harmless_text_holds_nothing_that_moves_the_cursor(text, colours):
    shown = harmless(text, colours=colours)
    rest = shown.replace("\x1b[0m", "") if colours else shown
    import re

    rest = re.sub(r"\x1b\[[0-9;:]*m", "", rest) if colours else rest
    assert not [char for char in rest if (ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160]
    assert harmless(shown, colours=colours).replace("\x1b[0m", "") == shown.replace("\x1b[0m", "")
    assert "\n" not in single_line(text)


@given(
    st.lists(
        st.sampled_from(["\x1b", "[", "]", "m", "31", ";", "\x07", "\0", "a", "\x9b", "?", "P", "\\", "J"])
    )
)
def test_no_mixture_of_escapes_gets_through(parts):
    assert "\x1b" not in harmless("".join(parts))
    coloured = harmless("".join(parts), colours=True)
    assert "\0" not in coloured
    assert all(piece.partition("m")[0].strip("0123456789;:[") == "" for piece in coloured.split("\x1b")[1:])
