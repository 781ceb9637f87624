"""What the source says around a frame: loops, held locks, retries, bounds."""

from __future__ import annotations

import ast
import dataclasses
import textwrap

import pytest

from harness.collect.sources import extent
from harness.evidence import Source
from harness.rules import loops
from harness.rules.source import Sources
from tests.support.cases import case, frame

TEXT = textwrap.dedent("""\
    def save(self, path):
        with self.lock, open(path) as file:
            file.write(
                self.state,
            )
        self.done.acquire()
        work()
        self.done.release()
        after()
        for attempt in range(3):
            try:
                send()
            except OSError:
                sleep(5)
        while True:
            if step >= total:
                break
            step += 1
        while not flag:
            pass
    """)


@pytest.fixture
def sources():
    lines = tuple(f"    {line}" for line in TEXT.splitlines())
    held = Source(file="/home/u/loader.py", first_line=11, lines=lines, modified_wall_seconds=0.0)
    return Sources(dataclasses.replace(case(), sources=(held,)))


def at(line: int):
    return frame(line=line + 10, function="save")


def test_a_body_holds_what_its_with_took_and_the_with_line_asks_for_it(sources):
    assert [each.expression for each in sources.held(at(4))] == ["self.lock", "open(path)"]
    assert sources.held(at(2)) == ()


def test_between_acquire_and_release_a_lock_is_held(sources):
    assert [each.expression for each in sources.held(at(7))] == ["self.done"]
    assert sources.held(at(9)) == ()
    assert sources.asked(at(6)) == "self.done"


def test_a_statement_of_several_lines_is_one(sources):
    assert sources.statement(at(4)) == "file.write(self.state)"


def test_a_pause_after_a_caught_failure_in_a_loop_is_a_retry(sources):
    assert sources.retries(at(14))
    assert not sources.retries(at(18))


def test_what_ends_a_loop(sources):
    (endless,) = sources.loops(at(18))
    assert loops.is_open_ended(endless)
    assert loops.exit_names(endless) == {"step", "total"}
    (polls,) = sources.loops(at(20))
    assert loops.exit_names(polls) == {"flag"}
    (counted,) = sources.loops(at(12))
    assert loops.bound(counted) == "3"


def test_no_source_no_answer():
    nothing = Sources(case())
    assert nothing.of(at(3)) is None
    assert nothing.loops(at(3)) == ()
    assert nothing.asked(at(3)) is None
    assert nothing.line(at(3)) == ""


def test_source_that_does_not_parse_gives_its_lines_and_no_more():
    broken = Source(file="/home/u/loader.py", first_line=31, lines=("if (", "((("), modified_wall_seconds=0.0)
    found = Sources(dataclasses.replace(case(), sources=(broken,)))
    assert found.line(frame(line=31)) == "if ("
    assert found.loops(frame(line=31)) == ()


def test_the_extent_of_a_function_is_bounded():
    lines = [
        "import x",
        "",
        "def f(a,",
        "      b):",
        "    one()",
        "",
        "    two()",
        "",
        "def g():",
        "    pass",
    ]
    assert extent(lines, 5, "f") == (3, 7)
    assert extent(lines, 10, "g") == (9, 10)
    assert extent(lines, 5, "<lambda>") == (1, 9)
    long = ["def f():", *["    x()"] * 1000]
    first, last = extent(long, 900, "f")
    assert first <= 900 <= last
    assert last - first <= 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("FLAG[0] += 1", {"FLAG"}),
        ("self.state.done = True", {"done"}),
        ("left, self.done = 1, 2", {"done"}),
        ("arrived.set()", {"arrived"}),
        ("global done; done = True", {"done"}),
        ("done = True", set()),  # of its own: whoever waits for another `done` is not served by it
    ],
)
def test_what_a_function_changes_that_others_see(body, words):
    function = ast.parse(f"def change(self): {body}").body[0]
    assert loops.written_words(function) == words
