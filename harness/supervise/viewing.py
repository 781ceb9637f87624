"""One snapshot of the run for metrics and terminal, put together from what the parts know.

Not here: looking (`observing`), showing (`metrics`, `render`).
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import Counter
from typing import TYPE_CHECKING

import psutil

from harness.snapshot import CommandView, RankState, RunView
from harness.supervise.gpus import COLLECTOR as GPUS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from harness.rundir import RunRecord
    from harness.supervise.child import Child, Ended
    from harness.supervise.gpus import GpuWatch
    from harness.supervise.observer import Observer
    from harness.supervise.tree import Tree
    from harness.watch.logtail import LogUpdate
    from harness.watch.ranks import Ranks

_USAGE_SECONDS = 5.0  # a walk over all processes, for those commands only that have no records
_CONFIG_ENDINGS = (".yaml", ".yml", ".toml", ".json")


class Usage:
    """What the command's whole tree uses, looked up now and then."""

    def __init__(self) -> None:
        self._at = -_USAGE_SECONDS
        self._found: tuple[int | None, float | None] = None, None

    def of(self, tree: Tree) -> tuple[int | None, float | None]:
        """Resident bytes and CPU seconds of its living processes."""
        now = time.monotonic()
        if now - self._at >= _USAGE_SECONDS:
            self._at = now
            resident, cpu, seen = 0, 0.0, False
            for process in tree.members():
                with contextlib.suppress(psutil.Error), process.oneshot():
                    resident += process.memory_info().rss
                    times = process.cpu_times()
                    cpu += times.user + times.system
                    seen = True
            self._found = (resident, cpu) if seen else (None, None)
        return self._found


def info_of(record: RunRecord, cwd: Path) -> Mapping[str, str]:
    """The labels of trainer_run_info, as far as they are known."""
    command = record.versions.get("command", {})
    commit = record.git.get("commit", "")
    return {
        "name": record.name,
        "config_hash": config_hash(record.command, cwd),
        "git": commit[:12] + ("-dirty" if commit and record.git.get("dirty") else ""),
        "host": record.host,
        "torch": command.get("packages", {}).get("torch", ""),
    }


def config_hash(command: Sequence[str], cwd: Path) -> str:
    """SHA-256, cut short, of the first configuration file on the command line; empty without one."""
    for each in command[1:]:
        if each.endswith(_CONFIG_ENDINGS):
            with contextlib.suppress(OSError), (cwd / each).open("rb") as file:
                return hashlib.sha256(file.read(2**20)).hexdigest()[:12]
    return ""


def view_of(
    record: RunRecord,
    *,
    info: Mapping[str, str],
    child: Child,
    ended: Ended | None,
    ranks: tuple[RankState, ...],
    followed: Ranks | None,
    log: LogUpdate | None,
    observer: Observer | None,
    usage: tuple[int | None, float | None],
    gpus: GpuWatch | None,
) -> RunView:
    """The run as it is now."""
    silent = observer.progress.get(None) if observer is not None else None
    incident = observer.open_incident if observer is not None else None
    return RunView(
        run_id=record.run_id,
        name=record.name,
        taken_wall_seconds=time.time(),
        attempt=record.attempt,
        started_wall_seconds=child.started_at_seconds,
        status=status_of(ended),
        host=record.host,
        target_steps=record.target_steps,
        info=with_device(info, gpus, ranks),
        ranks=ranks,
        command=CommandView(
            alive=ended is None,
            finished=ended is not None and ended.exit_status == 0,
            started_wall_seconds=child.started_at_seconds,
            last_progress_wall_seconds=silent.moved_at_wall_seconds if silent is not None else None,
            resident_bytes=usage[0],
            cpu_seconds=usage[1],
        ),
        limits_seconds={rank: limit.seconds for rank, limit in observer.limits().items()} if observer else {},
        stalls=observer.stalls if observer else {},
        last_incident_wall_seconds=observer.last_incident_wall_seconds if observer else None,
        stalled_since_wall_seconds=incident.last_progress_at_seconds if incident else None,
        last_checkpoint_wall_seconds=followed.checkpoints.last_wall_seconds if followed else None,
        checkpoint_interval_seconds=followed.checkpoints.interval_seconds if followed else None,
        gpus=gpus.readings if gpus is not None else (),
        collect_errors=collect_errors(observer, gpus),
        log_bytes=log.size_bytes if log is not None else None,
        log_growth_wall_seconds=log.last_growth_wall_seconds if log is not None else None,
    )


def with_device(
    info: Mapping[str, str], gpus: GpuWatch | None, ranks: tuple[RankState, ...]
) -> Mapping[str, str]:
    """The labels of trainer_run_info with the device, as far as that can be told."""
    if gpus is None:
        return info
    return {**info, "device": gpus.device(state.heartbeat.pid for state in ranks)}


def collect_errors(observer: Observer | None, gpus: GpuWatch | None) -> Mapping[str, int]:
    """Readings that failed, by collector."""
    counted = Counter(observer.collect_errors if observer is not None else {})
    if gpus is not None and gpus.errors:
        counted[GPUS] += gpus.errors
    return counted


def status_of(ended: Ended | None) -> str:
    """In a word."""
    if ended is None:
        return "running"
    if ended.exit_status == 0:
        return "finished"
    return "stopped" if ended.exit_status in (75, 130, 143) else "failed"
