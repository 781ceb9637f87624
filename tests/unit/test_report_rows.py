"""metrics.jsonl as it is found: whole, torn, with holes, from several attempts, or no file at all."""

from __future__ import annotations

import json
import math
import os

import pytest

from harness.report import rows
from harness.report.history import Recorder
from harness.report.rows import RowReader
from harness.watch.drain import MetricsLog
from tests.support import views


def line(step, attempt=1, **more):
    document = {"time": 1e9 + step, "step": step, "loss": 1.0, "attempt": attempt, **more}
    return json.dumps(document).encode() + b"\n"


def read(path):
    reader, recorder = RowReader(path), Recorder()
    found = list(reader.runs())
    for run in found:
        recorder.add(run)
    return reader, found, recorder.history()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_what_the_supervisor_writes_is_what_is_read(path):
    log = MetricsLog(path)
    given = [
        views.row(0, loss=math.nan, step_seconds=None),
        views.row(1, learning_rates=(1e-3, 2e-3), memory=(1, 2, 3)),
        views.row(2, grad_norm=math.inf, phase_seconds={}),
    ]
    log.add(views.drained(*given), 1, resident_bytes=900)
    log.flush()
    reader, (run,), history = read(path)
    assert (reader.unreadable_lines, reader.rows_lost, reader.problem) == (0, 0, None)
    assert run.steps == [1, 2, 3]
    assert math.isnan(run.columns["loss"][0])
    assert run.columns["lr"] == [1e-3, 1e-3, 1e-3]
    assert run.columns["gpu_peak_bytes"] == [None, 3.0, None]
    assert run.columns["resident_bytes"] == [None, None, 900.0]
    assert run.columns["tokens_per_second"] == [None, 9400.0, 9400.0]
    assert run.phases == {"forward": [0.04, 0.04, 0.0], "data": [0.01, 0.01, 0.0]}
    assert run.phase_rows == [1, 1, 0]
    assert history.extremes["grad_norm"].first_nonfinite_step == 3
    assert history.extremes["loss"].low == (2, 4.812)


@pytest.mark.parametrize(
    "rubbish",
    [
        b'{"time": 1000000002.0, "step": 2, "lo',
        b"\0\0\0\0\0\0",
        b"Traceback (most recent call last):",
        b"[" * 100_000,
        b'{"step": 2}',
        b'{"step": 2.5, "time": 1.0}',
        b'{"step": true, "time": 1.0}',
        b'{"step": 2, "time": NaN}',
        b'{"step": 2, "time": -1}',
        b'{"step": 1' + b"0" * 30 + b', "time": 1.0}',
        b'{"step": 9' + b"9" * 5000 + b', "time": 1.0}',
        b"null",
        b"[1]",
        b'{"time": 1.0}],[{"step": 3}',
        "{“step”: 2}".encode(),
        b"\xff\xfe\xfd",
        b"x" * 600_000,
    ],
    ids=lambda each: each[:24].decode("latin-1"),
)
def test_rubbish_costs_its_own_line_only(path, rubbish):
    path.write_bytes(line(1) + rubbish + b"\n" + line(3))
    reader, _, history = read(path)
    assert history.rows == 2
    assert history.last_step == 3
    assert reader.unreadable_lines == 1


def test_two_halves_of_lines_are_no_row(path):
    path.write_bytes(line(1) + b'{"time": 1000000002.0, "step": 2\n"loss": 1.0}\n' + line(3))
    reader, _, history = read(path)
    assert (history.rows, reader.unreadable_lines) == (2, 2)


def test_odd_values_are_no_values(path):
    path.write_bytes(
        line(1, loss="high", lr={}, grad_norm=True, tokens=-1, step_seconds=[1], phases="none")
        + line(2, loss=10**400, lr=[], tokens="x", step_seconds=0, phases={"data": -1, "x" * 99: "y"})
        + line(3, loss=7, gpu_memory_bytes=[1], attempt=1)
    )
    _, (run,), history = read(path)
    assert run.columns["loss"] == [None, None, 7.0]
    assert "lr" not in run.columns
    assert "grad_norm" not in run.columns
    assert all(sum(column) == 0 for column in run.phases.values())
    assert history.rows == 3


def test_a_last_line_that_is_still_being_written_is_no_row(path):
    path.write_bytes(line(1) + line(2)[:-10])
    reader, _, history = read(path)
    assert (history.rows, reader.unreadable_lines) == (1, 1)
    path.write_bytes(line(1) + line(2)[:-1])
    assert read(path)[2].rows == 2


def test_lines_longer_than_a_chunk_do_not_fill_memory(path, monkeypatch):
    monkeypatch.setattr(rows, "_CHUNK_BYTES", 512)
    monkeypatch.setattr(rows, "_LINE_BYTES", 1024)
    path.write_bytes(line(1) + b"y" * 10_000 + b"\n" + line(2))
    reader, _, history = read(path)
    assert (history.rows, reader.unreadable_lines) == (2, 1)


def test_a_hole_is_a_gap_and_its_rows_are_counted(path):
    path.write_bytes(line(1) + b'{"gap": [2, 9], "rows": 8, "attempt": 1}\n' + line(10))
    reader, _, history = read(path)
    assert reader.rows_lost == 8
    assert [bucket.start for bucket in history.buckets] == ["", "gap"]


def test_steps_that_go_back_are_laps(path):
    path.write_bytes(
        b"".join(
            [line(step) for step in (1, 2, 3)] + [line(step, attempt=2) for step in (2, 3, 4)] + [line(1)]
        )
    )
    _, found, history = read(path)
    assert [(run.attempt, list(run.steps)) for run in found] == [(1, [1, 2, 3]), (2, [2, 3, 4]), (1, [1])]
    assert [bucket.start for bucket in history.buckets] == ["", "", "", "lap", "", "", "lap"]
    assert history.lap_count == 3
    # Within one attempt, too: a trainer that begins again by itself.
    path.write_bytes(b"".join(line(step) for step in (5, 6, 1, 2)))
    assert read(path)[2].lap_count == 2


def test_no_file_has_a_reason(path):
    assert read(path)[0].problem == "no step was recorded"
    path.mkdir()
    assert read(path)[0].problem == "metrics.jsonl is not a regular file"


def test_a_fifo_does_not_hold_us(path):
    os.mkfifo(path)
    assert read(path)[0].problem == "metrics.jsonl is not a regular file"
