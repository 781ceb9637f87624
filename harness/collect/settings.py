"""Numbers that a training was configured with: from the configuration files that its command line names.

A few names of learning rates and schedules are looked for, each with a number after it, as JSON, YAML, TOML
and INI have them; nothing else of a file is kept. Files are opened as every path of a target's is (`logs`).
Not covered: options on the command line (a Case has it whole), configurations put together elsewhere.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from harness.collect.deadline import NotSeen
from harness.collect.logs import read_regular
from harness.evidence import Missing, Reading, Setting

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from harness.evidence import Process

MAX_FILES = 4
MAX_SETTINGS = 64
_MAX_BYTES = 128 * 1024
_FILE = re.compile(r"[^\s=]+\.(ya?ml|json|toml|ini|cfg|conf)$")
# `"warmup_steps": 2000,` `peak: 2e-4  # so the …` `lr = 1e-3`
_PAIR = re.compile(
    r"(?<![\w.-])[\"']?(?P<name>(?:[a-z]+_)*(?:lr|learning_rate|peak|warm_?up)(?:_[a-z]+)*)[\"']?\s*[:=]\s*"
    r"(?P<number>[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?=[\s,;}\])#]|$)",
    re.IGNORECASE | re.MULTILINE,
)


def read(processes: Sequence[Process], owners: Collection[int]) -> tuple[Setting, ...]:
    """What these processes' configuration files say; NotSeen where their commands name none."""
    paths = list(dict.fromkeys(_paths(processes)))[:MAX_FILES]
    found: list[Setting] = []
    for path in paths:
        with contextlib.suppress(OSError, NotSeen):
            data, _ = read_regular(path, owners, last_bytes=_MAX_BYTES, from_start=True)
            found += parse(data.decode("utf-8", "replace"), str(path))
    if not found:
        raise NotSeen(Missing(reason="unavailable", detail="its command names no file with a learning rate"))
    return tuple(found[:MAX_SETTINGS])


def parse(text: str, path: str) -> Iterator[Setting]:
    """The pairs of one file; comments of whole lines are passed over."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("#", "//", ";")))
    for match in _PAIR.finditer(kept):
        with contextlib.suppress(ValueError, OverflowError):
            yield Setting(
                name=match["name"].lower(), value=float(match["number"].replace("_", "")), path=path
            )


def _paths(processes: Sequence[Process]) -> Iterator[Path]:
    for process in processes:
        if not isinstance(process.command, Reading):
            continue
        for word in process.command.value[1:64]:
            name = word.rpartition("=")[2]
            if not _FILE.fullmatch(name):
                continue
            if name.startswith("/"):
                yield Path(name)
            elif isinstance(process.cwd, Reading):
                yield Path(process.cwd.value) / name
