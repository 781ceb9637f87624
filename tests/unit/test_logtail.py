import os
from pathlib import Path

import pytest

from harness.errors import RecordError
from harness.watch import holes, logindex, logtail
from harness.watch.logend import stamped_tail, tail
from harness.watch.logindex import IndexWriter, time_at, times
from harness.watch.logtail import LogFollower
from tests.support.views import Clock

MIB = 1 << 20


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(tmp_path):
    return tmp_path / "output.log"


@pytest.fixture
def follow(log, clock):
    made = []

    def make(keep_bytes=1 << 30, **options):
        made.append(
            LogFollower(
                log, index_path=log.with_suffix(".index"), keep_bytes=keep_bytes, clock=clock, **options
            )
        )
        return made[-1]

    yield make
    for follower in made:
        follower.close()


def append(log, data):
    with log.open("ab") as file:
        file.write(data)


def test_a_log_that_is_not_there_yet_is_waited_for(log, follow):
    follower = follow()
    assert follower.poll().new == b""
    append(log, b"first\n")
    update = follower.poll()
    assert (update.new, update.lines, update.notices) == (b"first\n", 1, ())


def test_the_time_of_growth_is_that_of_the_poll_and_stays_while_nothing_comes(log, follow, clock):
    follower = follow()
    append(log, b"")
    follower.poll()
    append(log, b"a")
    clock.now += 5
    grown_at = clock.wall()
    assert follower.poll().last_growth_wall_seconds == grown_at
    clock.now += 60
    assert follower.poll().last_growth_wall_seconds == grown_at


def test_what_stood_there_already_came_at_its_last_change_not_now(log, follow, clock):
    append(log, b"old\n")
    os.utime(log, (clock.wall() - 500, clock.wall() - 500))
    assert follow().poll().last_growth_wall_seconds == clock.wall() - 500


def test_from_the_end_only_what_comes_from_now_on(log, follow):
    append(log, b"old\n")
    follower = follow(start="end")
    assert follower.poll().new == b""
    append(log, b"new\n")
    assert follower.poll().new == b"new\n"


def test_a_truncated_log_is_noticed_and_followed_from_its_beginning(log, follow):
    follower = follow()
    append(log, b"0123456789\n")
    follower.poll()
    os.truncate(log, 0)
    append(log, b"again\n")
    update = follower.poll()
    assert update.new == b"again\n"
    assert update.notices == ("output.log: truncated by somebody, from 11 to 6 bytes",)
    assert [entry.end_offset for entry in times(log.with_suffix(".index"))] == [6]


def test_a_replaced_log_is_noticed_after_the_old_one_was_read_to_its_end(log, follow):
    follower = follow()
    append(log, b"old\n")
    follower.poll()
    with log.open("ab") as writer:
        log.rename(log.with_suffix(".1"))
        log.write_bytes(b"new\n")
        writer.write(b"late\n")
        writer.flush()
        assert follower.poll().new == b"late\n"
    update = follower.poll()
    assert update.new == b"new\n"
    assert "replaced" in update.notices[0]


def test_a_renamed_log_is_followed_as_long_as_nothing_takes_its_place(log, follow):
    follower = follow()
    append(log, b"old\n")
    follower.poll()
    moved = log.with_suffix(".1")
    log.rename(moved)
    append(moved, b"more\n")
    assert follower.poll().new == b"more\n"


@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
def test_what_is_no_regular_file_is_said_once_and_blocks_nobody(log, follow, kind):
    if kind == "fifo":
        os.mkfifo(log)
    elif kind == "folder":
        log.mkdir()
    else:
        log.symlink_to("/etc/passwd")
    follower = follow()
    notices = follower.poll().notices + follower.poll().notices
    assert len(notices) == 1
    assert notices[0].startswith("output.log: ")


def test_a_flood_is_read_in_bounded_pieces_and_its_end_is_shown(log, follow):
    follower = follow()
    append(log, b"".join(b"line %09d\n" % number for number in range(200_000)))
    update = follower.poll()
    assert len(update.new) <= logtail.SHOWN_BYTES
    assert update.skipped_bytes + len(update.new) == update.grown_bytes == 200_000 * 15
    assert update.lines == 200_000
    assert update.new.startswith(b"line ")
    assert update.new.endswith(b"line 000199999\n")


def test_a_backlog_too_long_to_read_is_skipped(log, follow, monkeypatch):
    monkeypatch.setattr(logtail, "SKIP_BYTES", 4 * MIB)
    append(log, b"x" * (8 * MIB) + b"\nend\n")
    update = follow().poll()
    assert update.new.endswith(b"end\n")
    assert update.skipped_bytes + len(update.new) == 8 * MIB + 5


