"""Limits and pressure of a process's control group, version 1 and 2.

Not covered: limits set by anything else (ulimit, a batch system's own bookkeeping).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from harness.collect.deadline import NotSeen, missing_from
from harness.collect.procparse import parse_pressure
from harness.evidence import Cgroup, Missing, Piece, Pressure, Reading

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.collect.procfs import Proc

T = TypeVar("T")

ROOT = Path("/sys/fs/cgroup")
# Version 1 writes "no limit" as the largest multiple of a page: 2**63 - 4096 and its like.
_UNLIMITED_BYTES = 2**60
_NO_LIMIT = Missing(reason="unavailable", detail="no limit is set")


def parse_membership(data: bytes) -> dict[str, str]:
    """/proc/PID/cgroup: each controller's path; version 2 stands under the empty name."""
    paths = {}
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        words = line.split(":", 2)
        if len(words) == 3:
            for controller in words[1].split(","):
                paths[controller] = words[2]
    return paths


def parse_flat(data: bytes) -> dict[str, int]:
    """Files like cpu.stat and memory.events: a key and a number on each line."""
    words = (line.split() for line in data.decode("ascii", "replace").split("\n"))
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdigit()}


def of_process(proc: Proc, pid: int, root: Path = ROOT) -> Cgroup:
    """The control group's limits; version 1 where its memory controller is in use."""
    paths = parse_membership(proc.read(pid, "cgroup"))
    if "memory" in paths or "cpu" in paths:
        return _version_1(paths, root)
    return _version_2(paths.get("", "/"), root)


def _version_2(path: str, root: Path) -> Cgroup:
    folder = _folder(root, path)
    stat = _flat(folder / "cpu.stat")
    return Cgroup(
        version=2,
        path=path,
        memory_limit_bytes=_limit(folder / "memory.max"),
        memory_used_bytes=_number(folder / "memory.current"),
        oom_kills=_from(_flat(folder / "memory.events"), lambda events: events["oom_kill"]),
        cpu_limit_cores=_read(folder / "cpu.max", _cores),
        periods=_from(stat, lambda fields: fields["nr_periods"]),
        throttled_periods=_from(stat, lambda fields: fields["nr_throttled"]),
        throttled_seconds=_from(stat, lambda fields: fields["throttled_usec"] / 1e6),
        frozen=_read(folder / "cgroup.freeze", lambda data: int(data) == 1),
        pressure=_pressure(folder),
    )


def _version_1(paths: dict[str, str], root: Path) -> Cgroup:
    memory = _folder(root / "memory", paths.get("memory", "/"))
    cpu = _folder(root / "cpu", paths.get("cpu", "/"))
    freezer = _folder(root / "freezer", paths.get("freezer", "/"))
    stat = _flat(cpu / "cpu.stat")
    return Cgroup(
        version=1,
        path=paths.get("memory") or paths.get("cpu") or "/",
        memory_limit_bytes=_limit(memory / "memory.limit_in_bytes"),
        memory_used_bytes=_number(memory / "memory.usage_in_bytes"),
        oom_kills=_from(_flat(memory / "memory.oom_control"), lambda fields: fields["oom_kill"]),
        cpu_limit_cores=_cores_1(cpu),
        periods=_from(stat, lambda fields: fields["nr_periods"]),
        throttled_periods=_from(stat, lambda fields: fields["nr_throttled"]),
        throttled_seconds=_from(stat, lambda fields: fields["throttled_time"] / 1e9),
        frozen=_read(freezer / "freezer.state", lambda data: data.strip() != b"THAWED"),
        pressure=Missing(reason="unavailable", detail="version 1 has no pressure of its own"),
    )


def _folder(root: Path, path: str) -> Path:
    """The group's folder; in a container the path may be the host's: then the root is what we see."""
    folder = root / path.lstrip("/")
    return folder if ".." not in path and folder.is_dir() else root


def _read(path: Path, parse: Callable[[bytes], T]) -> Piece[T]:
    try:
        return Reading(value=parse(path.read_bytes()))
    except FileNotFoundError:
        return Missing(reason="unavailable", detail=f"no {path.name} here")
    except (NotSeen, OSError, ValueError, LookupError) as error:
        return missing_from(error)


def _flat(path: Path) -> Piece[dict[str, int]]:
    return _read(path, parse_flat)


def _number(path: Path) -> Piece[int]:
    return _read(path, int)


def _limit(path: Path) -> Piece[int]:
    found = _read(path, lambda data: _UNLIMITED_BYTES if data.strip() == b"max" else int(data))
    return _NO_LIMIT if isinstance(found, Reading) and found.value >= _UNLIMITED_BYTES else found


def _cores(data: bytes) -> float:
    quota, period = data.split()
    if quota == b"max":
        raise NotSeen(_NO_LIMIT)
    return int(quota) / int(period)


def _cores_1(folder: Path) -> Piece[float]:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    if isinstance(quota, Missing):
        return quota
    if isinstance(period, Missing):
        return period
    return Reading(value=quota.value / period.value) if quota.value > 0 else _NO_LIMIT


def _from(fields: Piece[dict[str, int]], take: Callable[[dict[str, int]], T]) -> Piece[T]:
    if isinstance(fields, Missing):
        return fields
    try:
        return Reading(value=take(fields.value))
    except KeyError as error:
        return Missing(reason="unavailable", detail=f"no field {error} here")


def _pressure(folder: Path) -> Piece[tuple[Pressure, ...]]:
    names: tuple[Literal["cpu", "memory", "io"], ...] = ("cpu", "memory", "io")
    found = []
    for name in names:
        piece = _read(folder / f"{name}.pressure", functools.partial(parse_pressure, resource=name))
        if isinstance(piece, Missing):
            return piece
        found.append(piece.value)
    return Reading(value=tuple(found))
