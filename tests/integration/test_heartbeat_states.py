"""The record is read while its trainer holds the GIL in C, is stopped, dead, forked, or somebody else's."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from harness import wire
from harness.watch import heartbeat
from tests.support.emitting import emitting
from tests.support.env import clean_env
from tests.support.programs import completed
from tests.support.wait import wait_for


def beat(run_dir, rank=0):
    return heartbeat.read(run_dir / "ranks" / f"{rank:05d}.beat")


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_read_while_the_trainer_holds_the_gil_in_c(tmp_path):
    source = """
        import re
        emit.open(total_steps=10)
        emit.stage("tokenizer")
        emit.step(3, loss=1.5)
        emit.phase("data")
        say("ready")
        re.match(r"(a+)+$", "a" * 64 + "b")  # for longer than anybody waits
    """
    with emitting(source, tmp_path) as trainer:
        trainer.hear("ready")
        seen = beat(tmp_path)
        assert (seen.stage, seen.phase, seen.step, seen.last.loss) == ("tokenizer", "data", 3, 1.5)
        assert trainer.process.poll() is None


def test_read_while_the_trainer_is_stopped_and_after_it_is_dead(tmp_path):
    with emitting(
        "emit.open(); emit.stage('train'); emit.step(7); say('ready'); wait()", tmp_path
    ) as trainer:
        trainer.hear("ready")
        os.kill(trainer.pid, signal.SIGSTOP)
        wait_for(lambda: state_of(trainer.pid) == "T", what="the trainer stops")
        stopped = beat(tmp_path)
        assert (stopped.stage, stopped.step) == ("train", 7)
        os.kill(trainer.pid, signal.SIGKILL)
        trainer.end()
        assert beat(tmp_path) == stopped
        assert stopped.closed_status is None


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("emit.close()", "finished"),
        ("raise SystemExit(3)", None),
        ("1 / 0", None),
        ("import os; os.abort()", None),
        ("", None),
    ],
)
def test_only_close_is_an_end(tmp_path, ending, status):
    with emitting(f"emit.open()\nemit.step(1)\n{ending}", tmp_path) as trainer:
        trainer.end()
    assert beat(tmp_path).closed_status == status


def test_identity_is_that_of_the_process(tmp_path):
    with emitting("emit.open(); say('ready'); wait()", tmp_path) as trainer:
        trainer.hear("ready")
        seen = beat(tmp_path)
        fields = Path(f"/proc/{trainer.pid}/stat").read_text().rpartition(")")[2].split()
        assert (seen.pid, seen.start_time_ticks) == (trainer.pid, int(fields[19]))
        assert seen.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_a_fork_never_writes_into_its_parents_record(tmp_path):
    source = """
        import os
        emit.open()
        with emit.stage("train"):
            emit.step(1, loss=1.0)
            child = os.fork()
            if child == 0:
                emit.step(2); emit.progress(5); emit.phase("data"); emit.stage("eval"); emit.event("x")
                emit.close()
                emit.open()  # the parent's rank: not to be had
                emit.step(3)
                say("child", emit.enabled)
                os._exit(0)
            os.waitpid(child, 0)
            emit.step(4, loss=4.0)
            say("parent", emit.enabled)
            wait()
    """
    with emitting(source, tmp_path) as trainer:
        trainer.hear("child False")
        trainer.hear("parent True")
        seen = beat(tmp_path)
        assert (seen.pid, seen.step, seen.steps_written, seen.stage) == (trainer.pid, 4, 2, "train")
        assert (seen.progress_count, seen.phase, seen.closed_status) == (0, None, None)
        assert not (tmp_path / "events").exists()


def test_a_fork_may_open_a_record_of_another_rank(tmp_path):
    source = """
        import os
        emit.open(rank=0)
        child = os.fork()
        if child == 0:
            emit.open(rank=1)
            emit.step(11)
            os._exit(0)
        os.waitpid(child, 0)
        emit.step(1)
    """
    with emitting(source, tmp_path) as trainer:
        assert trainer.end() == (0, "", "")
    assert (beat(tmp_path, 0).step, beat(tmp_path, 1).step) == (1, 11)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_workers_calls_do_not_reach_the_trainers_record(tmp_path, method):
    """As a DataLoader's workers: they import the trainer's script again, and call what the trainer calls."""
    script = tmp_path / "trainer.py"
    script.write_text(
        """
import multiprocessing
from harness import emit

emit.open()  # as trainers do, at the top

def work(queue):
    emit.progress(1)
    emit.stage("eval")
    emit.step(99)
    emit.close()
    queue.put(emit.enabled)

if __name__ == "__main__":
    emit.stage("train")
    context = multiprocessing.get_context(METHOD)
    queue = context.Queue()
    worker = context.Process(target=work, args=(queue,))
    worker.start()
    emit.step(1)
    print("worker", queue.get(timeout=50), flush=True)
    worker.join(50)
    emit.step(2)
