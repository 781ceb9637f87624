"""What may go wrong while looking: targets that die, hide, stop or change; programs missing or killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from harness import bundle, codec
from harness.collect import deadline, gpu, stacks
from harness.collect.case import Options, collect
from harness.collect.ladder import Ladder, LadderOptions
from harness.collect.procfs import Proc
from harness.collect.procparse import parse_status
from harness.evidence import Missing, Reading, Syscall
from harness.headline import headline
from harness.movement import movement
from tests.support.env import REPOSITORY, clean_env
from tests.support.programs import completed
from tests.support.victims import running
from tests.support.wait import wait_for

OPTIONS = Options(gpu=False, interval_seconds=0.1)
NOBODY = 65534


def look(pid: int, **changes):
    return collect(pid, **({"deadline_seconds": 20.0, "options": OPTIONS} | changes))


def stacks_piece(case, pid, sample=-1):
    (found,) = (each.stacks for each in case.samples[sample].processes if each.pid == pid)
    return found


# ── targets ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_pid_that_does_not_exist_is_a_case_that_says_so(tmp_path):
    case = look(2**22 + 1)
    assert (case.processes, case.samples) == ((), ())
    assert "no process" in case.errors[0].detail
    assert movement(case).verdict == "still"
    assert "has ended" in headline(case)
    bundle.save(case, tmp_path / "case")
    assert bundle.load(tmp_path / "case") == case


def test_a_pid_of_another_process_than_was_meant_is_not_looked_at():
    with running("sleeps") as victim:
        case = look(victim.pid, start_time_ticks=victim.start_time_ticks - 1)
    assert case.processes == ()
    assert "belongs to another one now" in case.errors[0].detail


@pytest.mark.needs("py-spy")
def test_a_dump_of_a_reused_pid_is_not_taken():
    with running("sleeps") as victim:
        found = stacks.dump(
            Proc(),
            victim.pid,
            victim.start_time_ticks - 1,
            "nonblocking",
            seconds=10,
            py_spy=stacks.find_py_spy(),
        )
    assert isinstance(found, Missing)
    assert "belongs to another one now" in found.detail


@pytest.mark.needs("py-spy")
def test_a_pid_reused_during_the_dump_yields_no_strangers_stack(tmp_path):
    # py-spy answers, but by then the process is another: its line in a recorded /proc has changed.
    with running("sleeps") as victim:
        real = Path(f"/proc/{victim.pid}/stat")
        folder = tmp_path / "proc" / str(victim.pid)
        folder.mkdir(parents=True)
        (folder / "stat").write_bytes(real.read_bytes())
        slow = tmp_path / "py-spy"
        other = real.read_text().rpartition(")")
        fields = other[2].split()
        fields[19] = str(int(fields[19]) + 5)
        changed = tmp_path / "changed"
        changed.write_text(f"{other[0]}) {' '.join(fields)}")
        slow.write_text(
            f"#!/bin/sh\n'{stacks.find_py_spy()}' \"$@\" || exit\ncp '{changed}' '{folder / 'stat'}'\n"
        )
        slow.chmod(0o755)
        found = stacks.dump(
            Proc(tmp_path / "proc"),
            victim.pid,
            victim.start_time_ticks,
            "nonblocking",
            seconds=20,
            py_spy=str(slow),
        )
        Proc()
    assert isinstance(found, Missing), found
    assert "belongs to another one now" in found.detail


def test_a_target_that_ends_while_it_is_looked_at(tmp_path):
    for after in (0.05, 0.2, 0.4, 0.7):
        with running("short_lived", str(after)) as victim:
            case = look(victim.pid)
        assert case.target.pid == victim.pid
        bundle.save(case, tmp_path / str(after))
        assert bundle.load(tmp_path / str(after)) == case
        assert headline(case)
        assert not [error for error in case.errors if "collector failed" in error.detail], case.errors


def test_a_zombie_has_no_stack_and_no_progress():
    process = subprocess.Popen([sys.executable, "-c", "pass"], env=clean_env())
    try:
        wait_for(lambda: Proc().stat(process.pid).state == "Z", what="a zombie")
        case = look(process.pid)
    finally:
        process.wait(20)
    assert case.processes[0].state == "Z"
    assert stacks_piece(case, process.pid) == stacks.ZOMBIE
    assert movement(case).verdict == "still"


@pytest.mark.needs("py-spy")
def test_a_program_that_is_not_python():
    process = subprocess.Popen(["sleep", "3600"], env=clean_env())
    try:
        wait_for(lambda: Proc().stat(process.pid).name == "sleep", what="exec")
        case = look(process.pid)
    finally:
        process.kill()
        process.wait(20)
    assert stacks_piece(case, process.pid) == stacks.NOT_PYTHON
    assert "sleeping" in headline(case)


def test_a_kernel_thread():
    kernel = next((pid for pid in Proc().pids() if Proc().stat(pid).kernel_thread), None)
    if kernel is None:
        pytest.skip("no kernel thread can be seen here (a container)")
    # Not its tree: some kernels have thousands.
    found = stacks.dump(
        Proc(), kernel, Proc().stat(kernel).start_time_ticks, "nonblocking", seconds=5, py_spy="/bin/false"
    )
    assert found == stacks.KERNEL_THREAD


# ── deadlines ───────────────────────────────────────────────────────────────────────────────────────────────


def program(tmp_path, text: str) -> str:
    path = tmp_path / "py-spy"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_dump_that_never_ends_is_killed_with_what_it_started(tmp_path):
    mark = tmp_path / "pids"
    hangs = program(tmp_path, f"sleep 3600 & echo $$ $! > {mark}; wait")
    with running("sleeps") as victim:
        found = stacks.dump(
            Proc(), victim.pid, victim.start_time_ticks, "blocking", seconds=1.0, py_spy=hangs
        )
    assert isinstance(found, Missing)
    assert found.reason == "timed_out"
    started = [int(word) for word in mark.read_text().split()]
    assert len(started) == 2
    wait_for(lambda: not any(alive(pid) for pid in started), what="the dump's processes to be gone")


def alive(pid: int) -> bool:
    try:
        return Proc().stat(pid).state != "Z"
    except OSError:
        return False


def test_a_dump_that_never_stops_writing_is_bounded(tmp_path):
    found = deadline.run(["yes"], 20, max_bytes=10_000)
    assert found == deadline.Killed(why="wrote more than 10000 bytes")


def test_the_whole_collection_keeps_its_deadline_when_every_dump_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(stacks, "find_py_spy", lambda: program(tmp_path, "exec sleep 3600"))
    with running("child_burns") as victim:
        case = look(victim.pid, deadline_seconds=3.0)
    assert case.took_seconds < 6.0
    assert stacks_piece(case, victim.pid, 0).reason == "timed_out"
    assert "stacks" in [error.collector for error in case.errors]
    # What comes after the stacks has had its time.
    assert isinstance(case.locks, Reading)
    assert isinstance(case.pressure, Reading) or case.pressure.reason == "unavailable"


def test_a_read_that_never_answers_costs_only_itself():
    never = threading.Event()
    answers = deadline.all_of([lambda: 1, lambda: bool(never.wait(60)), lambda: 3], 10.0, each_seconds=0.2)
    never.set()
    assert answers[0] == 1
    assert answers[1].reason == "timed_out"
    assert answers[2] == 3


def test_a_read_that_breaks_is_missing_and_counted():
    (found,) = deadline.all_of([lambda: 1 // 0], 5.0)
    assert found.reason == "unavailable"
    assert found.detail.startswith(deadline.BROKEN)


# ── the ladder ──────────────────────────────────────────────────────────────────────────────────────────────

DUMP = '[{"pid": 1, "thread_name": "t", "os_thread_id": 1, "active": true, "owns_gil": false, "frames": []}]'


def rungs(tmp_path, fake: str, dumps: int):
    """What a ladder asks of a py-spy (a script) over so many dumps, and what the last one gave."""
    log = tmp_path / "asked"
    py_spy = program(tmp_path, f'echo "$@" >> {log}\n{fake}')
    with running("sleeps") as victim:
        options = LadderOptions(py_spy=py_spy, blocking=True, native=False, text=False)
        ladder = Ladder(Proc(), victim.pid, victim.start_time_ticks, options)
        threads = Reading(value=Proc().threads(victim.pid))
        found = [ladder.dump(threads, deadline.Deadline.after(30.0)) for _ in range(dumps)]
    asked = log.read_text().splitlines()
    return ["nonblocking" if "--nonblocking" in line else "blocking" for line in asked], found[-1]


def test_the_first_dump_never_pauses_and_the_next_ones_do(tmp_path):
    asked, last = rungs(tmp_path, f"echo '{DUMP}'", dumps=3)
    assert asked == ["nonblocking", "blocking", "blocking"]
    assert (last.value.method, last.value.limits) == ("blocking", "")


def test_a_pause_that_failed_once_is_not_tried_again(tmp_path):
    fake = f"case \"$*\" in *nonblocking*) echo '{DUMP}';; *) echo Error: no >&2; exit 1;; esac"
    asked, last = rungs(tmp_path, fake, dumps=3)
    assert asked == ["nonblocking", "blocking", "nonblocking", "nonblocking"]
    assert last.value.limits == "blocking: py-spy: no"


def test_what_was_denied_is_not_asked_for_again(tmp_path):
    asked, last = rungs(tmp_path, "echo 'Permission Denied' >&2; exit 1", dumps=3)
    assert (asked, last.reason) == (["nonblocking"], "denied")


def test_an_interpreter_that_only_starts_is_asked_again(tmp_path):
    asked, _ = rungs(tmp_path, "echo '[]'", dumps=3)
    assert asked.count("nonblocking") == 3


# ── py-spy missing, killed ──────────────────────────────────────────────────────────────────────────────────


def test_without_py_spy_the_rest_is_there(monkeypatch):
    monkeypatch.setattr(stacks, "find_py_spy", lambda: None)
    with running("sleeps") as victim:
        case = look(victim.pid)
    assert stacks_piece(case, victim.pid) == stacks.NO_PY_SPY
    assert isinstance(case.samples[-1].processes[0].threads.value[0].syscall.value, Syscall)
    assert "pip install py-spy" in headline(case)


def test_py_spy_is_looked_for_beside_python_and_then_on_path(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    on_path = program(tmp_path, "true")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert stacks.find_py_spy() == on_path
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert stacks.find_py_spy() is None


@pytest.mark.needs("py-spy")
@pytest.mark.parametrize("mode", ["--locals", "--native"])
def test_killing_py_spy_at_any_moment_leaves_the_target_running(mode):
    chosen = random.Random(1)
    with running("short_lived") as victim:
        command = [stacks.find_py_spy(), "dump", "--json", mode, "--pid", str(victim.pid)]
        began = time.monotonic()
        subprocess.run(command, capture_output=True, timeout=60, check=True)
        whole = time.monotonic() - began
        for _ in range(50):
            dump = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(chosen.random() * whole)
            dump.kill()
            dump.wait(20)
        tasks = [thread.state for thread in Proc().threads(victim.pid)]
        assert len(tasks) == 9
        wait_for(
            lambda: {thread.state for thread in Proc().threads(victim.pid)} == {"S"},
            what="all threads asleep",
        )
        assert Proc().status(victim.pid)["TracerPid"] == "0"
        for thread in Proc().threads(victim.pid):
            # `SigPnd` there is the thread's own.
            status = parse_status(Proc().read(victim.pid, "task", thread.tid, "status"))
            assert int(status["SigPnd"], 16) == 0


@pytest.mark.needs("py-spy")
def test_killing_the_collector_at_any_moment_leaves_the_target_running_and_no_half_case(tmp_path):
    chosen = random.Random(2)
    with running("short_lived") as victim:
        for number in range(8):
            out = tmp_path / str(number)
            collector = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "harness.collect",
                    "--pid",
                    str(victim.pid),
                    "--out",
                    str(out),
                    "--no-gpu",
                ],
                stdout=subprocess.DEVNULL,
                env=clean_env(),
            )
            time.sleep(chosen.random() * 1.5)
            collector.kill()
            collector.wait(20)
            if (out / "case.json").exists():
                bundle.load(out)
        wait_for(
            lambda: {thread.state for thread in Proc().threads(victim.pid)} == {"S"},
            what="all threads asleep",
        )
        wait_for(lambda: Proc().status(victim.pid)["TracerPid"] == "0", what="no tracer left")


@pytest.mark.needs("py-spy")
def test_a_collector_that_is_asked_to_end_takes_its_programs_along(tmp_path):
    (tmp_path / "bin").mkdir()
    mark = tmp_path / "pid"
    hangs = program(tmp_path, f"echo $$ > {mark}; exec sleep 3600")
    script = (
        "import sys; from harness.collect import stacks, __main__ as program; "
        f"stacks.find_py_spy = lambda: {hangs!r}; program.main(sys.argv[1:])"
    )
    with running("sleeps") as victim:
        arguments = [
            "--pid",
            str(victim.pid),
            "--out",
            str(tmp_path / "case"),
            "--no-gpu",
            "--deadline",
            "60",
        ]
        collector = subprocess.Popen([sys.executable, "-c", script, *arguments], env=clean_env())
        wait_for(lambda: mark.exists() and mark.read_text().strip(), what="the dump")
        collector.terminate()
        assert collector.wait(20) == 128 + signal.SIGTERM
    wait_for(lambda: not alive(int(mark.read_text())), what="the dump to be gone")


# ── denied ──────────────────────────────────────────────────────────────────────────────────────────────────

# The interpreter may lie where nobody may read: everything is imported before the user changes.
AS_NOBODY = """
import os, sys
import harness.collect.__main__ as program, harness.watch.heartbeat, encodings.idna, shutil, locale, gettext
from harness.collect import stacks
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
os.umask(0o077)
sys.exit(program.main(sys.argv[1:]))
"""


def look_as_nobody(folder, *arguments: str) -> tuple[dict, object]:
    folder.chmod(0o777)
    # The environment under test may lie where another user cannot go.
    ours = shutil.which(
        "py-spy", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    shutil.copy(ours, folder / "py-spy")
    env = clean_env()
    done = completed(
        [sys.executable, "-c", AS_NOBODY, "--no-gpu", "--out", str(folder / "case"), *arguments],
        timeout=120,
        env={**env, "PATH": f"{folder}{os.pathsep}{env['PATH']}"},
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), bundle.load(folder / "case")


@pytest.fixture
def open_folder(tmp_path):
    """A folder that another user can reach: pytest's own are closed to others."""
    path = tempfile.mkdtemp(prefix="case-")
    os.chmod(path, 0o777)
    yield type(tmp_path)(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.needs("root", "py-spy")
def test_another_users_process_is_denied_with_what_would_help(open_folder):
    with running("sleeps") as victim:
        answer, case = look_as_nobody(open_folder, "--pid", str(victim.pid))
    found = stacks_piece(case, victim.pid)
    assert found.reason == "denied"
    assert case.process(victim.pid).descriptors.reason == "denied"
    assert case.process(victim.pid).environment.reason == "denied"
    # What /proc gives to everyone is there all the same.
    assert case.samples[-1].processes[0].activity.value.state == "S"
    assert "sleeping" in answer["headline"]


@pytest.mark.needs("root", "py-spy")
def test_a_trainer_that_hides_from_ptrace_is_asked_for_its_own_traceback(open_folder):
    run_dir = open_folder / "run"
    (run_dir / "ranks").mkdir(parents=True)
    for path in (run_dir, run_dir / "ranks"):
        os.chown(path, NOBODY, NOBODY)
    env = clean_env(HARNESS_RUN_DIR=str(run_dir))
    with running("hides_from_ptrace", str(NOBODY), env=env) as victim:
        _, case = look_as_nobody(open_folder, "--pid", str(victim.pid), "--run-dir", str(run_dir))
        assert victim.process.poll() is None
    found = stacks_piece(case, victim.pid)
    assert isinstance(found, Reading), (found, case.errors)
    assert found.value.method == "faulthandler"
    assert "wait" in [frame.function for thread in found.value.threads for frame in thread.frames]
    assert "denied" in found.value.limits
    assert "hides_from_ptrace.py" in headline(case)


@pytest.mark.needs("root", "py-spy")
def test_a_signal_that_nobody_handles_is_not_sent(open_folder):
    # The heartbeat says that a traceback signal is registered; the process that runs now never did.
    from harness.collect import records
    from harness.collect.deadline import NotSeen

    with running("sleeps") as victim:
        beat = {
            "pid": victim.pid,
            "start_time_ticks": victim.start_time_ticks,
            "rank": 0,
            "traceback_signal": int(signal.SIGUSR1),
        }
        with pytest.raises(NotSeen, match="does not handle it: not sent"):
            records.faulthandler_stacks(Proc(), open_folder, beat, {0}, seconds=1.0)
        assert victim.process.poll() is None


# ── what the target names ───────────────────────────────────────────────────────────────────────────────────


def test_a_log_that_is_a_link_or_a_fifo_or_a_strangers_is_not_read(tmp_path):
    from harness.collect import logs
    from harness.collect.deadline import NotSeen

    (tmp_path / "real").write_text("secret of someone")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="symbolic links"):
        logs.read_regular(tmp_path / "link", {os.geteuid()}, last_bytes=10)
    with pytest.raises(NotSeen, match="not a regular file"):
        logs.read_regular(tmp_path / "fifo", {os.geteuid()}, last_bytes=10)
    with pytest.raises(NotSeen, match="belongs to uid"):
        logs.read_regular(tmp_path / "real", {os.geteuid() + 1}, last_bytes=10)
    assert logs.read_regular(tmp_path / "real", {os.geteuid()}, last_bytes=7)[0] == b"someone"


