"""Runs of the zoo's trainer that stall: incidents, metrics and steps as a user would see them."""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

from harness.errors import RecordError
from harness.watch import heartbeat
from tests.support.env import REPOSITORY
from tests.support.wait import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import run as runs

TRAINER = str(REPOSITORY / "tests" / "zoo" / "trainer.py")
LAUNCHER = str(REPOSITORY / "tests" / "zoo" / "launcher.py")
# Low, so that a test takes seconds; by stage, since a busy machine may well start Python for longer.
LIMIT = ("--stall-timeout", "train=1.5")
DEADLINE_SECONDS = 25.0


def trainer(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, TRAINER, *arguments)


def ranks(count: int, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, LAUNCHER, str(count), "--", *trainer(*arguments))


def incidents(directory: Path) -> list[dict[str, Any]]:
    """Every incident.json, in order."""
    found = sorted((directory / "incidents").glob("[0-9]*/incident.json"))
    return [json.loads(path.read_text()) for path in found]


def wait_for_incident(directory: Path, *, closed: bool = False) -> dict[str, Any]:
    def ready() -> dict[str, Any] | None:
        found = incidents(directory)
        return found[-1] if found and (found[-1]["closed_at"] is not None) is closed else None

    return wait_for(ready, DEADLINE_SECONDS, f"a{' closed' if closed else 'n open'} incident in {directory}")


def step(directory: Path, rank: int = 0) -> int:
    """The last step of a rank's record; 0 before there is one."""
    path = directory / "ranks" / f"{rank:05d}.beat"
    try:
        return heartbeat.read(path).step or 0
    except RecordError:  # not there yet, or not begun yet
        return 0


def wait_for_step(directory: Path, number: int, rank: int = 0) -> None:
    wait_for(lambda: step(directory, rank) >= number, DEADLINE_SECONDS, f"step {number} of rank {rank}")


def metrics(run: runs.Run) -> dict[str, float]:
    """Every series served for the run: `name{labels}` to value, the run's id left out."""
    return scrape(run.record()["metrics_address"])


def scrape(address: str) -> dict[str, float]:
    with urllib.request.urlopen(address, timeout=5) as reply:
        text = reply.read().decode()
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            series, value = line.rsplit(" ", 1)
            name, _, labels = series.partition("{")
            kept = [each for each in labels.rstrip("}").split(",") if each and not each.startswith("run_id=")]
            found[name + (f"{{{','.join(kept)}}}" if kept else "")] = float(value)
    return found
