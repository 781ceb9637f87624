"""What each emit call leaves in the record; each test opens a record of its own in this process."""

from __future__ import annotations

import json
import math
import os
import threading
from pathlib import Path

import pytest

from harness import emit, place, wire
from harness.watch import heartbeat


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    """A run directory, and an emitter as it is in a fresh process."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "HARNESS_RUN_ID", "HARNESS_ATTEMPT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HARNESS_RUN_DIR", str(tmp_path))
    monkeypatch.setattr(emit, "_given_up", False)
    yield tmp_path
    emit.close()


def beat(run_dir, rank=0):
    return heartbeat.read(run_dir / "ranks" / f"{rank:05d}.beat")


def rows(run_dir):
    with heartbeat.Reader(run_dir / "ranks" / "00000.beat") as reader:
        return reader.drain().rows


def test_without_a_run_directory_nothing_happens(run_dir, monkeypatch):
    monkeypatch.delenv("HARNESS_RUN_DIR")
    emit.open(total_steps=3)
    with emit.stage("train"):
        emit.phase("data")
        emit.progress()
        emit.step(1, loss=1.0)
    emit.event("x")
    emit.close()
    assert not emit.enabled
    assert list(run_dir.iterdir()) == []


def test_identity_comes_from_the_environment(run_dir, monkeypatch):
    for name, value in (
        ("RANK", "3"),
        ("WORLD_SIZE", "8"),
        ("HARNESS_RUN_ID", "r-1"),
        ("HARNESS_ATTEMPT", "2"),
    ):
        monkeypatch.setenv(name, value)
    emit.open()
    seen = beat(run_dir, 3)
    assert (seen.rank, seen.world_size, seen.run_id, seen.attempt, seen.pid) == (3, 8, "r-1", 2, os.getpid())
    assert emit.enabled


def test_a_fresh_record_is_in_boot_and_says_nothing_that_was_not_said(run_dir):
    emit.open()
    seen = beat(run_dir)
    assert seen.stage == "boot"
    absent = (seen.world_size, seen.total_steps, seen.schedule, seen.phase, seen.step, seen.last, seen.detail)
    assert absent == (None,) * 7
    assert seen.closed_status is None


def test_a_second_open_declares_more_in_the_same_record(run_dir):
    schedule = {"kind": "cosine", "peak": 3e-4, "warmup": 10, "total": 100, "floor": 0.1}
    emit.open(total_steps=100)
    before = (run_dir / "ranks" / "00000.beat").stat().st_ino
    emit.open(schedule=schedule, world_size=4)
    seen = beat(run_dir)
    assert (seen.total_steps, seen.world_size, seen.schedule) == (100, 4, schedule)
    assert (run_dir / "ranks" / "00000.beat").stat().st_ino == before


def test_a_schedule_of_odd_values_is_declared_as_far_as_it_goes(run_dir):
    emit.open(schedule={"kind": "x", "peak": "high", "warmup": 1.5, "total": None, "floor": 0})
    assert beat(run_dir).schedule == {"kind": "x", "floor": 0.0}


def test_a_plain_stage_takes_the_place_of_the_one_before(run_dir):
    emit.open()
    emit.stage("import")
    emit.stage("model")
    assert [entry.stage for entry in beat(run_dir).stages] == ["model"]


def test_nested_stages_come_and_go(run_dir):
    emit.open()
    emit.stage("train")
    entered = beat(run_dir).stages[0]
    with emit.stage("eval"):
        with emit.stage("download"):
            assert [entry.stage for entry in beat(run_dir).stages] == ["train", "eval", "download"]
        assert beat(run_dir).stage == "eval"
    assert beat(run_dir).stages == (entered,)


def test_a_plain_stage_inside_a_nested_one_ends_with_it(run_dir):
    emit.open()
    emit.stage("train")
    with emit.stage("eval"):
        emit.stage("download")
        assert [entry.stage for entry in beat(run_dir).stages] == ["train", "download"]
    assert beat(run_dir).stage == "train"


def test_a_stage_is_left_by_an_exception_too(run_dir):
    emit.open()
    with pytest.raises(KeyError), emit.stage("eval"):
        raise KeyError
    assert beat(run_dir).stage == "boot"


def test_stages_left_out_of_order_do_not_come_back(run_dir):
    emit.open()
    outer, inner = emit.stage("a"), None
    outer.__enter__()
    inner = emit.stage("b")
    inner.__enter__()
    outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    assert beat(run_dir).stage == "boot"


def test_deep_nesting_shows_the_outermost_and_the_innermost(run_dir):
    emit.open()
    stages = [emit.stage(f"s{i}").__enter__() for i in range(20)]
    shown = [entry.stage for entry in beat(run_dir).stages]
    assert shown == ["boot", "s0", "s1", "s2", "s3", "s19"]
    for stage in reversed(stages):
        stage.__exit__(None, None, None)
    assert [entry.stage for entry in beat(run_dir).stages] == ["boot"]


def test_drained_stages_tell_each_change_once(run_dir):
    emit.open()
    with heartbeat.Reader(run_dir / "ranks" / "00000.beat") as reader:
        emit.stage("train")
        with emit.stage("eval"):
            pass
        entries = reader.drain().stages
        assert [entry.stage for entry in entries] == ["boot", "train", "eval", "train"]
        times = [entry.entered_monotonic_seconds for entry in entries]
        assert times == sorted(times)
        assert reader.drain().stages == ()


def test_a_step_with_all_its_values(run_dir):
    emit.open()
    emit.step(1)
    emit.step(2, loss=2.5, lr=3e-4, grad_norm=1.5, tokens=4096, memory=(1, 2, 3))
    first, second = rows(run_dir)
    assert (first.step_seconds, first.loss, first.learning_rates, first.grad_norm) == (None, None, (), None)
    assert (first.tokens, first.memory, first.phase_seconds) == (None, None, {})
    assert (second.index, second.step, second.loss, second.learning_rates) == (1, 2, 2.5, (3e-4,))
    assert (second.grad_norm, second.tokens, second.memory) == (1.5, 4096, (1, 2, 3))
    assert second.step_seconds == pytest.approx(second.monotonic_seconds - first.monotonic_seconds)


def test_learning_rates_per_group_up_to_eight(run_dir):
    emit.open()
    emit.step(0, lr=0.25)
    emit.step(1, lr=(0.1, 0.2))
    emit.step(2, lr=[float(i) for i in range(20)])
    emit.step(3, lr=1)
    emit.step(4, lr=iter([0.5, "x"]))
    alone, first, second, third, fourth = (row.learning_rates for row in rows(run_dir))
    assert alone == (0.25,)  # its place beside the row was never written
    assert (first, second, third) == ((0.1, 0.2), tuple(map(float, range(8))), (1.0,))
    assert fourth[0] == 0.5
    assert math.isnan(fourth[1])


class _Broken:
    def __float__(self):
        raise RuntimeError("CUDA error")

    __int__ = __index__ = __str__ = __repr__ = __iter__ = __len__ = __bool__ = __eq__ = __float__
    __hash__ = None


class _Scalar:
    """Like a tensor or an array of one element."""

    def __float__(self):
        return 2.5


@pytest.mark.parametrize("odd", ["x", b"x", None, object(), [1.0], {}, 1j, 10**400, _Broken()])
def test_what_is_no_number_is_absent(run_dir, odd):
    emit.open(total_steps=odd, world_size=odd, phase_clock="host")
    emit.step(1, loss=odd, grad_norm=odd, tokens=odd, memory=odd)
    emit.step(2, memory=(odd, 1, 2), phase_seconds=odd, lr=odd)
    emit.step(3, phase_seconds={"data": odd})
    first, second, _ = rows(run_dir)
    assert (first.step, first.loss, first.grad_norm, first.tokens, first.memory) == (
        1,
        None,
        None,
        None,
        None,
    )
    assert (second.step, second.memory, second.phase_seconds) == (2, None, {})
    assert beat(run_dir).total_steps is None


@pytest.mark.parametrize("odd", ["1", None, 1.5, math.nan, math.inf, 2**63, -(2**64), object(), _Broken()])
def test_a_step_without_a_number_counts_as_progress(run_dir, odd):
    emit.open()
    emit.step(odd, loss=1.0)
    seen = beat(run_dir)
    assert (seen.steps_written, seen.progress_count) == (0, 1)


@pytest.mark.parametrize("odd", [_Broken(), object(), None, 5, "x" * 1000, "\ud800", b"x"])
def test_names_may_be_anything(run_dir, odd):
    emit.open(schedule={"kind": odd})
    with emit.stage(odd):
        emit.phase(odd)
        emit.progress(odd, detail=odd)
        emit.event(odd, field=odd)
    emit.close(odd)
    assert beat(run_dir).closed_status is not None


def test_what_floats_is_a_number(run_dir):
    emit.open()
    emit.step(5.0, loss=_Scalar(), grad_norm=3, lr=_Scalar())
    (row,) = rows(run_dir)
    assert (row.step, row.loss, row.grad_norm, row.learning_rates) == (5, 2.5, 3.0, (2.5,))


def test_a_step_inside_a_step_loses_neither(run_dir):
    class Sneaky:
        def __float__(self):
            emit.step(99)
            return 1.0

    emit.open()
    emit.step(1, loss=Sneaky(), tokens=5)
    assert [(row.step, row.loss) for row in rows(run_dir)] == [(99, None), (99, None), (1, 1.0)]
    assert beat(run_dir).tokens_total == 5


def test_not_a_number_and_infinity_are_kept(run_dir):
    emit.open()
    emit.step(-7, loss=math.nan, grad_norm=math.inf, lr=-math.inf)
    (row,) = rows(run_dir)
    assert math.isnan(row.loss)
    assert (row.step, row.grad_norm, row.learning_rates) == (-7, math.inf, (-math.inf,))


def test_tokens_add_up_and_negative_ones_are_absent(run_dir):
    emit.open()
    for tokens in (10, 5, -3, 2**60, None, True):
        emit.step(1, tokens=tokens)
    assert [row.tokens for row in rows(run_dir)] == [10, 5, None, None, None, 1]
    assert beat(run_dir).tokens_total == 16


def test_the_hosts_clock_accounts_phases(run_dir):
    emit.open()
    emit.phase("data")
    assert beat(run_dir).phase == "data"
    emit.phase("forward")
    emit.phase("something else")
    emit.step(1)
    assert beat(run_dir).phase is None
    emit.phase("data")
    emit.step(2)
    first, second = rows(run_dir)
    assert set(first.phase_seconds) == {"data", "forward", "other"}
    assert set(second.phase_seconds) == {"data"}
    totals = beat(run_dir).phase_totals
    assert totals["data"] == pytest.approx(first.phase_seconds["data"] + second.phase_seconds["data"])


def test_without_the_hosts_clock_only_given_seconds_count(run_dir):
    emit.open(phase_clock="none")
    emit.phase("data")
    emit.open(total_steps=5)  # keeps the clock as declared
    emit.step(1, phase_seconds={"forward": 0.5, "mine": 0.25, "backward": math.nan, "eval": -1.0})
    (row,) = rows(run_dir)
    assert row.phase_seconds == {"forward": 0.5, "other": 0.25}


def test_a_stage_ends_the_phase(run_dir):
    emit.open()
    emit.phase("data")
    with emit.stage("eval"):
        assert beat(run_dir).phase is None


def test_a_step_is_not_charged_for_what_nested_in_it(run_dir):
    emit.open()
    emit.stage("train")
    emit.step(1)
    with emit.stage("eval"), emit.stage("download"):
        inside = beat(run_dir).stages[1].entered_monotonic_seconds
        threading.Event().wait(0.05)
    emit.step(2)
    emit.stage("train")
    emit.step(3)
    first, second, third = rows(run_dir)
    assert second.step_seconds is not None
    # The two steps' distance, less at least the time spent inside.
    assert second.step_seconds <= second.monotonic_seconds - first.monotonic_seconds - 0.05
    assert inside > first.monotonic_seconds
    assert third.step_seconds is None  # the first of its stage


def test_progress_counts_and_says_what(run_dir):
    emit.open()
    start = beat(run_dir).last_progress_monotonic_seconds
    emit.progress(0, detail="waiting for the hub")
    seen = beat(run_dir)
    assert (seen.progress_count, seen.detail) == (0, "waiting for the hub")
    assert seen.last_progress_monotonic_seconds == start
    emit.progress(3)
    emit.progress(-5)
    seen = beat(run_dir)
    assert (seen.progress_count, seen.detail) == (3, "waiting for the hub")
    assert seen.last_progress_monotonic_seconds > start
    emit.stage("train")
    assert beat(run_dir).detail is None


def test_every_call_that_moves_something_is_progress(run_dir):
    emit.open()
    last = beat(run_dir).last_progress_monotonic_seconds
    for call in (
        lambda: emit.stage("train"),
        lambda: emit.phase("data"),
        lambda: emit.step(1),
        emit.progress,
    ):
        call()
        now = beat(run_dir).last_progress_monotonic_seconds
        assert now > last
        last = now


def test_close_says_how_and_ends_emitting(run_dir):
    emit.open()
    emit.step(1)
    assert beat(run_dir).closed_status is None
    emit.close("stopped on request")
    emit.close()
    emit.step(2)
    emit.stage("late")
    seen = beat(run_dir)
    assert (seen.closed_status, seen.steps_written, seen.stage) == ("stopped on request", 1, "boot")
    assert seen.closed_wall_seconds is not None
    assert not emit.enabled


def test_open_after_close_is_a_new_record(run_dir):
    emit.open()
    emit.step(1)
    with heartbeat.Reader(run_dir / "ranks" / "00000.beat") as reader:
        emit.close()
        assert not reader.replaced()
        emit.open()
        assert reader.replaced()
        assert reader.read().closed_status == "finished"
    assert beat(run_dir).step is None


def test_a_stage_held_over_a_close_touches_nothing(run_dir):
    emit.open()
    with emit.stage("eval"):
        emit.close()
        emit.open()
    assert [entry.stage for entry in beat(run_dir).stages] == ["boot"]


def test_events_are_lines_of_json(run_dir):
    emit.open()
    emit.event("checkpoint", step=3, loss=math.nan, sizes=[math.inf, 1.0], thing=_Broken, time="mine")
    circle: list[object] = []
    circle.append(circle)
    emit.event("odd", circle=circle)
    emit.event("large", text="x" * 100_000)
    first, second, third = map(json.loads, (run_dir / "events" / "rank-00000.jsonl").read_text().splitlines())
    assert (first["event"], first["step"], first["loss"], first["rank"]) == ("checkpoint", 3, "NaN", 0)
    assert first["sizes"] == ["Infinity", 1.0]
    assert isinstance(first["time"], float)
    assert "dropped" in second
    assert "dropped" in third


def test_a_link_in_place_of_the_events_file_is_not_followed(run_dir, tmp_path):
    emit.open()
    (run_dir / "events").mkdir()
    target = tmp_path / "elsewhere"
    (run_dir / "events" / "rank-00000.jsonl").symlink_to(target)
    emit.event("x")
    assert not target.exists()


def test_two_threads_at_once_leave_whole_blocks(run_dir):
    emit.open()
    start = threading.Barrier(4)

    def hammer(number):
        start.wait()
        for i in range(500):
            with emit.stage(f"stage {number}"):
                emit.phase("data")
                emit.progress()
                emit.step(i, loss=float(i))

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = beat(run_dir)
    assert seen.progress_count == 2000
    assert seen.stages[0].stage in {"boot", *(f"stage {i}" for i in range(4))}
    assert all(row.loss == row.step for row in rows(run_dir))


@pytest.mark.parametrize("rank", ["-1", "x", "100000"])
def test_a_rank_that_is_none_ends_emitting_with_one_line(run_dir, monkeypatch, capfd, rank):
    monkeypatch.setenv("RANK", rank)
    emit.open()
    emit.open()
    emit.step(1)
    assert not emit.enabled
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert rank in err


def test_a_run_directory_that_is_not_there_ends_emitting_with_one_line(run_dir, monkeypatch, capfd):
    monkeypatch.setenv("HARNESS_RUN_DIR", str(run_dir / "missing"))
    emit.open()
    assert not emit.enabled
    assert "no such directory" in capfd.readouterr().err
    assert not (run_dir / "missing").exists()


def test_the_facade_exports_what_it_says():
    # pytest rewrites the modules of a package with a plugin, and leaves names that no code can have.
    public = {name for name in vars(emit) if not name.startswith(("_", "@"))}
    assert public == set(emit.__all__) | {"TYPE_CHECKING"}


def test_phases_known_to_the_emitter_are_those_of_the_wire():
    assert tuple(emit._PHASE_INDEX) == wire.PHASES


def test_a_record_has_its_name_only_once_its_first_blocks_are_written(tmp_path):
    """A reader that looked between the two found no whole block, and called a newborn record damaged."""
    named_early = []
    path = Path(wire.beat_path(str(tmp_path), 0))
    place.create(
        str(tmp_path), 0, run_id="r", attempt=1, begin=lambda mapped: named_early.append(path.exists())
    )
    assert named_early == [False]
    assert path.exists()
