"""What holds for the whole observation: the host, and each process's identity, files, limits and environment.

Each read stands in the tuple below with a name and is given up on its own. Not covered: what changes
(`case`).
"""

from __future__ import annotations

import functools
import os
import socket
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from harness.collect import cgroup, descriptors, environment, sockets
from harness.collect.deadline import all_of, missing_from
from harness.collect.procparse import parse_signals
from harness.evidence import Host, Missing, Piece, Process, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.collect.procfs import Proc
    from harness.collect.procparse import Stat
    from harness.evidence import Signals, Socket

T = TypeVar("T")

_EACH_SECONDS = 1.0


def _command(_: Proc, pid: int) -> tuple[str, ...]:
    return environment.scrub_command(psutil.Process(pid).cmdline()[:1000])


def _executable(_: Proc, pid: int) -> str:
    return psutil.Process(pid).exe()


def _cwd(_: Proc, pid: int) -> str:
    return psutil.Process(pid).cwd()


def _uid(_: Proc, pid: int) -> int:
    return int(psutil.Process(pid).uids().effective)


def _environment(proc: Proc, pid: int) -> dict[str, str]:
    return environment.select(environment.parse(proc.read(pid, "environ")))


def _signals(proc: Proc, pid: int) -> Signals:
    return parse_signals(proc.status(pid))


def _namespace_pids(proc: Proc, pid: int) -> tuple[int, ...]:
    return tuple(int(word) for word in proc.status(pid)["NSpid"].split())


def _tracer(proc: Proc, pid: int) -> int:
    return int(proc.status(pid)["TracerPid"])


def _sockets(proc: Proc, pid: int) -> tuple[Socket, ...]:
    links = (os.readlink(each) for each in proc.path(pid, "fd").iterdir())  # noqa: PTH115 - text, not a path
    inodes = {int(link[8:-1]) for link in links if link.startswith("socket:[")}
    return sockets.of_process(proc, pid, inodes)


# Field of Process, and how it is read.
PROCESS_READS: tuple[tuple[str, Callable[[Proc, int], object]], ...] = (
    ("tracer_pid", _tracer),
    ("command", _command),
    ("executable", _executable),
    ("cwd", _cwd),
    ("uid", _uid),
    ("namespace_pids", _namespace_pids),
    ("signals", _signals),
    ("memory", lambda proc, pid: proc.memory(pid)),
    ("environment", _environment),
    ("descriptors", descriptors.of_process),
    ("sockets", _sockets),
    ("cgroup", cgroup.of_process),
)


def process(
    proc: Proc, stat: Stat, at_seconds: float, uptime_seconds: Piece[float], seconds: float
) -> Process:
    """All facts of one process; what cannot be read in time is Missing."""
    reads = [functools.partial(read, proc, stat.pid) for _, read in PROCESS_READS]
    results = all_of(reads, seconds, each_seconds=_EACH_SECONDS)
    pieces: dict[str, Any] = {
        name: result if isinstance(result, Missing) else Reading(value=result, at_seconds=at_seconds)
        for (name, _), result in zip(PROCESS_READS, results, strict=True)
    }
    age: Piece[float] = uptime_seconds
    if isinstance(uptime_seconds, Reading):
        age = Reading(value=max(0.0, uptime_seconds.value - stat.start_time_ticks / os.sysconf("SC_CLK_TCK")))
    return _process(stat, pieces, age, Reading(value=stat.flags, at_seconds=at_seconds))


def _process(stat: Stat, pieces: Mapping[str, Any], age: Piece[float], flags: Piece[int]) -> Process:
    return Process(
        pid=stat.pid,
        ppid=stat.ppid,
        start_time_ticks=stat.start_time_ticks,
        name=stat.name,
        kernel_thread=stat.kernel_thread,
        state=stat.state,
        session=stat.session,
        process_group=stat.process_group,
        age_seconds=age,
        flags=flags,
        **pieces,
    )


def host(proc: Proc, tools: dict[str, str]) -> Host:
    """The machine, and who looks."""
    kernel = os.uname()
    memory = _try(psutil.virtual_memory)
    return Host(
        name=socket.gethostname(),
        boot_id=_try(lambda: proc.read("sys", "kernel", "random", "boot_id").decode("ascii").strip()),
        kernel=kernel.release,
        machine=kernel.machine,
        clock_ticks_per_second=os.sysconf("SC_CLK_TCK"),
        page_size_bytes=os.sysconf("SC_PAGE_SIZE"),
        cpu_count=os.cpu_count() or 1,
        memory_total_bytes=Reading(value=memory.value.total) if isinstance(memory, Reading) else memory,
        memory_available_bytes=Reading(value=memory.value.available)
        if isinstance(memory, Reading)
        else memory,
        load=_try(os.getloadavg),
        yama_scope=_try(lambda: int(proc.read("sys", "kernel", "yama", "ptrace_scope"))),
        observer_uid=os.geteuid(),
        observer_pid=os.getpid(),
        tools=tools,
    )


def uptime(proc: Proc) -> Piece[float]:
    """Seconds since boot."""
    return _try(lambda: float(proc.read("uptime").split()[0]))


def _try(read: Callable[[], T]) -> Piece[T]:
    try:
        return Reading(value=read())
    except Exception as error:  # noqa: BLE001 - a collector's failure is its own
        return missing_from(error)


def unread(stat: Stat, why: Missing) -> Process:
    """A process of which nothing but its line in /proc could be read."""
    return _process(stat, {name: why for name, _ in PROCESS_READS}, why, Reading(value=stat.flags))
