"""The M7C run, replayed: one diagnosis answers all that cost days then; the README shows its screen."""

from __future__ import annotations

import contextlib
import json
import re
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import readme, zoo
from tests.support.env import clean_env
from tests.support.programs import completed
from tests.support.victims import ZOO, end
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.needs("torch", "tensorboard", "py-spy"), pytest.mark.timeout(300)]

M7C = ZOO / "m7c"
READY_SECONDS = 90.0


@contextlib.contextmanager
def replayed(folder: Path) -> Iterator[int]:
    """The run under plain python, once its training has begun."""
    process = subprocess.Popen(
        [sys.executable, str(M7C / "replay.py"), str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=clean_env(),
        start_new_session=True,
    )
    try:
        _hear_ready(process)
        yield process.pid
    finally:
        end(process)


@contextlib.contextmanager
def replayed_under_the_harness(folder: Path) -> Iterator[int]:
    """The same under `harness run`, whose trainer tells where it is."""
    program = [sys.executable, str(M7C / "replay.py"), "--lay-out", str(folder)]
    subprocess.run(program, env=clean_env(), timeout=60, check=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "run", "--metrics-port", "0", "--", "python", *_command()],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=clean_env(),
        start_new_session=True,
    )
    try:
        beat = folder / "runs" / "latest" / "ranks" / "00000.beat"
        wait_for(beat.exists, READY_SECONDS, "the trainer's heartbeat")
        from harness.watch import heartbeat

        wait_for(lambda: heartbeat.read(beat).stage == "train", READY_SECONDS, "the training")
        yield heartbeat.read(beat).pid
    finally:
        end(process)


def _command() -> tuple[str, ...]:
    text = (M7C / "replay.py").read_text()
    found = re.search(r"^COMMAND = (\(.*\))$", text, re.MULTILINE)
    assert found
    return tuple(json.loads(found[1].replace("(", "[").replace(")", "]")))


def _hear_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    said, _, _ = select.select([process.stdout], [], [], READY_SECONDS)
    assert said, "the replay said nothing in time"
    assert process.stdout.readline() == b"READY\n"


def once_in_the_loop(pid: int) -> dict[str, Any]:
    """The answer, once the loop is far from its ends: between two layers another variable moves."""

    def looked() -> dict[str, Any] | None:
        _, document, _ = zoo.diagnose(pid)
        found = re.search(r"position at (\d+) of 1,024, [\d.]+ a second", document["verdict"]["summary"])
        return document if found and int(found[1]) < 700 else None

    return wait_for(looked, 150, "a look into the loop over positions", poll_seconds=1.0)


def screen_in_the_loop(pid: int) -> str | None:
    """The screen; None if the loop came to its end meanwhile, or hardly moved on a busy machine."""
    command = [sys.executable, "-m", "harness", "diagnose", str(pid)]
    done = completed(command)
    assert done.returncode == 0, done
    words = " ".join(done.stdout.split())
    return done.stdout if re.search(r"position at \d+ of 1,024, [\d.]+ a second", words) else None


def line_of(file: str, text: str) -> int:
    lines = (M7C / file).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def check_the_verdict(document: dict[str, Any]) -> None:
    verdict = document["verdict"]
    blame = verdict["blame"]
    first, last = (
        line_of("nsa_attention.py", "for position in range"),
        line_of("nsa_attention.py", "found.append"),
    )
    assert (verdict["state"], verdict["cause"]) == ("slow", "slow-progress")
    assert blame["file"].endswith("/nsa_attention.py")
    assert blame["function"] == "select"
    assert first <= blame["line"] <= last
    summary, said = verdict["summary"], " ".join(verdict["evidence"])
    assert re.search(r"position at [\d,]+ of 1,024, [\d.]+ a second: about (\d+ min )?\d+ s more", summary), (
        summary
    )
    # What that means: each layer of each micro-batch runs it, so a step takes hours.
    assert re.search(
        r"12 rounds of layer and 16 of micro: one round of step takes at least [\d.]+ h", summary
    ), summary
    assert f"samples are in this loop (line {first})" in said
    assert re.search(r"layer is at \d+ of 12 .*micro is at \d+ of 16 .*step is at 1 of 50,000", said), said
    assert "no round of step has ended" in said
    assert ".tolist()" in said


def check_what_misled(notes: dict[str, str]) -> None:
    assert notes["lr-warmup"] == (
        "LR 1e-7 is step 1 of a 2,000-step warm-up to 2e-4, as configured: it gets there at step 2,000."
    )
    assert re.match(
        r"artifacts/tb was last written 3 h 4\d min before this process began", notes["stale-artifacts"]
    ), notes
    assert notes["tokenizer-warning"].startswith("training-old.log, of an earlier run, warns")
    assert "(1249 > 1024): harmless where documents are packed" in notes["tokenizer-warning"]


def notes_of(document: dict[str, Any]) -> dict[str, str]:
    return {each["cause"]: each["summary"] for each in document["notes"]}


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short name: a path that is longer than a line of the screen is broken in two."""
    with tempfile.TemporaryDirectory(prefix="m7c-") as name:
        yield Path(name)


def test_one_diagnosis_answers_all_of_it(folder: Path):
    with replayed(folder) as pid:
        document = once_in_the_loop(pid)
        screen = wait_for(lambda: screen_in_the_loop(pid), 150, "a screen of it", poll_seconds=1.0)
        assert (folder / "training.log").read_bytes() == b"", "what misled was an empty log"
    check_the_verdict(document)
    notes = notes_of(document)
    check_what_misled(notes)
    assert set(notes) == {"log-buffered", "lr-warmup", "stale-artifacts", "tokenizer-warning"}
    assert notes["log-buffered"].startswith("training.log is empty because stdout is a file and Python holds")
    assert readme.shape(screen) == readme.shape(readme.screen())


def test_under_the_harness_the_log_is_there_and_all_else_the_same(tmp_path: Path):
    with replayed_under_the_harness(tmp_path) as pid:
        document = once_in_the_loop(pid)
        log = (tmp_path / "runs" / "latest" / "log" / "output.log").read_text()
    check_the_verdict(document)
    notes = notes_of(document)
    check_what_misled(notes)
    assert "log-buffered" not in notes
    assert "[train] dataset=" in log
