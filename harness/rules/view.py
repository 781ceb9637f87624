"""A Case, seen from above: its processes with their roles and ranks, and who started whom.

Pure, and without judgement: what rules ask for again and again is derived here once. Absent evidence stays
absent (None, or an empty tuple), so that a rule that needs it can abstain. Not covered: threads
(`harness.rules.threads`), what tells a role (`harness.rules.roles`), causes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from harness.endings import ended_words
from harness.evidence import Reading
from harness.questions import rates
from harness.ranks import UnknownRankError, told
from harness.rules import roles, spawned
from harness.rules.threads import begins_worker, threads_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from harness.evidence import Case, Process, Stacks
    from harness.findings import Role
    from harness.rules.threads import ThreadView

# A process that never called exec after its fork (include/linux/sched.h).
PF_FORKNOEXEC = 0x40


@dataclass(frozen=True, eq=False)
class ProcessView:
    """One process of the tree, with its threads."""

    view: View
    process: Process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @cached_property
    def command(self) -> tuple[str, ...]:
        """Its command line; empty where it could not be read."""
        return self.process.command.value if isinstance(self.process.command, Reading) else ()

    @cached_property
    def command_text(self) -> str:
        """Its command line as one string, or its name in brackets."""
        return " ".join(self.command) or f"[{self.process.name}]"

    @property
    def parent(self) -> ProcessView | None:
        """The parent, if it is in the tree."""
        return self.view.by_pid.get(self.process.ppid)

    @cached_property
    def children(self) -> tuple[ProcessView, ...]:
        """The children in the tree."""
        return tuple(each for each in self.view.processes if each.process.ppid == self.pid)

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """The names of its environment that were kept."""
        return self.process.environment.value if isinstance(self.process.environment, Reading) else {}

    @cached_property
    def record(self) -> Mapping[str, Any] | None:
        """Its heartbeat in the newest sample, as plain data."""
        for sample in reversed(self.view.case.samples):
            if isinstance(sample.records, Reading):
                for record in sample.records.value:
                    if record.get("pid") == self.pid:
                        return record
        return None

    @cached_property
    def alive(self) -> bool:
        """Whether it still ran in the last sample that tells: one that came too late says nothing of it."""
        for sample in reversed(self.view.case.samples):
            seen = next((each for each in sample.processes if each.pid == self.pid), None)
            if seen is None:
                return False
            if isinstance(seen.activity, Reading):
                return seen.activity.value.state not in {"Z", "X"}
            if seen.activity.reason == "unavailable":
                return False
        return self.process.state not in {"Z", "X"}

    @cached_property
    def state(self) -> str:
        """The kernel's letter of its main thread in the newest sample."""
        for sample in reversed(self.view.case.samples):
            for each in sample.processes:
                if each.pid == self.pid and isinstance(each.activity, Reading):
                    return each.activity.value.state
        return self.process.state

    @cached_property
    def exit_code(self) -> int | None:
        """Of a zombie: its status, or its signal with a minus; None where that is not known."""
        for sample in reversed(self.view.case.samples):
            for each in sample.processes:
                if each.pid == self.pid and isinstance(each.activity, Reading):
                    code = each.activity.value.exit_code
                    return code.value if isinstance(code, Reading) else None
        return None

    @property
    def ended(self) -> str:
        """How it ended, in words."""
        return "has ended" if self.exit_code is None else ended_words(self.exit_code)

    @cached_property
    def cpu_cores(self) -> float | None:
        """CPU used while we looked, in cores; None where it was seen less than twice."""
        return next((rate.cpu_ratio for rate in rates(self.view.case) if rate.pid == self.pid), None)

    @cached_property
    def io_bytes(self) -> int | None:
        """Bytes read and written while we looked; None where that could not be read."""
        for rate in rates(self.view.case):
            if rate.pid == self.pid and isinstance(rate.io_bytes, Reading):
                return rate.io_bytes.value
        return None

    @cached_property
    def moved_between(self) -> int:
        """Bytes that it moved at least in each half of the time we looked; 0 where that was not read."""
        seen = [
            each.io.value.read_chars + each.io.value.write_chars
            for sample in self.view.case.samples
            for each in sample.processes
            if each.pid == self.pid and isinstance(each.io, Reading)
        ]
        if len(seen) < 3:
            return 0
        middle = seen[len(seen) // 2]
        return min(middle - seen[0], seen[-1] - middle)

    @cached_property
    def faults_per_second(self) -> float | None:
        """Pages that it touched first, in the quietest time between two samples; None if unseen."""
        seen = [
            (each.activity.at_seconds, each.activity.value.minor_faults + each.activity.value.major_faults)
            for sample in self.view.case.samples
            for each in sample.processes
            if each.pid == self.pid and isinstance(each.activity, Reading)
        ]
        return min(
            (
                (after - before) / (end - begin)
                for (begin, before), (end, after) in pairwise(seen)
                if end > begin
            ),
            default=None,
        )

    @cached_property
    def dumps(self) -> tuple[Stacks, ...]:
        """The Python stacks of each sample that has them."""
        return tuple(
            each.stacks.value
            for sample in self.view.case.samples
            for each in sample.processes
            if each.pid == self.pid and isinstance(each.stacks, Reading)
        )

    @cached_property
    def by_multiprocessing(self) -> bool:
        """Whether multiprocessing began it: what it runs is called by no module."""
        stacks = (thread for dump in self.dumps for thread in dump.threads)
        return any(begins_worker(frame) for stack in stacks for frame in stack.frames)

    @cached_property
    def spawned_rank(self) -> bool:
        """Whether it is one of several ranks that its parent's program started."""
        return (
            self.by_multiprocessing
            and self.parent is not None
            and any(each is self for each in spawned.ranks_of(self.parent))
        )

    @property
    def has_trusted_locals(self) -> bool:
        """Whether a dump was taken while it was paused."""
        return any(dump.method in {"blocking", "native"} for dump in self.dumps)

    @property
    def python(self) -> bool:
        """Whether a Python stack was seen, or its executable is a Python."""
        executable = self.process.executable
        name = executable.value.rsplit("/", 1)[-1] if isinstance(executable, Reading) else self.process.name
        return bool(self.dumps) or bool(re.match(r"python|pypy", name))

    @cached_property
    def threads(self) -> tuple[ThreadView, ...]:
        """Every thread that was seen, the main thread first."""
        return threads_of(self)

    @property
    def main(self) -> ThreadView | None:
        """The main thread."""
        return next((thread for thread in self.threads if thread.is_main), None)

    @cached_property
    def role(self) -> Role:
        """What it does in the training, from its command, its stacks and its place in the tree."""
        return roles.role_of(self)

    @cached_property
    def rank(self) -> int | None:
        """Its rank: by its heartbeat, else by its environment; workers and helpers have none of their own.

        What a rank starts inherits its environment, and is no rank by that.
        """
        if self.record is not None and isinstance(self.record.get("rank"), int):
            return int(self.record["rank"])
        if self.role != "trainer":
            return None
        if self.spawned_rank:
            return spawned.rank_in(self)
        rank = _told(self.environment)
        above = (each for each in self.ancestors if each.role == "trainer")
        return None if any(_told(each.environment) == rank for each in above) else rank

    @property
    def ancestors(self) -> Iterator[ProcessView]:
        """Its parent, that one's parent, and so on, as far as they are in the tree."""
        parent = self.parent
        while parent is not None:
            yield parent
            parent = parent.parent

    @property
    def forked(self) -> bool | None:
        """Whether it never called exec after its fork; None where that could not be read."""
        flags = self.process.flags
        return bool(flags.value & PF_FORKNOEXEC) if isinstance(flags, Reading) else None


class View:
    """All of a Case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.times: tuple[float, ...] = tuple(sample.at_seconds for sample in case.samples)
        self.processes = tuple(ProcessView(self, process) for process in case.processes)
        self.by_pid: Mapping[int, ProcessView] = {each.pid: each for each in self.processes}

    @property
    def elapsed_seconds(self) -> float:
        """Between the first and the last sample."""
        return self.times[-1] - self.times[0] if len(self.times) > 1 else 0.0

    @property
    def target(self) -> ProcessView | None:
        """The process that was asked about."""
        return self.by_pid.get(self.case.target.pid)

    @cached_property
    def ranks(self) -> tuple[ProcessView, ...]:
        """The trainers that have a rank, by rank."""
        ranked = [each for each in self.processes if each.role == "trainer" and each.rank is not None]
        return tuple(sorted(ranked, key=lambda each: each.rank or 0))

    @cached_property
    def trainers(self) -> tuple[ProcessView, ...]:
        """The processes that train: the ranks, or the one that is not a launcher, worker or helper."""
        return self.ranks or tuple(each for each in self.processes if each.role == "trainer")

    @cached_property
    def record(self) -> Mapping[str, Any] | None:
        """The heartbeat of the first trainer that has one."""
        return next((each.record for each in self.trainers if each.record is not None), None)

    @cached_property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The newest steps, oldest first; of a Case without them, the heartbeat's last."""
        if isinstance(self.case.steps, Reading):
            return self.case.steps.value
        row = (self.record or {}).get("last")
        return [row] if isinstance(row, dict) else []


def _told(environment: Mapping[str, str]) -> int | None:
    try:
        return told(environment)[0]
    except UnknownRankError:
        return None


def workers_of(process: ProcessView) -> tuple[ProcessView, ...]:
    """The live worker processes of a trainer: its children, and those of its forkserver."""
    servers = [each for each in process.children if "multiprocessing.forkserver" in each.command_text]
    below = [*process.children, *(each for server in servers for each in server.children)]
    return tuple(each for each in below if each.role == "worker" and each.alive)


def descendants(process: ProcessView) -> Iterator[ProcessView]:
    """All processes below one, nearest first."""
    todo = list(process.children)
    for each in todo:
        yield each
        todo.extend(each.children)


def serves_clients(process: ProcessView) -> int:
    """How many sockets listen on which nobody waits to be let in: a server asks for who comes at once."""
    sockets = process.process.sockets
    found = sockets.value if isinstance(sockets, Reading) else ()
    return sum(
        each.state == "LISTEN" and not each.receive_queue_bytes
        for each in found
        if each.family.startswith("tcp")
    )


def connected(process: ProcessView, state: str) -> int:
    """How many TCP sockets a process has in this state."""
    sockets = process.process.sockets
    if not isinstance(sockets, Reading):
        return 0
    return sum(each.state == state for each in sockets.value if each.family.startswith("tcp"))
