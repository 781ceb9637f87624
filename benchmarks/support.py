"""What the benchmarks share: the hardware in words, medians, tables, their parts, and the file of results.

A result file, results/<date>-<hardware>.md, has one section per benchmark; writing replaces that benchmark's
own section and leaves the others.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import re
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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


def parser_of(description: str, parts: Sequence[str]) -> argparse.ArgumentParser:
    """The command line of a benchmark in parts."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--write", action="store_true", help="into benchmarks/results")
    parser.add_argument("--quick", action="store_true", help="shorter; not for the record")
    return parser


def asked(parser: argparse.ArgumentParser, parts: Sequence[str]) -> argparse.Namespace:
    """What was asked for; all parts where none was named."""
    args = parser.parse_args()
    unknown = [part for part in args.parts if part not in parts]
    if unknown:
        parser.error(f"no part {unknown[0]!r}: there are {', '.join(parts)}")
    args.parts = args.parts or list(parts)
    return args


def run_parts(description: str, parts: Mapping[str, tuple[str, Callable[..., list[str]]]]) -> None:
    """Take the figures of the parts that were asked for, one after the other."""
    args = asked(parser_of(description, tuple(parts)), tuple(parts))
    for part in args.parts:
        title, measure = parts[part]
        busy = load()
        report(title, "\n".join([*measure(quick=args.quick), "", f"({busy})"]), write=args.write)
