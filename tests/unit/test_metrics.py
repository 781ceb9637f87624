import dataclasses
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from harness.metrics import collector
from harness.metrics.collector import TrainerCollector
from harness.schedules import scheduled_rate
from harness.snapshot import CommandView, GpuReading
from tests.support import views
from tests.support.env import REPOSITORY
from tests.support.views import NOW

RANK = {"run_id": "run-1", "rank": "0"}


def scrape(view, collector=None):
    registry = CollectorRegistry()
    registry.register(collector or TrainerCollector(lambda: view))
    return generate_latest(registry).decode()


def samples(text):
    """(name, labels) to value."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text, name, **labels):
    return samples(text).get((name, tuple(sorted({**RANK, **labels}.items()))))


def everything():
    """A view in which everything is known."""
    state = views.with_beat(views.state(), last=views.row(127, step=128, memory=(1, 2, 3)))
    return views.view(
        state,
        info={"config_hash": "ab12", "git": "8bccc8f-dirty", "torch": "2.13.0", "device": "cpu"},
        host="node1",
        stalls={("train", "socket-read"): 2},
        last_incident_wall_seconds=NOW - 30,
        last_checkpoint_wall_seconds=NOW - 50,
        checkpoint_interval_seconds=25.0,
        gpus=(
            GpuReading(
                gpu="0", used_bytes=4, total_bytes=8, utilization_ratio=0.5, power_watts=300.0, pids=(4711,)
            ),
        ),
        collect_errors={"stacks": 3},
    )


def test_every_name_of_the_contract_is_served():
    names = {name for name, _ in samples(scrape(everything()))}
    assert names >= {
        "trainer_run_info",
        "trainer_up",
        "trainer_finished",
        "trainer_stage",
        "trainer_step",
        "trainer_target_steps",
        "trainer_start_timestamp_seconds",
        "trainer_attempt",
        "trainer_tokens_total",
        "trainer_loss",
        "trainer_grad_norm",
        "trainer_learning_rate",
        "trainer_scheduled_learning_rate",
        "trainer_nonfinite_total",
        "trainer_step_duration_seconds_bucket",
        "trainer_step_duration_seconds_count",
        "trainer_step_duration_seconds_sum",
        "trainer_phase_seconds_total",
        "trainer_last_progress_timestamp_seconds",
        "trainer_stall_timeout_seconds",
        "trainer_stalls_total",
        "trainer_last_incident_timestamp_seconds",
        "trainer_last_checkpoint_timestamp_seconds",
        "trainer_checkpoint_interval_seconds",
        "trainer_gpu_memory_allocated_bytes",
        "trainer_gpu_memory_reserved_bytes",
        "trainer_gpu_memory_peak_bytes",
        "trainer_gpu_memory_used_bytes",
        "trainer_gpu_memory_total_bytes",
        "trainer_gpu_utilization_ratio",
        "trainer_gpu_power_watts",
        "trainer_resident_memory_bytes",
        "trainer_cpu_seconds_total",
        "harness_collect_errors_total",
    }


def test_the_guide_names_what_is_served_and_nothing_else():
    """With their types by Prometheus' conventions: a counter, and nothing but a counter, ends in _total."""
    families = list(TrainerCollector(lambda: None).describe())
    served = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert not {family.name for family in families if family.type != "counter"} & {
        name for name in served if name.endswith("_total")
    }
    table = (REPOSITORY / "docs" / "how-to" / "metrics.md").read_text().partition("## What there is")[2]
    named = set()
    for name in re.findall(r"`((?:trainer|harness)_[\w{},]+)`", table.partition("Useful queries")[0]):
        found = re.fullmatch(r"(\w+?)(?:\{([\w,]+)\}(\w+))?(?:\{[\w,]+\})?", name)
        assert found, name
        named |= {f"{found[1]}{part}{found[3] or ''}" for part in (found[2] or "").split(",")}
    assert named == served


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("trainer_up", {}, 1),
        ("trainer_finished", {}, 0),
        ("trainer_stage", {"stage": "train"}, 1),
        ("trainer_step", {}, 128),
        ("trainer_target_steps", {}, 400),
        ("trainer_start_timestamp_seconds", {}, NOW - 60),
        ("trainer_tokens_total", {}, 128 * 940),
        ("trainer_loss", {}, 4.812),
        ("trainer_learning_rate", {"group": "0"}, 1e-3),
        ("trainer_phase_seconds_total", {"phase": "forward"}, 5.12),
        ("trainer_step_duration_seconds_bucket", {"le": "0.05"}, 0),
        ("trainer_step_duration_seconds_bucket", {"le": "0.1"}, 127),
        ("trainer_step_duration_seconds_bucket", {"le": "+Inf"}, 127),
        ("trainer_step_duration_seconds_sum", {}, 12.7),
        ("trainer_last_progress_timestamp_seconds", {}, NOW - 0.1),
        ("trainer_stall_timeout_seconds", {}, 6.0),
        ("trainer_stalls_total", {"stage": "train", "cause": "socket-read"}, 2),
        ("trainer_gpu_memory_reserved_bytes", {"gpu": "0"}, 2),
        ("trainer_gpu_memory_used_bytes", {"gpu": "0"}, 4),
        ("trainer_gpu_utilization_ratio", {"gpu": "0"}, 0.5),
        ("trainer_resident_memory_bytes", {}, 900_000_000),
    ],
)
def test_a_series_has_its_value(name, labels, expected):
    assert value(scrape(everything()), name, **labels) == expected


