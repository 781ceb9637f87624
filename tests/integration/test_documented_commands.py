"""Every command of README.md and docs/how-to/ is run, as it stands, in a folder where its names exist.

There, `configs/*.yaml` are a model of 50k parameters on 60 local documents, and `train.py` is the README's
own Python example with a few steps. The two set-up lines of the README are run by .ci/run, from the README.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.env import REPOSITORY, clean_env
from tests.support.programs import completed
from tests.support.wait import wait_for

DOCUMENTS = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs" / "how-to").glob("*.md")))
_PROGRAM = r"(?:harness|nsa|torchrun|curl|python3?|pip|tox)\b"
# A line of a code block (fenced with sh, or indented by four) that begins with a program.
_COMMAND = re.compile(rf"^(?P<indent> {{0,4}})(?P<command>{_PROGRAM} ?\S.*?)(?:\s{{2,}}(?:#.*|\S.*))?$")
_SET_UP = "python3 -m venv"

STALLS = """
import time
from harness import emit
emit.open(total_steps=100)
emit.stage("train")
for step in range(20):
    emit.step(step + 1)
print("standing", flush=True)
time.sleep(600)
"""


def commands() -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        fence = ""
        for line in document.read_text().splitlines():
            if line.startswith("```"):
                fence = "" if fence else line[3:] or "text"
                continue
            match = _COMMAND.match(line)
            in_block = fence == "sh" or (not fence and line.startswith("    "))
            if match and in_block and "·" not in line:
                found.append((document.name, match["command"]))
    return found


def readme_example() -> str:
    """The README's Python, with fewer steps."""
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    return code.replace("range(1000)", "range(30)")


ALL = commands()
RUN = sorted({command for _, command in ALL if not command.startswith(_SET_UP)})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has what the commands name."""
    place = tmp_path_factory.mktemp("documented")
    (place / "train.py").write_text(readme_example())
    (place / "stalls.py").write_text(STALLS)
    stalled = _shell(
        "harness run --metrics-port 0 --stall-timeout 1 --grace 1 --on-stall terminate -- python stalls.py",
        place,
        clean_env(place),
    )
    assert stalled.returncode == 124, stalled
    return place


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it for one command."""
    return Path(shutil.copytree(prepared, tmp_path / "here", symlinks=True))


def _nsa_configs(place: Path) -> None:
    from tests.support import tiny_run

    (place / "configs").mkdir(exist_ok=True)
    text = tiny_run.config(place).read_text()
    for name in ("quickstart", "m7c_125m", "m7c_125m_local"):
        (place / "configs" / f"{name}.yaml").write_text(text)


def test_the_set_up_lines_are_the_ones_that_ci_runs() -> None:
    lines = [line for line in (REPOSITORY / "README.md").read_text().splitlines() if line.startswith(_SET_UP)]
    script = (REPOSITORY / ".ci" / "run").read_text()
    wanted = re.findall(r"readme_line '?([a-z ]+?)'?\)", script)
    assert sorted(wanted) == ["harness run", "tox"]
    for words in wanted:
        assert sum(words in line for line in lines) == 1
    assert len(lines) == 2


def test_commands_are_found() -> None:
    assert len(RUN) >= 15, RUN


def _needs_torch(command: str) -> bool:
    return any(word in command for word in ("nsa ", "torchrun", "harness smoke"))


@pytest.mark.parametrize("command", [c for c in RUN if not _needs_torch(c)])
def test_command_of_the_harness(command: str, folder: Path) -> None:
    _check(command, folder)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("command", [c for c in RUN if _needs_torch(c)])
def test_command_of_the_trainer(command: str, folder: Path) -> None:
    _nsa_configs(folder)
    if "data/fineweb" in command and "fetch" not in command:
        (fetch,) = [c for c in RUN if "data fetch" in c]
        _check(fetch, folder)
    _check(command, folder)


