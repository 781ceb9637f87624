"""A training run that takes seconds: a model of 50k parameters on bytes of real English text."""

from __future__ import annotations

import atexit
import functools
import json
import os
import pydoc_data.topics
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.env import REPOSITORY, clean_env
from tests.support.wait import wait_for

STEPS = 12


def text_file(folder: Path, name: str = "text.jsonl", documents: int = 60) -> Path:
    """Some of Python's own documentation, one document a line."""
    path = folder / name
    topics = list(pydoc_data.topics.topics.values())[:documents]
    path.write_text(
        "".join(json.dumps({"id": str(n), "text": text[:2000]}) + "\n" for n, text in enumerate(topics))
    )
    return path


def values(folder: Path) -> dict[str, Any]:
    """The configuration, to be changed and written."""
    return {
        "name": "tiny",
        "model": {
            "dim": 32,
            "layers": 2,
            "heads": 4,
            "kv_groups": 2,
            "nsa": {
                "compress_block": 8,
                "compress_stride": 4,
                "select_block": 16,
                "select_count": 4,
                "window": 16,
            },
        },
        "tokenizer": {"kind": "byte"},
        "data": {
            "source": "files",
            "paths": [str(text_file(folder))],
            "sequence_length": 48,
            "eval_fraction": 0.2,
        },
        "train": {"steps": STEPS, "micro_batch": 2, "accumulation": 2, "device": "cpu", "threads": 1},
        "schedule": {"peak": 3e-3, "warmup_steps": 4},
        "eval": {"every": 5, "batches": 2},
        "checkpoint": {"every": 2, "keep": 2},
    }


def config(folder: Path, **sections: dict[str, Any]) -> Path:
    """Write the tiny configuration, with keys of some sections changed; JSON is YAML."""
    chosen = values(folder)
    for section, changed in sections.items():
        chosen[section] = {**chosen.get(section, {}), **changed}
    path = folder / "tiny.yaml"
    path.write_text(json.dumps(chosen, indent=1))
    return path


def train_in_process(path: Path, out: Path | None, *overrides: str, **options: Any) -> None:
    """Train here, where torch is loaded already."""
    from nsa import train

    train.run(train.Options(config=path, overrides=overrides, out=out, **options))


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "nsa", *map(str, arguments)]


def start(
    *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[str]:
    """A real trainer of its own."""
    return subprocess.Popen(
        command(*arguments),
        env=env or clean_env(),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """A real trainer, to its end."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class Forked:
    """A trainer in a process of its own, without the seconds of its imports; used like a Popen."""

    def __init__(self, *arguments: str | Path, env: dict[str, str] | None = None, first: str = "") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nsa-test-")
        self._said = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        self.returncode: int | None = None
        self.pid: int = _ask(
            arguments=list(map(str, arguments)),
            env=env or clean_env(),
            stdout=str(self._said[0]),
            stderr=str(self._said[1]),
            first=first,
        )

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        if self.returncode is None:
            self.returncode = _ask(pid=self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing where it has ended: its pid may be another's by then."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def output(self) -> str:
        """What it wrote to its standard output by now."""
        return self._said[0].read_text() if self._said[0].exists() else ""

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for its end; what it wrote."""
        wait_for(lambda: self.poll() is not None, timeout, f"trainer {self.pid} to end", 0.01)
        out, err = self.output(), self._said[1].read_text() if self._said[1].exists() else ""
        self._folder.cleanup()
        return out, err


@functools.cache
def _server() -> subprocess.Popen[str]:
    """One for all tests of this pytest process; see tests/support/trainer_server.py."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.trainer_server"],
        cwd=REPOSITORY,
        env=clean_env(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def close() -> None:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.close()
        server.stdout.close()
        server.wait(60)

    atexit.register(close)
    return server


def _ask(**asked: Any) -> Any:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(asked) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_ranks(world_size: int, *arguments: str | Path) -> list[Forked]:
    """The processes that torchrun would start."""
    port = str(free_port())
    return [
        Forked(
            *arguments,
            env=clean_env(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(world_size),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            ),
        )
        for rank in range(world_size)
    ]


def rows(out: Path) -> list[dict[str, Any]]:
    """What the run wrote of its steps, over all attempts; a last line may be half-written."""
    path = out / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def losses(out: Path) -> dict[int, set[str]]:
    """For each step, every loss that any attempt had there, exact."""
    seen: dict[int, set[str]] = {}
    for row in rows(out):
        seen.setdefault(row["step"], set()).add(float(row["loss"]).hex())
    return seen


def last_step(out: Path) -> int:
    return max((row["step"] for row in rows(out)), default=0)


def checkpoint_steps(out: Path) -> list[int]:
    names = os.listdir(out / "checkpoints") if (out / "checkpoints").exists() else []
    return sorted(int(name.removeprefix("step-")) for name in names if name.startswith("step-"))