def test_the_oldest_part_is_given_back_while_offsets_stay(log, follow):
    follower = follow(keep_bytes=MIB)
    with log.open("ab", buffering=0) as writer:
        for number in range(64):
            writer.write(b"%05d" % number + b"x" * (128 * 1024 - 6) + b"\n")
            follower.poll()
        assert log.stat().st_size == 64 * 128 * 1024
        assert log.stat().st_blocks * 512 < 2 * MIB
        writer.write(b"still appending\n")
    assert follower.poll().new == b"still appending\n"
    assert tail(log, 1) == (b"still appending",)
    assert tail(log, 2)[0].startswith(b"00063")


def test_a_head_given_back_is_not_read_as_gigabytes_of_zeros(log, follow):
    with log.open("ab") as file:
        file.truncate(1 << 30)
        file.write(b"data\n")
    update = follow().poll()
    assert update.new.endswith(b"data\n")
    assert len(update.new) < 1 << 13
    assert update.lines == 1


def test_where_nothing_can_be_given_back_it_is_said_once(log, follow, monkeypatch):
    def refuse(descriptor, start, end):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(holes, "punch", refuse)
    follower = follow(keep_bytes=4096)
    notices = []
    for _ in range(5):
        append(log, b"x" * 20_000)
        notices += follower.poll().notices
    assert len(notices) == 1
    assert "Operation not supported" in notices[0]


def test_without_a_size_to_keep_the_log_is_never_written_to(log, follow):
    append(log, b"x" * MIB)
    log.chmod(0o400)
    follower = follow(keep_bytes=None)
    follower.poll()
    fdinfo = Path(f"/proc/self/fdinfo/{follower._descriptor}").read_text()
    flags = int(fdinfo.split("flags:")[1].split()[0], 8)
    assert flags & os.O_ACCMODE == os.O_RDONLY


def test_a_later_follower_goes_on_where_the_index_ends(log, follow, clock):
    follower = follow()
    append(log, b"one\n")
    follower.poll()
    follower.close()
    append(log, b"two\n")
    clock.now += 1
    update = follow().poll()
    assert update.new == b"two\n"
    assert [entry.end_offset for entry in times(log.with_suffix(".index"))] == [4, 8]


def test_a_tail_reads_the_end_only(log):
    append(log, b"".join(b"%d\n" % number for number in range(100_000)))
    assert tail(log, 3) == (b"99997", b"99998", b"99999")
    assert tail(log, 10_000, max_bytes=100)[-1] == b"99999"
    assert len(tail(log, 10_000, max_bytes=100)) < 20
    assert tail(log, 0) == ()
    assert tail(log.with_suffix(".missing"), 3) == ()


def test_a_tail_of_one_endless_progress_bar_is_its_last_frame(log):
    append(log, b"".join(b"\r%d%%|###" % number for number in range(100_000)))
    assert tail(log, 5) == (b"99999%|###",)


def test_lines_know_when_they_came(log, follow, clock):
    follower = follow()
    log.touch()
    follower.poll()
    append(log, b"one\n")
    follower.poll()
    first = clock.wall()
    clock.now += 10
    append(log, b"two\nthr")
    follower.poll()
    clock.now += 10
    append(log, b"ee\nfour")
    follower.poll()
    clock.now += 10
    append(log, b" not seen yet\n")
    stamped = stamped_tail(log, log.with_suffix(".index"), 10)
    assert [(each.line, each.wall_seconds) for each in stamped] == [
        (b"one", first),
        (b"two", first + 10),
        (b"three", first + 20),
        (b"four not seen yet", None),
    ]


# ---- the index


def test_the_index_is_thinned_from_its_old_end(tmp_path, monkeypatch):
    monkeypatch.setattr(logindex, "MAX_ENTRIES", 64)
    path = tmp_path / "index"
    writer = IndexWriter(path)
    for number in range(1, 1001):
        writer.add(number * 10, float(number))
    entries = times(path)
    assert len(entries) <= 64
    assert path.stat().st_size <= 24 * 65
    assert entries[-1].end_offset == 10_000
    assert time_at(entries, 9_995) == 1000.0  # recent times are exact
    assert 500 <= time_at(entries, 5_000) < 1000  # older ones coarser, and never too early
    assert time_at(entries, 10) == 1.0  # when it began is known for good
    assert time_at(entries, 10_001) is None


def test_half_an_entry_of_a_killed_writer_does_no_harm(tmp_path):
    path = tmp_path / "index"
    IndexWriter(path).add(10, 1.0)
    append(path, b"half an ent")
    assert [entry.end_offset for entry in times(path)] == [10]
    IndexWriter(path).add(20, 2.0)
    assert [(entry.end_offset, entry.wall_seconds) for entry in times(path)] == [(10, 1.0), (20, 2.0)]


def test_a_foreign_file_is_no_index(tmp_path):
    path = tmp_path / "index"
    path.write_bytes(b"something else entirely, and long enough")
    with pytest.raises(RecordError, match="not an index"):
        times(path)


def test_an_index_that_cannot_be_written_costs_its_entries_only(tmp_path):
    writer = IndexWriter(tmp_path / "missing" / "index")
    writer.add(10, 1.0)
    assert writer.failures