def _check(command: str, place: Path) -> None:
    # An ellipsis stands for the reader's own command.
    command = command.replace("-- …", f"-- {sys.executable} train.py").replace(
        "python train.py", "python ./train.py"
    )
    command = command.replace("--documents 20000", "--documents 40")  # the little text has 60
    command = command.replace("--announce", "--linger 1 --announce")  # nobody comes to scrape it
    env = clean_env(place, OMP_NUM_THREADS="1", HARNESS_METRICS_PORT="0")
    if "curl" in command:
        _check_curl(command, place, env)
    elif "harness watch" in command:
        _check_watch(command, place, env)
    elif "harness diagnose" in command:
        _check_diagnose(command, place, env)
    elif "$PID" in command:  # of a process below the harness
        with _LongRun(place, env):
            pid = wait_for(lambda: _pid_of_the_command(place), 30, "the command's pid")
            done = _shell(command, place, {**env, "PID": str(pid)})
            assert done.returncode == 0, done
    elif "harness smoke" in command:
        _check_smoke(command, place, env)
    else:
        if "--run-dir runs/latest" in command:  # a run of which there is more to do
            _shell("harness run --metrics-port 0 -- python ./train.py", place, env)
        done = _shell(command, place, env)
        expected = 1 if "explain" in command else 0
        assert done.returncode == expected, (command, done.stdout[-2000:], done.stderr[-2000:])
        assert "Traceback" not in done.stdout + done.stderr


def _shell(command: str, place: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return completed(
        ["bash", "-euo", "pipefail", "-c", command], cwd=place, env=env, stdin=subprocess.DEVNULL, timeout=150
    )


def _check_curl(command: str, place: Path, env: dict[str, str]) -> None:
    with _LongRun(place, env) as port:
        words = shlex.split(command.replace("14090", port))

        def answered() -> bool:
            done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
            return "trainer_up" in done.stdout or '"status"' in done.stdout

        wait_for(answered, 30, f"an answer to {command}", poll_seconds=0.1)


def _check_smoke(command: str, place: Path, env: dict[str, str]) -> None:
    """Whole plans are run by test_smoke_stages.py; here the first stage, and that the words are right."""
    shutil.copytree(REPOSITORY / "configs" / "smoke", place / "configs" / "smoke")
    command = command.replace("--from data", "").replace("--only config,tokenizer", "")
    done = _shell(f"{command} --only environment --set disk_gb=0.01 --set memory_gb=0.01", place, env)
    if "gpu.yaml" in command and done.returncode == 1:
        assert "cpu-smoke" in done.stdout
    else:
        assert done.returncode == 0, done
    assert "Traceback" not in done.stdout + done.stderr


def _pid_of_the_command(place: Path) -> int | None:
    attempts = json.loads((place / "runs/latest/run.json").read_text())["attempts"]
    return attempts[-1]["pid"] if attempts else None


class _LongRun:
    """`harness run` on a command that stands, and the port of its metrics."""

    def __init__(self, place: Path, env: dict[str, str]) -> None:
        command = [
            sys.executable,
            "-m",
            "harness",
            "run",
            "--metrics-port",
            "0",
            "--",
            sys.executable,
            "stalls.py",
        ]
        self.process = subprocess.Popen(command, cwd=place, env=env, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> str:
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/metrics", first)
        assert found, first
        return found[1]

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)


def _check_diagnose(command: str, place: Path, env: dict[str, str]) -> None:
    target = subprocess.Popen([sys.executable, "stalls.py"], cwd=place, env=env, stdout=subprocess.PIPE)
    try:
        assert target.stdout is not None
        assert target.stdout.readline(), "stalls.py says when it stands"
        done = _shell(command, place, {**env, "PID": str(target.pid)})
        assert done.returncode == 1, done
        assert done.stdout.startswith("HUNG"), done
    finally:
        target.kill()
        target.communicate()


def _check_watch(command: str, place: Path, env: dict[str, str]) -> None:
    target = subprocess.Popen([sys.executable, "stalls.py"], cwd=place, env=env)
    try:
        command = command.replace("$PID", str(target.pid)).replace("4711", str(target.pid))
        words = [*shlex.split(command), "--metrics-port", "0"]
        watch = subprocess.Popen(words, cwd=place, env=env, stdout=subprocess.PIPE, text=True)
        assert watch.stdout is not None
        assert wait_for(watch.stdout.readline, 30)
        watch.send_signal(signal.SIGINT)
        watch.communicate(timeout=30)
        assert watch.returncode in {0, 1}
        assert target.poll() is None, "the target was touched"
    finally:
        os.kill(target.pid, signal.SIGKILL)
        target.wait()
