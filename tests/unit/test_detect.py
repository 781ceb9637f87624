"""Limits by place, by hand, and for commands that never emit."""

from __future__ import annotations

import dataclasses
import math

import pytest

from harness.detect import Detector, Overrides, Suspicion
from harness.errors import UsageError
from harness.limits import MIN_GAPS
from harness.watch.progress import Progress

HERE = Progress(
    source="heartbeat",
    rank=0,
    incarnation=(1, 1),
    stages=("train",),
    phase=None,
    step=0,
    steps=0,
    count=0,
    moved_at_monotonic_seconds=0.0,
    moved_at_wall_seconds=0.0,
)


class Watched:
    """A rank that is looked at once a second."""

    def __init__(self, overrides: Overrides | None = None, start: Progress = HERE) -> None:
        self.detector = Detector(overrides)
        self.now = 0.0
        self.at = start
        self.look()

    def look(self) -> Suspicion | None:
        return self.detector.observe(self.at, self.now)

    def move(self, after: float = 1.0, **changes: object) -> list[Suspicion]:
        """Time passes with looks each second, then something moves."""
        found = self.wait(after)
        steps = self.at.steps + (1 if changes.pop("stepped", False) else 0)
        self.at = dataclasses.replace(
            self.at, count=self.at.count + 1, steps=steps, moved_at_monotonic_seconds=self.now, **changes
        )
        self.look()
        return found

    def wait(self, seconds: float) -> list[Suspicion]:
        found = []
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            suspicion = self.look()
            if suspicion:
                found.append(suspicion)
        return found

    def steps(self, count: int, seconds: float = 0.1) -> Watched:
        for _ in range(count):
            self.move(seconds, stepped=True)
        return self

    @property
    def limit(self) -> float:
        limit = self.detector.limit(0 if self.at.rank == 0 else self.at.rank)
        assert limit is not None
        return limit.seconds

    @property
    def why(self) -> str:
        limit = self.detector.limit(self.at.rank)
        assert limit is not None
        return limit.why


def test_a_run_of_quick_steps_has_the_floor_as_limit_and_says_from_what() -> None:
    watched = Watched().steps(MIN_GAPS + 1)
    assert watched.limit == 5.0
    assert watched.why == "from 16 steps of 0.1 s"
    [suspicion] = watched.wait(60)
    assert (suspicion.where, suspicion.rank, suspicion.step) == ("train", 0, 0)
    assert suspicion.summary == "no progress for 5.0 s"


def test_the_limit_is_a_multiple_of_what_this_runs_steps_take() -> None:
    assert Watched().steps(40, 8.0).limit == 80.0


@pytest.mark.parametrize("outlier", [40.0, 4000.0])
def test_what_happened_once_teaches_nothing(outlier: float) -> None:
    watched = Watched().steps(40)
    watched.move(outlier, stepped=True)
    assert watched.steps(1).limit == 5.0


def test_what_happened_twice_is_a_habit_and_the_reason_says_so() -> None:
    watched = Watched().steps(40)
    watched.steps(2, 20.0)
    assert watched.limit == 60.0
    assert watched.why == "from 41 steps of 0.1 s, up to 20 s"


@pytest.mark.parametrize(
    ("stage", "usual"),
    [("first_batch", 120.0), ("compile", 900.0), ("checkpoint", 300.0), ("download", 200.0)],
)
def test_stages_before_and_beside_training_are_given_time(stage: str, usual: float) -> None:
    watched = Watched(start=dataclasses.replace(HERE, stages=(stage,)))
    assert watched.wait(usual) == []
    assert len(watched.wait(3600)) == 1


@pytest.mark.parametrize("beside", ["eval", "checkpoint"])
def test_inside_training_the_innermost_stage_counts(beside: str) -> None:
    watched = Watched().steps(MIN_GAPS + 1)
    watched.move(0.1, stages=("train", beside))
    assert watched.wait(60) == []
    watched.move(0.1, stages=("train",))
    assert watched.limit == 5.0, "a minute in there taught nothing about steps"


