"""`harness top`: what one look draws, at every size, and the newest rows of a metrics file."""

from __future__ import annotations

import json
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from harness.render.run_lines import run_lines
from harness.render.spark import spark
from harness.render.top import screen
from harness.top import gather
from harness.top.gather import Source
from harness.top.history import MetricsTail
from harness.top.model import History, IncidentLine, RunLine, TopView
from tests.support import reports, views
from tests.support.examples import examples

NASTY = "\x1b]0;gone\x07\x1b[2J\r\u202eevil [bold]x[/bold]"


def top(*states, **changes):
    fields = {
        "state": "running",
        "sentence": "its command runs, pid 4711",
        "path": "runs/latest",
        "name": "quickstart",
        "command": "nsa train",
        "attempt": 1,
        "view": views.view(*states),
        "scheduled_rate": 1e-3,
        "history": History(
            steps=tuple(range(1, 129)),
            loss=tuple(7 - each / 100 for each in range(128)),
            learning_rate=(1e-3,) * 128,
            grad_norm=(1.0,) * 127 + (math.nan,),
            tokens_per_second=(9400.0,) * 128,
            step_seconds=(0.1,) * 128,
            phase_seconds={"data": 0.5, "forward": 4.0},
            phase_steps=50,
            phase_step_seconds=5.0,
        ),
        "log_path": "runs/latest/log/output.log",
        "log": ("first", "second", "third"),
    }
    return TopView(**{**fields, **changes})


def words(lines):
    return ["".join(piece.text for piece in line).rstrip() for line in lines]


def shown(view, width=100, height=None, **options):
    return "\n".join(words(screen(view, width, height, **options)))


def test_a_running_training_tells_where_it_stands():
    said = shown(top(), 120)
    for part in (
        "RUNNING · quickstart · runs/latest · up 1:00",
        "train  step 128/400",
        "loss 4.812",
        "9.4k tok/s",
        "as scheduled",
        "steps 1 to 128",
        "forward 80 % · data 10 % · other 10 %",
        "RSS 0.9 GB",
        "third",
    ):
        assert part in said, part


@pytest.mark.parametrize(
    ("width", "height", "bars"), [(200, 60, 1), (100, 40, 1), (80, 24, 1), (40, 24, 1), (40, 12, 0)]
)
@pytest.mark.parametrize("plain", [False, True])
def test_how_far_it_is_is_a_bar_wherever_there_is_a_line_for_it(width, height, bars, plain):
    lines = words(screen(top(), width, height, plain_ascii=plain))
    drawn = "#---" if plain else "━━━━"
    assert sum(drawn in line for line in lines) == bars
    assert sum("32 %" in line for line in lines) == bars


def test_a_loss_that_is_not_finite_is_marked():
    (line,) = (line for line in screen(top(), 100, None) if line and line[0].text.startswith("grad norm"))
    assert line[1].text.startswith("NaN")
    assert line[1].tone == "bad"
    assert line[2].text.endswith("!")


def test_shares_of_a_step_are_shares_with_an_evaluation_between_steps_too():
    past = History(
        steps=(1, 2),
        loss=(1.0, 1.0),
        learning_rate=(None, None),
        grad_norm=(None, None),
        tokens_per_second=(None, None),
        step_seconds=(0.5, 0.5),
        phase_seconds={"forward": 0.4, "backward": 0.6, "eval": 1.0},
        phase_steps=2,
        phase_step_seconds=1.0,
    )
    assert "eval 50 % · backward 30 % · forward 20 %" in shown(top(history=past))


def test_a_rate_off_its_schedule_is_told():
    assert "scheduled 2.00e-3" in shown(top(scheduled_rate=2e-3))


def test_the_rank_that_holds_the_others_up_stands_first_and_is_marked():
    now = views.NOW
    states = [views.state(rank) for rank in range(4)]
    states[2] = views.with_beat(
        views.state(2), phase="data", step=120, last_progress_wall_seconds=now - 8.4, rank=2
    )
    lines = words(screen(top(*states), 100, None))
    at = next(number for number, line in enumerate(lines) if line.startswith("rank"))
    assert lines[at + 1].startswith("2 ")
    assert lines[at + 1].endswith("8 behind")
    assert "8.4 s ago" in lines[at + 1]
    assert "behind" not in "".join(lines[at + 2 : at + 5])


