"""The harness in an environment of its own (as pipx makes it), the trainer in another: `emit` works across.

Into the trainer's environment goes what `pip install --no-deps` puts there, and of that only the modules that
emit stands on: anything else it touched would be an ImportError. Where another Python is installed, the
trainer has that one.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import run as runs
from tests.support import stalls, venvs
from tests.support.env import REPOSITORY, clean_env
from tests.support.programs import completed
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

_OTHERS = tuple(f"python3.{minor}" for minor in (13, 12, 11, 10))
_EMIT = "harness/emit.py"


@cache
def other_python() -> str | None:
    """Another version of Python that the harness supports, from PATH, pyenv or uv; None without one."""
    homes = [os.environ.get("PYENV_ROOT", ""), str(Path.home() / ".pyenv")]
    found = [str(path) for home in homes if home for path in Path(home).glob("versions/3.*/bin/python3")]
    found += [str(path) for path in (Path.home() / ".local/share/uv/python").glob("*/bin/python3")]
    # All that PATH has, not only the first: pyenv's shims stand before what they hide, and refuse to run.
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found += [
        f"{place}/{name}" for place in places for name in _OTHERS if os.access(f"{place}/{name}", os.X_OK)
    ]
    for path in sorted(found, reverse=True):
        asked = "import sys, venv; print('%d.%d' % sys.version_info[:2], sys.implementation.name)"
        try:
            done = completed([path, "-c", asked], timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            continue
        version = re.match(r"3\.(\d+) cpython", done.stdout)
        if version and int(version[1]) >= 10 and int(version[1]) != sys.version_info.minor:
            return path
    return None


def what_emit_stands_on() -> set[str]:
    """The package's files that emit imports, directly or not, found in their source."""
    found, todo = {"harness/__init__.py"}, [_EMIT]
    while todo:
        name = todo.pop()
        found.add(name)
        for node in ast.walk(ast.parse((REPOSITORY / name).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness"):
                names = [f"{node.module}.{each.name}" for each in node.names] + [str(node.module)]
                files = [f"{each.replace('.', '/')}.py" for each in names]
                todo += [each for each in files if (REPOSITORY / each).is_file() and each not in found]
    return found


def test_emit_stands_on_few_files() -> None:
    names = {Path(name).stem for name in what_emit_stands_on()}
    assert names == {"__init__", "emit", "wire", "place", "ranks", "record", "values"}


@pytest.fixture(params=["same", "other"])
def trainers_python(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    python = sys.executable if request.param == "same" else other_python()
    if python is None:
        pytest.skip("no second version of Python, 3.10 or newer, on PATH, under pyenv or uv")
    made = venvs.make(tmp_path / "trainer", python=python)
    packages = venvs.site_packages(made)
    for name in what_emit_stands_on():
        (packages / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, packages / name)
    return made


@pytest.fixture
def run(tmp_path: Path, trainers_python: Path) -> Iterator[runs.Run]:
    # The harness is found where it is installed, and the trainer's Python is told nothing of that.
    harness = venvs.make(tmp_path / "harness")
    venvs.share_packages(harness)
    (venvs.site_packages(harness) / "harness.pth").write_text(f"{REPOSITORY}\n")
    env = clean_env(PATH=os.environ.get("PATH", os.defpath))
    del env["PYTHONPATH"]
    shutil.copy(stalls.TRAINER, tmp_path / "train.py")
    started = runs.start(
        tmp_path / "run",
        *(str(trainers_python), str(tmp_path / "train.py"), "--fault", "sleep", "--at", "40"),
        options=("--metrics-port", "0", *stalls.LIMIT),
        env=env,
        harness=(str(harness), "-m", "harness"),
        cwd=tmp_path,
    )
    yield started
    started.clean_up()


@pytest.mark.needs("py-spy")
def test_steps_stages_and_incidents_work_across(run: runs.Run, trainers_python: Path) -> None:
    opened = stalls.wait_for_incident(run.directory)
    assert (opened["stage"], opened["phase"], opened["step"]) == ("train", "data", 39)
    assert "in wait_for_data" in opened["headline"]
    served = stalls.metrics(run)
    assert served['trainer_step{rank="0"}'] == 39
    assert served['trainer_stage{rank="0",stage="train"}'] == 1
    assert served['trainer_up{rank="0"}'] == 1

    def versions() -> str | None:
        return run.record()["versions"].get("command", {}).get("interpreter")

    assert wait_for(versions, what="the trainer's interpreter in run.json") == str(trainers_python)
    assert run.process is not None
    run.process.send_signal(signal.SIGTERM)
    assert run.end()[0] == 128 + signal.SIGTERM
    assert "No module named" not in run.log()


def test_an_old_backport_beside_the_harness_costs_no_evidence(tmp_path: Path) -> None:
    """dataclasses 0.6 in site-packages, for one: it must not come before the standard library's."""
    harness = venvs.make(tmp_path / "harness")
    venvs.share_packages(harness)
    packages = venvs.site_packages(harness)
    shutil.copytree(
        REPOSITORY / "harness", packages / "harness", ignore=shutil.ignore_patterns("__pycache__")
    )
    (packages / "dataclasses.py").write_text("raise ImportError('an old backport')\n")
    env = clean_env()
    del env["PYTHONPATH"]
    run = runs.start(
        tmp_path / "run",
        *runs.python("import time; time.sleep(1000)"),
        options=("--stall-timeout", "log=1", "--on-stall", "terminate"),
        env=env,
        harness=(str(harness), "-m", "harness"),
        cwd=tmp_path,
    )
    try:
        status, output = run.end()
        assert status == 124, output
        [incident] = stalls.incidents(run.directory)
        assert incident["evidence"] == "whole"
    finally:
        run.clean_up()


def test_the_harness_where_only_emit_can_work_says_so_in_a_line() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "harness", "status"],  # -S: no installed package is seen
        env=clean_env(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 125
    assert re.match(r"harness: \w+ is not installed beside .*--no-deps", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
