"""The schedule at the numbers of the 125 M run, and what it refuses."""

from __future__ import annotations

import pytest

from nsa.schedule import lr, validate

M7C = {"peak": 2e-4, "warmup": 2000, "total": 50_000, "floor": 0.1}


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 1e-7),
        (999, 1e-4),
        (1999, 2e-4),
        (2000, 2e-4),
        (26_000, 1.1e-4),
        (50_000, 2e-5),
        (500_000, 2e-5),
    ],
)
def test_rate_at_step(step, rate):
    assert lr(step, **M7C) == pytest.approx(rate, rel=1e-12)


def test_run_of_one_step_trains_at_the_peak():
    assert lr(0, peak=1.0, warmup=0, total=1, floor=0.0) == 1.0
    assert lr(0, peak=1.0, warmup=1, total=1, floor=0.0) == 1.0
    assert lr(1, peak=1.0, warmup=1, total=1, floor=0.25) == 0.25


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"warmup": 50_001}, "warmup is 50001 and total 50000: the warm-up must not be longer than the run"),
        ({"warmup": -1}, "warmup is -1"),
        ({"warmup": 2000.0}, "warmup is 2000.0: it must be a whole number of steps, 0 or more"),
        ({"warmup": True}, "warmup is True"),
        ({"total": 0, "warmup": 0}, "total is 0: it must be a whole number of steps, 1 or more"),
        ({"floor": 1.5}, "floor is 1.5: it is a ratio of the peak, from 0 to 1"),
        ({"floor": 2e-5 - 1}, "floor is -0.99998"),
        ({"peak": 0.0}, "peak is 0.0: it must be a finite number above 0"),
        ({"peak": float("nan")}, "peak is nan"),
        ({"peak": float("inf")}, "peak is inf"),
    ],
)
def test_impossible_schedule_is_refused(changed, message):
    with pytest.raises(ValueError) as refused:
        validate(**{**M7C, **changed})
    assert message in str(refused.value)


@pytest.mark.parametrize("step", [-1, 0.5, True])
def test_impossible_step_is_refused(step):
    with pytest.raises(ValueError, match="step is"):
        lr(step, **M7C)
