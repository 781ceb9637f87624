"""A training outlives its harness, a later one takes it up; a full disk or a foreign folder hurts nobody."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support import nobody
from tests.support import run as runs
from tests.support.env import clean_env
from tests.support.programs import completed
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Ends with the status that somebody writes into the file `end`.
WAITING = """
import os, sys, time
print("begun", os.environ["HARNESS_ATTEMPT"])
while not os.path.exists("end"): time.sleep(0.02); print("tick")
sys.exit(int(open("end").read() or 0))
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., runs.Run]]:
    started = []

    def begin(*command: str, **kwargs: object) -> runs.Run:
        directory = kwargs.pop("directory", tmp_path / "run")
        started.append(runs.start(directory, *command, cwd=tmp_path, **kwargs))
        return started[-1]

    yield begin
    for each in started:
        each.clean_up()


def _end(tmp_path: Path, status: int) -> None:
    (tmp_path / "end.new").write_text(str(status))
    (tmp_path / "end.new").rename(tmp_path / "end")


def _in_mount_namespace(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return completed(["unshare", "--mount", "sh", "-c", script, *arguments], timeout=90)


def _kill(run: runs.Run) -> None:
    run.attempt()  # noted in run.json, a little after the command's first line
    run.process.kill()
    run.process.wait()


def test_a_killed_harness_leaves_the_training_alone_and_a_second_one_takes_it_up(
    start: Callable[..., runs.Run], tmp_path: Path
) -> None:
    first = start(*runs.python(WAITING))
    first.wait_for_log("begun")
    pid = first.pid()
    _kill(first)
    length = len(first.log())
    wait_for(lambda: len(first.log()) > length + 100, what="the training to go on")
    found = runs.status(first.directory)
    assert (found["state"], found["pid"]) == ("unsupervised", pid)

    second = start()
    wait_for(lambda: second.record()["supervisor_pid"] == second.process.pid, what="the second to take over")
    assert runs.status(first.directory)["state"] == "running"
    _end(tmp_path, 9)
    status, text = second.end()
    assert status == 9
    assert f"supervising pid {pid} again" in text
    assert [each["attempt"] for each in second.record()["attempts"]] == [1]
    assert second.attempt()["exit_status"] == 9
    assert second.log().count("begun") == 1


def test_the_second_harness_passes_signals_on_to_what_it_took_up(start: Callable[..., runs.Run]) -> None:
    first = start(*runs.python("import os\nos.fork()\n" + WAITING))
    wait_for(lambda: first.log().count("begun") == 2, what="both processes")
    tree = first.tree()
    _kill(first)
    second = start()
    wait_for(lambda: second.record()["supervisor_pid"] == second.process.pid, what="the second to take over")
    second.process.send_signal(signal.SIGTERM)
    assert second.end()[0] == 143
    assert not any(runs.lives(each.pid) for each in tree)


def test_an_end_that_no_harness_saw_is_known_all_the_same(
    start: Callable[..., runs.Run], tmp_path: Path
) -> None:
    run = start(*runs.python(WAITING))
    run.wait_for_log("begun")
    _kill(run)
    _end(tmp_path, 5)
    wait_for(lambda: not runs.lives(run.attempt()["keeper_pid"]), what="the training to end")
    found = runs.status(run.directory)
    assert (found["state"], found["exit_status"]) == ("died", 5)


def test_a_killed_keeper_costs_nothing_while_the_harness_lives(
    start: Callable[..., runs.Run], tmp_path: Path
) -> None:
    run = start(*runs.python(WAITING))
    run.wait_for_log("begun")
    run.pid()  # run.json tells of the attempt a little later than its log
    psutil.Process(run.attempt()["keeper_pid"]).kill()
    _end(tmp_path, 6)
    assert run.end()[0] == 6


def test_with_harness_and_keeper_killed_the_training_goes_on_and_is_taken_up(
    start: Callable[..., runs.Run], tmp_path: Path
) -> None:
    first = start(*runs.python(WAITING))
    first.wait_for_log("begun")
    pid = first.pid()
    _kill(first)
    psutil.Process(first.attempt()["keeper_pid"]).kill()
    assert runs.lives(pid)
    second = start()
    wait_for(lambda: second.record()["supervisor_pid"] == second.process.pid, what="the second to take over")
    _end(tmp_path, 0)
    status, text = second.end()
    assert status == 125
    assert "nobody saw its exit status" in text


def test_a_second_harness_on_a_supervised_run_is_refused(
    start: Callable[..., runs.Run], tmp_path: Path
) -> None:
    first = start(*runs.python(WAITING))
    first.wait_for_log("begun")
    second = start(*runs.python(WAITING))
    status, text = second.end()
    assert status == 125
    assert f"pid {first.process.pid}" in text
    assert len(text.splitlines()) == 1
    _end(tmp_path, 0)
    assert first.end()[0] == 0
    assert first.log().count("begun") == 1


def test_another_command_is_not_started_beside_one_that_still_runs(start: Callable[..., runs.Run]) -> None:
    first = start(*runs.python(WAITING))
    first.wait_for_log("begun")
    _kill(first)
    second = start("true")
    status, text = second.end()
    assert status == 125
    assert f"pid {first.pid()}" in text
    assert runs.lives(first.pid())


def test_a_command_that_only_its_keeper_noted_is_not_started_twice(start: Callable[..., runs.Run]) -> None:
    """The harness may be killed between the start of the command and its line in run.json."""
    first = start(*runs.python(WAITING))
    first.wait_for_log("begun")
    pid = first.pid()
    _kill(first)
    path = first.directory / "run.json"
    path.write_text(json.dumps({**first.record(), "attempt": 0, "attempts": []}))
    second = start("true")
    status, text = second.end()
    assert status == 125
    assert f"pid {pid}" in text
    assert runs.lives(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_run_is_continued_in_its_directory_with_its_id_and_its_command(
    start: Callable[..., runs.Run], tmp_path: Path
) -> None:
    _end(tmp_path, 3)
    first = start(*runs.python(WAITING))
    assert first.end()[0] == 3
    run_id = first.record()["run_id"]
    _end(tmp_path, 0)
    second = start()
    assert second.end()[0] == 0
    assert second.record()["run_id"] == run_id
    assert [(each["attempt"], each["exit_status"]) for each in second.record()["attempts"]] == [
        (1, 3),
        (2, 0),
    ]
    assert [line for line in second.log().splitlines() if "begun" in line] == ["begun 1", "begun 2"]


def test_the_command_that_is_remembered_is_started_where_it_was_given(
    start: Callable[..., runs.Run], tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text("import os; print('in', os.getcwd())")
    assert start("python", "train.py").end()[0] == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    again = runs.start(tmp_path / "run", cwd=elsewhere)
    status, output = again.end()
    assert status == 0, output
    assert f"in {tmp_path}" in output
    assert again.record()["cwd"] == str(tmp_path)
    named = runs.start(tmp_path / "run", "python", "../train.py", cwd=elsewhere)
    assert named.end()[0] == 0
    assert named.record()["cwd"] == str(elsewhere)
    assert again.log().splitlines() == [f"in {each}" for each in (tmp_path, tmp_path, elsewhere)]


@pytest.mark.needs("root")
def test_a_command_that_we_may_not_signal_is_said_to_be_out_of_reach(tmp_path: Path) -> None:
    """As with sudo in the command; here it was started by root, and is taken up by nobody."""
    with nobody.folder() as place:
        first = runs.start(place / "run", *runs.python(WAITING), cwd=place)
        try:
            first.wait_for_log("begun")
            _kill(first)
            for path in (place / "run", *(place / "run").rglob("*")):
                os.chown(path, nobody.UID, nobody.UID)
            second = nobody.start(place, "run", "--run-dir", "run", "--metrics-port", "off")
            wait_for(lambda: first.record()["supervisor_pid"] == second.pid, what="the second one")
            second.send_signal(signal.SIGINT)
            assert second.stdout is not None
            descriptor, heard = second.stdout.fileno(), bytearray()
            os.set_blocking(descriptor, False)

            def told() -> bool:
                with contextlib.suppress(BlockingIOError):
                    heard.extend(os.read(descriptor, 65536))
                return b"SIGINT" in heard and heard.endswith(b"\n")

            wait_for(told, what="the answer to Ctrl-C")
            assert f"SIGINT cannot be passed on: pid {first.pid()} is another user's" in heard.decode()
            _end(place, 7)
            assert second.communicate(timeout=runs.DEADLINE_SECONDS)
            assert second.returncode == 7
        finally:
            first.clean_up()


def test_what_was_taken_up_is_not_restarted_without_its_secret(
    start: Callable[..., runs.Run], tmp_path: Path
) -> None:
    first = start(*runs.python(WAITING), "--api-key", "of-nobodys-business")
    first.wait_for_log("begun")
    _kill(first)
    second = start(options=("--on-stall", "restart"))
    wait_for(lambda: second.record()["supervisor_pid"] == second.process.pid, what="the second one")
    _end(tmp_path, 7)
    status, output = second.end()
    assert status == 7
    assert "not restarted: its command held a secret" in output
    assert "begun 2" not in second.log()


def test_a_run_named_by_a_link_stays_where_it_is_when_the_link_moves_on(
    start: Callable[..., runs.Run], tmp_path: Path
) -> None:
    """`runs/latest` leads to another run as soon as that begins."""
    latest = tmp_path / "latest"
    latest.symlink_to("one")
    (tmp_path / "one").mkdir()
    one = start(*runs.python(WAITING), directory=latest)
    one.wait_for_log("begun")
    assert one.attempt()["ended_at"] is None
    two = start(*runs.python("print('well')"), directory=tmp_path / "two")
    assert two.end()[0] == 0
    before = two.record()
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(latest)
    _end(tmp_path, 7)
    status, output = one.end()
    assert status == 7
    assert output.splitlines()[-1].endswith(f"{tmp_path}/one")
    assert two.record() == before
    one.directory = tmp_path / "one"
    assert one.attempt()["exit_status"] == 7


def test_leftovers_of_an_unseen_end_are_cleared_before_the_next_attempt(
    start: Callable[..., runs.Run], tmp_path: Path
) -> None:
    source = (
        "import os, time\nif os.fork() == 0: os.setsid(); print('orphan', os.getpid()); time.sleep(1000)\n"
    )
    first = start(*runs.python(source + WAITING))
    first.wait_for_log("orphan")
    first.wait_for_log("tick")
    orphan = int(next(line for line in first.log().splitlines() if "orphan" in line).split()[1])
    _kill(first)
    psutil.Process(first.pid()).kill()
    wait_for(lambda: not runs.lives(first.pid()))
    assert runs.lives(orphan)
    second = start("true")
    status, text = second.end()
    assert status == 0
    assert str(orphan) in text
    assert not runs.lives(orphan)
    assert [each["ended_by"] for each in second.record()["attempts"]] == ["SIGKILL", "itself"]


def test_a_restart_after_a_death_is_the_next_attempt(start: Callable[..., runs.Run]) -> None:
    source = (
        "import os, signal\nif os.environ['HARNESS_ATTEMPT'] != '3': os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = start(*runs.python(source), options=("--on-stall", "restart"))
    # Three deaths in a row at the same step would end it; two do not.
    assert run.end()[0] == 0
    assert [each["exit_status"] for each in run.record()["attempts"]] == [137, 137, 0]


def test_restarts_have_an_end(start: Callable[..., runs.Run]) -> None:
    run = start(
        *runs.python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        options=("--on-stall", "restart", "--max-restarts", "1"),
    )
    status, text = run.end()
    assert status == 137
    assert "--max-restarts 1 used up" in text
    assert len(run.record()["attempts"]) == 2


def test_ctrl_c_in_the_pause_before_a_restart_ends_it(start: Callable[..., runs.Run]) -> None:
    run = start(
        *runs.python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        options=("--on-stall", "restart"),
    )
    wait_for(lambda: (run.directory / "run.json").exists() and run.record()["attempts"], what="an attempt")
    wait_for(lambda: run.attempt()["ended_at"], what="its end")
    run.process.send_signal(signal.SIGINT)
    assert run.end()[0] == 137
    assert len(run.record()["attempts"]) <= 2


def test_the_port_of_another_is_named_and_avoided(start: Callable[..., runs.Run], tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        fails = start(
            "true", directory=tmp_path / "a", options=("--metrics-port", port, "--port-taken", "fail")
        )
        status, text = fails.end()
        assert status == 125
        assert f"pid {os.getpid()}" in text
        goes = start("true", directory=tmp_path / "b", options=("--metrics-port", port))
        status, text = goes.end()
        assert status == 0
        assert f"port {port} is taken by pid {os.getpid()}" in text


@pytest.mark.parametrize(
    "where", ["a file", "below a file", "a foreign folder", "a damaged run", "a later version"]
)
def test_a_directory_that_cannot_be_used_is_refused_in_one_line(
    start: Callable[..., runs.Run], tmp_path: Path, where: str
) -> None:
    directory = tmp_path / "run"
    if where in ("a file", "below a file"):
        directory.write_text("precious")
    else:
        directory.mkdir()
        (directory / ("notes.txt" if where == "a foreign folder" else "run.json")).write_text(
            json.dumps({"schema": "harness.run/99"}) if where == "a later version" else "{precious"
        )
    below = directory / "below" if where == "below a file" else directory
    run = start("true", directory=below)
    status, text = run.end()
    assert status == 125
    assert len(text.splitlines()) == 1, text
    assert str(below) in text
    assert (
        subprocess.run(["grep", "-rq", "precious\\|99", str(directory)], check=False, timeout=20).returncode
        == 0
    )


@pytest.mark.parametrize(
    ("name", "command", "words"),
    [
        ("latest", (), "there is no run yet that it could point to. Leave --run-dir out"),
        ("latest", ("true",), "there is no run yet that it could point to. Leave --run-dir out"),
        ("mine", (), "no run to continue in it, and no command was given"),
    ],
)
def test_where_there_is_nothing_to_continue_nothing_is_made(
    start: Callable[..., runs.Run], tmp_path: Path, name: str, command: tuple[str, ...], words: str
) -> None:
    """A folder of that name would keep runs/latest from ever pointing to a run."""
    run = start(*command, directory=tmp_path / "runs" / name)
    status, text = run.end()
    assert status == 125
    assert words in text
    assert len(text.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.needs("tmpfs")
def test_without_rights_to_the_directory_nothing_is_started(tmp_path: Path) -> None:
    place, witness = tmp_path / "place", tmp_path / "witness"
    place.mkdir()
    done = _in_mount_namespace(
        f"mount -t tmpfs -o ro none {place} && cd {place} && "
        f"exec {' '.join(runs.HARNESS)} run --metrics-port off -- touch {witness}"
    )
    assert done.returncode == 125
    assert "Read-only file system" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not witness.exists()


@pytest.mark.needs("tmpfs")
def test_a_disk_that_fills_up_costs_the_records_and_not_the_training(tmp_path: Path) -> None:
    """In a mount namespace of its own: a file system of 200 kB, filled once the command runs."""
    disk, witness = tmp_path / "disk", tmp_path / "witness"
    disk.mkdir()
    command = (
        "import os, time\n"
        f"full = os.open({str(disk / 'full')!r}, os.O_WRONLY | os.O_CREAT)\n"
        "try:\n"
        "    while True: os.write(full, b'x' * 4096)\n"
        "except OSError: time.sleep(1.5)\n"
        f"open({str(witness)!r}, 'w').write('trained to the end')\n"
        "os._exit(4)\n"
    )
    script = (
        f"mount -t tmpfs -o size=200k none {disk} && "
        f"exec {' '.join(runs.HARNESS)} run --run-dir {disk}/run --metrics-port off "
        f'-- {sys.executable} -c "$0"'
    )
    done = _in_mount_namespace(script, command)
    assert witness.read_text() == "trained to the end"
    assert done.returncode == 4, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_one_id_on_all_nodes(start: Callable[..., runs.Run], tmp_path: Path) -> None:
    for number, (env, expected) in enumerate(
        [
            ({"SLURM_JOB_ID": "812"}, "slurm-812"),
            ({"SLURM_JOB_ID": "812", "SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": "2"}, "slurm-812.0-r2"),
            ({"TORCHELASTIC_RUN_ID": "my job"}, "my-job"),
        ]
    ):
        run = start("true", directory=tmp_path / f"run{number}", env=clean_env(**env))
        assert run.end()[0] == 0
        assert run.record()["run_id"] == expected


def test_two_nodes_share_a_directory_without_a_clash(start: Callable[..., runs.Run], tmp_path: Path) -> None:
    """Two host names on one machine, by way of UTS namespaces."""
    if subprocess.run(["unshare", "--uts", "true"], check=False, timeout=20).returncode:
        pytest.skip("needs a UTS namespace")
    shared = tmp_path / "shared"
    nodes = []
    for name in ("node-a", "node-b"):
        harness = f"{' '.join(runs.HARNESS)} run --run-dir {shared} --run-id job7 --metrics-port off"
        nodes.append(
            subprocess.Popen(
                [
                    "unshare",
                    "--uts",
                    "sh",
                    "-c",
                    f'hostname {name}; exec {harness} -- {sys.executable} -c "$0"',
                    WAITING,
                ],
                cwd=tmp_path,
                env=clean_env(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        log = shared / "log" / ("output.log" if name == "node-a" else "output-node-b.log")
        wait_for(lambda log=log: log.exists() and "begun" in log.read_text(), 40, f"{log} to begin")
    _end(tmp_path, 0)
    texts = [node.communicate(timeout=40)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], texts
    records = [json.loads((shared / name).read_text()) for name in ("run.json", "nodes/node-b.json")]
    assert [record["host"] for record in records] == ["node-a", "node-b"]
    assert {record["run_id"] for record in records} == {"job7"}
