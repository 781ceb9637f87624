"""The supervisor's figures: how soon evidence is on disk, false incidents, its own CPU, its memory.

    python benchmarks/supervisor.py [evidence] [false] [cpu] [memory] [--write] [--quick]

All with real processes and default limits. `false` takes about six minutes (two of them the quickstart),
`memory` about ten and needs 1 GB of disk: 10 GB of log go through it, of which 64 MB are kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support import run_parts, table
from harness.watch import heartbeat
from tests.support.env import REPOSITORY, clean_env

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TRAINER = (sys.executable, str(REPOSITORY / "tests" / "zoo" / "trainer.py"), "--seconds", "0.1", "--quiet")
_WAIT_SECONDS = 60.0

# 10⁶ steps and 10 GB of log, as fast as the supervisor's ring of rows allows without losing any.
_FLOOD = """
import os, sys, time
from harness import emit
steps, line, per_second = int(sys.argv[1]), b"x" * int(sys.argv[2]) + b"\\n", float(sys.argv[3])
emit.open(total_steps=steps)
emit.stage("train")
began = time.monotonic()
for step in range(1, steps + 1):
    os.write(1, line)
    emit.step(step, loss=1.0, lr=1e-3, tokens=1000)
    if step % 50 == 0:
        time.sleep(max(0.0, began + step / per_second - time.monotonic()))
emit.close()
"""


@contextlib.contextmanager
def running(
    command: Sequence[str], *options: str, stdout: int = subprocess.DEVNULL
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`harness run` over `command`, in a folder of its own; all of it ended at the end."""
    folder = Path(tempfile.mkdtemp(prefix="supervisor-", dir=os.environ.get("TMPDIR", "/tmp")))
    directory = folder / "run"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "harness",
            "run",
            "--run-dir",
            str(directory),
            "--metrics-port",
            "0",
            *options,
            "--",
            *command,
        ],
        env=clean_env(home=folder, TERM="xterm"),
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stdout,
    )
    try:
        yield process, directory
    finally:
        top = psutil.Process(process.pid) if process.poll() is None else None
        for each in [*(top.children(recursive=True) if top else []), *([top] if top else [])]:
            with contextlib.suppress(psutil.Error):
                each.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def until(condition: Callable[[], object], seconds: float = _WAIT_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the benchmark's trainer did not get so far")
        time.sleep(0.02)


def incidents(directory: Path) -> list[dict[str, object]]:
    found = sorted((directory / "incidents").glob("[0-9]*/incident.json"))
    return [json.loads(path.read_text()) for path in found]


def suspicions(directory: Path) -> int:
    path = directory / "events" / "supervisor.jsonl"
    return path.read_text().count('"suspected"') if path.exists() else 0


# ── from last progress to the whole Case on disk ────────────────────────────────────────────────────────────


def evidence(*, quick: bool) -> list[str]:
    rows = []
    for fault in ("sleep", "backtrack", "gil", "spin", "sigstop"):
        seconds = []
        for _ in range(1 if quick else 3):
            with running([*TRAINER, "--fault", fault, "--at", "60"]) as (_, directory):
                case = directory / "incidents" / "001" / "case.json"
                until(case.exists)
                there = time.time()
                beat = heartbeat.read(directory / "ranks" / "00000.beat")
                seconds.append(there - beat.last_progress_wall_seconds)
        rows.append((fault, f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}"))
    worst = max(float(row[2]) for row in rows)
    return [
        "Steps of 0.1 s, default limits; seconds from the last progress until incidents/001 holds its Case.",
        "",
        table(("stall", "median s", "worst s"), rows),
        "",
        f"To reach: 10 s. Worst: {worst:.1f} s.",
    ]


# ── false incidents ─────────────────────────────────────────────────────────────────────────────────────────


def false_incidents(*, quick: bool) -> list[str]:
    share = 0.2 if quick else 1.0
    beside = [*TRAINER, "--beside-seconds", f"{60 * share}", "--every", "60", "--steps", "100", "--beside"]
    cases: list[tuple[str, list[str], int]] = [
        ("first step compiles for 40 s", [*TRAINER, "--first-seconds", f"{40 * share}", "--steps", "100"], 0),
        ("a checkpoint of 60 s", [*beside, "checkpoint"], 0),
        ("an evaluation of 60 s", [*beside, "eval"], 0),
        ("all cores kept busy by others", [*TRAINER, "--steps", f"{int(600 * share)}"], os.cpu_count() or 2),
        ("quickstart", [str(Path(sys.executable).parent / "nsa"), "train", "configs/quickstart.yaml"], 0),
    ]
    rows = []
    for name, command, spinners in cases[: 4 if quick else 5]:
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * spinners)]
        began = time.monotonic()
        try:
            with running(command) as (process, directory):
                status = process.wait(timeout=900)
                rows.append(
                    (
                        name,
                        f"{time.monotonic() - began:.0f}",
                        status,
                        suspicions(directory),
                        len(incidents(directory)),
                    )
                )
        finally:
            for each in others:
                each.kill()
                each.wait()
    total = sum(int(row[4]) for row in rows)
    return [
        table(("run", "seconds", "exit status", "suspicions", "incidents"), rows),
        "",
        f"To reach: 0 incidents. Found: {total}.",
    ]