""".replace("METHOD", repr(method))
    )
    done = completed([sys.executable, str(script)], env=clean_env(HARNESS_RUN_DIR=str(tmp_path)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "worker False\n", "")
    seen = beat(tmp_path)
    assert (seen.step, seen.steps_written, seen.stage, seen.progress_count) == (2, 2, "train", 0)
    assert seen.closed_status is None


def test_a_live_trainers_record_is_left_alone_by_another_of_its_rank(tmp_path):
    with emitting("emit.open(); emit.step(1); say('ready'); wait()", tmp_path) as first:
        first.hear("ready")
        with emitting("emit.open(); emit.step(2); say(emit.enabled)", tmp_path) as second:
            status, out, err = second.end()
        assert (status, out) == (0, "False\n")
        assert err.count("\n") == 1
        assert f"process {first.pid}" in err
        assert (beat(tmp_path).pid, beat(tmp_path).step) == (first.pid, 1)


@pytest.mark.parametrize("before", ["emit.close(); say('ready'); wait()", "say('ready')"])
def test_a_closed_or_dead_trainers_record_is_replaced(tmp_path, before):
    with emitting(f"emit.open(); emit.step(1); {before}", tmp_path) as first:
        first.hear("ready")
        if "wait" not in before:
            first.end()
        with heartbeat.Reader(tmp_path / "ranks" / "00000.beat") as reader:
            with emitting("emit.open(); emit.step(2)", tmp_path, HARNESS_ATTEMPT="2") as second:
                assert second.end() == (0, "", "")
            assert reader.replaced()
            assert reader.read().step == 1  # the file that was opened, as it was
        assert (beat(tmp_path).attempt, beat(tmp_path).step) == (2, 2)


def test_all_stacks_on_the_signal_that_the_header_names(tmp_path):
    source = """
        import threading
        emit.open()
        def prefetch(): threading.Event().wait()
        threading.Thread(target=prefetch, daemon=True).start()
        say("ready")
        wait()
        say("alive")
    """
    with emitting(source, tmp_path) as trainer:
        trainer.hear("ready")
        assert beat(tmp_path).traceback_signal == signal.SIGUSR1
        os.kill(trainer.pid, signal.SIGUSR1)
        path = Path(wire.traceback_path(str(tmp_path), 0))
        wait_for(
            lambda: "in prefetch" in path.read_text() and "in wait" in path.read_text(), what="both stacks"
        )
        trainer.tell()
        trainer.hear("alive")
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("handler", ["lambda *_: os.write(1, b'mine\\n')", "signal.SIG_IGN"])
def test_a_signal_in_use_is_left_alone(tmp_path, handler):
    source = f"""
        import os, signal
        signal.signal(signal.SIGUSR1, {handler})
        emit.open()
        say("ready")
        wait()
        say("alive")
    """
    with emitting(source, tmp_path) as trainer:
        trainer.hear("ready")
        assert beat(tmp_path).traceback_signal is None
        os.kill(trainer.pid, signal.SIGUSR1)
        if "mine" in handler:
            trainer.hear("mine")
        trainer.tell()
        trainer.hear("alive")


def test_a_signals_handler_may_emit_in_the_middle_of_an_emit(tmp_path):
    source = """
        import signal
        def handler(*_):
            with emit.stage("eval"):
                emit.phase("data"); emit.progress(); emit.step(-1); emit.open(total_steps=5)
        signal.signal(signal.SIGALRM, handler)
        emit.open()
        emit.stage("train")
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
        for i in range(20000):
            emit.phase("forward")
            emit.progress()
            emit.step(i)
        signal.setitimer(signal.ITIMER_REAL, 0)
        emit.phase("forward")
    """
    with emitting(source, tmp_path) as trainer:
        assert trainer.end() == (0, "", "")
    seen = beat(tmp_path)
    assert (seen.phase, seen.stage, seen.total_steps) == ("forward", "train", 5)
    with heartbeat.Reader(tmp_path / "ranks" / "00000.beat") as reader:
        assert len(reader.drain().rows) == wire.STEPS.count - 1


def test_under_yamas_first_scope_the_trainer_lets_itself_be_traced(tmp_path):
    """This kernel may have no Yama, where the call fails: that it is made shows in what is imported."""
    scope = tmp_path / "ptrace_scope"
    scope.write_text("1\n")
    for path, imported in ((scope, True), (tmp_path / "missing", False)):
        source = f"""
            from harness import place
            place.YAMA = {str(path)!r}
            emit.open()
            say("ctypes" in sys.modules, emit.enabled)
        """
        with emitting(source, tmp_path) as trainer:
            assert trainer.end() == (0, f"{imported} True\n", "")
