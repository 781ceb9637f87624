"""What the terminal says of a stall."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from harness.detect import Suspicion
from harness.notices import IncidentClosed, IncidentDismissed, IncidentOpened, Suspected
from harness.render.stall import notice_lines

SUSPICION = Suspicion(
    rank=0,
    stages=("train",),
    stage="train",
    phase="data",
    step=128,
    idle_seconds=8.4,
    limit_seconds=6.0,
    why="from 128 steps of 0.12 s",
    since_wall_seconds=0.0,
    summary="no progress for 8.4 s",
)
OPENED = IncidentOpened(
    number=1,
    path=Path("/x/incidents/001"),
    suspicion=SUSPICION,
    headline="main thread at loader.py:31 in fetch",
)


def test_an_incident_says_how_long_where_why_and_where_the_evidence_is() -> None:
    assert notice_lines(OPENED, "runs/latest") == [
        "stalled · no progress for 8.4 s in train/data (limit 6.0 s, from 128 steps of 0.12 s)",
        "  main thread at loader.py:31 in fetch",
        "  evidence  runs/latest/incidents/001",
        "  explain it again: harness explain runs/latest/incidents/001",
    ]


def test_other_ranks_are_named() -> None:
    notice = dataclasses.replace(OPENED, suspicion=dataclasses.replace(SUSPICION, rank=3))
    assert "in train/data of rank 3 (limit" in notice_lines(notice, "r")[0]


def test_where_nothing_could_be_written_the_reason_stands_in() -> None:
    notice = dataclasses.replace(OPENED, path=None, headline=None, problem="no space left on device")
    assert notice_lines(notice, "r")[1:] == ["  no evidence: no space left on device"]


def test_its_end_is_told_with_what_ended_it() -> None:
    closed = IncidentClosed(number=1, path=None, after_seconds=19.2, how="progress")
    assert notice_lines(closed, "r") == ["progress again after 19.2 s · incident 001 closed"]
    killed = dataclasses.replace(closed, how="killed by SIGKILL")
    assert notice_lines(killed, "r") == ["incident 001 closed after 19.2 s: killed by SIGKILL"]


def test_a_suspicion_that_came_to_nothing_is_not_mentioned() -> None:
    assert notice_lines(Suspected(suspicion=SUSPICION), "r") == []
    assert notice_lines(IncidentDismissed(suspicion=SUSPICION, after_seconds=7.0), "r") == []
