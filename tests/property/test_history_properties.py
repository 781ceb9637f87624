"""The reduced history keeps what it promises, for any rows: nothing lost, nothing invented, bounded."""

from __future__ import annotations

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.report.history import Downsampler, Recorder, Run, ranges

_LIMIT = 16
# Losses as trainers have them, and as they should not be.
_VALUES = (None, None, 0.0, 2.5, 2.6, 4.0, -1.0, math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 1e-9)
_PLAIN = settings(deadline=None, max_examples=60)


@st.composite
def runs(draw: st.DrawFn) -> list[Run]:
    """Attempts that go on, go back and have holes."""
    shape = st.tuples(st.integers(0, 2), st.integers(-20, 20), st.integers(0, 60), st.booleans())
    values = random.Random(draw(st.integers(0, 1 << 16)))
    found, step, seconds, attempt = [], 0, 1e9, 1
    for later, jump, length, after_gap in draw(st.lists(shape, max_size=12)):
        attempt += later == 2  # most runs go on within their attempt
        step = max(0, step + jump)
        found.append(
            Run(
                attempt=attempt,
                steps=[step + i for i in range(length)],
                seconds=[seconds + i for i in range(length)],
                columns={"loss": values.choices(_VALUES, k=length)},
                phases={"data": [0.5] * length},
                phase_rows=[1] * length,
                after_gap=after_gap,
            )
        )
        step, seconds = step + length, seconds + length
    return found


def reduced(given_runs: list[Run]) -> Downsampler:
    down = Downsampler(_LIMIT)
    for run in given_runs:
        down.add(run)
    return down


def all_values(given_runs: list[Run]) -> list[float]:
    return [value for run in given_runs for value in run.columns["loss"] if value is not None]


@given(runs())
@_PLAIN
def test_no_row_is_lost_and_the_number_of_buckets_is_bounded(given_runs: list[Run]) -> None:
    buckets = reduced(given_runs).buckets
    assert len(buckets) <= _LIMIT
    assert sum(bucket.rows for bucket in buckets) == sum(len(run.steps) for run in given_runs)
    assert sum(bucket.phase_rows for bucket in buckets) == sum(len(run.steps) for run in given_runs)


@given(runs())
@_PLAIN
def test_every_extreme_and_every_value_that_is_not_finite_survives(given_runs: list[Run]) -> None:
    buckets = reduced(given_runs).buckets
    values = all_values(given_runs)
    finite = [value for value in values if math.isfinite(value)]
    spreads = [bucket.values["loss"] for bucket in buckets if "loss" in bucket.values]
    assert sum(each.count for each in spreads) == len(finite)
    assert sum(bucket.nonfinite.get("loss", 0) for bucket in buckets) == len(values) - len(finite)
    if finite:
        assert min(each.low for each in spreads) == min(finite)
        assert max(each.high for each in spreads) == max(finite)
        assert all(math.isfinite(each.mean) and each.low <= each.mean <= each.high for each in spreads)


@given(runs())
@_PLAIN
def test_steps_stand_in_the_buckets_they_came_in(given_runs: list[Run]) -> None:
    buckets = reduced(given_runs).buckets
    steps = [step for run in given_runs for step in run.steps]
    at = 0
    for bucket in buckets:
        mine = steps[at : at + bucket.rows]
        assert (bucket.first_step, bucket.last_step) == (min(mine), max(mine))
        at += bucket.rows


@given(runs())
@_PLAIN
def test_a_hole_or_a_return_is_seen_or_counted(given_runs: list[Run]) -> None:
    down = reduced(given_runs)
    recorder = Recorder(10_000)
    for run in given_runs:
        recorder.add(run)
    whole = recorder.history().buckets
    breaks = sum(bool(bucket.start) for bucket in whole)
    assert sum(bool(bucket.start) for bucket in down.buckets) + down.hidden_breaks == breaks
    assert len(ranges(whole)) == recorder.history().lap_count or not whole


@given(runs(), st.integers(1, 7))
@_PLAIN
def test_it_does_not_matter_in_how_many_pieces_the_rows_come(given_runs: list[Run], size: int) -> None:
    pieces = []
    for run in given_runs:
        for at in range(0, len(run.steps), size):
            part = slice(at, at + size)
            pieces.append(
                Run(
                    attempt=run.attempt,
                    steps=run.steps[part],
                    seconds=run.seconds[part],
                    columns={"loss": run.columns["loss"][part]},
                    phases={"data": run.phases["data"][part]},
                    phase_rows=run.phase_rows[part],
                    after_gap=run.after_gap and at == 0,
                )
            )
    ours, theirs = reduced(given_runs), reduced(pieces)
    assert ours.width == theirs.width
    for one, other in zip(ours.buckets, theirs.buckets, strict=True):
        assert (one.first_step, one.last_step, one.rows, one.start) == (
            other.first_step,
            other.last_step,
            other.rows,
            other.start,
        )