def test_a_rank_in_the_middle_of_its_step_is_not_behind_for_another_that_stands():
    states = [views.state(rank) for rank in range(4)]
    states[1] = views.with_beat(states[1], step=127, rank=1)
    states[3] = views.with_beat(states[3], step=39, last_progress_wall_seconds=views.NOW - 33, rank=3)
    lines = words(screen(top(*states), 100, None))
    at = next(number for number, line in enumerate(lines) if line.startswith("rank"))
    assert lines[at + 1].startswith("3 ")
    assert lines[at + 1].endswith("89 behind")
    assert not any("behind" in line for line in lines[at + 2 : at + 5])


def test_many_ranks_that_stand_alike_are_one_line():
    states = [views.state(rank) for rank in range(512)]
    states[77] = views.with_beat(states[77], step=100, last_progress_wall_seconds=views.NOW - 60, rank=77)
    states[9] = views.state(9, alive=False)
    lines = words(screen(top(*states), 100, 40))
    at = next(number for number, line in enumerate(lines) if line.startswith("rank"))
    assert lines[at + 1].startswith("77 ")
    assert any(line.startswith("510 ranks") for line in lines)
    assert any(line.startswith("9 ") and "gone" in line for line in lines)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_whoever_holds_the_others_up_is_marked_whatever_the_width(width):
    states = [views.state(rank) for rank in range(64)]
    states[7] = views.with_beat(
        states[7], phase="data", step=120, last_progress_wall_seconds=views.NOW - 8.4, rank=7
    )
    states[9] = views.state(9, alive=False)
    lines = words(screen(top(*states), width, 24 if width > 40 else 12))
    at = next(number for number, line in enumerate(lines) if line.startswith("rank"))
    behind, gone = lines[at + 1 : at + 3]
    assert behind.startswith("7 ")
    assert gone.startswith("9 ")
    for line, parts in ((behind, ("train/data", "8 behind", "8.4 s", "←")), (gone, ("gone", "0.1 s", "←"))):
        for part in parts:
            assert part in line, (part, line)
    assert all("…" not in line for line in lines[at : at + 3])


@pytest.mark.parametrize(("width", "height"), [(40, 12), (80, 24), (200, 60)])
def test_a_verdict_is_read_to_its_end_where_there_is_room(width, height):
    verdict = "socket-read: prefetch-0 waits for 127.0.0.1:8099 (ESTABLISHED, nothing queued) in fetch"
    incident = IncidentLine(name="002", where="train", verdict=verdict, age_seconds=8, open=True)
    lines = words(screen(top(state="stalled", incidents=(incident,), incident_count=1), width, height))
    at = next(number for number, line in enumerate(lines) if line.startswith("incident"))
    if height >= 24:
        assert verdict in " ".join(each.strip() for each in lines[at : at + 3])
    else:  # two lines, and the second says that there is more
        assert lines[at + 1].endswith("…")
        assert lines[at + 2].startswith("loss")


def test_a_block_whose_header_alone_would_fit_is_left_out():
    for height in range(8, 20):
        lines = words(screen(top(), 60, height))
        assert not lines[-1].startswith("rank "), height


def test_an_open_incident_stands_at_the_top_and_a_closed_one_below():
    old = IncidentLine(name="001", where="train", verdict="sleep: naps", age_seconds=90, open=False)
    new = IncidentLine(name="002", where="train", verdict="socket-read: waits", age_seconds=8, open=True)
    lines = words(screen(top(state="stalled", incidents=(new, old), incident_count=2), 100, None))
    assert "incident 002  socket-read: waits" in lines[2:4]
    assert any(line.startswith("001       1:30 ago  sleep: naps  in train") for line in lines)


def test_a_dead_run_says_how_it_ended_and_where_it_was_seen_last():
    state = views.state(alive=False)
    said = shown(top(state, state="died", sentence="killed by SIGKILL, at 2026-11-22T09:14:00Z"))
    assert said.startswith("DIED · quickstart · runs/latest\nkilled by SIGKILL")
    assert "Z · last seen in train step 128/400" in said


def test_a_command_that_never_emits_has_its_log():
    said = shown(top(view=views.view(ranks=(), log_bytes=2048), history=History()))
    assert "running" in said
    assert "third" in said


