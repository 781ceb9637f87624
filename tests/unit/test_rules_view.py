"""The view of recorded Cases: roles, ranks, forks, threads over samples, names without their classes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness import bundle
from harness.evidence import Reading, Running, Syscall, ThreadSample, ThreadStack, Undisturbed
from harness.rules import calls, diagnose
from harness.rules.scene import Scene
from harness.rules.view import View
from tests.support.env import REPOSITORY


def view(name: str) -> View:
    return View(bundle.load(REPOSITORY / "tests" / "cases" / name))


def test_a_launcher_s_tree_has_its_ranks_in_order():
    found = view("ranks/early_stop")
    assert [each.rank for each in found.ranks] == [0, 1]
    assert all(each.role == "trainer" and each.forked is False for each in found.ranks)


def test_forked_workers_are_workers_and_do_not_show_their_parents_frames():
    found = view("workers/loader_regex")
    workers = [each for each in found.processes if each.role == "worker"]
    assert len(workers) == 2
    assert all(each.forked and each.rank is None for each in workers)
    for worker in workers:
        assert worker.main is not None
        assert "main" not in {frame.function for frame in worker.main.python_frames}


def test_a_thread_is_one_over_all_samples():
    found = view("locks/two_locks")
    (process,) = found.processes
    assert process.main is process.threads[0]
    assert {each.name for each in process.threads} == {"MainThread", "saver", "writer"}
    for thread in process.threads:
        assert thread.stood_still
        assert thread.cpu_cores is not None
        assert thread.cpu_cores < 0.2
        assert thread.same_syscall
        assert thread.syscall is not None
        assert thread.syscall.name == "futex"
        assert len(thread.stacks) == len(found.times)


def test_functions_go_by_their_own_name_on_every_python():
    (process,) = view("locks/two_locks").processes
    frames = [frame for thread in process.threads for frame in thread.frames]
    assert {"save", "log"} <= {frame.function for frame in frames}
    assert not any("." in frame.function for frame in frames)


def test_a_generator_that_was_seen_without_its_callers_is_no_stack():
    case = bundle.load(REPOSITORY / "tests" / "cases" / "locks" / "two_locks")

    def torn(stack: ThreadStack) -> ThreadStack:
        inner = replace(stack.frames[0], function="save.<locals>.<genexpr>")
        return replace(stack, frames=(inner,)) if stack.name == "saver" else stack

    (seen,) = case.samples[-1].processes
    assert isinstance(seen.stacks, Reading)
    dump = replace(seen.stacks.value, threads=tuple(map(torn, seen.stacks.value.threads)))
    last = replace(case.samples[-1], processes=(replace(seen, stacks=replace(seen.stacks, value=dump)),))
    (process,) = View(replace(case, samples=(*case.samples[:-1], last))).processes
    saver = next(each for each in process.threads if each.name == "saver")
    assert saver.stacks[-1] is None
    assert saver.stood_still


def test_a_stack_that_was_torn_while_its_thread_ran_is_left_out():
    case = bundle.load(REPOSITORY / "tests" / "cases" / "locks" / "two_locks")

    def torn(stack: ThreadStack) -> ThreadStack:
        return replace(stack, frames=stack.frames[:1]) if stack.name == "saver" else stack

    (seen,) = case.samples[0].processes
    assert isinstance(seen.stacks, Reading)
    dump = replace(
        seen.stacks.value, method="nonblocking", threads=tuple(map(torn, seen.stacks.value.threads))
    )
    first = replace(case.samples[0], processes=(replace(seen, stacks=replace(seen.stacks, value=dump)),))
    (process,) = View(replace(case, samples=(first, *case.samples[1:]))).processes
    saver = next(each for each in process.threads if each.name == "saver")
    assert saver.stacks[0] is None
    assert saver.stacks[-1] is not None
    assert all(
        each.stacks[0] is not None for each in process.threads if each.python_frames and each is not saver
    )


def test_what_was_not_seen_is_none():
    from tests.support.cases import case

    found = View(case())
    (process,) = found.processes
    assert process.forked is None
    assert process.cpu_cores is None
    assert process.io_bytes is None
    assert process.threads == ()
    assert process.main is None
    assert found.elapsed_seconds == 0.0


@pytest.mark.parametrize(
    ("where", "name"),
    [("hrtimer_nanosleep", "clock_nanosleep"), ("futex_do_wait", "futex"), ("poll_schedule_timeout", "poll")],
)
def test_a_wait_that_a_pause_restarted_is_still_told_by_where_the_kernel_sleeps(where, name):
    restarted = Syscall(number=219, name="restart_syscall", arguments=(7, 1, 0, 0, 0, 0))
    assert [call.name for call in calls.standing([_asleep(restarted, where)])] == [name]


def test_a_wait_that_our_own_pause_restarted_is_the_one_before():
    first = Syscall(number=230, name="clock_nanosleep", arguments=(1, 1, 0, 0, 0, 0))
    then = Syscall(number=219, name="restart_syscall", arguments=(1, 1, 9, 0, 0, 0))
    assert list(calls.standing([_asleep(first, ""), _asleep(then, "")])) == [first, first]


def _asleep(call, where):
    return ThreadSample(
        tid=1,
        name="python",
        state="S",
        user_ticks=0,
        system_ticks=0,
        syscall=Reading(value=call),
        wchan=Reading(value=where),
    )


def test_what_stands_in_line_for_a_cpu_at_a_line_that_sleeps_only_looks_now_and_then():
    case = bundle.load(REPOSITORY / "tests" / "cases" / "sleeps" / "counts_its_polls")
    looks = Undisturbed(seconds=0.4, runs=20, cpu_seconds=0.001, queued_seconds=0.3)

    def in_line(sample):
        threads = tuple(
            replace(each, state="R", syscall=Reading(value=Running()), undisturbed=Reading(value=looks))
            for each in sample.threads.value
        )
        return replace(sample, threads=replace(sample.threads, value=threads))

    crowded = tuple(replace(each, processes=tuple(map(in_line, each.processes))) for each in case.samples)
    scene = Scene(View(replace(case, samples=crowded)))
    assert scene.chains[0].end.kind == "sleep"


@pytest.mark.parametrize(("cpu_seconds", "state"), [(0.0, "stopped"), (0.02, "unknown")])
def test_what_runs_between_two_stops_is_limited_and_not_stopped(cpu_seconds, state):
    case = bundle.load(REPOSITORY / "tests" / "cases" / "states/stopped")
    between = Undisturbed(seconds=0.4, runs=int(cpu_seconds > 0), cpu_seconds=cpu_seconds, queued_seconds=0.0)

    def stopped(sample):
        threads = tuple(
            replace(each, state="T", undisturbed=Reading(value=between)) for each in sample.threads.value
        )
        return replace(sample, threads=replace(sample.threads, value=threads))

    samples = tuple(replace(each, processes=tuple(map(stopped, each.processes))) for each in case.samples)
    assert diagnose(replace(case, samples=samples)).verdict.state == state
