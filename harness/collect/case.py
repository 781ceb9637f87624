"""`collect`: from a process id to a Case, within a deadline, whatever the target does.

The order: who belongs to the tree; a first sample; what does not change; the other samples; what lies
beside the processes. Everything that reads has a deadline of its own (`deadline`), so that the last line
here is always reached.

Not covered: the parts (`look`, `sampling`, `beside`); judging; writing (`harness.bundle`).
"""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path

from harness.collect import beside, facts, failures, gpu, stacks
from harness.collect.deadline import Background, Deadline
from harness.collect.ladder import LadderOptions
from harness.collect.look import Look
from harness.collect.procfs import Proc
from harness.collect.sampling import Sampler
from harness.evidence import Case, Missing, Reading, Sample, Target

_GONE = Missing(reason="unavailable", detail="there is no such process (any more)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How closely to look."""

    samples: int = 3
    interval_seconds: float = 0.3
    stacks: bool = True
    blocking: bool = True
    native: bool = False
    text: bool = False
    gpu: bool = True
    width: int = 4

    def ladder(self, py_spy: str | None) -> LadderOptions:
        """How stacks are read."""
        return LadderOptions(py_spy=py_spy, blocking=self.blocking, native=self.native, text=self.text)


def collect(
    pid: int,
    *,
    run_dir: Path | None = None,
    start_time_ticks: int | None = None,
    deadline_seconds: float = 10.0,
    options: Options = Options(),
    proc_root: Path = Path("/proc"),
) -> Case:
    """Evidence about the tree of `pid`; with `start_time_ticks`, only if the pid still is that process."""
    taken_at = time.time()
    look = Look(Proc(proc_root), Deadline.after(deadline_seconds), run_dir=run_dir, width=options.width)
    py_spy = stacks.find_py_spy() if options.stacks else None
    gpus = Background(functools.partial(gpu.read_gpus, look.deadline.within(5.0))) if options.gpu else None
    members = look.members(pid, start_time_ticks)
    sampler = Sampler(look, members, options.ladder(py_spy) if options.stacks else None)
    samples: list[Sample] = []
    for index in range(options.samples if members else 0):
        if index:
            time.sleep(look.deadline.within(options.interval_seconds))
        if samples and sampler.late():
            look.error("samples", f"{index} of {options.samples} were taken: the time was over")
            break
        samples.append(sampler.sample(last=index + 1 == options.samples))
        if not index:
            look.facts(members)
            # Only now the run directory and the log are known.
            records_now, log_bytes = look.heartbeats(), look.log_bytes()
            samples[0] = dataclasses.replace(samples[0], records=records_now, log_bytes=log_bytes)
    asked = next((stat for stat in members if stat.pid == pid), None)
    traffic_seen = beside.traffic_of(look)
    found = beside.artifacts_of(look)
    case = Case(
        taken_at_seconds=taken_at,
        target=Target(
            pid=pid,
            start_time_ticks=Reading(value=asked.start_time_ticks) if asked else _GONE,
            run_dir=Reading(value=str(look.run_dir))
            if look.run_dir
            else Missing(reason="unavailable", detail="none"),
        ),
        host=facts.host(look.proc, {"py-spy": py_spy} if py_spy else {}),
        processes=look.processes,
        samples=tuple(samples),
        pipes=beside.pipes(look),
        locks=beside.locks_of(look, found),
        pressure=beside.pressure(look),
        run=beside.run(look),
        log=beside.log(look),
        gpus=gpus.result(look.deadline.within(5.0))
        if gpus
        else Missing(reason="disabled", detail="not asked for"),
        took_seconds=look.deadline.elapsed(),
        sources=beside.sources_of(look, tuple(samples)),
        artifacts=found,
        disks=beside.disks(look),
        known_lines=beside.known_lines(look, found),
        steps=beside.steps(look),
        flight=beside.flight_of(look),
        settings=beside.settings_of(look),
        traffic=traffic_seen,
    )
    case = dataclasses.replace(case, took_seconds=look.deadline.elapsed())
    return dataclasses.replace(case, errors=(*look.errors, *failures.of(case)))
