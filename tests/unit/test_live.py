import dataclasses
import math

import pytest
from rich.cells import cell_len

from harness.render.live import live_line, live_pieces, plain_line
from harness.snapshot import CommandView
from tests.support import views
from tests.support.views import NOW


def line(view, width=200, **options):
    return live_line(view, width, now_wall_seconds=NOW, **options)


def test_says_where_a_run_stands():
    assert line(views.view(), 160) == (
        "train  step 128/400 ━━━━━━━━━╸━━━━━━━━━━━━━━━━━━━━ 32 %  loss 4.812  lr 1.00e-3"
        "  9.4k tok/s  RSS 0.9 GB  left 1:12  · progress 0.1 s ago"
    )


def test_fits_any_width():
    too_wide = [width for width in range(1, 200) if cell_len(line(views.view(), width)) > width]
    assert not too_wide


def test_a_bar_too_short_to_read_is_left_out():
    lengths = {sum(line(views.view(), width).count(char) for char in "━╸") for width in range(1, 200)}
    assert min(lengths - {0}) >= 8
    assert max(lengths) == 30


def test_keeps_the_step_longest():
    assert line(views.view(), 20) == "train  step 128/400"


def test_a_wide_name_of_a_stage_is_cut_to_cells():
    beat = views.heartbeat(stage="学習" * 20, step=None, last=None)
    assert cell_len(line(views.view(views.state(heartbeat=beat)), 20)) <= 20


def test_ascii_terminals_get_ascii():
    shown = line(views.view(), 160, plain_ascii=True)
    assert shown.isascii()
    assert "#########---" in shown


def test_the_plain_line_has_everything_but_the_bar():
    assert plain_line(views.view(), now_wall_seconds=NOW) == (
        "train  step 128/400  32 %  loss 4.812  lr 1.00e-3  9.4k tok/s  RSS 0.9 GB  left 1:12"
        "  - progress 0.1 s ago"
    )


@pytest.mark.parametrize(("age", "tone"), [(0.1, "faint"), (3.5, "warn"), (6.5, "bad")])
def test_the_age_turns_visible_against_its_limit(age, tone):
    state = views.with_beat(views.state(), last_progress_wall_seconds=NOW - age)
    pieces = live_pieces(views.view(state), 160, now_wall_seconds=NOW)
    assert pieces[-1].text == f"· progress {age:.1f} s ago"
    assert pieces[-1].tone == tone


def test_a_stall_is_said_even_where_there_is_little_room():
    view = dataclasses.replace(views.view(), stalled_since_wall_seconds=NOW - 72)
    assert line(view, 45) == "train  step 128/400  · stalled for 1:12"
    assert line(view, 30) == "train  · stalled for 1:12"
    assert line(view, 20) == "· stalled for 1:12"


def test_the_slowest_rank_is_named():
    slow = views.with_beat(views.state(3), last_progress_wall_seconds=NOW - 4)
    assert line(views.view(views.state(), slow)).endswith("2 ranks  left 1:12  · progress 4.0 s ago (rank 3)")


def test_ranks_that_died_are_counted():
    gone = dataclasses.replace(views.state(1), alive=False, resident_bytes=None)
    assert "2 ranks, 1 gone" in line(views.view(views.state(), gone))


def test_before_the_first_step_it_says_what_goes_on():
    beat = views.heartbeat(stage="dataset", step=None, last=None, detail="1,200 documents\x1b[2J")
    state = views.state(heartbeat=beat, totals=views.totals(tokens_per_second=None, steps_per_second=None))
    assert line(views.view(state)) == "dataset  0:20  1,200 documents  RSS 0.9 GB  · progress 0.1 s ago"


def test_a_loss_that_is_none_of_a_number_stands_out():
    state = views.with_beat(views.state(), last=views.row(127, loss=math.nan))
    pieces = live_pieces(views.view(state), 160, now_wall_seconds=NOW)
    assert ("loss NaN", "bad") in [(piece.text, piece.tone) for piece in pieces]


def test_a_command_that_says_nothing_has_a_line_too():
    view = dataclasses.replace(
        views.view(),
        ranks=(),
        command=CommandView(
            alive=True, finished=False, started_wall_seconds=NOW - 60, resident_bytes=900_000_000
        ),
        log_bytes=1_200_000,
        log_growth_wall_seconds=NOW - 3,
    )
    assert line(view) == "running  1:00  log 1.2 MB  RSS 0.9 GB  · output 3.0 s ago"


def test_what_a_trainer_declares_cannot_break_the_line():
    state = views.with_beat(views.state(), total_steps=0, step=10**12)
    assert line(views.view(state)).startswith("train  step 1000000000000")