def test_files_of_a_case_are_closed_to_others_whatever_the_umask(tmp_path):
    old = os.umask(0)
    try:
        bundle.save(look(2**22 + 1), tmp_path / "case")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "case").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "case" / "case.json").stat().st_mode) == 0o600


# ── GPUs ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_gpu_child_answers_with_readings_or_a_reason():
    done = deadline.run(deadline.python_module("harness.collect.gpu"), 60)
    assert isinstance(done, deadline.Finished)
    found = codec.loads(gpu.ANSWER, done.output)
    assert isinstance(found, Reading) or (found.reason == "unavailable" and found.detail)


def test_without_a_driver_no_child_is_started(monkeypatch):
    monkeypatch.setattr(gpu, "_DRIVER_MARKS", ("/nonexistent",))
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert gpu.read_gpus(5.0) == Missing(reason="unavailable", detail="no NVIDIA driver")


@pytest.mark.parametrize(
    ("child", "reason", "words"),
    [("sleep 3600", "timed_out", "no answer in time"), ("echo boom >&2; exit 1", "unavailable", "boom")],
)
def test_a_driver_that_is_sick_costs_its_deadline_and_no_more(tmp_path, monkeypatch, child, reason, words):
    monkeypatch.setattr(gpu, "_DRIVER_MARKS", ("/dev/null",))
    monkeypatch.setattr(sys, "executable", program(tmp_path, child))
    found = gpu.read_gpus(1.0)
    assert found.reason == reason
    assert words in found.detail
