"""`collect`: from a process id to a Case, within a deadline, whatever the target does.

The order: who belongs to the tree; a first sample; what does not change; the other samples; what lies
beside the processes. Everything that reads has a deadline of its own (`deadline`), so that the last line
here is always reached. It only looks: the one thing sent to a target is the traceback signal of a trainer
that registered it, and only where stacks were denied.

Not covered: judging; writing (`harness.bundle`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.collect import (
    artifacts,
    descriptors,
    facts,
    failures,
    flight,
    gpu,
    locks,
    logs,
    records,
    settings,
    sources,
    stacks,
    traffic,
    tree,
)
from harness.collect.deadline import Background, Deadline, NotSeen, all_of, call, piece
from harness.collect.ladder import Ladder, LadderOptions
from harness.collect.procfs import Proc, parse_pressure
from harness.evidence import (
    Case,
    CollectError,
    Missing,
    Pressure,
    Process,
    ProcessSample,
    Reading,
    Sample,
    Target,
)

if TYPE_CHECKING:
    from harness.collect.procfs import Scheduled, Stat
    from harness.evidence import (
        Artifact,
        Descriptor,
        Disk,
        FileLock,
        FlightDump,
        Host,
        Json,
        KnownLine,
        Log,
        Piece,
        Setting,
        Source,
        Stacks,
        Traffic,
    )

_GONE = Missing(reason="unavailable", detail="there is no such process (any more)")
_NOT_ASKED = Missing(reason="disabled", detail="no stack was asked for")
_LATE = Missing(reason="timed_out", detail="the time for looking was over")


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
    look = _Look(Proc(proc_root), Deadline.after(deadline_seconds), options, run_dir)
    gpus = Background(functools.partial(gpu.read_gpus, look.deadline.within(5.0))) if options.gpu else None
    members = look.members(pid, start_time_ticks)
    samples: list[Sample] = []
    processes: tuple[Process, ...] = ()
    for index in range(options.samples if members else 0):
        if index:
            time.sleep(look.deadline.within(options.interval_seconds))
        if samples and look.late():
            look.error("samples", f"{index} of {options.samples} were taken: the time was over")
            break
        samples.append(look.sample(members, last=index + 1 == options.samples))
        if not index:
            processes = look.facts(members)
            # Only now the run directory and the log are known.
            records_now, log_bytes = look.heartbeats(), look.log_bytes()
            samples[0] = dataclasses.replace(samples[0], records=records_now, log_bytes=log_bytes)
    asked = next((stat for stat in members if stat.pid == pid), None)
    traffic_seen = look.traffic()
    found = look.artifacts()
    case = Case(
        taken_at_seconds=taken_at,
        target=Target(
            pid=pid,
            start_time_ticks=Reading(value=asked.start_time_ticks) if asked else _GONE,
            run_dir=Reading(value=str(look.run_dir))
            if look.run_dir
            else Missing(reason="unavailable", detail="none"),
        ),
        host=look.host(),
        processes=processes,
        samples=tuple(samples),
        pipes=piece(functools.partial(descriptors.pipes, look.proc, look.inodes("pipe")), look.deadline, 1.0),
        locks=look.locks(found),
        pressure=piece(look.pressure, look.deadline, 0.5),
        run=piece(lambda: records.run_json(look.run_dir, look.owners()), look.deadline, 0.5),
        log=look.log(),
        gpus=gpus.result(look.deadline.within(5.0))
        if gpus
        else Missing(reason="disabled", detail="not asked for"),
        took_seconds=look.deadline.elapsed(),
        sources=look.sources(tuple(samples)),
        artifacts=found,
        disks=look.disks(),
        known_lines=look.known_lines(found),
        steps=look.steps(),
        flight=look.flight(),
        settings=look.settings(),
        traffic=traffic_seen,
    )
    case = dataclasses.replace(case, took_seconds=look.deadline.elapsed())
    return dataclasses.replace(case, errors=(*look.errors, *failures.of(case)))


class _Look:
    """One observation: what its parts share."""

    def __init__(self, proc: Proc, deadline: Deadline, options: Options, run_dir: Path | None) -> None:
        self.proc = proc
        self.deadline = deadline
        # Stacks may take all the time they get: the rest needs some too.
        self._sampling = deadline.before(min(1.5, 0.2 * deadline.left()))
        self.options = options
        self.run_dir = run_dir
        self.errors: list[CollectError] = []
        self._processes: tuple[Process, ...] = ()
        self._ladders: dict[int, Ladder] = {}
        self._mute: set[int] = set()  # asked for their own traceback, and gave none
        self._rested: dict[int, dict[int, Scheduled]] = {}
        self._py_spy = stacks.find_py_spy() if options.stacks else None

    def error(self, collector: str, detail: str) -> None:
        """Note what no field of the Case has room for."""
        self.errors.append(CollectError(collector=collector, detail=detail))

    def late(self) -> bool:
        """Whether another sample would not be worth its while."""
        return self._sampling.left() < 0.2

    def members(self, pid: int, start_time_ticks: int | None) -> tuple[Stat, ...]:
        """The tree, unless the pid is gone or another's."""
        found = call(functools.partial(tree.members, self.proc, pid), self.deadline.within(2.0))
        if isinstance(found, Missing):
            self.error("tree", found.detail)
            return ()
        asked = next((stat for stat in found if stat.pid == pid), None)
        if asked is None:
            self.error("tree", f"there is no process {pid} (any more)")
            return ()
        if start_time_ticks is not None and asked.start_time_ticks != start_time_ticks:
            self.error("tree", f"process {pid} has ended; the pid belongs to another one now")
            return ()
        if len(found) >= tree.MAX_PROCESSES:
            self.error("tree", f"only {tree.MAX_PROCESSES} processes of the tree were looked at")
        ladder = LadderOptions(
            py_spy=self._py_spy,
            blocking=self.options.blocking,
            native=self.options.native,
            text=self.options.text,
        )
        self._ladders = {
            stat.pid: Ladder(self.proc, stat.pid, stat.start_time_ticks, ladder) for stat in found
        }
        return found

    def host(self) -> Host:
        """The machine."""
        return facts.host(self.proc, {"py-spy": self._py_spy} if self._py_spy else {})

    def sample(self, members: tuple[Stat, ...], *, last: bool) -> Sample:
        """The whole tree once: first /proc of all processes, then the stacks."""
        at = self.deadline.elapsed()
        reads = [functools.partial(self._counters, stat) for stat in members]
        width = self.options.width
        counted = all_of(reads, self.deadline.within(3.0), width=width, each_seconds=1.0)
        samples = [
            _unread(stat, found) if isinstance(found, Missing) else found
            for stat, found in zip(members, counted, strict=True)
        ]
        if self.options.stacks:
            # The first says what py-spy could not do; from then on the trainer's own traceback stands in.
            own = last or bool(self._processes)
            dumps = [functools.partial(self._stacks, each, own) for each in samples]
            found_stacks = all_of(dumps, self._sampling.left(), width=width)
            samples = [
                dataclasses.replace(each, stacks=found)
                for each, found in zip(samples, found_stacks, strict=True)
            ]
        if not last:
            # From here to the next sample nothing of ours pauses a process.
            counts = [functools.partial(self.proc.scheduled, stat.pid) for stat in members]
            found_counts = all_of(counts, self.deadline.within(1.0), width=width, each_seconds=0.3)
            self._rested = {
                stat.pid: found
                for stat, found in zip(members, found_counts, strict=True)
                if not isinstance(found, Missing)
            }
        return Sample(
            at_seconds=at, processes=tuple(samples), records=self.heartbeats(), log_bytes=self.log_bytes()
        )

    def _counters(self, stat: Stat) -> ProcessSample:
        pid, at = stat.pid, self.deadline.elapsed()

        def read_stat() -> Stat:
            return self.proc.same(pid, stat.start_time_ticks)

        now = call(read_stat, 1.0)
        if isinstance(now, Missing):
            return _unread(stat, now)
        return ProcessSample(
            pid=pid,
            start_time_ticks=stat.start_time_ticks,
            activity=Reading(value=now.activity, at_seconds=at),
            io=piece(lambda: self.proc.io(pid), self.deadline, 0.3),
            threads=piece(lambda: self.proc.threads(pid, self._rested.get(pid, {})), self.deadline, 0.6),
            stacks=_NOT_ASKED,
        )

    def _stacks(self, sample: ProcessSample, own: bool) -> Piece[Stacks]:
        if isinstance(sample.activity, Missing):
            return sample.activity
        found = self._ladders[sample.pid].dump(sample.threads, self._sampling)
        if own and isinstance(found, Missing) and self.run_dir is not None and sample.pid not in self._mute:
            return self._own_dump(sample, found)
        return found

    def _own_dump(self, sample: ProcessSample, otherwise: Missing) -> Piece[Stacks]:
        """Where py-spy may not look: what the trainer itself tells, if it offers to."""
        beats = self.heartbeats()
        if isinstance(beats, Missing) or self.run_dir is None:
            return otherwise
        beat = records.rank_of(beats.value, sample.pid, sample.start_time_ticks)
        if beat is None:
            return otherwise
        ask = functools.partial(
            records.faulthandler_stacks, self.proc, self.run_dir, beat, self.owners(), seconds=1.0
        )
        found = piece(ask, self.deadline, 1.5)
        if isinstance(found, Missing):
            self.error("faulthandler", f"pid {sample.pid}: {found.detail}")
            self._mute.add(sample.pid)  # each answer that does not come costs a second
            return otherwise
        return dataclasses.replace(found, value=dataclasses.replace(found.value, limits=otherwise.detail))

    def facts(self, members: tuple[Stat, ...]) -> tuple[Process, ...]:
        """What does not change, once; and the run directory, if the target names one."""
        at, up = self.deadline.elapsed(), facts.uptime(self.proc)
        seconds = self.deadline.within(3.0)
        reads = [functools.partial(facts.process, self.proc, stat, at, up, seconds) for stat in members]
        found = all_of(reads, self.deadline.within(3.5), width=self.options.width)
        self._processes = tuple(
            facts.unread(stat, result) if isinstance(result, Missing) else result
            for stat, result in zip(members, found, strict=True)
        )
        for process in self._processes:
            if self.run_dir is None:
                named = call(functools.partial(records.run_dir_of, process.environment), 0.3)
                self.run_dir = None if isinstance(named, Missing) else named
        if self.run_dir is None and any(isinstance(each.environment, Missing) for each in self._processes):
            self.run_dir = self._run_dir_near()
        return self._processes

    def _run_dir_near(self) -> Path | None:
        """Where the environment may not be read: among the runs where we stand, and where the target does."""
        places = [
            Path.cwd(),
            *(Path(each.cwd.value) for each in self._processes if isinstance(each.cwd, Reading)),
        ]
        folders = dict.fromkeys(each / "runs" for each in places)
        starts = {each.pid: each.start_time_ticks for each in self._processes}
        found = call(functools.partial(records.run_dir_near, folders, starts, self.owners()), 0.5)
        return None if isinstance(found, Missing) else found

    def owners(self) -> set[int]:
        """Whose files may be read: ours, and those of the target's users."""
        uids = {process.uid.value for process in self._processes if isinstance(process.uid, Reading)}
        return {os.geteuid(), *uids}

    def heartbeats(self) -> Piece[tuple[dict[str, Json], ...]]:
        """The records of the ranks now."""
        pids = set(self._ladders)
        return piece(lambda: records.heartbeats(self.run_dir, pids), self.deadline, 0.5)

    def inodes(self, *kinds: Literal["pipe", "file", "socket"]) -> set[int]:
        """Inodes of the tree's open descriptors of these kinds."""
        return {
            each.inode.value
            for process in self._processes
            if isinstance(process.descriptors, Reading)
            for each in process.descriptors.value
            if each.kind in kinds and isinstance(each.inode, Reading)
        }

    def locks(self, near: Piece[tuple[Artifact, ...]]) -> Piece[tuple[FileLock, ...]]:
        """File locks of the tree, on its files, and on the lock files that lie beside it."""
        pids, inodes = set(self._ladders), self.inodes("file")
        inodes |= {
            each.inode.value
            for each in (near.value if isinstance(near, Reading) else ())
            if each.kind == "lock" and isinstance(each.inode, Reading)
        }
        return piece(lambda: locks.concerning(self.proc, pids, inodes), self.deadline, 0.5)

    def traffic(self) -> Piece[tuple[Traffic, ...]]:
        """What the TCP sockets of the tree moved."""
        return piece(
            lambda: traffic.of_sockets(self.proc, set(self._ladders), self.inodes("socket")),
            self.deadline,
            0.5,
        )

    def pressure(self) -> tuple[Pressure, ...]:
        """The host's pressure."""
        names: tuple[Literal["cpu", "memory", "io"], ...] = ("cpu", "memory", "io")
        return tuple(parse_pressure(self.proc.read("pressure", name), name) for name in names)

    def sources(self, samples: tuple[Sample, ...]) -> tuple[Source, ...]:
        """The source around the frames that were seen."""
        read = functools.partial(sources.around, self.proc, self._processes, samples)
        found = call(read, self.deadline.within(1.5))
        if isinstance(found, Missing):
            self.error("sources", found.detail)
            return ()
        return found

    def artifacts(self) -> Piece[tuple[Artifact, ...]]:
        """What trainings leave behind, where this one works."""
        read = functools.partial(artifacts.near, self._processes, self.run_dir)
        return piece(read, self.deadline, 1.0)

    def disks(self) -> Piece[tuple[Disk, ...]]:
        """The file systems that it writes to."""
        return piece(functools.partial(artifacts.disks, self.proc, self._processes), self.deadline, 0.5)

    def known_lines(self, found: Piece[tuple[Artifact, ...]]) -> Piece[tuple[KnownLine, ...]]:
        """Lines that mislead, in its log and in those beside it."""
        beside = (
            [Path(each.path) for each in found.value if each.kind == "log"]
            if isinstance(found, Reading)
            else []
        )

        def read() -> tuple[KnownLine, ...]:
            with contextlib.suppress(NotSeen):
                beside.insert(0, self._log_path())
            return logs.known_lines(dict.fromkeys(beside), self.owners())

        return piece(read, self.deadline, 0.5)

    def settings(self) -> Piece[tuple[Setting, ...]]:
        """What its configuration files say of its learning rate."""
        return piece(lambda: settings.read(self._processes, self.owners()), self.deadline, 0.5)

    def flight(self) -> Piece[tuple[FlightDump, ...]]:
        """What torch's flight recorder left behind."""
        seconds = self.deadline.within(3.0)
        read = functools.partial(flight.read, self.proc, self._processes, self.owners(), seconds=seconds)
        return piece(read, self.deadline, 3.5)

    def steps(self) -> Piece[tuple[dict[str, Json], ...]]:
        """The newest steps."""
        pids = set(self._ladders)
        return piece(lambda: records.steps(self.run_dir, pids), self.deadline, 0.5)

    def log(self) -> Piece[Log]:
        """The end of what the target writes."""
        return piece(lambda: logs.tail(self._log_path(), self.owners()), self.deadline, 0.5)

    def _log_path(self) -> Path:
        asked = [each for process in self._processes for each in _descriptors_of(process)]
        return logs.log_path(self.run_dir, asked)

    def log_bytes(self) -> Piece[int]:
        """How long the log is."""

        def size() -> int:
            return logs.read_regular(self._log_path(), self.owners(), last_bytes=0)[1].st_size

        return piece(size, self.deadline, 0.3)


def _descriptors_of(process: Process) -> tuple[Descriptor, ...]:
    return process.descriptors.value if isinstance(process.descriptors, Reading) else ()


def _unread(stat: Stat, why: Missing) -> ProcessSample:
    return ProcessSample(
        pid=stat.pid, start_time_ticks=stat.start_time_ticks, activity=why, io=why, threads=why, stacks=why
    )
