import json
import math

import pytest

from harness.watch import drain, stagelog
from harness.watch.checkpoints import CheckpointTimes
from harness.watch.drain import DURATION_BOUNDS, MetricsLog, Tally
from tests.support.views import NOW, drained, heartbeat, row, rows, stage


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def write(log, given, attempt=1):
    log.add(given, attempt)
    log.flush()


def read(path):
    assert path.read_bytes().endswith(b"\n")
    return [json.loads(line) for line in path.read_text().splitlines()]


def steps(path):
    return [line.get("step", line.get("gap")) for line in read(path)]


def test_a_row_has_its_values_under_these_names(path):
    write(MetricsLog(path), drained(row(0, grad_norm=None)))
    assert read(path) == [
        {
            "time": NOW,
            "step": 1,
            "loss": 4.812,
            "lr": 1e-3,
            "grad_norm": None,
            "tokens": 940,
            "step_seconds": 0.1,
            "attempt": 1,
            "phases": {"forward": 0.04, "data": 0.01},
        }
    ]


def test_memory_stands_where_it_is_known(path):
    log = MetricsLog(path)
    log.add(drained(row(0, memory=(1, 2, 3)), row(1)), 1, resident_bytes=900)
    log.flush()
    first, second = read(path)
    assert first["gpu_memory_bytes"] == {"allocated": 1, "reserved": 2, "peak": 3}
    assert "resident_bytes" not in first
    assert second["resident_bytes"] == 900
    assert "gpu_memory_bytes" not in second


def test_changes_of_stage_are_kept_up_to_a_bound(path, monkeypatch):
    stagelog.StageLog(path).add((stage("train"), stage("eval", NOW + 1)), 2)
    assert [(line["stage"], line["time"], line["attempt"]) for line in read(path)] == [
        ("train", NOW, 2),
        ("eval", NOW + 1, 2),
    ]
    monkeypatch.setattr(stagelog, "MAX_BYTES", 10)
    stagelog.StageLog(path).add((stage("train", NOW + 2),), 2)
    assert len(read(path)) == 2


def test_what_json_cannot_say_is_a_string(path):
    write(
        MetricsLog(path), drained(row(0, loss=math.nan, grad_norm=math.inf, learning_rates=(1.0, -math.inf)))
    )
    assert "NaN" not in path.read_text().replace('"NaN"', "")
    (line,) = read(path)
    assert (line["loss"], line["grad_norm"], line["lr"]) == ("NaN", "Infinity", [1.0, "-Infinity"])


def test_rows_lost_in_the_ring_are_a_gap(path):
    log = MetricsLog(path)
    write(log, drained(*rows(0, 1)))
    write(log, drained(*rows(7, 8), lost=(2, 6)))
    assert steps(path) == [1, 2, [3, 7], 8, 9]
    assert read(path)[2] == {"gap": [3, 7], "rows": 5, "attempt": 1}
    assert log.rows_lost == 5


def test_a_later_supervisor_writes_no_row_twice(path):
    write(MetricsLog(path), drained(*rows(0, 1, 2)))
    write(MetricsLog(path), drained(*rows(0, 1, 2, 3, 4)))  # the same record, its ring still whole
    assert steps(path) == [1, 2, 3, 4, 5]


def test_a_later_supervisor_that_missed_rows_notes_the_gap(path):
    write(MetricsLog(path), drained(*rows(0, 1, 2)))
    write(MetricsLog(path), drained(*rows(10, 11), lost=(0, 9)))
    assert steps(path) == [1, 2, 3, [4, 10], 11, 12]


def test_a_later_supervisor_finds_its_row_in_a_ring_that_has_turned(path):
    write(MetricsLog(path), drained(*rows(0, 1, 2, 3, 4, 5)))
    write(MetricsLog(path), drained(*rows(4, 5, 6), lost=(0, 3)))
    assert steps(path) == [1, 2, 3, 4, 5, 6, 7]


def test_the_next_attempt_repeats_steps_on_purpose(path):
    log = MetricsLog(path)
    write(log, drained(*rows(0, 1, 2)), attempt=1)
    write(log, drained(*rows(1, 2)), attempt=2)
    assert [(line["attempt"], line["step"]) for line in read(path)] == [
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 2),
        (2, 3),
    ]


def test_half_a_line_of_a_killed_supervisor_is_cut_off(path):
    write(MetricsLog(path), drained(*rows(0, 1)))
    with path.open("ab") as file:
        file.write(b'{"time": 18000000')
    write(MetricsLog(path), drained(*rows(0, 1, 2)))
    assert steps(path) == [1, 2, 3]


