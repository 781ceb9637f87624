"""`--announce`: the file that tells Prometheus where a run can be scraped, from its beginning to its end."""

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import urllib.request

import pytest

from harness.rundir import host_name
from harness.supervise.announcing import Announcement, clear_stale
from tests.support import run as runs
from tests.support.emitting import emitting
from tests.support.env import clean_env
from tests.support.wait import wait_for

WAITS = ("sh", "-c", "echo begun; read -r line; exit ${line:-0}")
SLEEPS = runs.python("import time; print('begun', flush=True); time.sleep(600)")


@pytest.fixture
def start(tmp_path):
    """Start a run that announces itself in `targets`; all that is left of them is killed."""
    started = []

    def begin(name, *command, options=(), **popen):
        options = ("--metrics-port", "0", "--announce", str(tmp_path / "targets"), *options)
        started.append(runs.start(tmp_path / name, *command, options=options, **popen))
        return started[-1]

    yield begin
    for run in started:
        run.clean_up()


def announced(tmp_path):
    return sorted((tmp_path / "targets").glob("*.json"))


def read(file):
    (group,) = json.loads(file.read_text())
    return group


def wait_announced(tmp_path, count=1):
    wait_for(lambda: len(announced(tmp_path)) == count, 40, f"{count} announcements")
    return announced(tmp_path)


def scrape(target):
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=20) as answer:
        return answer.read().decode()


def scrape_to_the_end(target, process):
    """Scrape as Prometheus does, again and again, until the harness has ended; what came last."""
    last = ""

    def ended():
        nonlocal last
        with contextlib.suppress(OSError):  # it has gone
            last = scrape(target)
        return process.poll() is not None

    wait_for(ended, 20, "its end, once its last values were scraped", 0.1)
    return last


def test_a_run_is_announced_while_it_lasts_and_until_its_end_was_scraped(tmp_path, start):
    run = start("run", *WAITS, options=("--stdin", "inherit"), stdin=subprocess.PIPE)
    (file,) = wait_announced(tmp_path)
    group = read(file)
    (target,) = group["targets"]
    run.wait_for_log("begun")
    run_id = run.record()["run_id"]
    assert group["labels"]["run_id"] == run_id
    assert group["labels"]["__scheme__"] == "http"
    assert file.name == f"{run_id}.{host_name()}.json"
    wait_for(lambda: f'run_id="{run_id}"' in scrape(target), 40, "its metrics")
    assert [each.name for each in file.parent.iterdir()] == [file.name], "nothing half-written is left"

    run.process.stdin.write("0\n")
    run.process.stdin.flush()
    last = scrape_to_the_end(target, run.process)
    assert f'trainer_finished{{rank="command",run_id="{run_id}"}} 1.0' in last
    status, said = run.end()
    assert status == 0
    assert "served until they were read once more" in said
    assert announced(tmp_path) == []


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_nobody_has_to_wait_for_the_last_scrape(tmp_path, start, interrupt):
    run = start("run", "true", options=("--linger", "600"))
    lines = iter(run.process.stdout.readline, "")
    assert any("read once more" in line for line in lines)
    assert len(announced(tmp_path)) == 1
    run.process.send_signal(interrupt)
    assert run.end()[0] == 0
    assert announced(tmp_path) == []


@pytest.mark.parametrize(
    ("command", "expected"), [(("sh", "-c", "exit 3"), 3), (("true",), 0), (("no-such-program",), 127)]
)
def test_a_command_that_ends_by_itself_is_withdrawn_however_it_ended(tmp_path, start, command, expected):
    status, said = start("run", *command, options=("--linger", "0")).end()
    assert status == expected, said
    assert list((tmp_path / "targets").iterdir()) == []


IGNORES = runs.python(
    "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('begun', flush=True); "
    "time.sleep(600)"
)


@pytest.mark.parametrize(
    ("command", "signals"),
    [
        (SLEEPS, (signal.SIGINT,)),
        (SLEEPS, (signal.SIGTERM,)),
        (SLEEPS, (signal.SIGQUIT,)),
        (IGNORES, (signal.SIGINT, signal.SIGINT)),
    ],
)
def test_a_run_that_is_ended_by_hand_is_withdrawn(tmp_path, start, command, signals):
    run = start("run", *command, options=("--linger", "0"))
    run.wait_for_log("begun")
    assert len(announced(tmp_path)) == 1
    lines = iter(run.process.stdout.readline, "")
    for number in signals:
        run.process.send_signal(number)
        assert any("passed on" in line or "killing" in line for line in lines), "it was heard"
    status, _ = run.end()
    assert status != 0
    assert list((tmp_path / "targets").iterdir()) == []


