"""Limits are learned: never an alarm within a run's habit, always exactly one when progress ends."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.detect import (
    SPREAD_FACTOR,
    WINDOW,
    YOUNG_FLOOR_SECONDS,
    Detector,
    Limit,
    Overrides,
    Suspicion,
)
from harness.limits import MIN_GAPS
from harness.watch.progress import Progress
from tests.support.examples import examples

TICK = 0.25
FLOOR = 5.0


@dataclass
class Run:
    """A trainer whose steps take what they are told to, watched at every tick."""

    detector: Detector
    now: float = 1000.0
    moved_at: float = 1000.0
    steps: int = 0
    suspicions: list[Suspicion] = field(default_factory=list)

    def look(self) -> None:
        progress = Progress(
            source="heartbeat",
            rank=0,
            incarnation=(1, 1),
            stages=("train",),
            phase=None,
            step=self.steps,
            steps=self.steps,
            count=self.steps,
            moved_at_monotonic_seconds=self.moved_at,
            moved_at_wall_seconds=self.moved_at,
        )
        found = self.detector.observe(progress, self.now)
        if found:
            self.suspicions.append(found)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while end - self.now > TICK:
            self.now += TICK
            self.look()
        self.now = end
        self.look()

    def step(self, seconds: float) -> None:
        end = self.now + seconds
        while end - self.now > TICK:
            self.now += TICK
            self.look()
        self.now = self.moved_at = end
        self.steps += 1
        self.look()

    def limit(self) -> Limit:
        found = self.detector.limit(0)
        assert found is not None
        return found


def started(overrides: Overrides | None = None, *, steps: int = MIN_GAPS + 1, seconds: float = 0.1) -> Run:
    run = Run(Detector(overrides))
    run.look()
    for _ in range(steps):
        run.step(seconds)
    return run


# Ratios to the second largest of the window, which is what "learned spread" means; see detect's docstring.
ratios = st.lists(st.floats(min_value=0.001, max_value=SPREAD_FACTOR * 0.999), min_size=1, max_size=60)


@settings(max_examples=examples(60), deadline=None)
@given(base=st.floats(min_value=0.05, max_value=3.0), ratios=ratios)
def test_no_alarm_on_any_sequence_of_step_times_within_the_learned_spread(
    base: float, ratios: list[float]
) -> None:
    run = started(seconds=base)
    known = deque([base] * MIN_GAPS, maxlen=WINDOW)
    for ratio in ratios:
        second_largest = sorted(known)[-2]
        seconds = min(max(ratio * second_largest, 0.001), 60.0)
        run.step(seconds)
        known.append(seconds)
    assert run.suspicions == []


@settings(max_examples=examples(60), deadline=None)
@given(times=st.lists(st.floats(min_value=0.001, max_value=FLOOR - 0.01), max_size=80))
def test_no_alarm_on_any_sequence_below_the_floor(times: list[float]) -> None:
    run = started()
    for seconds in times:
        run.step(seconds)
    assert run.suspicions == []


@settings(max_examples=examples(40), deadline=None)
@given(
    first=st.floats(min_value=0.001, max_value=899.0),
    young=st.lists(st.floats(min_value=0.001, max_value=YOUNG_FLOOR_SECONDS - 1), max_size=MIN_GAPS - 1),
)
def test_no_alarm_while_the_first_steps_compile_and_warm_up(first: float, young: list[float]) -> None:
    run = started(steps=0)
    for seconds in (first, *young):
        run.step(seconds)
    assert run.suspicions == []


@settings(max_examples=examples(40), deadline=None)
@given(
    usual=st.floats(min_value=0.05, max_value=1.0),
    long=st.floats(min_value=1.0, max_value=30.0),
    period=st.integers(min_value=2, max_value=WINDOW // 3),
)
def test_a_long_step_every_so_often_is_a_habit_once_it_was_met_twice(
    usual: float, long: float, period: int
) -> None:
    run = started(seconds=usual)
    for _ in range(2):
        run.step(long)
        for _ in range(period - 1):
            run.step(usual)
    run.suspicions.clear()
    for _ in range(3):
        run.step(long)
        for _ in range(period - 1):
            run.step(usual)
    assert run.suspicions == []


@settings(max_examples=examples(60), deadline=None)
@given(pattern=st.lists(st.booleans(), min_size=4, max_size=60).filter(lambda each: sum(each[:20]) >= 2))
def test_steps_of_two_kinds_in_any_order_raise_no_alarm(pattern: list[bool]) -> None:
    run = started(seconds=0.1)
    kinds = {False: 0.1, True: 4.9}  # learned below the floor, then far above the median
    for long in pattern:
        run.step(kinds[long])
    for _ in range(3):
        run.step(14.0)  # still within three times the long kind
    assert run.suspicions == []


@settings(max_examples=examples(30), deadline=None)
@given(growth=st.floats(min_value=1.0, max_value=1.5))
def test_steps_that_slow_down_gradually_raise_no_alarm(growth: float) -> None:
    run = started(seconds=0.5)
    seconds = 0.5
    for _ in range(30):
        seconds = min(seconds * growth, 60.0)
        run.step(seconds)
    assert run.suspicions == []


@settings(max_examples=examples(60), deadline=None)
@given(
    steps=st.integers(min_value=0, max_value=300),
    times=st.lists(st.floats(min_value=0.01, max_value=4.0), min_size=1, max_size=20),
    overrides=st.sampled_from([None, Overrides(stages={"train": 7.0}), Overrides(every=1.0)]),
)
def test_exactly_one_alarm_within_the_limit_and_a_tick_when_progress_ends(
    steps: int, times: list[float], overrides: Overrides | None
) -> None:
    run = started(overrides, steps=0)
    for seconds in itertools.islice(itertools.cycle(times), steps):
        run.step(seconds)
    run.suspicions.clear()
    limit = run.limit().seconds
    run.pass_time(limit + 2 * TICK)
    assert len(run.suspicions) == 1
    assert limit <= run.suspicions[0].idle_seconds <= limit + TICK + 1e-6
    run.pass_time(3 * limit)
    assert len(run.suspicions) == 1, "one stall, one alarm"


@settings(max_examples=examples(40), deadline=None)
@given(
    times=st.lists(st.floats(min_value=0.01, max_value=20.0), min_size=2, max_size=40),
    factor=st.floats(1.0, 5.0),
)
def test_slower_steps_never_make_a_shorter_limit(times: list[float], factor: float) -> None:
    limits = []
    for scale in (1.0, factor):
        run = started(seconds=0.5 * scale)
        for seconds in times:
            run.step(seconds * scale)
        limits.append(run.limit().seconds)
    assert limits[0] <= limits[1] + 1e-6


@settings(max_examples=examples(40), deadline=None)
@given(low=st.floats(0.3, 50.0), more=st.floats(0.0, 50.0), silence=st.floats(0.0, 120.0))
def test_a_higher_limit_never_alarms_where_a_lower_one_does_not(
    low: float, more: float, silence: float
) -> None:
    counts = []
    for seconds in (low, low + more):
        run = started(Overrides(stages={"train": seconds}))
        run.pass_time(silence)
        counts.append(len(run.suspicions))
    assert counts[1] <= counts[0]


@settings(max_examples=examples(40), deadline=None)
@given(stop=st.floats(min_value=2.5, max_value=100_000.0), idle=st.floats(min_value=0.0, max_value=2.0))
def test_time_in_which_nobody_looked_is_not_idleness(stop: float, idle: float) -> None:
    run = started()
    run.pass_time(idle)
    run.now += stop  # Ctrl-Z, hours, fg: the trainer stood still as we did
    run.look()
    run.step(0.1)
    for _ in range(20):
        run.step(0.1)
    assert run.suspicions == []
    assert run.limit().seconds == FLOOR, "nor does it teach anything"