def test_what_is_not_known_has_no_series():
    beat = views.heartbeat(
        step=None,
        last=None,
        total_steps=None,
        schedule=None,
        steps_written=0,
        tokens_total=0,
        phase_totals={},
    )
    empty = views.totals(
        tokens=0, phase_seconds={}, durations=views.Histogram(bounds=(1.0,), counts=(0, 0), total=0.0)
    )
    state = views.state(heartbeat=beat, resident_bytes=None, cpu_seconds=None, totals=empty)
    names = {name for name, _ in samples(scrape(views.view(state, limits_seconds={})))}
    assert names == {
        "trainer_run_info",
        "trainer_up",
        "trainer_finished",
        "trainer_stage",
        "trainer_start_timestamp_seconds",
        "trainer_attempt",
        "trainer_last_progress_timestamp_seconds",
        "harness_collect_errors_total",  # none: that is known
    }


def test_nan_is_served_as_nan():
    state = views.with_beat(views.state(), last=views.row(127, loss=math.nan))
    assert math.isnan(value(scrape(views.view(state)), "trainer_loss"))


def test_a_dead_rank_is_not_up_and_not_finished():
    text = scrape(views.view(dataclasses.replace(views.state(), alive=False)))
    assert (value(text, "trainer_up"), value(text, "trainer_finished")) == (0, 0)


@pytest.mark.parametrize(("status", "expected"), [("finished", 1), ("stopped", 1), ("failed", 0)])
def test_a_rank_that_closed_its_record_has_finished_unless_it_failed(status, expected):
    state = dataclasses.replace(views.with_beat(views.state(), closed_status=status), alive=False)
    assert value(scrape(views.view(state)), "trainer_finished") == expected


def test_before_there_is_a_run_nothing_is_served():
    assert scrape(None) == ""


def test_ranks_have_series_of_their_own_and_each_family_is_written_once():
    text = scrape(views.view(*(views.state(rank) for rank in range(3))))
    assert [value(text, "trainer_up", rank=str(rank)) for rank in range(3)] == [1, 1, 1]
    assert text.count("# TYPE trainer_up gauge") == 1


def test_groups_share_the_schedule_only_where_they_share_the_rate():
    alike = views.with_beat(views.state(), last=views.row(127, learning_rates=(1e-3, 1e-3)))
    apart = views.with_beat(views.state(), last=views.row(127, learning_rates=(1e-3, 1e-4)))
    counts = [
        sum(name == "trainer_scheduled_learning_rate" for name, _ in samples(scrape(views.view(state))))
        for state in (alike, apart)
    ]
    assert counts == [2, 1]


def test_one_family_that_fails_costs_itself_and_is_counted(monkeypatch):
    def fails(view):
        raise ZeroDivisionError

    registry = CollectorRegistry()
    registry.register(TrainerCollector(everything))
    monkeypatch.setattr(collector, "FAMILIES", (fails, *collector.FAMILIES))
    text = generate_latest(registry).decode()
    assert value(text, "trainer_up") == 1
    assert samples(text)["harness_collect_errors_total", (("collector", "metrics"), ("run_id", "run-1"))] == 1


