"""From a suspicion to an incident and its end; evidence comes from a stand-in, the disk is real.

With the real collectors: tests/integration/test_stall_*.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import pytest

from harness.detect import Suspicion
from harness.notices import IncidentClosed, IncidentDismissed, IncidentOpened, Suspected
from harness.supervise.eventlog import EventLog
from harness.supervise.gather import Gathered
from harness.supervise.incidents import Incidents
from harness.supervise.incidentstore import parse_incident
from harness.watch.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path


class Time:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + 1e9


class Evidence:
    """A gathering that ends when told to."""

    def __init__(self, out: Path, size: int = 100) -> None:
        self.out, self.size = out, size
        self.result: Gathered | None = None
        self.killed = False

    def finish(self, result: Gathered | None = None, *, written: bool = True) -> None:
        if written:
            self.out.mkdir(parents=True)
            (self.out / "case.json").write_text("x" * self.size)
        self.result = result or Gathered(headline="main thread of rank 0 at loader.py:31 in fetch")

    def poll(self) -> Gathered | None:
        return self.result

    def kill(self) -> None:
        self.killed = True


STANDING = Progress(
    source="heartbeat",
    rank=0,
    incarnation=(10, 20),
    stages=("train",),
    phase="data",
    step=128,
    steps=128,
    count=0,
    moved_at_monotonic_seconds=990.0,
    moved_at_wall_seconds=1e9 + 990.0,
)


def suspicion_of(progress: Progress) -> Suspicion:
    return Suspicion(
        rank=progress.rank,
        stages=progress.stages,
        stage="train",
        phase=progress.phase,
        step=progress.step,
        idle_seconds=8.4,
        limit_seconds=6.0,
        why="from 128 steps of 0.12 s",
        since_wall_seconds=progress.moved_at_wall_seconds,
        summary="no progress for 8.4 s",
    )


def moved(progress: Progress, at: float) -> Progress:
    return dataclasses.replace(
        progress, moved_at_monotonic_seconds=at, moved_at_wall_seconds=1e9 + at, step=129, steps=129
    )


class Bench:
    """Incidents of a run in a folder."""

    def __init__(self, folder: Path, **bounds: int) -> None:
        self.run = folder
        (folder / "events").mkdir(parents=True, exist_ok=True)
        self.folder = folder / "incidents"
        self.clock = Time()
        self.bounds = bounds
        self.evidence: list[Evidence] = []
        self.size = 100
        self.start_supervisor()

    def start_supervisor(self, attempt: int = 1) -> None:
        self.incidents = Incidents(
            self.folder,
            clock=self.clock,
            events=EventLog(self.run / "events" / "supervisor.jsonl", clock=self.clock),
            gather=self.gather,  # type: ignore[arg-type]
            attempt=attempt,
            **self.bounds,
        )

    def gather(self, suspicion: Suspicion, out: Path) -> Evidence:
        self.evidence.append(Evidence(out, self.size))
        return self.evidence[-1]

    def stall(self, progress: Progress = STANDING) -> IncidentOpened:
        self.incidents.suspect(suspicion_of(progress), progress)
        self.evidence[-1].finish()
        [notice] = self.incidents.poll({progress.rank: progress})
        assert isinstance(notice, IncidentOpened)
        return notice

    def document(self, number: int) -> dict[str, object]:
        found = json.loads((self.folder / f"{number:03d}" / "incident.json").read_text())
        assert isinstance(found, dict)
        return found

    def events(self) -> list[str]:
        lines = (self.run / "events" / "supervisor.jsonl").read_text().splitlines()
        return [json.loads(line)["event"] for line in lines]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_stall_becomes_an_incident_with_its_evidence_and_its_closing_is_recorded(bench: Bench) -> None:
    [suspected] = bench.incidents.suspect(suspicion_of(STANDING), STANDING)
    assert isinstance(suspected, Suspected)
    assert bench.incidents.poll({0: STANDING}) == (), "evidence is being taken: nobody waits"
    bench.evidence[0].finish()
    [opened] = bench.incidents.poll({0: STANDING})
    assert isinstance(opened, IncidentOpened)
    assert opened.headline == "main thread of rank 0 at loader.py:31 in fetch"
    assert opened.path == bench.folder / "001"
    assert sorted(path.name for path in bench.folder.iterdir()) == ["001"]
    assert (opened.path / "case.json").exists()
    found = bench.document(1)
    assert (found["number"], found["where"], found["step"], found["why"]) == (
        1,
        "train/data",
        128,
        "from 128 steps of 0.12 s",
    )
    assert found["closed_at"] is None
    assert found["cause"] == "unknown"
    bench.clock.now = 1010.0
    [closed] = bench.incidents.poll({0: moved(STANDING, 1009.2)})
    assert closed == IncidentClosed(
        number=1, path=opened.path, after_seconds=pytest.approx(19.2), how="progress"
    )
    assert bench.document(1)["closed_after_seconds"] == pytest.approx(19.2)
    assert bench.incidents.poll({0: STANDING}) == ()
    assert bench.events() == ["suspected", "incident-opened", "incident-closed"]
    assert bench.incidents.opened == {("train", "unknown"): 1}


def test_progress_while_evidence_is_taken_dismisses_and_leaves_nothing(bench: Bench) -> None:
    bench.incidents.suspect(suspicion_of(STANDING), STANDING)
    bench.evidence[0].finish()
    [notice] = bench.incidents.poll({0: moved(STANDING, 1001.0)})
    assert isinstance(notice, IncidentDismissed)
    assert notice.after_seconds == pytest.approx(11.0)
    assert bench.evidence[0].killed, "no dump of a trainer that goes on"
    assert list(bench.folder.iterdir()) == []
    assert bench.incidents.opened == {}
    assert bench.stall().number == 1


def test_ranks_that_stall_together_are_one_incident_until_all_move(bench: Bench) -> None:
    other = dataclasses.replace(STANDING, rank=1, incarnation=(11, 21))
    bench.incidents.suspect(suspicion_of(STANDING), STANDING)
    assert bench.incidents.suspect(suspicion_of(other), other) == ()
    bench.evidence[0].finish()
    [opened] = bench.incidents.poll({0: STANDING, 1: other})
    assert isinstance(opened, IncidentOpened)
    assert bench.document(1)["ranks"] == [0, 1]
    assert len(bench.evidence) == 1
    assert bench.incidents.poll({0: moved(STANDING, 1001), 1: other}) == ()
    [closed] = bench.incidents.poll({0: moved(STANDING, 1001), 1: moved(other, 1002)})
    assert isinstance(closed, IncidentClosed)


def test_a_wall_clock_that_is_set_back_does_not_keep_an_incident_open(bench: Bench) -> None:
    bench.stall()
    going_on = dataclasses.replace(moved(STANDING, 1001), moved_at_wall_seconds=1e9 - 2600)
    [closed] = bench.incidents.poll({0: going_on})
    assert isinstance(closed, IncidentClosed)
    assert (closed.how, closed.after_seconds) == ("progress", pytest.approx(11.0))


def test_an_incident_ends_with_its_process_and_the_next_one_is_another(bench: Bench) -> None:
    """A script's next program is not covered by the stall of the one before, which somebody killed."""
    bench.stall()
    command = dataclasses.replace(STANDING, source="log", rank=None, incarnation=(9, 19), stages=("command",))
    [closed] = bench.incidents.poll({None: command})
    assert isinstance(closed, IncidentClosed)
    assert closed.how == "its process ended, or tells no more"
    assert bench.stall(command).number == 2


