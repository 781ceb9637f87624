"""A Case made by hand, for tests of what is a pure function of one."""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.evidence import (
    Activity,
    Case,
    Frame,
    Host,
    IoCounters,
    Missing,
    Process,
    ProcessSample,
    Reading,
    Sample,
    Stacks,
    Target,
    ThreadSample,
    ThreadStack,
)

NONE = Missing(reason="unavailable", detail="not in this test")
PID = 4711


def stack(*frames: Frame, tid: int = PID, name: str = "MainThread", gil: bool = False) -> ThreadStack:
    return ThreadStack(
        tid=Reading(value=tid),
        name=name,
        active=Reading(value=gil),
        owns_gil=Reading(value=gil),
        frames=frames,
    )


def frame(file: str = "/home/u/loader.py", line: int = 31, function: str = "fetch", **fields: Any) -> Frame:
    return Frame(file=file, line=line, function=function, **fields)


def process(pid: int = PID, **changes: Any) -> Process:
    pieces = {
        field.name: NONE
        for field in dataclasses.fields(Process)
        if field.name
        not in (
            "pid",
            "ppid",
            "start_time_ticks",
            "name",
            "kernel_thread",
            "state",
            "session",
            "process_group",
        )
    }
    base = Process(
        pid=pid, ppid=1, start_time_ticks=100, name="python", kernel_thread=False, state="S", **pieces
    )
    return dataclasses.replace(base, **changes)


def process_sample(
    pid: int = PID,
    *,
    at: float,
    ticks: int = 0,
    state: str = "S",
    stacks: tuple[ThreadStack, ...] | Missing = NONE,
    method: str = "blocking",
    io_bytes: int = 0,
) -> ProcessSample:
    io = IoCounters(
        read_chars=io_bytes, write_chars=0, read_calls=0, write_calls=0, read_bytes=0, write_bytes=0
    )
    activity = Activity(
        state=state, user_ticks=ticks, system_ticks=0, minor_faults=0, major_faults=0, thread_count=1
    )
    thread = ThreadSample(
        tid=pid, name="python", state=state, user_ticks=ticks, system_ticks=0, syscall=NONE, wchan=NONE
    )
    dumped = (
        stacks
        if isinstance(stacks, Missing)
        else Reading(value=Stacks(method=method, took_seconds=0.1, threads=stacks))  # type: ignore[arg-type]
    )
    return ProcessSample(
        pid=pid,
        start_time_ticks=100,
        activity=Reading(value=activity, at_seconds=at),
        io=Reading(value=io, at_seconds=at),
        threads=Reading(value=(thread,)),
        stacks=dumped,
    )


def sample(*processes: ProcessSample, at: float, records: Any = NONE, log_bytes: Any = NONE) -> Sample:
    return Sample(at_seconds=at, processes=processes, records=records, log_bytes=log_bytes)


def case(*samples: Sample, processes: tuple[Process, ...] | None = None, **changes: Any) -> Case:
    host = Host(
        name="box",
        boot_id=NONE,
        kernel="6.1",
        machine="x86_64",
        clock_ticks_per_second=100,
        page_size_bytes=4096,
        cpu_count=2,
        memory_total_bytes=NONE,
        memory_available_bytes=NONE,
        load=NONE,
        yama_scope=NONE,
        observer_uid=0,
        observer_pid=1,
    )
    base = Case(
        taken_at_seconds=1.7e9,
        took_seconds=1.0,
        target=Target(pid=PID, start_time_ticks=Reading(value=100), run_dir=NONE),
        host=host,
        processes=(process(),) if processes is None else processes,
        samples=samples,
        pipes=NONE,
        locks=NONE,
        pressure=NONE,
        run=NONE,
        log=NONE,
        gpus=NONE,
    )
    return dataclasses.replace(base, **changes)
