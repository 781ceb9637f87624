"""A training run that takes seconds: a model of 50k parameters on bytes of real English text."""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.support.env import clean_env

if TYPE_CHECKING:
    from pathlib import Path

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_ranks(world_size: int, *arguments: str | Path) -> list[subprocess.Popen[str]]:
    """The processes that torchrun would start, without its three seconds."""
    port = str(free_port())
    return [
        start(
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