# ── the supervisor's own CPU ────────────────────────────────────────────────────────────────────────────────


def cpu(*, quick: bool) -> list[str]:
    seconds = 15.0 if quick else 60.0
    rows = []
    for name, live in (
        ("at rest (output to no terminal)", False),
        ("with the live line on a terminal", True),
    ):
        master, slave = pty.openpty()
        with running(TRAINER, stdout=slave if live else subprocess.DEVNULL) as (process, directory):
            os.close(slave)
            until((directory / "ranks" / "00000.beat").exists)
            drain(master, 5.0)
            before, began = used(process.pid), time.monotonic()
            shown = drain(master, seconds)
            share = (used(process.pid) - before) / (time.monotonic() - began)
            rows.append((name, f"{100 * share:.2f}", f"{shown / seconds:.0f}"))
        os.close(master)
    return [
        f"Over {seconds:.0f} s of a training of 0.1 s steps; supervisor and keeper together.",
        "",
        table(("", "% of a core", "bytes/s shown"), rows),
        "",
        "To reach: 1 % at rest, 3 % with the live line.",
    ]


def used(pid: int) -> float:
    """CPU seconds of the supervisor and its keeper, not of the command below."""
    top = psutil.Process(pid)
    ours = [top, *(child for child in top.children() if "keeper.py" in " ".join(child.cmdline()))]
    return sum(sum(each.cpu_times()[:2]) for each in ours)


def drain(descriptor: int, seconds: float) -> int:
    """Be the terminal for so long; how many bytes it was shown."""
    end, shown = time.monotonic() + seconds, 0
    while (left := end - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            try:
                shown += len(os.read(descriptor, 65536))
            except OSError:  # nobody has the other end
                time.sleep(max(0.0, end - time.monotonic()))
    return shown


# ── memory over a long run, time compressed ─────────────────────────────────────────────────────────────────


def memory(*, quick: bool) -> list[str]:
    steps, line_bytes, per_second = (30_000 if quick else 1_000_000), 10_000, 1800.0
    command = [sys.executable, "-c", _FLOOD, str(steps), str(line_bytes), str(per_second)]
    sizes: list[float] = []
    with running(command, "--log-keep", "64M") as (process, directory):
        supervisor = psutil.Process(process.pid)
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                sizes.append(supervisor.memory_info().rss / 2**20)
            time.sleep(0.5)
        log = directory / "log" / "output.log"
        kept = log.stat().st_blocks * 512 / 2**20
        written = log.stat().st_size / 2**30
        rows = sum(1 for _ in (directory / "metrics.jsonl").open())
        found = len(incidents(directory))
    settled = sizes[len(sizes) // 10 :]  # the imports of the first seconds are no leak
    quarter = max(1, len(settled) // 4)
    first, last = statistics.median(settled[:quarter]), statistics.median(settled[-quarter:])
    return [
        table(
            ("figure", "value"),
            [
                ("steps, rows in metrics.jsonl", f"{steps:,}, {rows:,}"),
                ("log written, kept on disk", f"{written:.1f} GB, {kept:.0f} MB"),
                ("resident memory, first quarter", f"{first:.1f} MB"),
                ("resident memory, last quarter", f"{last:.1f} MB"),
                ("resident memory, most", f"{max(sizes):.1f} MB"),
                ("incidents", found),
            ],
        ),
        "",
        f"To reach: flat. Grown by {last - first:+.1f} MB from the first to the last quarter.",
    ]


PARTS: dict[str, tuple[str, Callable[..., list[str]]]] = {
    "evidence": ("Supervisor: from last progress to evidence on disk", evidence),
    "false": ("Supervisor: false incidents", false_incidents),
    "cpu": ("Supervisor: its own CPU", cpu),
    "memory": ("Supervisor: memory over a long run", memory),
}


if __name__ == "__main__":
    run_parts(__doc__, PARTS)
