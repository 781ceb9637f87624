"""What is said of a Case by plain facts: movement, headline, the lines of `harness explain`."""

from __future__ import annotations

import dataclasses

import pytest

from harness import frames
from harness.evidence import Local, Missing, Reading, Syscall
from harness.headline import headline
from harness.movement import movement
from harness.questions import waits_in
from harness.render import case_text
from tests.support.cases import NONE, PID, case, frame, process, process_sample, sample, stack

USER = frame()
SLEEP = frame("/usr/lib/python3.11/queue.py", 171, "get")
PACKAGE = frame("/v/lib/python3.11/site-packages/torch/nn/module.py", 10, "forward")
NATIVE = frame("/v/libtorch.so", 0, "at::add", native=True)


def beat(progress: float, rank: int = 0, pid: int = PID, **more):
    fields = {"rank": rank, "pid": pid, "step": 128, "stage": "train", "closed_status": None}
    return fields | {"last_progress_monotonic_seconds": progress} | more


def two(first, last, **fields):
    """A Case of two samples, one second apart."""
    return case(sample(first, at=0.0), sample(last, at=1.0), **fields)


# ── whose code ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("file", "owner"),
    [
        ("/home/u/train.py", "user"),
        ("/home/me/lib/mine.py", "user"),
        ("/usr/lib/python3.11/queue.py", "stdlib"),
        ("/opt/conda/lib/python3.12/threading.py", "stdlib"),
        ("/home/me/.pyenv/versions/3.13.0/lib/python3.13t/queue.py", "stdlib"),
        ("<frozen importlib._bootstrap>", "stdlib"),
        ("/v/lib/python3.11/site-packages/torch/nn/x.py", "package"),
        ("/usr/lib/python3/dist-packages/yaml/x.py", "package"),
        ("<string>", "user"),
        ("/v/bin/torchrun", "package"),
        ("/home/u/bin/train.py", "user"),
    ],
)
def test_whose_code_a_file_is(file, owner):
    assert frames.owner(frame(file)) == owner


def test_blame_goes_to_the_deepest_frame_of_the_user():
    assert frames.blamed([NATIVE, SLEEP, PACKAGE, USER, frame(line=99)]) is USER


def test_without_user_code_the_deepest_frame_outside_the_standard_library_is_blamed():
    assert frames.blamed([NATIVE, SLEEP, PACKAGE]) is PACKAGE
    assert frames.blamed([NATIVE, SLEEP]) is None


# ── movement ────────────────────────────────────────────────────────────────────────────────────────────────


def test_idle_in_one_place_is_still():
    seen = [process_sample(at=at, ticks=5, stacks=(stack(SLEEP, USER),)) for at in (0.0, 1.0)]
    assert movement(two(*seen)).verdict == "still"


def test_busy_in_one_place_is_still():
    seen = [process_sample(at=at, ticks=int(at * 100), stacks=(stack(USER),)) for at in (0.0, 1.0)]
    found = movement(two(*seen))
    assert (found.verdict, found.facts) == ("still", (f"pid {PID} used 100% of a core, in one place",))


def test_another_line_of_the_same_function_is_the_same_place():
    first = process_sample(at=0.0, stacks=(stack(frame(line=31)),))
    last = process_sample(at=1.0, ticks=100, stacks=(stack(frame(line=32)),))
    assert movement(two(first, last)).verdict == "still"


def test_busy_in_changing_functions_moves():
    first = process_sample(at=0.0, stacks=(stack(frame(function="a")),))
    last = process_sample(at=1.0, ticks=100, stacks=(stack(frame(function="b")),))
    assert movement(two(first, last)).verdict == "moved"


def test_busy_where_nothing_could_be_seen_is_unknown():
    denied = Missing(reason="denied", detail="ptrace")
    seen = [process_sample(at=at, ticks=int(at * 100), stacks=denied) for at in (0.0, 1.0)]
    assert movement(two(*seen)).verdict == "unknown"


def test_bytes_move():
    first = process_sample(at=0.0, stacks=(stack(USER),))
    last = process_sample(at=1.0, stacks=(stack(USER),), io_bytes=2**20)
    assert movement(two(first, last)).verdict == "moved"