def test_a_terminal_that_goes_away_ends_neither_the_run_nor_its_announcement(tmp_path, start):
    run = start("run", *WAITS, options=("--stdin", "inherit", "--linger", "0"), stdin=subprocess.PIPE)
    run.wait_for_log("begun")
    (file,) = announced(tmp_path)
    run.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "trainer_run_info{" in scrape(read(file)["targets"][0]), 40, "its metrics")
    assert announced(tmp_path) == [file]
    run.process.stdin.write("0\n")
    run.process.stdin.flush()
    assert run.end()[0] == 0
    assert announced(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_leaves_off_watching_withdraws_and_leaves_the_process_alone(tmp_path, number):
    target = subprocess.Popen(["sleep", "600"])
    watch = subprocess.Popen(
        [
            *(*runs.HARNESS, "watch", str(target.pid), "--metrics-port", "0"),
            *("--announce", str(tmp_path / "targets")),
        ],
        cwd=tmp_path,
        env=clean_env(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_announced(tmp_path)
        watch.send_signal(number)
        said, _ = watch.communicate(timeout=40)
        assert "alone" in said
        assert list((tmp_path / "targets").iterdir()) == []
        assert target.poll() is None
    finally:
        for process in (target, watch):
            process.kill()
            process.communicate()


def test_what_cannot_be_announced_is_not_started(tmp_path, start):
    (tmp_path / "targets").write_text("in the way")
    status, said = start("run", "touch", str(tmp_path / "started")).end()
    assert status == 125
    assert f"{tmp_path / 'targets'}: the run cannot be announced there" in said
    off = runs.start(tmp_path / "off", "touch", str(tmp_path / "started"), options=("--announce", "x"))
    status, said = off.end()
    assert status == 125
    assert "there is nothing to scrape" in said
    assert not (tmp_path / "started").exists()


def test_the_file_of_a_killed_harness_stays_while_its_training_runs_and_goes_after(tmp_path, start):
    run = start("first", *SLEEPS)
    (file,) = wait_announced(tmp_path)
    pid = run.pid()
    run.wait_for_log("begun")
    run.process.kill()
    run.process.wait()

    start("second", "true", options=("--linger", "0")).end()
    assert announced(tmp_path) == [file], (
        "its training still runs: its exporter is down, and that is an alarm"
    )

    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not runs.lives(pid), what="the command to be gone")
    status, said = start("third", "true", options=("--linger", "0")).end()
    assert status == 0
    assert f"removed the announcement of {run.record()['run_id']}" in said
    assert announced(tmp_path) == []


def test_whoever_takes_a_run_up_again_replaces_its_file(tmp_path, start):
    run = start("run", *SLEEPS)
    (file,) = wait_announced(tmp_path)
    run.pid()
    run.wait_for_log("begun")
    before = read(file)
    run.process.kill()
    run.process.wait()
    again = start("run")
    wait_for(lambda: read(file) != before, 40, "the file to be replaced")
    assert read(file)["labels"]["run_id"] == before["labels"]["run_id"]
    assert read(file)["targets"] != before["targets"]
    wait_for(lambda: "trainer_run_info{" in scrape(read(file)["targets"][0]), 40, "its metrics")
    assert again.process.poll() is None


def test_watch_announces_too(tmp_path):
    target = subprocess.Popen(["sleep", "600"])
    folder = tmp_path / "targets"
    watch = subprocess.Popen(
        [*runs.HARNESS, "watch", str(target.pid), "--metrics-port", "0", "--announce", str(folder)],
        cwd=tmp_path,
        env=clean_env(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        (file,) = wait_announced(tmp_path)
        (address,) = read(file)["targets"]
        assert read(file)["labels"]["run_id"].startswith("20")
        target.kill()
        target.wait()
        assert "trainer_finished" in scrape_to_the_end(address, watch)
        assert announced(tmp_path) == []
    finally:
        for process in (target, watch):
            process.kill()
            process.communicate()


def test_a_watched_trainer_that_is_killed_has_not_finished(tmp_path):
    folder = tmp_path / "targets"
    (tmp_path / "run").mkdir()
    with emitting(
        "emit.open(total_steps=9); emit.step(3, loss=1.0); say('ready'); wait()", tmp_path / "run"
    ) as trainer:
        trainer.hear("ready")
        watch = subprocess.Popen(
            [*runs.HARNESS, "watch", str(trainer.pid), "--metrics-port", "0", "--announce", str(folder)],
            cwd=tmp_path,
            env=clean_env(),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            (file,) = wait_announced(tmp_path)
            (address,) = read(file)["targets"]
            wait_for(lambda: 'trainer_step{rank="0"' in scrape(address), 40, "its metrics")
            trainer.process.kill()
            last = scrape_to_the_end(address, watch)
            assert re.search(r"trainer_up\{[^}]*\} 0", last)
            assert "trainer_finished{" in last
            assert not re.search(r"trainer_finished\{[^}]*\} 1", last)
            assert watch.returncode == 1
        finally:
            watch.kill()
            watch.communicate()


def test_others_may_read_it_whatever_our_umask(tmp_path, start):
    before = os.umask(0o077)
    try:
        start("run", *SLEEPS)
    finally:
        os.umask(before)
    (file,) = wait_announced(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


# ---- what else may lie in the folder


def announcement(folder, port=1):
    return Announcement(folder=folder, run_id="ours", url=f"http://127.0.0.1:{port}/metrics", run_dir=folder)


def stale(folder, name="other", **labels):
    """An announcement of a harness and a run that are gone."""
    group = json.loads(announcement(folder).text())[0]
    group["targets"] = ["127.0.0.1:2"]
    group["labels"] |= {"run_id": name, "__meta_harness_start_time_ticks": "1", **labels}
    file = folder / f"{name}.{host_name()}.json"
    file.write_text(json.dumps([group]))
    return file


def test_only_what_is_surely_stale_is_removed(tmp_path):
    gone = stale(tmp_path)
    before_reboot = stale(
        tmp_path, "rebooted", __meta_harness_boot="another", __meta_harness_pid=str(os.getpid())
    )
    kept = [
        stale(
            tmp_path, "lives", **json.loads(announcement(tmp_path).text())[0]["labels"] | {"run_id": "lives"}
        ),
        tmp_path / f"text.{host_name()}.json",
        tmp_path / f"list.{host_name()}.json",
        tmp_path / f"fifo.{host_name()}.json",
        tmp_path / f"link.{host_name()}.json",
        stale(tmp_path).rename(tmp_path / "other.elsewhere.json"),
    ]
    stale(tmp_path)
    kept[1].write_text("\x00{")
    kept[2].write_text('[{"targets": [[]], "labels": {"run_id": null}}, 7]')
    os.mkfifo(kept[3])
    kept[4].symlink_to(gone)
    said = clear_stale(announcement(tmp_path))
    assert {line.split()[4].rstrip(":") for line in said} == {"other", "rebooted"}
    assert not gone.exists()
    assert not before_reboot.exists()
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_who_had_our_address_before_is_removed(tmp_path):
    file = stale(tmp_path, __meta_harness_start_time_ticks="1")
    (said,) = clear_stale(announcement(tmp_path, port=2))
    assert "its address is ours now" in said
    assert not file.exists()


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://127.0.0.1:14090/metrics", "127.0.0.1:14090"),
        ("https://[::1]:14090/metrics", "[::1]:14090"),
        ("http://0.0.0.0:80/metrics", f"{os.uname().nodename}:80"),
    ],
)
def test_addresses(tmp_path, url, target):
    made = Announcement(folder=tmp_path, run_id="a", url=url, run_dir=tmp_path)
    assert made.target == target
    assert json.loads(made.text())[0]["labels"]["__scheme__"] == url.partition(":")[0]


def test_a_run_directory_that_is_no_text_can_be_announced(tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    made = Announcement(
        folder=tmp_path, run_id="a", url="http://127.0.0.1:1/metrics", run_dir=type(tmp_path)(odd)
    )
    assert "�" in json.loads(made.text())[0]["labels"]["__meta_harness_run_dir"]
    assert sys.getfilesystemencoding() == "utf-8"
