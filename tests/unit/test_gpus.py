"""GPUs beside the trainer: asked through a child that may hang, die, talk rubbish, or find no driver.

Driver and GPU are not needed: the child is a program of the test's, as for the collector itself.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from harness import codec
from harness.collect import gpu
from harness.evidence import Gpu, GpuProcess, Missing, Reading
from harness.snapshot import GpuReading
from harness.supervise import gpus
from tests.support.views import Clock
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

H200 = Gpu(
    index=3,
    uuid="GPU-0",
    name="NVIDIA H200",
    utilization_ratio=Reading(value=0.97),
    memory_used_bytes=Reading(value=70 * 2**30),
    memory_total_bytes=Reading(value=139 * 2**30),
    power_watts=Missing(reason="unavailable", detail="NVML: Not Supported"),
    temperature_celsius=Reading(value=50.0),
    performance_state=Reading(value=0),
    throttle_reasons=Reading(value=0),
    processes=Reading(value=(GpuProcess(pid=4711, used_bytes=Reading(value=1)),)),
)


def line(answer: object) -> str:
    return json.dumps(codec.encode(answer))


class Bench:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.clock = folder, Clock()
        monkeypatch.setattr(gpu, "_DRIVER_MARKS", ("/dev/null",))
        monkeypatch.setattr(sys, "executable", str(folder / "child"))
        self.watch = gpus.GpuWatch(clock=self.clock)

    def child(self, script: str) -> None:
        """What stands for `python -m harness.collect.gpu --serve`."""
        path = self.folder / "child"
        path.write_text(f"#!/bin/sh\necho $$ >>{self.folder}/started\n{script}\n")
        path.chmod(0o755)

    def answers(self, *lines: str) -> None:
        """A child that gives one of these to each question, the last one for ever after."""
        for number, text in enumerate(lines, 1):
            (self.folder / str(number)).write_text(text + "\n")
        last = len(lines)
        self.child(f"n=0; while read -r _; do [ $n -lt {last} ] && n=$((n+1)); cat {self.folder}/$n; done")

    def started(self) -> list[int]:
        try:
            return [int(word) for word in (self.folder / "started").read_text().split()]
        except FileNotFoundError:
            return []

    def poll_until(self, done: Callable[[], object], what: str) -> None:
        def polled() -> object:
            self.watch.poll()
            return done()

        wait_for(polled, what=what)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path, monkeypatch)
    yield made
    made.watch.close()


def test_one_child_answers_again_and_again(bench: Bench) -> None:
    bench.answers(line(Reading(value=(H200,))), line(Reading(value=())))
    bench.poll_until(lambda: bench.watch.readings, "the first reading")
    assert bench.watch.readings == (
        GpuReading(
            gpu="3",
            name="NVIDIA H200",
            used_bytes=70 * 2**30,
            total_bytes=139 * 2**30,
            utilization_ratio=0.97,
            power_watts=None,
            pids=(4711,),
        ),
    )
    assert bench.watch.device([1, 4711]) == "NVIDIA H200"
    bench.clock.now += gpus.EVERY_SECONDS
    bench.poll_until(lambda: not bench.watch.readings, "the second reading")
    assert bench.watch.device([4711]) == "NVIDIA H200", "known once: it stays"
    assert (len(bench.started()), bench.watch.errors) == (1, 0)


def test_between_readings_it_is_left_alone(bench: Bench) -> None:
    bench.answers(line(Reading(value=(H200,))), "rubbish")
    bench.poll_until(lambda: bench.watch.readings, "the first reading")
    bench.clock.now += gpus.EVERY_SECONDS / 2
    bench.watch.poll()
    bench.watch.poll()
    assert bench.watch.readings
    assert bench.watch.errors == 0


@pytest.mark.parametrize(
    ("script", "late"),
    [
        ("read -r _; exec sleep 3600", True),
        ("read -r _; printf half; exec sleep 3600", True),
        ("read -r _; exit 1", False),
        ("read -r _; echo rubbish; exec sleep 3600", False),
        (
            f"read -r _; echo '{line(Missing(reason='unavailable', detail='NVML: GPU is lost'))}'; sleep 9",
            False,
        ),
        ("read -r _; exec yes no newline but bytes | tr -d '\\n'", False),
    ],
    ids=["silent", "half", "dead", "rubbish", "lost", "endless"],
)
def test_a_sick_driver_is_counted_killed_and_asked_less_and_less(
    bench: Bench, script: str, late: bool
) -> None:
    bench.child(script)
    pauses = []
    for attempt in (1, 2, 3):
        bench.poll_until(lambda attempt=attempt: len(bench.started()) == attempt, "the child")
        if late:
            bench.watch.poll()
            assert bench.watch.errors == attempt - 1, "not before its deadline"
            bench.clock.now += gpus.DEADLINE_SECONDS + 0.1
        bench.poll_until(lambda attempt=attempt: bench.watch.errors == attempt, "the failure to be counted")
        pid = bench.started()[-1]
        bench.poll_until(lambda pid=pid: not psutil.pid_exists(pid), "the child to be gone")
        failed_at = bench.clock.now
        while len(bench.started()) == attempt and bench.clock.now < failed_at + 1000 and attempt < 3:
            bench.clock.now += 1.0
            bench.watch.poll()
            if bench.watch._child is not None:
                pauses.append(bench.clock.now - failed_at)
                break
    assert bench.watch.readings == ()
    assert pauses == pytest.approx([gpus.EVERY_SECONDS, gpus.EVERY_SECONDS * 2])


@pytest.mark.parametrize("answer", [gpu.NO_DRIVER, gpu.NO_BINDING])
def test_where_there_is_nothing_to_ask_the_child_is_not_started_again(bench: Bench, answer: Missing) -> None:
    bench.answers(line(answer))
    bench.poll_until(bench.started, "the child")
    pid = bench.started()[0]
    bench.poll_until(lambda: not psutil.pid_exists(pid), "the child to be gone")
    bench.clock.now += 10_000
    bench.watch.poll()
    bench.watch.poll()
    assert (len(bench.started()), bench.watch.errors, bench.watch.readings) == (1, 0, ())


def test_a_child_that_cannot_be_started_is_a_failure(bench: Bench) -> None:
    bench.watch.poll()  # there is no such program
    assert bench.watch.errors == 1


def test_without_a_driver_nothing_is_started_and_the_device_is_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_DRIVER_MARKS", ("/nonexistent",))
    monkeypatch.setattr(gpus, "_OTHERS", ("/nonexistent*",))
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    watch = gpus.GpuWatch(clock=Clock())
    watch.poll()
    assert (watch.readings, watch.errors, watch.device([1])) == ((), 0, "cpu")
    monkeypatch.setattr(gpus, "_OTHERS", ("/dev/nul?",))
    assert gpus.GpuWatch(clock=Clock()).device([1]) == "", "somebody else's device may be the one"


def test_the_real_child_answers_each_line_and_ends_with_its_stdin() -> None:
    child = gpus._start()
    assert child.stdin is not None
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), True)
    try:
        for _ in range(2):
            child.stdin.write(b"\n")
            found = codec.loads(gpu.ANSWER, child.stdout.readline())
            assert isinstance(found, Reading) or found.reason == "unavailable"
        child.stdin.close()
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_what_a_gpu_does_not_tell_is_left_out(bench: Bench) -> None:
    nothing = Missing(reason="unavailable", detail="")
    without = dataclasses.replace(
        H200, memory_used_bytes=nothing, memory_total_bytes=nothing, processes=nothing
    )
    bench.answers(line(Reading(value=(without,))))
    bench.poll_until(lambda: bench.watch.readings, "the reading")
    [found] = bench.watch.readings
    assert (found.used_bytes, found.total_bytes, found.pids) == (None, None, ())