def test_a_rank_that_died_does_not_keep_an_incident_open(bench: Bench) -> None:
    other = dataclasses.replace(STANDING, rank=1, incarnation=(11, 21))
    bench.stall()
    bench.incidents.suspect(suspicion_of(other), other)
    [closed] = bench.incidents.poll({0: moved(STANDING, 1001)})
    assert isinstance(closed, IncidentClosed)


def test_evidence_that_failed_costs_a_line_and_not_the_incident(bench: Bench) -> None:
    bench.incidents.suspect(suspicion_of(STANDING), STANDING)
    problem = "taking evidence was killed by SIGKILL"
    bench.evidence[0].finish(Gathered(errors={"gather": 1}, problem=problem), written=False)
    [opened] = bench.incidents.poll({0: STANDING})
    assert isinstance(opened, IncidentOpened)
    assert (opened.path, opened.problem) == (bench.folder / "001", problem)
    assert bench.document(1)["evidence"] == problem
    assert bench.incidents.errors == {"gather": 1}


def test_where_nothing_can_be_written_the_incident_is_announced_and_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.folder.write_text("a file is in the way: as unwritable as a full disk")
    bench.incidents.suspect(suspicion_of(STANDING), STANDING)
    bench.evidence[0].finish(Gathered(problem="no space"), written=False)
    [opened] = bench.incidents.poll({0: STANDING})
    assert isinstance(opened, IncidentOpened)
    assert opened.path is None
    assert opened.problem == "no space"
    assert bench.incidents.opened == {("train", "unknown"): 1}
    bench.folder.unlink()  # room again: at least its record is written when it closes
    bench.incidents.poll({0: moved(STANDING, 1001)})
    assert bench.document(1)["how"] == "progress"


