"""Scrapes and log: beside a trainer that holds the GIL for ever, of 1,024 ranks, and a follower of 10 GB.

    python benchmarks/metrics.py [scrapes] [ranks] [log] [screen] [--write] [--quick]

`ranks` starts 1,024 small processes that live until it has ended; `log` needs 1 GB of disk.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support import run_parts, table
from harness.clock import SYSTEM
from harness.watch.logtail import LogFollower
from harness.watch.ranks import Ranks
from tests.support import views
from tests.support.env import REPOSITORY, clean_env

if TYPE_CHECKING:
    from collections.abc import Callable

RANKS = 1024

_HOLDS_THE_GIL = """
import re
from harness import emit
emit.open(total_steps=400, schedule={"kind": "cosine", "peak": 1e-3, "total": 400, "floor": 0.1})
emit.stage("train")
for step in range(1, 129):
    emit.phase("forward")
    emit.step(step, loss=4.8, lr=1e-3, grad_norm=1.0, tokens=940)
print("ready", flush=True)
re.match(r"(a+)+$", "a" * 64 + "b")
"""

# Forked, so that a thousand interpreters share their memory; each is a rank with a record of its own.
_RANKS = """
import os, signal, sys
from harness import emit
children = []
for rank in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        emit.open(rank=rank, world_size=int(sys.argv[1]), total_steps=400)
        emit.stage("train")
        for step in range(1, 65):
            for phase in ("data", "forward", "backward", "optimizer"):
                emit.phase(phase)
            emit.step(step, loss=4.8, lr=1e-3, grad_norm=1.0, tokens=940, memory=(1, 2, 3))
        signal.pause()
    children.append(child)
print("ready", flush=True)
sys.stdin.read()
for child in children:
    os.kill(child, signal.SIGKILL)
"""

# Scrapes from a process of its own, so that the client's work is not the server's.
_SCRAPES = """
import http.client, json, sys, time
port, count, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
seconds, size = [], 0
for _ in range(count):
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    size = len(response.read())
    assert response.status == 200
    connection.close()
    seconds.append(time.perf_counter() - began)
    time.sleep(pause)
print(json.dumps([seconds, size]))
"""


def scrape_many(port: int, count: int, pause_seconds: float) -> tuple[list[float], int]:
    """Seconds of each scrape, and the last one's size in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRAPES, str(port), str(count), str(pause_seconds)],
        env=clean_env(),
        capture_output=True,
        check=True,
        timeout=600,
    )
    seconds, size = json.loads(done.stdout)
    return seconds, size


def percentile(samples: list[float], share: float) -> float:
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * share))]


def in_ms(samples: list[float]) -> list[str]:
    figures = statistics.median(samples), percentile(samples, 0.99), max(samples)
    return [f"{1e3 * figure:.1f} ms" for figure in figures]


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


