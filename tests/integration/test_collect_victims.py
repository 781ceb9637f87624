"""Cases of real victims: what a Case must show of each, and that looking leaves them as they were."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from harness import bundle
from harness.collect.case import Options, collect
from harness.evidence import Case, Missing, Reading, Running, Stacks, Syscall
from harness.frames import blamed
from harness.headline import headline
from harness.movement import movement
from tests.support.env import clean_env
from tests.support.programs import completed
from tests.support.victims import ZOO, line_of, running
from tests.support.wait import wait_for

pytestmark = pytest.mark.needs("py-spy")

OPTIONS = Options(gpu=False, interval_seconds=0.1)
DEADLINE_SECONDS = 20.0  # generous: these machines are shared


def look(pid: int, **changes) -> Case:
    return collect(pid, deadline_seconds=DEADLINE_SECONDS, options=OPTIONS, **changes)


def stacks_of(case: Case, pid: int, sample: int = -1) -> Stacks:
    (found,) = (each.stacks for each in case.samples[sample].processes if each.pid == pid)
    assert isinstance(found, Reading), found
    return found.value


def main_frames(case: Case, pid: int):
    return next(thread.frames for thread in stacks_of(case, pid).threads if thread.name == "MainThread")


def test_a_regular_expression_that_backtracks_is_named_by_its_line():
    with running("backtracking_regex") as victim:
        wait_for(lambda: "check" in headline(look(victim.pid)), what="the victim to be in its hang")
        case = look(victim.pid)
    frame = blamed(main_frames(case, victim.pid))
    assert (frame.file, frame.line) == (
        str(ZOO / "backtracking_regex.py"),
        line_of("backtracking_regex", "return re.match"),
    )
    assert movement(case).verdict == "still"
    assert f"backtracking_regex.py:{frame.line} in check" in headline(case)
    assert "holds the GIL" in headline(case)


def test_the_thread_that_holds_the_gil_is_spoken_of():
    with running("regex_in_thread") as victim:
        wait_for(lambda: "worker-0" in headline(look(victim.pid)), what="the headline to name the worker")
        case = look(victim.pid)
    line = line_of("regex_in_thread", "re.match")
    assert "thread worker-0: in" in headline(case) or f"regex_in_thread.py:{line} in work" in headline(case)
    holders = [
        thread.name
        for thread in stacks_of(case, victim.pid).threads
        if thread.owns_gil == Reading(value=True)
    ]
    assert holders == ["worker-0"]


def test_a_stopped_process_shows_its_stack_and_stays_stopped():
    with running("sleeps") as victim:
        victim.stop()
        case = look(victim.pid)
        assert victim.state == "T"
    # Not even once was it tried to pause it.
    later = [stacks_of(case, victim.pid, sample) for sample in (1, 2)]
    assert [(each.method, "state T" in each.limits) for each in later] == [("nonblocking", True)] * 2
    assert "pause" in [frame.function for frame in main_frames(case, victim.pid)]
    assert movement(case).verdict == "still"
    assert "stopped" in headline(case)


def test_a_process_in_uninterruptible_sleep_shows_its_stack_in_time():
    with running("vfork_child_never_execs") as victim:
        wait_for(lambda: victim.state == "D", what="state D")
        case = look(victim.pid)
        assert case.took_seconds < DEADLINE_SECONDS / 2
        assert victim.state == "D"
        child = int(victim.words[0])
        os.kill(child, signal.SIGKILL)
        # It goes on as if nobody had looked: nothing is left that would stop it.
        wait_for(lambda: victim.state == "S", what="the victim to go on")
    later = [stacks_of(case, victim.pid, sample) for sample in (1, 2)]
    assert [(each.method, "state D" in each.limits) for each in later] == [("nonblocking", True)] * 2
    frame = blamed(main_frames(case, victim.pid))
    assert (frame.function, frame.line) == (
        "wait_for_child",
        line_of("vfork_child_never_execs", "libc.syscall"),
    )
    assert "in uninterruptible sleep in clone" in headline(case)
    assert child in [process.pid for process in case.processes]


def test_numbers_of_a_slow_loop_are_read_while_it_is_paused_and_grow():
    with running("counts_slowly") as victim:
        wait_for(lambda: "counts_slowly.py" in headline(look(victim.pid)), what="the loop")
        case = look(victim.pid)
    values = [
        int(local.value)
        for sample in (1, 2)
        for thread in stacks_of(case, victim.pid, sample).threads
        for frame in thread.frames
        if frame.function == "select"
        for local in frame.locals
        if local.name == "position"
    ]
    assert len(values) == 2
    assert values[0] < values[1]
    assert any("position went" in fact for fact in movement(case).facts)


def test_the_burning_child_is_in_the_tree_and_spoken_of():
    with running("child_burns") as victim:
        child = int(victim.words[0])
        case = look(child)
        whole = look(victim.pid)
    assert [process.pid for process in case.processes] == [child]
    assert {victim.pid, child} <= {process.pid for process in whole.processes}
    assert blamed(main_frames(whole, child)).function == "burn"
    assert any(f"pid {child} used" in fact for fact in movement(whole).facts)


def test_a_silent_peer_stands_with_address_state_and_queues():
    with running("reads_silent_socket") as victim:
        wait_for(lambda: "recvfrom" in headline(look(victim.pid)), what="recv")
        case = look(victim.pid)
    (thread,) = case.samples[-1].processes[0].threads.value
    call = thread.syscall.value
    (descriptor,) = (
        each for each in case.process(victim.pid).descriptors.value if each.number == call.arguments[0]
    )
    assert descriptor.kind == "socket"
    (peer,) = (
        each for each in case.process(victim.pid).sockets.value if each.inode == descriptor.inode.value
    )
    assert (peer.peer, peer.state) == (f"127.0.0.1:{victim.words[0]}", "ESTABLISHED")
    assert (peer.receive_queue_bytes, peer.send_queue_bytes) == (0, 0)


def test_the_holder_of_a_file_lock_is_named(tmp_path):
    with running("waits_for_flock", str(tmp_path / "lock")) as victim:
        wait_for(lambda: "in flock" in headline(look(victim.pid)), what="flock")
        case = look(victim.pid)
    inode = (tmp_path / "lock").stat().st_ino
    here = [lock for lock in case.locks.value if lock.inode == inode]
    assert {(lock.pid, lock.waiting) for lock in here} == {(int(victim.words[0]), False), (victim.pid, True)}


def test_the_reader_of_a_full_pipe_is_named():
    with running("writes_full_pipe") as victim:
        wait_for(lambda: "in write" in headline(look(victim.pid)), what="write")
        case = look(victim.pid)
    (thread,) = (each for each in case.samples[-1].processes if each.pid == victim.pid)
    call = thread.threads.value[0].syscall.value
    (descriptor,) = (
        each for each in case.process(victim.pid).descriptors.value if each.number == call.arguments[0]
    )
    (pipe,) = (each for each in case.pipes.value if each.inode == descriptor.inode.value)
    assert {(end.pid, end.access) for end in pipe.ends} == {
        (victim.pid, "write"),
        (int(victim.words[0]), "read"),
    }


def test_secrets_stay_in_the_target(tmp_path):
    env = clean_env(HF_TOKEN="SESAME-env", RANK="3", NCCL_DEBUG="https://me:SESAME-url@host")
    with running("sleeps", "--token=SESAME-argument", env=env) as victim:
        bundle.save(look(victim.pid), tmp_path / "case")
    written = b"".join(path.read_bytes() for path in (tmp_path / "case").rglob("*") if path.is_file())
    assert b"SESAME" not in written
    assert b"hunter2" not in written
    case = bundle.load(tmp_path / "case")
    assert case.process(victim.pid).environment.value["RANK"] == "3"
    locals_kept = {
        local.name: local.value for frame in main_frames(case, victim.pid) for local in frame.locals
    }
    assert locals_kept["seconds"] == "3600"
    assert locals_kept["shape"] == "(4, 1024)"
    assert locals_kept["password"] == ""


def test_a_case_of_a_real_process_loads_back_equal(tmp_path):
    with running("child_burns") as victim:
        case = look(victim.pid)
    bundle.save(case, tmp_path / "case")
    assert bundle.load(tmp_path / "case") == case


def test_an_idle_thread_shows_its_system_call_or_why_not():
    with running("sleeps") as victim:
        case = look(victim.pid)
    (thread,) = case.samples[-1].processes[0].threads.value
    assert isinstance(thread.syscall, (Reading, Missing))
    if isinstance(thread.syscall, Reading):
        assert isinstance(thread.syscall.value, (Syscall, Running))
        assert thread.syscall.value.name in ("clock_nanosleep", "select", "pselect6")  # the latter up to 3.10


def test_the_log_behind_stdout_is_found_and_its_end_kept(tmp_path):
    log = tmp_path / "train.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", "print('step 1\\nlast words'); import time; time.sleep(3600)"],
            stdout=out,
            env=clean_env(),
        )
    try:
        wait_for(lambda: log.stat().st_size > 0, what="the log")
        case = look(process.pid)
    finally:
        process.kill()
        process.wait(20)
    assert (case.log.value.path, case.log.value.tail) == (str(log), "step 1\nlast words\n")


# ── the programs ────────────────────────────────────────────────────────────────────────────────────────────


def run_program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return completed([sys.executable, *arguments], timeout=120)


def test_the_child_program_writes_the_case_and_one_line(tmp_path):
    with running("backtracking_regex") as victim:
        done = run_program("-m", "harness.collect", "--pid", str(victim.pid), "--out", str(tmp_path / "001"))
        ticks = victim.start_time_ticks
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert answer["ok"]
    assert (answer["state"], answer["cause"]) == ("hung", "native-spin")
    assert answer["headline"].startswith("native-spin: ")
    assert "backtracking_regex.py:" in answer["headline"]
    assert bundle.load(tmp_path / "001").target.start_time_ticks == Reading(
        value=ticks, at_seconds=bundle.load(tmp_path / "001").target.start_time_ticks.at_seconds
    )


def test_explain_reads_it_back_with_the_documented_statuses(tmp_path):
    with running("backtracking_regex") as victim:
        run_program("-m", "harness.collect", "--pid", str(victim.pid), "--out", str(tmp_path / "001"))
    shown = run_program(
        "-c", "from harness.cli import main; raise SystemExit(main())", "explain", str(tmp_path / "001")
    )
    assert shown.returncode == 1, shown.stderr
    assert shown.stdout.startswith("HUNG · native-spin")
    assert "PROGRESS was seen" not in shown.stdout, "the verdict says it"
    assert f"pid {victim.pid} · running" in shown.stdout
    as_json = run_program(
        "-c",
        "from harness.cli import main; raise SystemExit(main())",
        "explain",
        "--json",
        str(tmp_path / "001"),
    )
    document = json.loads(as_json.stdout)
    assert (document["movement"], document["verdict"]["cause"]) == ("still", "native-spin")
    missing = run_program(
        "-c", "from harness.cli import main; raise SystemExit(main())", "explain", str(tmp_path)
    )
    assert (missing.returncode, missing.stdout, missing.stderr.count("\n")) == (2, "", 1)
    assert "not a Case" in missing.stderr
