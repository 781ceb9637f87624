"""Expectations: what passes, what fails, and what is said of it."""

from __future__ import annotations

import dataclasses
import math

import pytest

from harness.schedules import scheduled_rate
from harness.smoke import expect, expect_steps
from harness.smoke.observed import Observed, Row, SeenIncident

SCHEDULE = {"kind": "cosine", "peak": 2e-4, "warmup": 2000, "total": 50000, "floor": 0.1}


def seen(**facts):
    return dataclasses.replace(Observed(exit_status=0, ended_by="itself", seconds=1.0), **facts)


def rows(losses=(), *, rate=None, tokens=100, seconds=0.1):
    return tuple(
        Row(
            step=number,
            loss=loss,
            learning_rate=scheduled_rate(SCHEDULE, number) if rate is None else rate(number),
            tokens=tokens,
            seconds=None if number == 1 else seconds,
        )
        for number, loss in enumerate(losses, start=1)
    )


FALLING = tuple(5.0 - 0.1 * n for n in range(20))
STALL = SeenIncident(cause="socket-read", headline="h", found_after_seconds=9.0, path="runs/x/incidents/001")


@pytest.mark.parametrize(
    ("expectation", "good", "bad", "said"),
    [
        (
            expect.ExitStatus(allowed=(0,)),
            {},
            {"exit_status": 3, "last_line": "lr: 0"},
            "exit: 3 (lr: 0), expected 0",
        ),
        (expect.ExitStatus(allowed=(0,)), {}, {"exit_status": None}, "exit: unknown, expected 0"),
        (
            expect.StageReached(stage="train"),
            {"stages": frozenset({"train"})},
            {"stages": frozenset({"boot"})},
            "reached boot",
        ),
        (expect.StageReached(stage="train"), {"stages": frozenset({"train"})}, {}, "none was marked"),
        (
            expect.StepReached(step=20),
            {"rows": rows(FALLING)},
            {"rows": rows(FALLING[:9])},
            "reached 9, expected 20",
        ),
        (expect.StepReached(step=20), {"rows": rows(FALLING)}, {}, "no step was reported"),
        (expect.Ranks(count=2), {"ranks": 2}, {"ranks": 1}, "1 took part"),
        (
            expect_steps.LossFinite(),
            {"rows": rows(FALLING)},
            {"rows": rows((5.0, math.nan))},
            "nan at step 2",
        ),
        (expect_steps.LossFinite(), {"rows": rows(FALLING)}, {}, "no loss was reported"),
        (
            expect_steps.LossFalls(by=1.0),
            {"rows": rows(FALLING)},
            {"rows": rows([5.0] * 20)},
            "0 (5 → 5), expected at least 1",
        ),
        (expect_steps.LossFalls(by=1.0), {"rows": rows(FALLING)}, {"rows": rows(FALLING[::-1])}, "-1.7"),
        (
            expect_steps.LossFalls(by=1.0),
            {"rows": rows(FALLING)},
            {"rows": rows([5.0] * 19 + [math.nan])},
            "nan",
        ),
        (expect_steps.LossFalls(by=1.0), {"rows": rows(FALLING)}, {"rows": rows([5.0])}, "too few steps"),
        (
            expect_steps.LossEndsBelow(bound=4.0),
            {"rows": rows(FALLING)},
            {"rows": rows([5.0])},
            "5 at step 1, expected below 4",
        ),
        (
            expect_steps.TokensPerSecond(at_least=900),
            {"rows": rows(FALLING)},
            {"rows": rows(FALLING, seconds=15.0)},
            "7, expected at least 900",
        ),
        (
            expect_steps.TokensPerSecond(at_least=900),
            {"rows": rows(FALLING)},
            {"rows": rows(FALLING, tokens=None)},
            "no step with its tokens",
        ),
        (
            expect_steps.HostMemory(at_most_bytes=10**9),
            {"resident_peak_bytes": 10**8},
            {"resident_peak_bytes": 2 * 10**9},
            "2.0 GB at its peak, expected at most 1.0 GB",
        ),
        (expect_steps.HostMemory(at_most_bytes=10**9), {"resident_peak_bytes": 10**8}, {}, "it was not seen"),
        (
            expect_steps.GpuMemory(at_most_bytes=10**9),
            {"gpu_peak_bytes": 10**8},
            {"gpu_peak_bytes": 2 * 10**9},
            "2.0 GB",
        ),
        (
            expect_steps.MemoryGrowth(at_most_bytes=10**7),
            {"resident_bytes": (10**9,) * 16},
            {"resident_bytes": tuple(n * 10**7 for n in range(16))},
            "80.0 MB on the host",
        ),
        (
            expect_steps.MemoryGrowth(at_most_bytes=10**7),
            {"resident_bytes": (10**9,) * 16},
            {"gpu_bytes": tuple(n * 10**7 for n in range(16))},
            "on the GPU",
        ),
        (
            expect_steps.MemoryGrowth(at_most_bytes=10**7),
            {"resident_bytes": (10**9,) * 16},
            {"resident_bytes": (1, 2)},
            "2 samples while it trained",
        ),
        (
            expect_steps.MemoryGrowth(at_most_bytes=10**7),
            {"resident_bytes": (10**9,) * 16, "gpu_bytes": (10**9,) * 16},
            {"resident_bytes": (1, 2), "gpu_bytes": (10**9,) * 16},
            "2 samples while it trained",
        ),
        (expect.Scraped(), {"scrapes": 1}, {}, "0 scrapes"),
        (
            expect.Scraped(series=("a", "b")),
            {"scrapes": 1, "scraped_series": frozenset("ab")},
            {"scrapes": 2, "scraped_series": frozenset("a")},
            "2 scrapes without b",
        ),
        (expect.FileWritten(pattern="*.pt"), {"files": {"*.pt": 2}}, {"files": {"*.pt": 0}}, "none of *.pt"),
        (
            expect.LogLacks(pattern="x"),
            {"log_lines": {"x": None}},
            {"log_lines": {"x": "a x b"}},
            "the line “a x b”",
        ),
        (expect.LogHas(pattern="x"), {"log_lines": {"x": "x"}}, {"log_lines": {"x": None}}, "no such line"),
        (expect.NoIncident(), {}, {"incidents": (STALL,)}, "it stalled: h"),
        (
            expect.IncidentFound(causes=("socket-read",), within_seconds=30),
            {"incidents": (STALL,)},
            {},
            "none was opened",
        ),
        (
            expect.IncidentFound(causes=("socket-read",), within_seconds=30),
            {"incidents": (STALL,)},
            {"incidents": (dataclasses.replace(STALL, cause="sleep"),)},
            "sleep, 9.0 s after",
        ),
        (
            expect.IncidentFound(causes=("socket-read",), within_seconds=30),
            {"incidents": (STALL,)},
            {"incidents": (dataclasses.replace(STALL, found_after_seconds=31.0),)},
            "31.0 s after",
        ),
        (
            expect.Measured(name="n", at_least=2, at_most=4),
            {"measured": {"n": 3}},
            {"measured": {"n": 5}},
            "n: 5, expected at least 2 and at most 4",
        ),
        (
            expect.Measured(name="n", at_least=2),
            {"measured": {"n": 2.0}},
            {"measured": {"n": "many"}},
            "n: many",
        ),
        (expect.Measured(name="n", at_least=2), {"measured": {"n": 2.0}}, {}, "it was not measured"),
        (
            expect.Measured(name="n", equals=True),
            {"measured": {"n": True}},
            {"measured": {"n": False}},
            "n: no, expected yes",
        ),
        (
            expect_steps.TokensPerSecond(at_least="measured.floor"),
            {"rows": rows(FALLING), "measured": {"floor": 900}},
            {"rows": rows(FALLING), "measured": {"floor": 1100}},
            "1,000, expected at least 1,100",
        ),
        (
            expect_steps.TokensPerSecond(at_least="measured.floor"),
            {"rows": rows(FALLING), "measured": {"floor": 900}},
            {"rows": rows(FALLING)},
            "measured.floor, which was not measured",
        ),
    ],
)
def test_each_passes_and_fails_and_says_what_was_seen(expectation, good, bad, said):
    assert expectation.check(seen(**good)).passed
    check = expectation.check(seen(**bad))
    assert not check.passed
    assert said in check.sentence


