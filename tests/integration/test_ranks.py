"""Ranks of real programs that emit: found, followed into their next attempt, and known to be dead."""

import json
import os
import resource
import signal
from pathlib import Path

import pytest

from harness.clock import SYSTEM
from harness.watch.procstat import parse_stat
from harness.watch.ranks import Ranks
from tests.support import nobody
from tests.support.emitting import emitting as program
from tests.support.programs import completed_on_a_small_disk
from tests.support.wait import wait_for


@pytest.fixture
def run_dir(tmp_path):
    for name in ("ranks", "events"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def ranks(run_dir):
    ranks = Ranks(run_dir, clock=SYSTEM)
    yield ranks
    ranks.close()


def stepping(run_dir, *, rank=0, first=1, last=20, attempt=1, then="wait()"):
    return program(
        f"""
        emit.open(rank={rank}, total_steps=100)
        emit.stage("train")
        for step in range({first}, {last + 1}):
            emit.step(step, loss=1.0 / step, lr=[1e-3], tokens=100)
        say("done")
        {then}
        """,
        run_dir,
        HARNESS_ATTEMPT=str(attempt),
    )


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_before_anything_is_there_there_are_no_ranks(tmp_path):
    ranks = Ranks(tmp_path / "nowhere", clock=SYSTEM)
    assert ranks.poll() == ()
    assert ranks.take_problems() == ()


def test_a_rank_that_appears_is_found_and_its_steps_are_drained(run_dir, ranks):
    assert ranks.poll() == ()
    with stepping(run_dir) as trainer:
        trainer.hear("done")
        (state,) = ranks.poll()
        assert (state.rank, state.alive, state.heartbeat.step) == (0, True, 20)
        assert state.resident_bytes > 1_000_000
        assert state.cpu_seconds is not None
        assert state.totals.tokens == 2000
    assert [line["step"] for line in lines(run_dir)] == list(range(1, 21))
    assert ranks.poll()[0].alive is False


def test_only_rank_zero_goes_into_metrics_jsonl_but_all_are_counted(run_dir, ranks):
    with stepping(run_dir, rank=0, last=5) as first, stepping(run_dir, rank=1, last=7) as second:
        first.hear("done")
        second.hear("done")
        states = ranks.poll()
    assert [(state.rank, state.totals.tokens) for state in states] == [(0, 500), (1, 700)]
    assert len(lines(run_dir)) == 5


def test_the_next_attempt_takes_the_place_of_the_first(run_dir, ranks):
    with stepping(run_dir, last=10) as trainer:
        trainer.hear("done")
        ranks.poll()
        os.kill(trainer.pid, signal.SIGKILL)
        wait_for(lambda: not ranks.poll()[0].alive, what="the kill to be seen")
    with stepping(run_dir, first=6, last=12, attempt=2) as trainer:
        trainer.hear("done")
        (state,) = ranks.poll()
        assert (state.heartbeat.attempt, state.heartbeat.step, state.alive) == (2, 12, True)
        assert state.totals.tokens == 1700
    assert [(line["attempt"], line["step"]) for line in lines(run_dir)] == [
        *((1, step) for step in range(1, 11)),
        *((2, step) for step in range(6, 13)),
    ]


def test_what_was_written_just_before_the_replacement_is_not_lost(run_dir, ranks):
    with stepping(run_dir, last=3) as trainer:
        trainer.hear("done")
        ranks.poll()
    with stepping(run_dir, first=4, last=9, attempt=1) as trainer:  # nobody looks while it runs
        trainer.hear("done")
    with stepping(run_dir, first=10, last=11, attempt=2) as trainer:
        trainer.hear("done")
        ranks.poll()
    assert [line["step"] for line in lines(run_dir)][-2:] == [10, 11]


def test_ranks_of_an_earlier_attempt_that_did_not_come_back_are_gone(run_dir, ranks):
    with stepping(run_dir, rank=0) as first, stepping(run_dir, rank=1) as second:
        first.hear("done")
        second.hear("done")
        assert len(ranks.poll()) == 2
    with stepping(run_dir, rank=0, attempt=2) as trainer:
        trainer.hear("done")
        assert [state.rank for state in ranks.poll()] == [0]


def test_a_pid_used_again_is_not_the_rank(run_dir, ranks, tmp_path):
    with stepping(run_dir) as trainer:
        trainer.hear("done")
        (state,) = ranks.poll()
        # A /proc in which the same pid has begun later: what a reused pid looks like.
        real = Path(f"/proc/{trainer.pid}/stat").read_bytes()
        ticks = str(parse_stat(real).start_time_ticks).encode()
        proc = tmp_path / "proc"
        (proc / str(trainer.pid)).mkdir(parents=True)
        (proc / str(trainer.pid) / "stat").write_bytes(real.replace(ticks, b"1" + ticks))
        assert [each.alive for each in Ranks(run_dir, clock=SYSTEM, record=False, proc=proc).poll()] == [
            False
        ]
        assert state.alive


def test_a_zombie_is_not_alive(run_dir, ranks):
    with stepping(run_dir) as trainer:
        trainer.hear("done")
        assert ranks.poll()[0].alive
        os.kill(trainer.pid, signal.SIGKILL)
        wait_for(lambda: b") Z " in Path(f"/proc/{trainer.pid}/stat").read_bytes(), what="the zombie")
        assert not ranks.poll()[0].alive


def test_a_file_that_is_no_record_is_said_once_and_hides_nobody(run_dir, ranks):
    (run_dir / "ranks" / "00007.beat").write_bytes(b"garbage" * 1000)
    with stepping(run_dir) as trainer:
        trainer.hear("done")
        problems = []
        for _ in range(3):
            assert [state.rank for state in ranks.poll()] == [0]
            problems += ranks.take_problems()
    assert len(problems) == 1
    assert "00007.beat" in problems[0]


def test_a_record_cut_short_is_said_once_and_its_process_still_known(run_dir, ranks):
    with stepping(run_dir) as trainer:
        trainer.hear("done")
        ranks.poll()
        os.truncate(run_dir / "ranks" / "00000.beat", 100)
        problems = []
        for _ in range(3):
            (state,) = ranks.poll()
            problems += ranks.take_problems()
        assert state.alive
        os.kill(trainer.pid, signal.SIGKILL)
        trainer.process.wait()
        assert not ranks.poll()[0].alive
    assert len(problems) == 1
    assert "truncated" in problems[0]


def test_a_second_supervisor_goes_on_without_repeating_rows(run_dir):
    with stepping(
        run_dir, then="wait(); [emit.step(s) for s in range(21, 26)]; say('more'); wait()"
    ) as trainer:
        trainer.hear("done")
        first = Ranks(run_dir, clock=SYSTEM)
        first.poll()
        first.close()
        trainer.tell()
        trainer.hear("more")
        second = Ranks(run_dir, clock=SYSTEM)
        second.poll()
        second.close()
    assert [line["step"] for line in lines(run_dir)] == list(range(1, 26))


def test_a_second_observer_writes_nothing(run_dir):
    with stepping(run_dir) as trainer:
        trainer.hear("done")
        Ranks(run_dir, clock=SYSTEM, record=False).poll()
    assert not (run_dir / "metrics.jsonl").exists()


@pytest.mark.needs("root")
def test_a_record_that_lies_where_this_user_may_not_look_is_said():
    with nobody.folder() as place:
        (place / "closed").mkdir(mode=0o700)
        (place / "ranks").mkdir()
        (place / "ranks" / "00000.beat").symlink_to(place / "closed" / "memory.beat")
        ranks = Ranks(place, clock=SYSTEM, record=False)
        os.seteuid(nobody.UID)
        try:
            assert ranks.poll() == ()
        finally:
            os.seteuid(0)
        # Of that record alone: the others are looked at all the same.
        path = place / "ranks" / "00000.beat"
        assert ranks.take_problems() == (f"{path}: no record can be read here: Permission denied",)


@pytest.mark.needs("tmpfs")
def test_a_full_disk_keeps_rows_in_memory_until_there_is_room(tmp_path):
    """In a mount namespace of its own: a tmpfs of 64 kB, filled, with metrics.jsonl on it."""
    code = """
import json, os, sys
from pathlib import Path
from tests.support.views import drained, row
from harness.watch.drain import MetricsLog
path = Path("/mnt/metrics.jsonl")
log = MetricsLog(path)
log.add(drained(*(row(i) for i in range(10))), 1); log.flush()
filler = open("/mnt/filler", "wb", buffering=0)
try:
    while True: filler.write(b"x" * 512)
except OSError: pass
log.add(drained(*(row(i) for i in range(10, 200))), 1); log.flush()
assert log.problem == "No space left on device", log.problem
held = path.read_bytes()
assert held.endswith(b"\\n")
[json.loads(line) for line in held.splitlines()]
os.unlink("/mnt/filler"); filler.close()
log.flush()
assert log.problem is None, log.problem
print([json.loads(line)["step"] for line in path.read_bytes().splitlines()] == list(range(1, 201)))
"""
    done = completed_on_a_small_disk(code, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_more_records_than_descriptors_are_allowed(run_dir):
    """Each record stays open; where the soft limit is too low it is raised, not hit."""
    with stepping(run_dir) as trainer:
        trainer.hear("done")
        beat = (run_dir / "ranks" / "00000.beat").read_bytes()
        for number in range(1, 200):
            (run_dir / "ranks" / f"{number:05d}.beat").write_bytes(beat)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (150, before[1]))
            ranks = Ranks(run_dir, clock=SYSTEM, record=False)
            assert len(ranks.poll()) == 200
            assert ranks.take_problems() == ()
            ranks.close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
