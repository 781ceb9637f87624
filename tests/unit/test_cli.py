"""The command line itself: listed commands, help, mistakes, and what a command must not cost."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from harness.cli import COMMANDS
from harness.rundir import RunRecord, host_name, utc
from tests.support import nobody
from tests.support.env import clean_env
from tests.support.programs import completed

if TYPE_CHECKING:
    from pathlib import Path


def harness(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return completed([sys.executable, "-m", "harness", *arguments], cwd=cwd)


def test_every_listed_command_has_its_two_functions() -> None:
    for command in COMMANDS:
        module = importlib.import_module(f"harness.cli.{command.name}")
        assert callable(module.add_parser)
        assert callable(module.run)


def test_help_names_every_command() -> None:
    done = harness("--help")
    assert done.returncode == 0
    assert all(f"  {command.name} " in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_command_explains_itself(name: str) -> None:
    done = harness(name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: harness {name}")
    assert done.stderr == ""


def test_help_imports_nothing_heavy() -> None:
    source = (
        "import sys; from harness.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('psutil', 'rich', 'prometheus_client', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", source],
        env=clean_env(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 2),
        (["nonsense"], 2),
        (["status", "--nonsense"], 2),
        (["watch", "me"], 2),
        (["run", "--nonsense"], 125),
        (["run", "--name", "../up", "--", "true"], 125),
        (["run", "--run-id", "a b", "--", "true"], 125),
    ],
)
def test_a_mistake_ends_with_its_status_and_no_traceback(arguments: list[str], status: int) -> None:
    done = harness(*arguments)
    assert done.returncode == status
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "status"), [("run --metrics-port off -- true", 125), ("diagnose $$ --run-dir run", 2)]
)
def test_a_current_folder_that_was_removed_is_one_line(tmp_path: Path, command: str, status: int) -> None:
    place = tmp_path / "place"
    place.mkdir()
    done = completed(["sh", "-c", f"rmdir {place}; {sys.executable} -m harness {command}"], cwd=place)
    assert done.returncode == status
    assert done.stderr == "harness: the current folder has been removed. cd to one that is there\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_standard_streams_change_no_status_and_no_file(tmp_path: Path, closed: str) -> None:
    """Else the next file to be opened, a lock or a socket, would be standard output."""
    command = f"{sys.executable} -m harness run --run-dir run --metrics-port off -- sh -c 'echo said; exit 3'"
    done = subprocess.run(
        ["sh", "-c", f"{command} {closed}"],
        cwd=tmp_path,
        env=clean_env(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert (tmp_path / "run/log/output.log").read_text() == "said\n"
    assert json.loads((tmp_path / "run/run.json").read_text())["attempts"][-1]["exit_status"] == 3
    status = f"{sys.executable} -m harness status run {closed}"
    assert subprocess.run(["sh", "-c", status], cwd=tmp_path, env=clean_env(), timeout=60, check=True)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_standard_output_is_one_line(tmp_path: Path, unbuffered: str) -> None:
    make_run(tmp_path)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "harness", "status", str(tmp_path / "run")],
            env=clean_env(PYTHONUNBUFFERED=unbuffered),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 125
    assert done.stderr == "harness: standard output cannot be written: No space left on device\n"


def test_an_encoding_without_our_characters_gets_plain_ones(tmp_path: Path) -> None:
    make_run(tmp_path)
    ascii_only = clean_env(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    for arguments, words in (
        (("run",), b"FINISHED - exit status 0"),
        ((b"gone\xc3\xbc",), b"gone??: no such"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "harness", "status", *arguments],
            cwd=tmp_path,
            env=ascii_only,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert words in done.stdout + done.stderr
        assert b"fault" not in done.stderr


def make_run(folder: Path) -> None:
    command = ("run", "--run-dir", str(folder / "run"), "--metrics-port", "off", "--", "true")
    assert harness(*command).returncode == 0


def test_the_version_is_told() -> None:
    assert harness("--version").stdout.startswith("harness ")


@pytest.mark.parametrize(
    "kind",
    [
        "nothing",
        "a file",
        "an empty folder",
        "a dangling link",
        "a damaged run.json",
        "a FIFO as run.json",
        "a run.json of numbers",
    ],
)
def test_status_of_what_is_no_run_is_one_line_and_2(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run"
    if kind == "a file":
        path.touch()
    elif kind == "a dangling link":
        path.symlink_to("gone")
    elif kind != "nothing":
        path.mkdir()
        if kind == "a damaged run.json":
            (path / "run.json").write_bytes(b"\xff\x00{")
        elif kind == "a FIFO as run.json":
            os.mkfifo(path / "run.json")
        elif kind == "a run.json of numbers":
            numbers = dict.fromkeys(("run_id", "name", "created_at", "host", "cwd"), 1)
            text = json.dumps({"schema": "harness.run/1", "command": [1, 2], **numbers})
            (path / "run.json").write_text(text)
    done = harness("status", str(path))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert str(path) in done.stderr
    in_json = harness("status", "--json", str(path))
    assert in_json.returncode == 2
    assert str(path) in json.loads(in_json.stdout)["error"]


def test_output_into_a_closed_pipe_is_no_failure(tmp_path: Path) -> None:
    done = completed(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m harness run --help | head -1"], cwd=tmp_path
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.needs("root")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("report {closed}/run", "{closed}/run/run.json: cannot be read: Permission denied"),
        ("top --all --runs {closed}/runs", "{closed}/runs: Permission denied"),
        ("top --once {open}", "00000.beat: no record can be read here: Permission denied"),
        ("explain {closed}/run", "{closed}/run/case.json: cannot be read: Permission denied"),
        ("explain {open}", "{open}/incidents/001/case.json: cannot be read: Permission denied"),
        ("run --run-dir {closed}/latest -- true", "the run directory cannot be made: Permission denied"),
        ("watch --run-dir {closed}/run {pid}", "{closed}/run: no such run directory, or closed to this user"),
    ],
)
def test_what_is_closed_to_this_user_is_one_line_that_says_so(arguments: str, said: str) -> None:
    with nobody.folder() as place:
        closed, run = place / "closed", place / "open"
        closed.mkdir(mode=0o700)
        (run / "incidents" / "001").mkdir(parents=True)
        (run / "incidents" / "001").chmod(0o700)
        (run / "ranks").mkdir()
        (run / "ranks" / "00000.beat").symlink_to(closed / "memory.beat")  # as where mappings may fail
        record = RunRecord(
            run_id="r", name="n", created_at=utc(), host=host_name(), cwd="/", command=("true",)
        )
        (run / "run.json").write_text(record.to_json())
        names = {"closed": closed, "open": run, "pid": os.getpid()}
        done = nobody.harness(place, *arguments.format(**names).split())
        assert said.format(**names) in done.stdout + done.stderr
        assert "fault of the harness" not in done.stderr
