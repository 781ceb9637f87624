"""Following logs that real commands write themselves: through O_APPEND, for gigabytes, over rotation."""

import subprocess
import sys
import time

import pytest

from harness.clock import SYSTEM
from harness.watch.logend import stamped_tail, tail
from harness.watch.logtail import LogFollower
from tests.support.env import clean_env
from tests.support.programs import completed_on_a_small_disk
from tests.support.wait import wait_for

MIB = 1 << 20


@pytest.fixture
def log(tmp_path):
    return tmp_path / "output.log"


@pytest.fixture
def follow(log):
    made = []

    def make(keep_bytes=1 << 30):
        index = log.with_suffix(".index")
        made.append(LogFollower(log, index_path=index, keep_bytes=keep_bytes, clock=SYSTEM))
        return made[-1]

    yield make
    for follower in made:
        follower.close()


def writing(log, code, stdin=None):
    """A Python program whose output goes straight into the log, as the harness lets commands write."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-u", "-c", code], stdout=output, stderr=output, stdin=stdin, env=clean_env()
        )


def test_lines_of_a_living_program_come_through_in_order(log, follow):
    follower = follow()
    seen = b""
    with writing(log, "import time\nfor i in range(200): print('line', i); time.sleep(0.001)") as program:
        while program.poll() is None:
            seen += follower.poll().new
    seen += follower.poll().new
    assert seen == b"".join(b"line %d\n" % number for number in range(200))


def test_a_progress_bar_is_its_last_frame_and_a_prompt_is_seen(log, follow):
    follower = follow()
    code = """
import sys
for i in range(100): sys.stderr.write(f"\\r{i + 1}%|{'#' * (i // 10)}")
sys.stderr.write("\\nName? "); sys.stderr.flush(); input()
"""
    with writing(log, code, stdin=subprocess.PIPE) as program:
        wait_for(lambda: follower.poll() and follower.partial == b"Name? ", what="the prompt")
        assert tail(log, 2) == (b"100%|#########", b"Name? ")
        program.communicate(b"\n", timeout=30)


def test_the_log_of_a_program_that_writes_on_is_kept_at_its_size(log, follow):
    follower = follow(keep_bytes=4 * MIB)
    code = """
import sys, os
for i in range(640): os.write(1, b"%07d " % i + b"x" * 65527 + b"\\n")
sys.stdin.read()
os.write(1, b"last\\n")
"""
    with writing(log, code, stdin=subprocess.PIPE) as program:
        wait_for(lambda: follower.poll().size_bytes == 640 * 65536, what="40 MiB of log")
        wait_for(lambda: follower.poll() and log.stat().st_blocks * 512 < 6 * MIB, what="the log to shrink")
        program.communicate(b"", timeout=30)
    assert follower.poll().new == b"last\n"
    kept = tail(log, 1000, max_bytes=8 * MIB)
    assert kept[-1] == b"last"
    assert kept[-60].startswith(b"0000581 ")


def test_a_flood_takes_bounded_memory(log, follow):
    """Hundreds of megabytes at once, as if nobody had looked for long."""
    follower = follow()
    follower.poll()
    block = b"".join(b"line %010d of a flood\n" % number for number in range(40_000))
    with log.open("ab", buffering=0) as file:
        for _ in range(200):
            file.write(block)
    before = _peak_bytes()
    seen = lines = 0
    while follower.offset < log.stat().st_size:
        update = follower.poll()
        seen += len(update.new) + update.skipped_bytes
        lines += update.lines
        assert len(update.new) <= 64 << 10
    assert (seen, lines) == (200 * len(block), 200 * 40_000)
    assert _peak_bytes() - before < 30 * MIB
    assert tail(log, 1) == (b"line 0000039999 of a flood",)


def test_times_of_lines_outlive_their_supervisor(log, follow):
    first = follow()
    with writing(log, "print('one')") as program:
        program.wait(timeout=30)
    first.poll()
    first.close()
    with writing(log, "print('two')") as program:
        program.wait(timeout=30)
    second = follow()
    assert second.poll().new == b"two\n"
    lines = stamped_tail(log, log.with_suffix(".index"), 10)
    assert [each.line for each in lines] == [b"one", b"two"]
    now = time.time()
    assert all(now - 60 < each.wall_seconds <= now + 1 for each in lines)
    assert lines[0].wall_seconds <= lines[1].wall_seconds


@pytest.mark.needs("tmpfs")
def test_a_full_disk_costs_the_index_its_entries_and_nothing_else(tmp_path):
    code = """
import os
from pathlib import Path
from harness.clock import SYSTEM
from harness.watch.logindex import times
from harness.watch.logtail import LogFollower
log, index = Path("/mnt/output.log"), Path("/mnt/output.index")
log.touch()
follower = LogFollower(log, index_path=index, keep_bytes=None, clock=SYSTEM)
follower.poll()
with log.open("ab", buffering=0) as file:
    file.write(b"first\\n"); follower.poll()
    filler = open("/mnt/filler", "wb", buffering=0)
    try:
        while True: filler.write(b"x" * 512)
    except OSError: pass
    for number in range(300):
        try: file.write(b"z")
        except OSError: break
        follower.poll()
    entries = times(index)
    os.unlink("/mnt/filler"); filler.close()
    file.write(b"last\\n")
    new, ends = follower.poll().new, [entry.end_offset for entry in times(index)]
    print(new.endswith(b"last\\n"), ends[0], ends[-1] == log.stat().st_size)
"""
    done = completed_on_a_small_disk(code, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True 6 True\n", "")


def _peak_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