@pytest.mark.parametrize("beside", ["eval", "checkpoint"])
def test_a_phase_of_that_name_is_as_good_as_a_stage(beside: str) -> None:
    watched = Watched().steps(MIN_GAPS + 1)
    watched.at = dataclasses.replace(watched.at, phase=beside)  # entering a phase moves no clock
    assert watched.wait(60) == []
    watched.at = dataclasses.replace(watched.at, phase="data")
    assert watched.wait(4) == [], "the minute before is not held against the data phase"
    assert [each.where for each in watched.wait(10)] == ["train/data"]


def test_a_loop_of_steps_that_never_names_its_stage_is_learned_all_the_same() -> None:
    watched = Watched(start=dataclasses.replace(HERE, stages=("boot",))).steps(MIN_GAPS + 1)
    assert watched.limit == 5.0


def test_a_new_process_under_the_same_rank_is_a_new_first_step() -> None:
    watched = Watched().steps(40)
    watched.at = dataclasses.replace(watched.at, incarnation=(2, 2), steps=0, count=0)
    watched.look()
    assert watched.limit == 900.0


def test_after_goodbye_threads_and_exit_hooks_get_a_while() -> None:
    watched = Watched().steps(40)
    watched.move(0.1, closed=True)
    assert watched.wait(200) == []
    assert len(watched.wait(200)) == 1


def test_a_seldom_stage_tightens_once_it_was_seen_often_but_stays_generous() -> None:
    watched = Watched().steps(40)
    for _ in range(8):
        watched.move(0.1, stages=("train", "checkpoint"))
        watched.move(1.0, stages=("train",))
    watched.move(0.1, stages=("train", "checkpoint"))
    assert watched.limit == 120.0
    assert watched.why == "from 8 intervals of 1 s in checkpoint"


# ── by hand ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_stage_that_is_nearly_one_of_ours_is_asked_about_and_obeyed() -> None:
    overrides = Overrides.parse("trian=60,data=5m,train=60,busy=off,rollout=60,first-step=1h")
    assert [line.partition(": ")[0] for line in overrides.doubts()] == [
        "--stall-timeout trian",
        "--stall-timeout data",
    ]
    assert overrides.doubts()[1].endswith("Did you mean dataset?")
    limit = overrides.limit("trian")
    assert limit is not None
    assert limit.seconds == 60


def test_limits_by_hand_are_read() -> None:
    assert Overrides.parse("60") == Overrides(every=60.0)
    assert Overrides.parse("train=60, dataset=5m") == Overrides(stages={"train": 60.0, "dataset": 300.0})
    assert Overrides.parse("first-step=2h,30s") == Overrides(every=30.0, stages={"first_step": 7200.0})
    assert Overrides.parse("off") == Overrides.parse("0") == Overrides(every=math.inf)
    assert Overrides.parse("train=off") == Overrides(stages={"train": math.inf})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "''"),
        ("soon", "soon"),
        ("train=", "''"),
        ("=5", "''"),
        ("train=-1", "-1"),
        ("train=nan", "nan"),
        ("train=1,train=2", "twice"),
        ("5,6", "two limits"),
        ("train=inf", "inf"),
        ("x" * 32 + "=5", "xxx"),
    ],
)
def test_what_cannot_be_read_is_named_with_a_remedy(text: str, named: str) -> None:
    with pytest.raises(UsageError, match="--stall-timeout") as caught:
        Overrides.parse(text)
    assert named in str(caught.value)
    assert "train=60,dataset=5m" in str(caught.value)


def test_a_limit_by_hand_is_obeyed_from_the_first_step_on() -> None:
    watched = Watched(Overrides.parse("train=3"))
    assert watched.limit == 3.0
    [suspicion] = watched.wait(10)
    assert suspicion.why == "set by --stall-timeout train=3"
    assert Watched(Overrides.parse("train=3,first-step=100")).limit == 100.0


