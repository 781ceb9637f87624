"""A writer in a tight loop, stopped and killed at random moments: what is read was written, and whole."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time

import pytest

from harness import wire
from harness.watch import heartbeat
from tests.support.emitting import emitting
from tests.support.wait import wait_for

# All values of a call are bound to its number, so that a mixture of two calls shows.
_WRITER = """
from harness import place
if "checked" in sys.argv:  # as on a machine whose stores become visible in any order
    place.is_ordered = lambda: False
emit.open()
say("ready")
i = 0
while True:
    i += 1
    with emit.stage(f"stage {i}"):
        emit.progress(detail=f"{i} " * 8)
        emit.phase(f"phase {i}")
    for j in range(i * 10, i * 10 + 10):
        rates = [j * 1.0, j * 2.0]
        emit.step(j, loss=j / 2, lr=rates, grad_norm=-float(j), tokens=j, memory=(j, j + 1, j + 2))
"""


def check_row(row):
    j = row.step
    assert (row.loss, row.learning_rates, row.grad_norm) == (j / 2, (j * 1.0, j * 2.0), -float(j))
    assert (row.tokens, row.memory) == (j, (j, j + 1, j + 2))
    assert row.index == j - 10  # each row has the place of its number


def check_state(seen):
    words = set((seen.detail or "0").split())
    assert len(words) == 1  # not half of one detail and half of another
    if seen.detail:
        assert len(seen.detail.split()) == 8
        assert int(words.pop()) == seen.progress_count  # of the same call
    if seen.phase:
        assert seen.phase.startswith("phase ")
    # For microseconds a stage that is about to nest stands alone: `stage` cannot know that it will nest.
    outer, *inner = [entry.stage for entry in seen.stages]
    assert outer == "boot" or (outer.startswith("stage ") and not inner)
    assert all(name.startswith("stage ") for name in inner)
    if seen.last is not None:
        check_row(seen.last)
        assert seen.tokens_total == sum(range(10, seen.last.step + 1))


class Follower:
    """Reads and drains, and holds what was read against what can have been written."""

    def __init__(self, path):
        self.reader = heartbeat.Reader(path)
        self.next = 0
        self.seen = self.lost = 0
        self.progress = -1

    def look(self):
        drained = self.reader.drain()
        if drained.lost:
            first, last = drained.lost
            assert first == self.next
            assert last >= first
            self.lost += last - first + 1
            self.next = last + 1
        for row in drained.rows:
            assert row.index == self.next
            check_row(row)
            self.next += 1
        self.seen += len(drained.rows)
        state = self.reader.read()
        check_state(state)
        assert state.progress_count >= self.progress
        assert state.steps_written >= self.next
        self.progress = state.progress_count
        return state


@pytest.fixture
def seeded():
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown by pytest if the test fails
    return random.Random(seed)


@pytest.mark.parametrize("rows", ["ordered", "checked"])
def test_no_half_write_is_ever_read(tmp_path, seeded, rows):
    with emitting(_WRITER, tmp_path, arguments=(rows,)) as writer:
        writer.hear("ready")
        follower = Follower(tmp_path / "ranks" / "00000.beat")
        end = time.monotonic() + 2
        while time.monotonic() < end:
            os.kill(writer.pid, signal.SIGSTOP)
            first = follower.look()
            again = follower.look()
            if _stopped(writer.pid):
                assert again == follower.look()  # a stopped writer is read at leisure
            assert again.steps_written >= first.steps_written
            os.kill(writer.pid, signal.SIGCONT)
            for _ in range(seeded.randrange(8)):
                follower.look()
        os.kill(writer.pid, signal.SIGKILL)
        writer.end()
        last = follower.look()
        assert last == follower.look()
        assert follower.next == last.steps_written == follower.seen + follower.lost
        assert follower.seen > 1000
        assert last.closed_status is None


def test_killed_at_a_random_moment_the_record_is_whole(tmp_path, seeded):
    for attempt in range(6):
        with emitting(_WRITER, tmp_path, HARNESS_ATTEMPT=str(attempt + 1)) as writer:
            writer.hear("ready")
            time.sleep(seeded.uniform(0, 0.02))  # the random moment
            os.kill(writer.pid, signal.SIGKILL)
            writer.end()
            state = Follower(tmp_path / "ranks" / "00000.beat").look()
            assert (state.attempt, state.pid) == (attempt + 1, writer.pid)


def test_a_slow_reader_is_told_exactly_what_it_lost(tmp_path):
    with emitting(_WRITER, tmp_path) as writer:
        writer.hear("ready")
        follower = Follower(tmp_path / "ranks" / "00000.beat")
        wait_for(
            lambda: heartbeat.read(tmp_path / "ranks" / "00000.beat").steps_written > 3 * wire.STEPS.count
        )
        os.kill(writer.pid, signal.SIGSTOP)
        wait_for(lambda: _stopped(writer.pid), what="the writer stops")
        state = follower.look()
        assert follower.seen == wire.STEPS.count - 1  # the oldest may be half overwritten
        assert follower.lost == state.steps_written - follower.seen


def _stopped(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "T"
    return False