@given(
    width=st.integers(20, 250),
    height=st.none() | st.integers(4, 60),
    count=st.integers(0, 40),
    plain=st.booleans(),
)
@settings(max_examples=examples(60), deadline=None)
def test_it_fits_whatever_the_size_and_obeys_no_stranger(width, height, count, plain):
    states = [views.with_beat(views.state(rank), stage=NASTY, rank=rank) for rank in range(count)]
    incident = IncidentLine(name="001", where=NASTY, verdict=NASTY, age_seconds=8, open=True)
    found = top(
        name=NASTY,
        sentence=NASTY,
        view=views.view(ranks=tuple(states)),
        incidents=(incident,),
        log=(NASTY, "x" * 300, "\t\u4e2d" * 90),
        log_path=NASTY,
        notes=(NASTY,),
    )
    lines = words(screen(found, width, height, plain_ascii=plain))
    assert all(cell_len(line) <= width for line in lines)
    assert height is None or len(lines) <= height
    said = "".join(lines)
    assert said.isprintable() or not said
    assert not plain or said.isascii()


def test_runs_are_a_line_each():
    line = RunLine(
        path="runs/a",
        name="a",
        state="stalled",
        where="train/data",
        step=12,
        target_steps=400,
        loss=4.5,
        progress_age_seconds=8.4,
        open_incidents=1,
        incidents=3,
    )
    lines = words(run_lines([line, line, line], 120, 3))
    assert lines[1].split() == [
        "runs/a",
        "stalled",
        "train/data",
        "12/400",
        "4.500",
        "8.4",
        "s",
        "ago",
        "3,",
        "1",
        "open",
    ]
    assert lines[2] == "… 2 more"
    assert words(run_lines([], 80, None)) == ["no runs here"]


def test_where_runs_are_too_wide_columns_go_and_the_state_stays():
    line = RunLine(
        path="runs/2026-11-22T09-14-quickstart",
        name="a",
        state="stalled",
        where="train/data",
        step=12,
        target_steps=400,
        loss=4.5,
        progress_age_seconds=8.4,
        open_incidents=1,
        incidents=3,
    )
    headers = {width: words(run_lines([line], width, None))[0].split() for width in (40, 60, 120)}
    assert headers == {
        40: ["run", "state", "step"],
        60: ["run", "state", "step", "progress", "incidents"],
        120: ["run", "state", "stage", "step", "loss", "progress", "incidents"],
    }
    for width in (20, 40, 60, 120):
        (row,) = words(run_lines([line], width, None))[1:]
        assert "stalled" in row
        assert row.split()[0].endswith("start"), "of a name the end tells runs apart"
        assert len(row) <= width


@given(
    width=st.integers(20, 250),
    height=st.none() | st.integers(4, 60),
    where=st.just(NASTY) | st.just("\u4e2d" * 30),
    plain=st.booleans(),
)
@settings(max_examples=examples(40), deadline=None)
def test_the_list_of_runs_fits_whatever_the_size_and_obeys_no_stranger(width, height, where, plain):
    line = RunLine(
        path=where,
        name=where,
        state="running",
        where=where,
        step=None,
        target_steps=None,
        loss=math.nan,
        progress_age_seconds=math.inf,
        open_incidents=0,
        incidents=0,
    )
    lines = words(run_lines([line] * 70, width, height, plain_ascii=plain))
    assert all(cell_len(each) <= width for each in lines)
    assert height is None or len(lines) <= height
    assert "".join(lines).isprintable()
    assert not plain or "".join(lines).isascii()


@given(
    values=st.lists(st.none() | st.floats(), max_size=200),
    width=st.integers(0, 80),
    pick=st.sampled_from(["max", "min", "last"]),
    plain=st.booleans(),
)
def test_a_curve_has_its_width_and_hides_nothing_that_is_not_finite(values, width, pick, plain):
    drawn = spark(values, width, pick=pick, plain_ascii=plain)
    assert len(drawn) == min(width, len(values))
    if width:
        odd = any(value is not None and not math.isfinite(value) for value in values)
        assert ("!" in drawn) is odd
    assert not plain or drawn.isascii()


def test_a_spike_and_a_drop_survive_whatever_the_width():
    values = [1.0] * 500 + [9.0] + [1.0] * 500
    assert spark(values, 20, pick="max").count("█") == 1
    assert spark([-each for each in values], 20, pick="min").count("▁") == 1