def scrapes(*, quick: bool) -> list[str]:
    """`harness run` over a trainer that holds the GIL in C for ever, scraped from another process."""
    count = 100 if quick else 1000
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        harness = subprocess.Popen(
            [
                *(sys.executable, "-m", "harness", "run", "--run-dir", str(run), "--metrics-port", "0", "--"),
                *(sys.executable, "-c", _HOLDS_THE_GIL),
            ],
            env=clean_env(),
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            until(
                lambda: (
                    (run / "log" / "output.log").exists()
                    and b"ready" in (run / "log" / "output.log").read_bytes()
                )
            )
            address = urlsplit(json.loads((run / "run.json").read_text())["metrics_address"])
            assert address.port is not None
            port = address.port
            until(lambda: b'trainer_step{rank="0"' in body_of(port))
            trainer = json.loads((run / "run.json").read_text())["attempts"][-1]["pid"]
            seconds, size = scrape_many(port, count, 0.005)
            assert b'trainer_up{rank="0"' in body_of(port)
            os.kill(trainer, signal.SIGSTOP)
            stopped, _ = scrape_many(port, count // 5, 0.005)
            os.kill(trainer, signal.SIGKILL)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(harness.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                harness.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(harness.pid, signal.SIGKILL)
            harness.wait()
    return [
        f"`/metrics` of `harness run` ({size / 1e3:.1f} kB) beside a trainer that cannot answer for itself,",
        "from another process (to reach: p99 ≤ 50 ms while the GIL is held, ≥ 500 scrapes):",
        "",
        table(
            ["the trainer", "scrapes", "median", "p99", "slowest"],
            [
                ["holds the GIL in C for ever", len(seconds), *in_ms(seconds)],
                ["is stopped (SIGSTOP)", len(stopped), *in_ms(stopped)],
            ],
        ),
    ]


def body_of(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read()
    finally:
        connection.close()


def ranks(*, quick: bool) -> list[str]:
    """1,024 living ranks of one machine: what a look and a scrape cost."""
    from harness.metrics.collector import TrainerCollector
    from harness.metrics.server import Server

    count = 128 if quick else RANKS
    with tempfile.TemporaryDirectory() as folder:
        for name in ("ranks", "events"):
            (Path(folder) / name).mkdir()
        with subprocess.Popen(
            [sys.executable, "-c", _RANKS, str(count)],
            env=clean_env(HARNESS_RUN_DIR=folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as family:
            watched = Ranks(Path(folder), clock=SYSTEM)
            states = watched.poll()
            until(lambda: len(watched.poll()) == count, 300)
            looks = []
            for _ in range(40):
                began = time.process_time()
                states = watched.poll()
                looks.append(time.process_time() - began)
            assert all(state.alive for state in states)
            view = views.view(*states, limits_seconds=dict.fromkeys(range(count), 6.0))
            server = Server(TrainerCollector(lambda: view), lambda: view, port=0)
            server.start()
            seconds, size = scrape_many(server.port, 10, 0.0)
            server.close()
            watched.close()
            family.communicate()
    share = statistics.mean(looks) / 0.5
    return [
        f"{count} living ranks, their records and processes looked at, and one `/metrics` for all",
        "(to reach: ≤ 2 s a scrape):",
        "",
        table(
            ["", "median", "p99", "slowest"],
            [
                [f"scrape, {size / 1e6:.1f} MB", *in_ms(seconds)],
                ["look, CPU time (a slice of 256 ranks)", *in_ms(looks)],
            ],
        ),
        "",
        f"Looked at twice a second that is {100 * share:.1f} % of a core.",
    ]


def log(*, quick: bool) -> list[str]:
    """10 GB through the follower, of which 1 GB is kept."""
    total = (1 if quick else 10) * 10**9
    line = b"step %09d loss 4.8123 lr 1.00e-03 tokens per second 9400\n" % 7
    block = line * (8 * 2**20 // len(line))
    rows = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as folder:
        path, index = Path(folder, "output.log"), Path(folder, "output.index")
        follower = LogFollower(path, index_path=index, keep_bytes=10**9 // (10 if quick else 1), clock=SYSTEM)
        follower.poll()
        lines = polls = 0
        longest = reading = 0.0
        marks = [total // 10, total]
        with path.open("ab", buffering=0) as file:
            while file.tell() < total:
                for _ in range(4):
                    file.write(block)
                while follower.offset < file.tell():
                    began = time.process_time()
                    lines += follower.poll().lines
                    took = time.process_time() - began
                    longest, reading, polls = max(longest, took), reading + took, polls + 1
                if file.tell() >= marks[0]:
                    marks.pop(0)
                    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                    rows.append(
                        [
                            f"{file.tell() / 1e9:.1f} GB",
                            f"{lines / 1e6:.1f} M",
                            f"{peak / 1e6:.1f} MB",
                            f"{path.stat().st_blocks * 512 / 1e9:.2f} GB",
                            f"{index.stat().st_size / 1e3:.0f} kB",
                        ]
                    )
        follower.close()
    return [
        "The log follower, alone in its process (to reach: memory flat):",
        "",
        table(["followed", "lines", "peak memory", "kept on disk", "index"], rows),
        "",
        f"{total / reading / 1e9:.1f} GB per second of CPU, {polls} polls,",
        f"the longest {1e3 * longest:.0f} ms of CPU.",
    ]


def screen(*, quick: bool) -> list[str]:
    """The live line at 2 Hz on a pseudo-terminal, with a line of output at each refresh."""
    import pty
    import threading

    from harness.render.screen import Screen

    seconds = 5 if quick else 30
    master, slave = pty.openpty()
    drained = [0]

    def read() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(master, 65536):
                drained[0] += len(data)

    threading.Thread(target=read, daemon=True).start()
    shown = Screen(descriptor=slave, environ={"TERM": "xterm-256color"}, encoding="utf-8")
    began, used = time.monotonic(), time.process_time()
    step = 0
    while time.monotonic() - began < seconds:
        step += 1
        shown.write(b"step %d loss 4.8\n" % step)
        shown.show(views.view(views.with_beat(views.state(), step=step % 400)))
        time.sleep(0.5)
    used = time.process_time() - used
    took = time.monotonic() - began
    shown.close()
    os.close(slave)
    return [
        f"The live line and a line of output, both at 2 Hz: {100 * used / took:.2f} % of a core,",
        f"{drained[0] / took / 1e3:.2f} kB/s to the terminal.",
    ]


PARTS = {
    "scrapes": ("metrics: scrapes beside a stuck trainer", scrapes),
    "ranks": ("metrics: a thousand ranks", ranks),
    "log": ("metrics: the log follower", log),
    "screen": ("metrics: the live line", screen),
}


if __name__ == "__main__":
    run_parts(__doc__, PARTS)