def test_a_growing_log_moves():
    first = sample(process_sample(at=0.0), at=0.0, log_bytes=Reading(value=10))
    last = sample(process_sample(at=1.0), at=1.0, log_bytes=Reading(value=11))
    assert movement(case(first, last)).verdict == "moved"


def test_one_sample_tells_nothing():
    assert movement(case(sample(process_sample(at=0.0), at=0.0))).verdict == "unknown"


def test_a_process_that_ended_is_still():
    gone = dataclasses.replace(process_sample(at=1.0), activity=NONE)
    assert movement(two(process_sample(at=0.0), gone)).verdict == "still"
    assert movement(case(processes=())).verdict == "still"
    zombies = [process_sample(at=at, state="Z") for at in (0.0, 1.0)]
    assert movement(two(*zombies)).verdict == "still"


def with_records(first, last, **activity):
    before = sample(process_sample(at=0.0), at=0.0, records=Reading(value=tuple(first)))
    after = sample(process_sample(at=1.0, **activity), at=1.0, records=Reading(value=tuple(last)))
    return case(before, after)


def test_a_heartbeat_that_advances_moves():
    assert movement(with_records([beat(10.0)], [beat(10.5)])).verdict == "moved"


def test_a_heartbeat_that_stands_is_still_whatever_else_moves():
    assert movement(with_records([beat(10.0)], [beat(10.0)], io_bytes=2**20, ticks=100)).verdict == "still"


def test_the_rank_that_is_behind_decides():
    first = [beat(50.0, rank=0, pid=1), beat(10.0, rank=1, pid=2)]
    advanced = [beat(51.0, rank=0, pid=1), beat(10.0, rank=1, pid=2)]
    found = movement(with_records(first, advanced))
    assert found.verdict == "still"
    assert "rank 1 made no progress" in found.facts[0]


def test_a_rank_that_closed_is_not_behind():
    first = [beat(50.0, rank=0, pid=1), beat(10.0, rank=1, pid=2, closed_status="finished")]
    last = [beat(51.0, rank=0, pid=1), beat(10.0, rank=1, pid=2, closed_status="finished")]
    assert movement(with_records(first, last)).verdict == "moved"


def counting(number: int, method: str):
    local = Local(name="t", argument=False, address=1, kind="number", value=str(number))
    return process_sample(at=float(number > 1), stacks=(stack(frame(locals=(local,))),), method=method)


def test_a_number_that_counts_up_is_told():
    found = movement(two(counting(1, "blocking"), counting(412, "blocking")))
    assert f"t went 1 → 412 in fetch of loader.py (pid {PID})" in found.facts


def test_numbers_read_without_pausing_are_not_believed():
    found = movement(two(counting(1, "nonblocking"), counting(412, "nonblocking")))
    assert not any("went" in fact for fact in found.facts)


# ── the headline ────────────────────────────────────────────────────────────────────────────────────────────


def test_headline_names_rank_thread_line_and_state():
    seen = [
        process_sample(at=at, ticks=int(at * 100), state="R", stacks=(stack(USER, gil=True),))
        for at in (0.0, 1.0)
    ]
    records = Reading(value=(beat(1.0),))
    found = case(sample(seen[0], at=0.0, records=records), sample(seen[1], at=1.0, records=records))
    assert (
        headline(found) == "rank 0 main thread: at loader.py:31 in fetch (running, 100 % CPU, holds the GIL)"
    )


def test_headline_tells_where_the_users_line_waits():
    found = case(sample(process_sample(at=0.0, stacks=(stack(SLEEP, USER),)), at=0.0))
    assert (
        headline(found)
        == f"pid {PID} main thread: in queue.py:171 in get, called from loader.py:31 in fetch (sleeping)"
    )


def test_headline_speaks_of_the_thread_that_holds_the_gil():
    threads = (
        stack(SLEEP, frame("/home/u/train.py", 5, "main")),
        stack(USER, tid=9, name="worker-0", gil=True),
    )
    found = case(sample(process_sample(at=0.0, stacks=threads), at=0.0))
    assert headline(found).startswith(f"pid {PID} thread worker-0: at loader.py:31 in fetch")


