"""A healthy training that notes when each of its steps ended; and whether it still runs as it did."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.env import clean_env
from tests.support.victims import end

if TYPE_CHECKING:
    from collections.abc import Iterator

# Steps of some milliseconds in Python, or of some tens with torch; two threads wait beside them.
_TRAINING = """
import array, sys, threading, time
path, kind = sys.argv[1:3]
ended = open(path, "ab", buffering=0)
if kind == "torch":
    import torch
    torch.set_num_threads(1)
    model = torch.nn.Sequential(*[torch.nn.Linear(256, 256) for _ in range(8)])
    optimizer = torch.optim.AdamW(model.parameters())
def step():
    if kind == "torch":
        model(torch.ones(256, 256)).square().mean().backward()
        optimizer.step()
    else:
        total = 0
        for value in range(100_000):
            total += value ^ 5
def train(steps):
    for number in range(steps):
        step()
        ended.write(array.array("d", [time.monotonic()]).tobytes())
for _ in range(2):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("READY", flush=True)
train(10**9)
"""


class Stepping:
    """The process, and its steps."""

    def __init__(self, process: subprocess.Popen[bytes], ended: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._ended = ended

    def moments(self) -> list[float]:
        """When each step ended, on the monotonic clock."""
        data = self._ended.read_bytes()
        return list(memoryview(data[: len(data) // 8 * 8]).cast("d"))

    def harm(self, deadline_seconds: float = 15.0) -> str:
        """What is not as before, once whatever was left behind has had its time; empty if nothing is."""
        until = time.monotonic() + deadline_seconds
        before = len(self.moments())
        problem = "not looked at"
        while time.monotonic() < until:
            if self.process.poll() is not None:
                return f"it ended with {self.process.returncode}"
            problem = self._held()
            if not problem and len(self.moments()) > before + 2:
                return ""
            problem = problem or "it does not step"
            time.sleep(0.02)
        return problem

    def _held(self) -> str:
        """Whether it, or a thread of it, is stopped or traced."""
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            status = dict(line.split(":", 1) for line in (thread / "status").read_text().splitlines())
            if status["State"].split()[0] in ("T", "t"):
                return f"thread {thread.name} is stopped"
            if int(status["TracerPid"]):
                return f"thread {thread.name} is traced by pid {status['TracerPid'].strip()}"
        return ""


@contextlib.contextmanager
def stepping(kind: str = "python") -> Iterator[Stepping]:
    """Such a training (`python` or `torch`), once it steps."""
    with tempfile.TemporaryDirectory(prefix="steps-") as folder:
        program, ended = Path(folder) / "training.py", Path(folder) / "ended"
        program.write_text(_TRAINING)
        process = subprocess.Popen(
            [sys.executable, str(program), str(ended), kind],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=clean_env(),
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield Stepping(process, ended)
        finally:
            end(process)