def test_a_directory_that_goes_away_is_said_to_be_gone_and_what_was_seen_stays(tmp_path):
    run = reports.run_dir(tmp_path / "run", reports.attempt(), metrics=reports.rows(range(1, 101)))
    clock = views.Clock()
    source = Source(run.path, clock=clock, gpus=False)
    assert source.poll().state == "finished"
    run.path.rename(tmp_path / "elsewhere")
    clock.now += 60
    view = source.poll()
    assert view.state == "gone"
    assert view.history.steps == tuple(range(1, 101))
    assert shown(view).startswith("GONE · quickstart")
    assert "its directory is gone, or cannot be reached" in shown(view)
    (tmp_path / "elsewhere").rename(run.path)
    clock.now += 60
    assert source.poll().state == "finished"
    source.close()


def test_a_name_that_leads_to_another_run_from_now_on_shows_that_one(tmp_path):
    first = reports.run_dir(tmp_path / "first", reports.attempt(), metrics=reports.rows(range(1, 101)))
    second = reports.run_dir(
        tmp_path / "second",
        reports.attempt(exit_status=1),
        metrics=reports.rows(range(1, 11)),
        name="another",
    )
    latest = tmp_path / "latest"
    latest.symlink_to(first.path)
    clock = views.Clock()
    source = Source(latest, clock=clock, gpus=False)
    assert (source.poll().name, len(source.poll().history.steps)) == ("quickstart", 100)
    latest.unlink()
    latest.symlink_to(second.path)
    clock.now += 60
    view = source.poll()
    assert (view.name, view.state, len(view.history.steps)) == ("another", "died", 10)
    source.close()


def test_the_rate_is_held_against_the_schedule_of_its_own_step():
    """Rows reach metrics.jsonl a moment after the record has gone on: 128 here, and 100 there."""
    schedule = {"kind": "linear", "peak": 1.0, "warmup": 0, "total": 200, "floor": 0.0}
    lead = views.with_beat(
        views.state(), schedule=schedule, step=128, last=views.row(127, step=128, learning_rates=(0.365,))
    )
    past = History(
        steps=(99, 100),
        loss=(1.0, 1.0),
        learning_rate=(0.51, 0.505),
        grad_norm=(None, None),
        tokens_per_second=(None, None),
        step_seconds=(None, None),
    )
    rate = gather._scheduled(lead, past)
    assert rate == pytest.approx(0.505)
    assert "as scheduled" in shown(top(lead, history=past, scheduled_rate=rate))
    assert gather._scheduled(lead, History()) == pytest.approx(0.365)
    assert gather._scheduled(views.with_beat(lead, schedule=None), past) is None


def row(step, **changes):
    fields = {"time": 1.0, "step": step, "loss": 7.0 - step, "lr": 1e-3, "tokens": 100, "step_seconds": 0.5}
    return json.dumps({**fields, **changes}) + "\n"


def test_rows_are_followed_as_they_come_whatever_else_is_there(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert tail.poll() == History()
    path.write_text(
        row(1) + '{"gap": [2, 3]}\nnonsense\n\0\0\n[1]\n' + row(4, loss="NaN", lr=[1e-4, 2e-4])[:-9]
    )
    assert tail.poll().steps == (1,)
    with path.open("a") as file:
        file.write(row(4, loss="NaN", lr=[1e-4, 2e-4])[-9:] + row(5, phases={"data": 0.1}))
    found = tail.poll()
    assert found.steps == (1, 4, 5)
    assert math.isnan(found.loss[1])
    assert found.learning_rate == (1e-3, 1e-4, 1e-3)
    assert found.tokens_per_second == (200.0, 200.0, 200.0)
    assert found.phase_seconds == {"data": 0.1}


def test_only_the_newest_rows_of_a_large_file_are_read_and_a_new_file_begins_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(row(step) for step in range(1, 20_001)))
    tail = MetricsTail(path, rows=50)
    assert tail.poll().steps == tuple(range(19_951, 20_001))
    path.unlink()
    path.write_text(row(1))
    assert tail.poll().steps == (1,)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_passed_over(tmp_path, make):
    make(tmp_path / "metrics.jsonl")
    assert MetricsTail(tmp_path / "metrics.jsonl").poll() == History()
