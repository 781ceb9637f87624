"""What loops around a slow loop make of it: from source and locals alone, and never more than they tell."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from harness.evidence import Local, Reading, Source
from harness.rules import diagnose
from harness.rules.loops import number
from tests.support.cases import case, frame, process, process_sample, sample, stack

FILE = "/home/u/train.py"
LOOPS = """\
def select(length):
    for t in range(length):
        score(t)

def forward(depth):
    for layer in range(depth):
        select(1024)

def train(steps, data):
    for step in range(1, steps + 1):
        for micro in range(8 * 2):
            forward(12)
"""


def local(name: str, value: float, *, argument: bool = False) -> Local:
    return Local(name=name, argument=argument, address=1, kind="number", value=f"{value:g}")


def looked(text: str, *moments: dict[str, dict[str, float]], seconds: float = 1.0) -> Any:
    """A main thread in the functions of `text`, innermost first, whose locals were these at these moments."""
    lines = textwrap.dedent(text).splitlines()
    functions = list(moments[0])
    starts = {
        each: next(n for n, line in enumerate(lines, 1) if f"def {each}(" in line) for each in functions
    }
    begins = [*sorted(starts.values()), len(lines) + 2]
    # A function's last line; before the next one stands a blank.
    ends = {each: min(n for n in begins if n > at) - 2 for each, at in starts.items()}
    samples = []
    for index, values in enumerate(moments):
        frames = [
            frame(FILE, ends[each], each, locals=tuple(local(*pair) for pair in values[each].items()))
            for each in functions
        ]
        at = index * seconds
        top = frame(FILE, len(lines) + 2, "<module>", entry=True)
        samples.append(
            sample(
                process_sample(at=at, ticks=int(at * 100), state="R", stacks=(stack(*frames, top),)), at=at
            )
        )
    sources = tuple(
        Source(
            file=FILE,
            first_line=at,
            lines=tuple(lines[at - 1 : ends[each]]),
            modified_wall_seconds=1.0,
        )
        for each, at in starts.items()
    )
    one = process(
        command=Reading(value=("python", "train.py")), executable=Reading(value="/usr/bin/python3"), state="R"
    )
    return case(*samples, processes=(one,), sources=sources)


def at(t: float, layer: float = 0, micro: float = 0, step: float = 1) -> dict[str, dict[str, float]]:
    return {
        "select": {"length": 1024, "t": t},
        "forward": {"depth": 12, "layer": layer},
        "train": {"steps": 50000, "step": step, "micro": micro},
    }


def test_the_loops_around_it_are_multiplied_up_to_a_step():
    verdict = diagnose(looked(LOOPS, at(100), at(110), at(120))).verdict
    assert verdict.cause == "slow-progress"
    assert verdict.blame is not None
    assert verdict.blame.function == "select"
    # 1,024 at 10 a second are 102 s; 12 layers and 16 micro-batches of that are 5.5 hours.
    assert verdict.summary.endswith(
        "has t at 120 of 1,024, 10 a second: about 1 min 30 s more. It runs again in each of 12 rounds of "
        "layer and 16 of micro: one round of step takes at least 5.5 h."
    )
    said = " ".join(verdict.evidence)
    assert "around it: layer is at 0 of 12" in said
    assert "micro is at 0 of 16" in said
    assert "step is at 1 of 50,000" in said
    assert "no round of step has ended since the start" in said


def test_a_later_step_is_not_said_to_be_the_first():
    verdict = diagnose(looked(LOOPS, at(100, 3, 2, 7), at(110, 3, 2, 7))).verdict
    assert "step is at 7 of 50,000" in " ".join(verdict.evidence)
    assert "no round of step" not in " ".join(verdict.evidence)


def test_one_step_of_a_loop_is_no_rate():
    verdict = diagnose(looked(LOOPS, at(900), at(20, layer=1))).verdict
    assert verdict.cause == "slow-progress"
    assert "has layer at 1 of 12, once while we looked." in verdict.summary
    assert "more" not in verdict.summary
    assert "at least" not in verdict.summary
    assert verdict.confidence < 0.7, "so that a second look is taken"


def test_a_loop_that_shows_no_length_counts_once():
    text = LOOPS.replace("for layer in range(depth)", "for layer, block in enumerate(blocks)")
    verdict = diagnose(looked(text, at(100), at(110))).verdict
    assert "in each of 16 rounds of micro: one round of step takes at least 27 min" in verdict.summary
    assert "layer is at 0 (" in " ".join(verdict.evidence)


def test_alone_it_makes_no_sum():
    text = "def select(length):\n    for t in range(length):\n        score(t)\n"
    moments = [{"select": {"length": 1024.0, "t": t}} for t in (100.0, 110.0)]
    verdict = diagnose(looked(text, *moments)).verdict
    assert "around" not in " ".join(verdict.evidence)
    assert "at least" not in verdict.summary


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        ("steps", 50.0),
        ("steps + 1", 51.0),
        ("2 * steps - 1", 99.0),
        ("steps // 4", 12.0),
        ("10**9", 1e9),
        ("len(data)", None),
        ("self.steps", None),
        ("other", None),
        ("steps // 0", None),
        ("10**10**10", None),
        ("steps if x else y", None),
        ("", None),
    ],
)
def test_only_numbers_and_locals_are_worth_something(text: str, worth: float | None):
    assert number(text, frame(locals=(local("steps", 50),))) == worth
