"""What a learning-rate schedule must do at every size; each property refuses the faults it is there for."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nsa import schedule
from tests.property import faulty_schedule
from tests.support.env import REPOSITORY, clean_env

ULPS = 4 * sys.float_info.epsilon
LONGEST = 250
# None, or one that does not vanish in the product with a small peak.
FLOORS = st.one_of(st.just(0.0), st.floats(1e-12, 1.0))


def all_steps(total):
    """Every step of a short run, then far past its end."""
    return [*range(total), *range(total, 2 * total + 3), 3 * total, 5 * total + 1, 10 * total]


def rates(lr, shape, steps):
    return [lr(step, **shape) for step in steps]


def positive_and_at_most_the_peak(lr, shape):
    for rate in rates(lr, shape, range(shape["total"])):
        assert 0 < rate <= shape["peak"]


def rises_then_falls(lr, shape):
    warmup = shape["warmup"]
    up = rates(lr, shape, range(warmup))
    down = rates(lr, shape, [step for step in all_steps(shape["total"]) if step >= warmup])
    assert up == sorted(up)
    slack = ULPS * shape["peak"]
    assert all(after <= before + slack for before, after in pairwise(down))


def reaches_the_peak_exactly(lr, shape):
    assert lr(max(0, shape["warmup"] - 1), **shape) == shape["peak"]


def stays_at_the_floor_for_ever(lr, shape):
    total = shape["total"]
    for step in (*range(total, 2 * total + 3), 3 * total, 5 * total + 1, 10 * total):
        assert lr(step, **shape) == pytest.approx(shape["peak"] * shape["floor"], rel=1e-12, abs=0)


def jumps_nowhere(lr, shape):
    peak, warmup, total = shape["peak"], shape["warmup"], shape["total"]
    low = peak * shape["floor"]
    found = rates(lr, shape, range(total + 2))
    if warmup == total:
        # No room to come down: one drop, at the end, and none before it.
        assert (found[total - 1], found[total]) == (peak, pytest.approx(low, rel=1e-12, abs=0))
        found = found[:total]
    rise = peak / warmup if warmup else 0.0
    fall = math.pi / 2 * (peak - low) / (total - warmup) if total > warmup else 0.0
    bound = max(rise, fall) + ULPS * peak
    assert all(abs(after - before) <= bound for before, after in pairwise(found))


def same_however_often_resumed(lr, shape):
    total = shape["total"]
    once = rates(lr, shape, range(total))
    for resumed_at in (total // 3, total // 2):
        assert rates(lr, shape, range(resumed_at, total)) == once[resumed_at:]


def linear_in_the_peak(lr, shape):
    """So the groups of an optimizer keep their ratios."""
    for factor in (0.1, 2.0):
        other = {**shape, "peak": shape["peak"] * factor}
        for step in all_steps(shape["total"]):
            assert lr(step, **other) == pytest.approx(factor * lr(step, **shape), rel=1e-9, abs=0)


PROPERTIES = (
    positive_and_at_most_the_peak,
    rises_then_falls,
    reaches_the_peak_exactly,
    stays_at_the_floor_for_ever,
    jumps_nowhere,
    same_however_often_resumed,
    linear_in_the_peak,
)


@st.composite
def shapes(draw):
    total = draw(st.integers(1, LONGEST))
    warmup = draw(st.one_of(st.just(0), st.just(total), st.integers(0, total)))
    peak = draw(st.floats(1e-8, 10.0))
    return {"peak": peak, "warmup": warmup, "total": total, "floor": draw(FLOORS)}


@pytest.mark.parametrize("property_", PROPERTIES, ids=lambda p: p.__name__)
@settings(max_examples=40, deadline=None)
@given(shape=shapes())
def test_holds(property_, shape):
    property_(schedule.lr, shape)


@settings(max_examples=200, deadline=None)
@given(
    total=st.integers(2, 10**12),
    part=st.floats(0, 1),
    where=st.floats(0, 1),
    floor=FLOORS,
)
def test_holds_in_runs_too_long_to_walk(total, part, where, floor):
    warmup = min(total - 1, int(total * part))
    step = min(total - 1, int(total * where))
    shape = {"peak": 3e-4, "warmup": warmup, "total": total, "floor": floor}
    here, next_ = schedule.lr(step, **shape), schedule.lr(step + 1, **shape)
    assert 0 < here <= shape["peak"]
    assert schedule.lr(total - 1, **shape) > 0
    if step >= warmup:
        assert next_ <= here + ULPS * shape["peak"]
    else:
        assert next_ >= here - ULPS * shape["peak"]


# Short and long warm-ups, none, all of the run; a floor of 0, of a tenth, and of all.
GRID = [
    {"peak": peak, "warmup": warmup, "total": total, "floor": floor}
    for peak in (2e-4, 1e-3)
    for total in (1, 2, 50, 97)
    for warmup in (0, 1, total // 5, total)
    for floor in (0.0, 0.1, 1.0)
    if warmup <= total
]


def refused_by(lr):
    """Names of the properties that a schedule breaks anywhere on the grid."""
    found = set()
    for property_ in PROPERTIES:
        for shape in GRID:
            try:
                property_(lr, shape)
            except AssertionError:
                found.add(property_.__name__)
                break
    return found


@pytest.mark.parametrize(
    ("faulty", "expected"),
    [
        (faulty_schedule.zero_at_first, "positive_and_at_most_the_peak"),
        (faulty_schedule.rises_past_the_end, "stays_at_the_floor_for_ever"),
        (faulty_schedule.rises_past_the_end, "rises_then_falls"),
        (faulty_schedule.negative_past_the_end, "stays_at_the_floor_for_ever"),
        (faulty_schedule.jump_at_full_warmup, "jumps_nowhere"),
        (faulty_schedule.jump_at_full_warmup, "stays_at_the_floor_for_ever"),
        (faulty_schedule.reported, "jumps_nowhere"),
        (faulty_schedule.reported, "rises_then_falls"),
        (faulty_schedule.reported_fix, "stays_at_the_floor_for_ever"),
        (faulty_schedule.absolute_floor, "linear_in_the_peak"),
        (faulty_schedule.peak_missed, "reaches_the_peak_exactly"),
        (faulty_schedule.floor_in_steps, "jumps_nowhere"),
        (faulty_schedule.remembers(), "same_however_often_resumed"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_faulty_schedule_is_refused(faulty, expected):
    assert expected in refused_by(faulty)


def test_ours_is_refused_nowhere_on_the_grid():
    assert refused_by(schedule.lr) == set()


def test_every_property_refuses_some_fault():
    faults = [
        value for name, value in vars(faulty_schedule).items() if callable(value) and name != "remembers"
    ]
    refused = set().union(*(refused_by(fault) for fault in [*faults, faulty_schedule.remembers()]))
    assert refused == {property_.__name__ for property_ in PROPERTIES}


@settings(max_examples=100, deadline=None)
@given(shape=shapes(), wrong=st.sampled_from(["warmup", "total"]), by=st.floats(0.1, 0.9))
def test_steps_that_are_not_whole_are_refused(shape, wrong, by):
    with pytest.raises(ValueError, match=wrong):
        schedule.lr(0, **{**shape, wrong: shape[wrong] + by})


@settings(max_examples=50, deadline=None)
@given(shape=shapes(), more=st.integers(1, 1000))
def test_warmup_longer_than_the_run_is_refused(shape, more):
    with pytest.raises(ValueError, match="longer than the run"):
        schedule.lr(0, **{**shape, "warmup": shape["total"] + more})


@settings(max_examples=50, deadline=None)
@given(shape=shapes(), floor=st.floats(allow_nan=True))
def test_floor_above_the_peak_or_below_zero_is_refused(shape, floor):
    assume(not 0 <= floor <= 1)
    with pytest.raises(ValueError, match="floor"):
        schedule.lr(0, **{**shape, "floor": floor})


def test_another_process_computes_the_same_to_the_bit():
    shape = {"peak": 2e-4, "warmup": 2000, "total": 50_000, "floor": 0.1}
    steps = list(range(0, 60_000, 997))
    program = (
        "import pickle, sys; from nsa import schedule;"
        f"sys.stdout.buffer.write(pickle.dumps([schedule.lr(s, **{shape!r}) for s in {steps!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_env(),
        cwd=REPOSITORY,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert pickle.loads(done.stdout) == rates(schedule.lr, shape, steps)
