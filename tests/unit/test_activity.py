"""What counts as activity of a process tree, and as progress of a command that never emits."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harness.clock import SYSTEM
from harness.watch.activity import (
    CommandProgress,
    Counters,
    TreeActivity,
    descendants,
    is_active,
    parse_io,
    parse_switches,
    read_counters,
)
from tests.support.env import clean_env
from tests.support.wait import wait_for

BEFORE = {(1, 10): Counters(cpu_seconds=5.0, io_bytes=1000, switches=100)}


def after(cpu: float = 0.0, io: int = 0, switches: int = 0) -> dict[tuple[int, int], Counters]:
    return {(1, 10): Counters(cpu_seconds=5.0 + cpu, io_bytes=1000 + io, switches=100 + switches)}


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + 1e9


def test_io_and_switches_are_read() -> None:
    assert parse_io(b"rchar: 10\nwchar: 5\nsyscr: 1\nread_bytes: 0\n") == 15
    assert parse_switches(b"Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t9\n") == 7


@pytest.mark.parametrize(
    ("now", "active"),
    [
        (after(), False),
        (after(cpu=0.05), False),  # 1 % of a core: watchdogs
        (after(cpu=0.5), True),
        (after(io=4000), False),
        (after(io=100_000), True),
        (after(switches=100), False),
        (after(switches=1000), True),  # packets that recv takes show nowhere else
        ({}, True),
        ({(1, 11): Counters(cpu_seconds=0, io_bytes=0, switches=0)}, True),  # the pid has a new owner
        ({(1, 10): Counters(cpu_seconds=5.0, io_bytes=None, switches=50)}, False),
    ],
)
def test_idle_is_a_threshold_and_not_zero(now: dict[tuple[int, int], Counters], active: bool) -> None:
    assert is_active(BEFORE, now, 5.0) is active


@pytest.mark.parametrize(
    ("code", "idle"),
    [
        ("import time; print(flush=True); time.sleep(60)", True),
        ("print(flush=True)\nwhile True: pass", False),
    ],
    ids=["sleeps", "spins"],
)
def test_a_process_that_sleeps_is_idle_and_one_that_spins_is_not(code: str, idle: bool) -> None:
    process = subprocess.Popen([sys.executable, "-c", code], env=clean_env(), stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        activity = TreeActivity(lambda: [process.pid], clock=SYSTEM, period_seconds=0.3)

        def settled() -> bool:
            since = activity.poll()
            return SYSTEM.monotonic() - since > 1.0

        if idle:
            wait_for(settled, 20, "the sleeper to count as idle")
        else:
            end = SYSTEM.monotonic() + 2.0
            while SYSTEM.monotonic() < end:
                assert not settled()
    finally:
        process.kill()
        process.communicate()


def test_the_tree_is_found_across_sessions() -> None:
    code = (
        "import subprocess, sys, time\n"
        "command = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "child = subprocess.Popen(command, start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=clean_env(), stdout=subprocess.PIPE)
    assert process.stdout is not None
    grandchild = int(process.stdout.readline())
    try:
        assert descendants(process.pid) == (process.pid, grandchild)
    finally:
        os.kill(grandchild, 9)
        process.kill()
        process.wait()
        process.stdout.close()
    assert descendants(process.pid) == (process.pid,)
    assert read_counters(process.pid) is None


def command(clock: Time, *, has_log: bool) -> CommandProgress:
    activity = TreeActivity(list, clock=clock)  # no processes: idle
    return CommandProgress(incarnation=(1, 1), activity=activity, clock=clock, has_log=has_log)


def test_a_log_that_grows_is_progress() -> None:
    clock = Time()
    progress = command(clock, has_log=True)
    clock.now += 50
    assert progress.poll(0).moved_at_monotonic_seconds == 100.0
    grown = progress.poll(12)
    assert (grown.source, grown.moved_at_monotonic_seconds, grown.count) == ("log", 150.0, 1)
    assert grown.idle_since_monotonic_seconds == 150.0, "the first look at a tree cannot call it idle"
    clock.now += 50
    assert progress.poll(0).moved_at_monotonic_seconds == 150.0


def test_without_a_log_activity_stands_in() -> None:
    clock = Time()
    progress = command(clock, has_log=False)
    clock.now += 50
    seen = progress.poll(12)
    assert (seen.source, seen.moved_at_monotonic_seconds) == ("activity", 150.0)