def test_a_line_that_is_not_ours_stops_nothing(path):
    path.write_bytes(b'\xff\xfe garbage\n[1, 2]\n{"step": "x"}\n')
    write(MetricsLog(path), drained(*rows(0)))
    assert json.loads(path.read_bytes().splitlines()[-1])["step"] == 1


def test_what_cannot_be_written_is_kept_and_written_later(tmp_path):
    path = tmp_path / "later" / "metrics.jsonl"
    log = MetricsLog(path)
    write(log, drained(*rows(0, 1)))
    assert log.problem == "No such file or directory"
    path.parent.mkdir()
    write(log, drained(*rows(2)))
    assert steps(path) == [1, 2, 3]
    assert log.problem is None


def test_what_is_kept_is_bounded_and_what_is_given_up_is_a_gap(tmp_path, monkeypatch):
    monkeypatch.setattr(drain, "PENDING_ROWS", 10)
    path = tmp_path / "later" / "metrics.jsonl"
    log = MetricsLog(path)
    write(log, drained(*rows(*range(25))))
    write(log, drained(*rows(*range(25, 30))))
    path.parent.mkdir()
    log.flush()
    assert steps(path) == [[1, 20], *range(21, 31)]
    assert log.rows_lost == 20


# ---- totals


def test_durations_fall_into_their_buckets():
    tally = Tally()
    tally.add(drained(*(row(i, step_seconds=s) for i, s in enumerate([None, 0.001, 0.0011, 0.1, 700.0]))))
    histogram = tally.totals(heartbeat()).durations
    filled = {
        bound: count for bound, count in zip((*DURATION_BOUNDS, None), histogram.counts, strict=True) if count
    }
    assert filled == {0.001: 1, 0.003: 1, 0.1: 1, None: 1}
    assert histogram.total == pytest.approx(700.1021)


def test_counters_never_go_back_when_an_attempt_begins_anew():
    tally = Tally()
    tally.add(drained(row(0, loss=math.nan), row(1)))
    first = tally.totals(heartbeat(tokens_total=1880, steps_written=2, phase_totals={"data": 2.0}))
    tally.restart()
    tally.add(drained(row(0)))
    second = tally.totals(
        heartbeat(tokens_total=940, steps_written=1, phase_totals={"data": 0.5, "eval": 1.0})
    )
    assert (first.tokens, second.tokens) == (1880, 2820)
    assert (first.phase_seconds, second.phase_seconds) == ({"data": 2.0}, {"data": 2.5, "eval": 1.0})
    assert (first.nonfinite, second.nonfinite) == (1, 1)
    assert second.durations.count == 3


def test_a_restart_seen_twice_counts_once():
    tally = Tally()
    tally.totals(heartbeat(tokens_total=100))
    tally.restart()
    tally.restart()
    assert tally.totals(heartbeat(tokens_total=1)).tokens == 101


def test_rates_are_those_of_the_last_steps_pauses_included():
    tally = Tally()
    tally.add(drained(*(row(i, monotonic_seconds=1000.0 + i * 0.1 + (5 if i > 4 else 0)) for i in range(11))))
    found = tally.totals(heartbeat())
    assert found.steps_per_second == pytest.approx(10 / 6)
    assert found.tokens_per_second == pytest.approx(9400 / 6)
    assert found.step_seconds == pytest.approx(0.1)


def test_rates_are_unknown_where_tokens_are():
    tally = Tally()
    tally.add(drained(row(0), row(1, tokens=None)))
    assert tally.totals(heartbeat()).tokens_per_second is None


# ---- checkpoints


def event(kind, time):
    return json.dumps({"time": time, "event": kind, "rank": 0, "attempt": 1}) + "\n"


def test_checkpoints_are_known_from_events(tmp_path):
    path = tmp_path / "rank-00000.jsonl"
    times = CheckpointTimes(path)
    times.poll()
    assert times.last_wall_seconds is None
    path.write_text(
        event("eval", 1.0) + event("checkpoint", 2.0) + "garbage\n" + event("checkpoint", 5.0)[:-10]
    )
    times.poll()
    assert (times.last_wall_seconds, times.interval_seconds) == (2.0, None)
    path.write_text(event("eval", 1.0) + event("checkpoint", 2.0) + "garbage\n" + event("checkpoint", 5.0))
    times.poll()
    assert (times.last_wall_seconds, times.interval_seconds) == (5.0, 3.0)


def test_without_events_the_end_of_the_stage_counts(tmp_path):
    times = CheckpointTimes(tmp_path / "none")
    times.see_stages([stage("train", 1.0), stage("checkpoint", 2.0)])
    assert times.last_wall_seconds is None
    times.see_stages([stage("train", 3.0), stage("checkpoint", 10.0), stage("train", 12.0)])
    assert (times.last_wall_seconds, times.interval_seconds) == (12.0, 9.0)