def test_headline_looks_below_a_launcher():
    launcher = process_sample(at=0.0, stacks=(stack(PACKAGE, tid=PID),))
    worker = process_sample(4712, at=0.0, stacks=(stack(USER, tid=4712),))
    found = case(sample(launcher, worker, at=0.0), processes=(process(), process(4712, ppid=PID)))
    assert headline(found).startswith("pid 4712 main thread: at loader.py:31")


def test_headline_follows_a_dataloader_to_its_busy_worker():
    waits = frame("/v/lib/python3.11/site-packages/torch/utils/data/dataloader.py", 1, "_try_get_data")
    main = process_sample(at=0.0, stacks=(stack(SLEEP, waits, frame("/home/u/train.py", 5, "main")),))
    worker = process_sample(4712, at=0.0, stacks=(stack(USER, tid=4712, gil=True),))
    found = case(sample(main, worker, at=0.0), processes=(process(), process(4712, ppid=PID)))
    assert headline(found).startswith("pid 4712 main thread: at loader.py:31")


def test_headline_without_a_stack_says_why():
    denied = Missing(reason="denied", detail="ptrace is denied: Yama scope 1")
    found = case(sample(process_sample(at=0.0, stacks=denied), at=0.0))
    assert headline(found) == f"pid {PID}: sleeping; no Python stack (denied: ptrace is denied: Yama scope 1)"


def test_headline_of_what_has_ended():
    assert headline(case(processes=())) == f"process {PID} has ended"


# ── the lines ───────────────────────────────────────────────────────────────────────────────────────────────

HOSTILE = "evil\x1b]0;owned\x07\x1b[2J\nname\u202e"


def hostile_case():
    dumped = (stack(frame(HOSTILE, 1, HOSTILE), name=HOSTILE),)
    seen = process_sample(at=0.0, stacks=dumped)
    command = Reading(value=("python", HOSTILE))
    return case(sample(seen, at=0.0), processes=(process(name=HOSTILE, command=command),))


def test_nothing_of_the_target_is_obeyed_by_the_terminal():
    lines = [*case_text.case_lines(hostile_case()), headline(hostile_case())]
    assert all(each.isprintable() for each in lines)


def test_the_first_line_carries_the_verdict():
    seen = [process_sample(at=at, stacks=(stack(SLEEP, USER),)) for at in (0.0, 1.0)]
    assert case_text.case_lines(two(*seen))[0].startswith(f"NO PROGRESS was seen · pid {PID}")


def test_what_was_not_seen_stands_with_its_reason():
    assert "gpu: unavailable (not in this test)" in case_text.not_seen(case())


def test_the_users_frame_is_shown_however_deep_it_lies():
    deep = [frame(f"/usr/lib/python3.11/m{number}.py", 1, "f") for number in range(20)]
    seen = process_sample(at=0.0, stacks=(stack(*deep, USER),))
    assert any(
        "> /home/u/loader.py:31 in fetch" in line for line in case_text.case_lines(case(sample(seen, at=0.0)))
    )


# ── what a thread waits in ──────────────────────────────────────────────────────────────────────────────────


def waiting(at: float, name: str, ticks: int = 5):
    call = Reading(value=Syscall(number=1, name=name, arguments=()))
    seen = process_sample(at=at, ticks=ticks)
    thread = dataclasses.replace(seen.threads.value[0], syscall=call)
    return sample(dataclasses.replace(seen, threads=Reading(value=(thread,))), at=at)


def test_a_wait_is_told_as_it_was_before_the_first_pause():
    assert waits_in(case(waiting(0.0, "poll"), waiting(1.0, "restart_syscall")), PID, PID).name == "poll"


def test_a_thread_that_ran_since_may_wait_in_something_else():
    found = case(waiting(0.0, "poll", ticks=5), waiting(1.0, "restart_syscall", ticks=6))
    assert waits_in(found, PID, PID).name == "restart_syscall"


def test_the_latest_wait_counts():
    assert waits_in(case(waiting(0.0, "poll"), waiting(1.0, "futex")), PID, PID).name == "futex"