def silent(seconds, **changes):
    command = CommandView(
        alive=True, finished=False, started_wall_seconds=NOW - seconds, last_progress_wall_seconds=NOW - 3
    )
    return views.view(command=command, limits_seconds={None: 120.0}, **{"ranks": (), **changes})


def test_a_command_that_never_emits_gets_series_after_a_while():
    assert value(scrape(silent(30)), "trainer_up", rank="command") is None
    text = scrape(silent(90))
    assert value(text, "trainer_up", rank="command") == 1
    assert value(text, "trainer_last_progress_timestamp_seconds", rank="command") == NOW - 3
    assert value(text, "trainer_stall_timeout_seconds", rank="command") == 120


@pytest.mark.parametrize("finished", [False, True])
def test_a_command_that_ended_before_it_emitted_has_its_series_at_once(finished):
    command = CommandView(alive=False, finished=finished, started_wall_seconds=NOW - 2)
    text = scrape(views.view(command=command, ranks=(), limits_seconds={}))
    assert value(text, "trainer_up", rank="command") == 0
    assert value(text, "trainer_finished", rank="command") == finished
    assert value(text, "trainer_attempt", rank="command") == 1


def test_a_command_that_emits_late_keeps_the_series_it_had():
    shown = [silent(90)]
    collector = TrainerCollector(lambda: shown[0])
    scrape(None, collector)
    shown[0] = silent(95, ranks=(views.state(),))
    text = scrape(None, collector)
    assert value(text, "trainer_up", rank="command") == value(text, "trainer_up") == 1
    assert text.count("# TYPE trainer_up gauge") == 1


def test_labels_of_strangers_are_escaped():
    hostile = 'a"b\\c\nd'
    text = scrape(views.view(views.with_beat(views.state(), stage=hostile)))
    assert value(text, "trainer_stage", stage=hostile) == 1


def test_openmetrics_accepts_it_too():
    registry = CollectorRegistry()
    registry.register(TrainerCollector(everything))
    assert generate_openmetrics(registry).endswith(b"# EOF\n")


@pytest.mark.needs("promtool")
def test_promtool_finds_nothing_to_complain_about():
    beside = Path(sys.executable).parent / "promtool"
    promtool = str(beside) if beside.exists() else shutil.which("promtool")
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=scrape(everything()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# ---- the declared schedule


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ({"kind": "cosine", "peak": 1.0, "warmup": 10, "total": 100, "floor": 0.1}, 1, 0.1),
        ({"kind": "cosine", "peak": 1.0, "warmup": 10, "total": 100, "floor": 0.1}, 10, 1.0),
        ({"kind": "cosine", "peak": 1.0, "warmup": 10, "total": 100, "floor": 0.1}, 56, 0.55),
        ({"kind": "cosine", "peak": 1.0, "warmup": 10, "total": 100, "floor": 0.1}, 1000, 0.1),
        ({"kind": "linear", "peak": 1.0, "warmup": 0, "total": 100, "floor": 0.0}, 51, 0.5),
        ({"kind": "constant", "peak": 1.0}, 12345, 1.0),
        ({"kind": "constant", "peak": 1.0, "warmup": 4}, 2, 0.5),
        ({"kind": "wsd", "peak": 1.0, "warmup": 0, "total": 100, "floor": 0.1}, 5, None),
        ({"kind": "cosine", "peak": 1.0}, 5, None),
        ({"kind": "cosine", "peak": float("nan"), "total": 10}, 5, None),
        ({}, 5, None),
        (None, 5, None),
    ],
)
def test_the_rate_that_was_declared(schedule, step, expected):
    assert scheduled_rate(schedule, step) == (None if expected is None else pytest.approx(expected))


def test_the_declared_cosine_is_the_trainers():
    from nsa.schedule import lr

    for warmup, total in ((0, 7), (10, 100), (50, 50)):
        plan = {"peak": 3e-4, "warmup": warmup, "total": total, "floor": 0.1}
        for done in range(total + 5):
            assert scheduled_rate({"kind": "cosine", **plan}, done + 1) == pytest.approx(
                lr(done, **plan), rel=1e-12
            )
