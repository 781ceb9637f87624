"""What looked wrong: each remark made where it should be, and not where things only look like it."""

from __future__ import annotations

import math
import random
import re

import pytest

from harness.report.history import Recorder, Run
from harness.report.judge import Ending, RateWatch, remarks
from harness.schedules import scheduled_rate

COSINE = {"kind": "cosine", "peak": 1e-3, "warmup": 50, "total": 1000, "floor": 0.1}
TO_ZERO = {"kind": "cosine", "peak": 1e-3, "warmup": 50, "total": 1000, "floor": 0.0}


def falling(step):
    return 2 + 5 * math.exp(-step / 300)


def looked_at(rows=1000, *, schedule=None, state="finished", checkpoints=(), end=None, **columns):
    """The remarks on a run of `rows` steps whose columns are functions of the step."""
    noise = random.Random(7)
    steps = list(range(1, rows + 1))
    given = {
        "loss": lambda step: falling(step) + noise.gauss(0, 0.05),
        "step_seconds": lambda _: 0.1 + noise.random() * 0.01,
        **columns,
    }
    run = Run(
        attempt=1,
        steps=steps,
        seconds=[1e9 + 0.1 * step for step in steps],
        columns={name: [column(step) for step in steps] for name, column in given.items()},
    )
    recorder, rates = Recorder(), RateWatch(schedule=schedule)
    recorder.add(run)
    rates.see(run)
    ending = Ending(
        state=state, end_seconds=end or 1e9 + 0.1 * rows, checkpoints=tuple(checkpoints), schedule=schedule
    )
    return {each.cause: each for each in remarks(recorder.history(), rates, ending)}


def test_a_training_that_goes_well_gets_no_remark():
    found = looked_at(
        schedule=COSINE,
        lr=lambda step: scheduled_rate(COSINE, step),
        grad_norm=lambda _: 1.0,
        checkpoints=[(1e9 + 10.0 * n, 100 * n) for n in range(1, 11)],
    )
    assert found == {}


def test_a_loss_that_is_not_finite():
    found = looked_at(loss=lambda step: math.nan if step in (400, 401) else falling(step))
    assert "at 2 steps, first at step 400" in found["loss-nonfinite"].summary
    assert found["loss-nonfinite"].severity == "bad"


@pytest.mark.parametrize("schedule", [None, COSINE])
def test_a_learning_rate_of_zero(schedule):
    found = looked_at(schedule=schedule, lr=lambda step: 0.0 if 300 < step <= 320 else 1e-3)
    assert "at 20 steps from 301 to 320" in found["lr-zero"].summary


@pytest.mark.parametrize("schedule", [None, TO_ZERO])
def test_the_end_of_a_decay_to_zero_is_no_fault(schedule):
    assert "lr-zero" not in looked_at(1200, schedule=schedule, lr=lambda step: scheduled_rate(TO_ZERO, step))


def test_zero_from_the_first_step_on():
    assert "lr-zero" in looked_at(lr=lambda _: 0.0)


def test_a_rate_off_its_schedule():
    other = {**COSINE, "total": 2000}
    found = looked_at(schedule=COSINE, lr=lambda step: scheduled_rate(other, step))
    assert "lr-off-schedule" in found
    assert "by the schedule" in found["lr-off-schedule"].evidence[0]


def test_one_step_is_told_as_one():
    found = looked_at(
        schedule=COSINE,
        lr=lambda step: 0.0 if step == 300 else 5e-4 if step == 500 else scheduled_rate(COSINE, step),
    )
    assert "was 0 at step 300:" in found["lr-zero"].summary
    assert "at 2 steps from 300 to 500" in found["lr-off-schedule"].summary
    assert "steps" not in looked_at(state="died", checkpoints=[(1e9 + 99, 999)])["stale-checkpoint"].summary


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_trainer_that_counts_from_the_other_end_is_on_its_schedule(shift):
    found = looked_at(schedule=COSINE, lr=lambda step: scheduled_rate(COSINE, max(1, step + shift)))
    assert "lr-off-schedule" not in found


def test_a_run_that_ended_in_its_warm_up():
    long = {**COSINE, "warmup": 2000, "total": 9000}
    found = looked_at(500, schedule=long, lr=lambda step: scheduled_rate(long, step), state="died")
    assert found["lr-warmup"].summary.startswith("It ended at step 500 of a 2,000-step warm-up")
    assert found["lr-warmup"].severity == "told"


def test_a_loss_that_never_falls():
    noise = random.Random(1)
    assert looked_at(loss=lambda _: 6.93 + noise.gauss(0, 0.05))["loss-flat"].severity == "odd"


def test_a_loss_that_stopped_falling_half_way():
    noise = random.Random(1)
    found = looked_at(loss=lambda step: max(3.0, 7 - step / 100) + noise.gauss(0, 0.02))
    assert found["loss-flat"].severity == "told"


def test_a_loss_that_rises_again():
    assert "loss-rose" in looked_at(loss=lambda step: falling(step) + max(0, step - 700) / 50)


def test_few_steps_are_not_judged():
    assert looked_at(60, loss=lambda _: 6.9) == {}


def test_throughput_that_fell():
    found = looked_at(step_seconds=lambda step: 0.1 if step < 800 else 0.2)
    assert "(-50 %)" in found["throughput-drop"].summary
    assert found["throughput-drop"].severity == "odd"


def test_throughput_that_fell_for_a_while():
    found = looked_at(step_seconds=lambda step: 0.3 if 400 <= step < 520 else 0.1)
    assert found["throughput-drop"].severity == "told"
    assert "for a while" in found["throughput-drop"].summary


def test_a_while_in_which_steps_went_back_is_told_from_its_least_step_to_its_greatest():
    recorder = Recorder()
    for number, steps in ((1, range(1, 501)), (2, range(441, 941))):
        slow = range(470, 501) if number == 1 else range(441, 470)
        recorder.add(
            Run(
                attempt=number,
                steps=list(steps),
                seconds=[1e9 + 1000 * number + 0.1 * step for step in steps],
                columns={"step_seconds": [0.5 if step in slow else 0.1 for step in steps]},
            )
        )
    ending = Ending(state="finished", end_seconds=2e9, checkpoints=(), schedule=None)
    found = {each.cause: each for each in remarks(recorder.history(), RateWatch(schedule=None), ending)}
    first, last = re.search(r"from step (\d+) to (\d+)", found["throughput-drop"].summary).groups()
    assert int(first) < int(last)
    assert 441 <= int(first) <= 470
    assert 470 <= int(last) <= 500


def test_one_slow_step_is_no_drop():
    assert "throughput-drop" not in looked_at(step_seconds=lambda step: 3.0 if step == 500 else 0.1)


def test_an_overdue_checkpoint():
    saved = [(1e9 + 10.0 * n, 100 * n) for n in range(1, 5)]
    found = looked_at(state="running", checkpoints=saved, end=1e9 + 200)
    assert "No checkpoint for 2:40" in found["stale-checkpoint"].summary
    assert "stale-checkpoint" not in looked_at(state="running", checkpoints=saved, end=1e9 + 65)
    assert "stale-checkpoint" not in looked_at(state="finished", checkpoints=saved, end=1e9 + 200)


def test_what_a_death_cost():
    found = looked_at(state="died", checkpoints=[(1e9 + 90, 900)])
    assert "the 100 steps after it" in found["stale-checkpoint"].summary