def test_the_m7c_case_lr_at_step_1_of_warmup_2000_is_as_scheduled():
    found = rows([5.0] * 30)
    assert found[0].learning_rate == pytest.approx(1e-7)
    check = expect_steps.LearningRate().check(seen(rows=found, schedule=SCHEDULE))
    assert check.passed
    assert check.seen == "as scheduled at all of 30 steps"


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (lambda step: 2e-4, "2.00e-4 at step 1, its schedule says 1.00e-7"),
        (lambda step: scheduled_rate(SCHEDULE, step + 1), "2.00e-7 at step 1"),
        (lambda step: scheduled_rate(SCHEDULE, step) if step < 20 else 0.0, "0.00e0 at step 20"),
        (lambda step: math.nan, "nan at step 1"),
    ],
)
def test_one_step_off_schedule_is_found(rate, said):
    check = expect_steps.LearningRate().check(seen(rows=rows([5.0] * 30, rate=rate), schedule=SCHEDULE))
    assert not check.passed
    assert check.seen.startswith(said)


def test_a_warmup_from_zero_is_transformers_own():
    """step / warmup of the peak, and then the same cosine."""
    asked = {"kind": "cosine", "peak": 1.0, "warmup": 2, "total": 4, "floor": 0.0, "from_zero": True}
    theirs = (0.0, 0.5, 1.0, 0.5)
    steps = rows([5.0] * 4, rate=lambda step: theirs[step - 1])
    assert expect_steps.LearningRate(schedule=asked).check(seen(rows=steps)).passed
    ours = expect_steps.LearningRate(schedule={**asked, "from_zero": False}).check(seen(rows=steps))
    assert ours.seen == "0.00e0 at step 1, its schedule says 5.00e-1"


def test_memory_that_was_not_seen_has_a_remedy_of_its_own():
    check = expect_steps.GpuMemory(at_most_bytes=10).check(seen())
    assert (check.passed, check.seen) == (False, "it was not seen")
    assert "emit.step(memory=…)" in check.remedy


def test_a_schedule_of_the_plan_comes_before_the_declared_one():
    steps = rows([5.0] * 30)
    other = {**SCHEDULE, "peak": 1e-3}
    assert not expect_steps.LearningRate(schedule=other).check(seen(rows=steps, schedule=SCHEDULE)).passed
    assert not expect_steps.LearningRate().check(seen(rows=steps)).passed
    assert "no schedule was declared" in expect_steps.LearningRate().check(seen(rows=steps)).seen
    assert "no learning rate" in expect_steps.LearningRate().check(seen(schedule=SCHEDULE)).seen