def test_a_stage_switched_off_is_never_suspicious() -> None:
    watched = Watched(Overrides.parse("train=off")).steps(40)
    assert watched.wait(100_000) == []
    assert watched.limit == math.inf


def test_other_stages_keep_their_own_limits() -> None:
    watched = Watched(Overrides.parse("dataset=1")).steps(40)
    assert watched.limit == 5.0


# ── commands that never emit ────────────────────────────────────────────────────────────────────────────────

SILENT = dataclasses.replace(
    HERE, source="log", rank=None, stages=("command",), step=None, idle_since_monotonic_seconds=0.0
)


def talking(times: int, seconds: float) -> Watched:
    watched = Watched(start=SILENT)
    for _ in range(times):
        watched.move(seconds, idle_since_monotonic_seconds=watched.now + seconds)
    return watched


def busy_wait(watched: Watched, seconds: float) -> list[Suspicion]:
    found: list[Suspicion] = []
    for _ in range(int(seconds)):
        watched.at = dataclasses.replace(watched.at, idle_since_monotonic_seconds=watched.now + 1)
        found += watched.wait(1)
    return found


def test_a_silent_log_and_an_idle_tree_are_suspicious_and_both_are_named() -> None:
    [suspicion] = talking(30, 3.0).wait(1000)
    assert suspicion.summary == "no log line for 60 s, no CPU used for 60 s"
    assert suspicion.why == "from 30 log intervals of 3 s"


def test_a_slow_log_is_given_time_by_its_own_rhythm() -> None:
    watched = talking(30, 60.0)
    assert watched.wait(590) == []
    assert len(watched.wait(20)) == 1


def test_without_a_rhythm_silence_takes_ten_minutes() -> None:
    watched = Watched(start=SILENT)
    assert watched.wait(599) == []
    assert len(watched.wait(10)) == 1


def test_a_busy_tree_is_no_stall_where_the_log_has_no_rhythm() -> None:
    assert busy_wait(Watched(start=SILENT), 5000) == []


def test_a_busy_tree_is_suspicious_at_last_where_the_log_had_one() -> None:
    watched = talking(30, 3.0)
    assert busy_wait(watched, 590) == []
    [suspicion] = busy_wait(watched, 60)
    assert suspicion.summary == "no log line for 600 s, though it uses CPU"


def test_a_limit_by_hand_holds_for_the_log_of_an_idle_tree() -> None:
    watched = Watched(Overrides.parse("log=10"), start=SILENT)
    [suspicion] = watched.wait(20)
    assert suspicion.limit_seconds == 10.0
    assert busy_wait(Watched(Overrides.parse("10"), start=SILENT), 5000) == []
    assert len(busy_wait(Watched(Overrides.parse("busy=10"), start=SILENT), 20)) == 1


def test_where_no_log_can_be_followed_only_activity_is_judged() -> None:
    start = dataclasses.replace(SILENT, source="activity")
    [suspicion] = Watched(start=start).wait(2000)
    assert suspicion.summary == "no CPU used for 600 s"


def test_a_silence_that_was_looked_into_is_suspicious_again_when_it_is_twice_as_long() -> None:
    watched = Watched(Overrides.parse("log=10"), start=SILENT)
    assert len(watched.wait(10)) == 1
    watched.detector.excuse(None)
    assert watched.limit == 20.0, "alerts follow it"
    assert watched.wait(9) == []
    assert len(watched.wait(2)) == 1
    watched.detector.excuse(None)
    assert watched.wait(19) == []
    assert len(watched.wait(4)) == 1


def test_phases_within_the_first_step_teach_nothing_about_how_long_it_may_take() -> None:
    watched = Watched()
    for phase in ("data", "forward", "backward") * 4:
        watched.move(0.1, phase=phase)
    assert watched.limit == 900.0
