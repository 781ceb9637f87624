"""Our learning-rate schedule has every property of harness.properties, and known faults have not."""

from __future__ import annotations

import pickle
import subprocess
import sys
from functools import cache

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.properties import check_lr_schedule
from harness.properties.schedules import PROPERTIES
from nsa import schedule
from tests.property import faulty
from tests.support.env import REPOSITORY, clean_env
from tests.support.examples import examples

ULPS = 4 * sys.float_info.epsilon
LONGEST = 250
# None, or one that does not vanish in the product with a small peak.
FLOORS = st.one_of(st.just(0.0), st.floats(1e-12, 1.0))


@st.composite
def shapes(draw):
    total = draw(st.integers(1, LONGEST))
    warmup = draw(st.one_of(st.just(0), st.just(total), st.integers(0, total)))
    peak = draw(st.floats(1e-8, 10.0))
    return {"peak": peak, "warmup": warmup, "total": total, "floor": draw(FLOORS)}


@pytest.mark.parametrize("property_", PROPERTIES, ids=lambda p: p.__name__)
@settings(max_examples=examples(40), deadline=None)
@given(shape=shapes())
def test_holds(property_, shape):
    assert property_(schedule.lr, shape) is None


@settings(max_examples=examples(40), deadline=None)
@given(shape=shapes())
def test_the_peak_is_reached_exactly_at_the_last_step_of_warmup(shape):
    assert schedule.lr(max(0, shape["warmup"] - 1), **shape) == shape["peak"]


@settings(max_examples=examples(200), deadline=None)
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
    {"peak": 2e-4, "warmup": warmup, "total": total, "floor": floor}
    for total in (1, 2, 50)
    for warmup in (0, 1, total // 5, total)
    for floor in (0.0, 0.1, 1.0)
    if warmup <= total
]


@cache
def refused_by(lr):
    """Names of the properties that a schedule breaks anywhere on the grid."""
    return frozenset(
        property_.__name__ for property_ in PROPERTIES if any(property_(lr, shape) for shape in GRID)
    )


@pytest.mark.parametrize("fault", faulty.SCHEDULES, ids=lambda fault: fault.__name__)
def test_a_faulty_schedule_is_refused_by_its_properties_and_no_other(fault):
    assert refused_by(fault) == faulty.SCHEDULES[fault]


def test_ours_is_refused_nowhere_on_the_grid():
    assert refused_by(schedule.lr) == set()


def test_every_property_refuses_some_fault():
    refused = set().union(*(refused_by(fault) for fault in faulty.SCHEDULES))
    assert refused == {property_.__name__ for property_ in PROPERTIES}


M7C = {"peak": 2e-4, "warmup": 2000, "total": 50_000, "floor": 0.1}


def test_m7c_the_first_step_of_warmup_is_a_two_thousandth_of_the_peak():
    assert schedule.lr(0, **M7C) == pytest.approx(1e-7)


def test_m7c_the_floor_of_a_tenth_is_where_the_run_ends_and_nothing_else():
    assert schedule.lr(50_000, **M7C) == pytest.approx(2e-5)
    assert schedule.lr(0, **M7C) == schedule.lr(0, **{**M7C, "floor": 0.0})
    check_lr_schedule(schedule.lr, **M7C)


@settings(max_examples=examples(100), deadline=None)
@given(shape=shapes(), wrong=st.sampled_from(["warmup", "total"]), by=st.floats(0.1, 0.9))
def test_steps_that_are_not_whole_are_refused(shape, wrong, by):
    with pytest.raises(ValueError, match=wrong):
        schedule.lr(0, **{**shape, wrong: shape[wrong] + by})


@settings(max_examples=examples(50), deadline=None)
@given(shape=shapes(), more=st.integers(1, 1000))
def test_warmup_longer_than_the_run_is_refused(shape, more):
    with pytest.raises(ValueError, match="longer than the run"):
        schedule.lr(0, **{**shape, "warmup": shape["total"] + more})


@settings(max_examples=examples(50), deadline=None)
@given(shape=shapes(), floor=st.floats(allow_nan=True))
def test_floor_above_the_peak_or_below_zero_is_refused(shape, floor):
    assume(not 0 <= floor <= 1)
    with pytest.raises(ValueError, match="floor"):
        schedule.lr(0, **{**shape, "floor": floor})


def test_another_process_computes_the_same_to_the_bit():
    steps = list(range(0, 60_000, 997))
    program = (
        "import pickle, sys; from nsa import schedule;"
        f"sys.stdout.buffer.write(pickle.dumps([schedule.lr(s, **{M7C!r}) for s in {steps!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_env(),
        cwd=REPOSITORY,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert pickle.loads(done.stdout) == [schedule.lr(step, **M7C) for step in steps]