def test_the_commands_end_closes_what_is_open(bench: Bench) -> None:
    bench.stall()
    [closed] = bench.incidents.command_ended("killed by SIGKILL", well=False)
    assert isinstance(closed, IncidentClosed)
    assert bench.document(1)["how"] == "killed by SIGKILL"


def test_a_command_that_ended_well_was_not_stalled_but_one_that_died_was(bench: Bench) -> None:
    bench.incidents.suspect(suspicion_of(STANDING), STANDING)
    [notice] = bench.incidents.command_ended("exit status 0", well=True)
    assert isinstance(notice, IncidentDismissed)
    bench.incidents.suspect(suspicion_of(STANDING), STANDING)
    bench.evidence[-1].finish()
    opened, closed = bench.incidents.command_ended("killed by SIGABRT", well=False)
    assert isinstance(opened, IncidentOpened)
    assert isinstance(closed, IncidentClosed)
    assert bench.document(1)["how"] == "killed by SIGABRT"


def test_the_oldest_evidence_makes_room_and_its_record_stays(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_kept=2)
    for at in range(4):
        bench.stall()
        bench.incidents.poll({0: moved(STANDING, 1001 + at)})
    kept = [(bench.folder / f"{number:03d}" / "case.json").exists() for number in range(1, 5)]
    assert kept == [False, False, True, True]
    assert [bench.document(number)["evidence"] for number in range(1, 5)] == [
        "dropped",
        "dropped",
        "whole",
        "whole",
    ]
    assert bench.document(1)["how"] == "progress"


def test_evidence_is_bounded_in_bytes_but_the_newest_stays(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_bytes=1000)
    for size in (600, 600, 5000):
        bench.size = size
        bench.stall()
        bench.incidents.poll({0: moved(STANDING, 1001)})
    assert [(bench.folder / f"{number:03d}" / "case.json").exists() for number in (1, 2, 3)] == [
        False,
        False,
        True,
    ]


def test_a_second_supervisor_takes_over_an_open_incident_and_makes_no_second_one(bench: Bench) -> None:
    bench.stall()
    (bench.folder / ".pending-999-2").mkdir()
    bench.start_supervisor()
    assert not (bench.folder / ".pending-999-2").exists(), "what the first left half done"
    assert bench.incidents.open_incident is not None
    assert bench.incidents.suspect(suspicion_of(STANDING), STANDING) == ()
    assert bench.incidents.poll({0: STANDING}) == ()
    [closed] = bench.incidents.poll({0: moved(STANDING, 1030.0)})
    assert isinstance(closed, IncidentClosed)
    assert bench.document(1)["closed_after_seconds"] == pytest.approx(40.0)
    assert bench.stall(moved(STANDING, 1031)).number == 2


def test_an_open_incident_of_an_earlier_attempt_is_closed_at_once(bench: Bench) -> None:
    bench.stall()
    bench.start_supervisor(attempt=2)
    assert bench.incidents.open_incident is None
    assert bench.document(1)["how"] == "its supervisor ended"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema": "other"}', '{"schema": "harness.incident/1"}']
)
def test_what_is_no_incident_is_read_as_none(text: str) -> None:
    assert parse_incident(text) is None


@pytest.mark.parametrize("change", [{"opened_at": None}, {"where": 5}, {"headline": ["a"]}])
def test_one_that_was_changed_by_hand_is_none(bench: Bench, change: dict[str, object]) -> None:
    bench.stall()
    assert parse_incident(json.dumps(bench.document(1))) is not None
    assert parse_incident(json.dumps({**bench.document(1), **change})) is None


def test_an_incident_reads_back_equal_and_later_versions_keys_are_dropped(bench: Bench) -> None:
    bench.stall()
    text = (bench.folder / "001" / "incident.json").read_text()
    incident = parse_incident(text)
    assert incident is not None
    assert incident == bench.incidents.open_incident
    assert incident.to_json() == text
    assert parse_incident(json.dumps({**json.loads(text), "later": 1})) == incident


def test_evidence_that_shows_progress_dismisses(bench: Bench) -> None:
    bench.incidents.suspect(suspicion_of(STANDING), STANDING)
    bench.evidence[0].finish(Gathered(headline="at loader.py:31", moved=True, errors={"stacks": 1}))
    [notice] = bench.incidents.poll({0: STANDING})
    assert isinstance(notice, IncidentDismissed)
    assert list(bench.folder.iterdir()) == []
    assert bench.incidents.errors == {"stacks": 1}, "a collector that failed is counted all the same"
