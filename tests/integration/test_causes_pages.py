"""The commands of docs/causes, as they stand, against a process that has what they look at."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from harness.findings import CAUSES
from tests.support.env import REPOSITORY, clean_env
from tests.support.programs import completed
from tests.support.victims import end

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("py-spy")

PAGES = sorted((REPOSITORY / "docs" / "causes").glob("*.md"))
# Without these a reader has to look at /proc; a machine may lack them.
EXTRAS = ("gdb", "lsof", "ss", "nvidia-smi", "dmesg", "getent")

# A child, a pipe to it, a connection and an open file; says the pipe's name.
TARGET = """
import os, socket, subprocess, sys, time
listener = socket.create_server(("127.0.0.1", 0))
peer = socket.create_connection(listener.getsockname())
held = open("held.lock", "w")
child = subprocess.Popen([sys.executable, "-c", "import time\\nprint(1, flush=True)\\ntime.sleep(3600)"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, os.readlink(f"/proc/self/fd/{child.stdin.fileno()}"), flush=True)
while True:
    time.sleep(1)
"""


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            found += [line for line in block.splitlines() if line.strip()]
        found += re.findall(r"`((?:ls|df|cat|grep|ps|ss|py-spy|harness diagnose) [^`]+)`", page.read_text())
    return sorted(set(found))


ALL = commands()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the pages leave for the reader to fill in."""
    place = tmp_path_factory.mktemp("causes")
    (place / "target.py").write_text(TARGET)
    process = subprocess.Popen(
        [sys.executable, "target.py"],
        cwd=place,
        env=clean_env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        child, pipe = process.stdout.readline().split()
        yield {
            "PID": str(process.pid),
            "CHILD": child,
            "WORKER": child,
            "PIPE": pipe,
            "NAME": "localhost",
            "FILE": str(place / "held.lock"),
        }
    finally:
        end(process)  # type: ignore[arg-type]


def test_every_cause_has_something_to_confirm_it_by():
    for cause in CAUSES:
        page = (REPOSITORY / "docs" / "causes" / f"{cause}.md").read_text()
        assert re.search(r"## Confirm by hand\n\n```sh\n\S", page), cause
        assert re.search(r"## Mend\n\n\S", page), cause


def test_links_of_the_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+\.md)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("command", ALL)
def test_command_of_a_page(command: str, environment: dict[str, str], tmp_path: Path):
    for program in EXTRAS:
        if re.search(rf"(^|\| ){program}\b", command) and shutil.which(program) is None:
            pytest.skip(f"no program {program} on PATH")
    done = completed(
        ["bash", "-uc", command],
        cwd=tmp_path,
        env=clean_env(**environment),
        stdin=subprocess.DEVNULL,
        timeout=90,
    )
    told = done.stdout + done.stderr
    # 1: nothing found, or denied, as `dmesg` and `lsof` may be.
    assert done.returncode in (0, 1), (command, told)
    assert not re.search(r"not found|usage:|invalid option|unrecognized|syntax error|Traceback", told), told
    if command.startswith(("py-spy", "harness", "ls", "grep -E", "ps")) and "|" not in command:
        assert done.stdout.strip(), (command, told)
    if "$PIPE" in command:
        assert done.stdout.count(environment["PIPE"]) >= 2, "both its ends"


def test_the_process_was_only_looked_at(environment: dict[str, str]):
    assert os.path.exists(f"/proc/{environment['PID']}/stat")
