"""What the benchmarks share: the hardware in words, medians, tables, and the file of results.

A result file, results/<date>-<hardware>.md, has one section per benchmark; writing replaces that benchmark's
own section and leaves the others.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results"


def hardware() -> str:
    """The machine in one line: processor, usable cores, memory, kernel, Python."""
    cores = len(os.sched_getaffinity(0))
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (
        f"{processor()}, {cores} cores, {memory_bytes / 2**30:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def processor() -> str:
    """The processor's name."""
    names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    return names[0].strip() if names else platform.machine()


def load() -> str:
    """How busy the machine was: a figure taken on a busy machine is a poor one."""
    return f"load {os.getloadavg()[0]:.1f} before"


def spread(samples: Sequence[float]) -> tuple[float, float, float]:
    """Median, and the 10th and 90th percentile."""
    if len(samples) < 2:
        return samples[0], samples[0], samples[0]
    deciles = statistics.quantiles(samples, n=10, method="inclusive")
    return statistics.median(samples), deciles[0], deciles[-1]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table; all columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def report(title: str, body: str, *, write: bool) -> None:
    """Print a benchmark's section; with `write`, put it into today's file for this hardware."""
    section = f"## {title}\n\n{hardware()}; `{' '.join(['python', *sys.argv])}`\n\n{body.strip()}\n"
    print(section)
    if not write:
        return
    name = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
    date = dt.datetime.now(dt.timezone.utc).date()
    path = RESULTS / f"{date}-{name}-{len(os.sched_getaffinity(0))}-cores.md"
    RESULTS.mkdir(exist_ok=True)
    old = path.read_text() if path.exists() else f"# {date}, {processor()}\n"
    sections = re.split(r"^(?=## )", old, flags=re.MULTILINE)
    kept = [part.strip() + "\n" for part in sections if not part.startswith(f"## {title}\n")]
    path.write_text("\n".join([*kept, section]))
    print(f"written to {path}")
