"""A Case, seen from above: processes with their roles and ranks, threads with all their samples side by side.

Pure, and without judgement: what rules ask for again and again is derived here once. Absent evidence stays
absent (None, or an empty tuple), so that a rule that needs it can abstain. Not covered: what a thread waits
for (`harness.rules.waits`), causes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness import frames as code
from harness.endings import signal_name
from harness.evidence import Reading
from harness.rules import calls, spawned
from harness.views import rates

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from harness.evidence import Case, Frame, Process, Stacks, Syscall, ThreadSample, ThreadStack
    from harness.findings import Role

# A process that never called exec after its fork (include/linux/sched.h).
PF_FORKNOEXEC = 0x40

_LAUNCHERS = re.compile(
    r"(^|/)(torchrun|accelerate|deepspeed|mpirun|mpiexec|srun|horovodrun|composer)$"
    r"|torch[./]distributed[./](run|launch)|accelerate[./]commands"
)
_SHELL = re.compile(r"(sh|bash|dash|zsh|ash|ksh|fish|nohup|env|timeout|time|nice|ionice|setsid|stdbuf|sudo)$")
_HELPERS = re.compile(
    r"resource_tracker|forkserver|semaphore_tracker|pt_elastic|compile_worker|harness\b.*\bkeeper"
)
_COMPREHENSIONS = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")
_WORKER_FRAMES = ("_worker_loop", "_process_worker", "worker", "_launch_process", "_bootstrap")


@dataclass(frozen=True, eq=False)
class ThreadView:
    """One thread over all samples; lists run along the samples, None where it was not seen."""

    process: ProcessView
    tid: int | None
    name: str
    samples: tuple[ThreadSample | None, ...]
    stacks: tuple[ThreadStack | None, ...]
    # Which dumps were taken while the process was paused: only their locals are to be trusted.
    trusted: tuple[bool, ...]

    @property
    def is_main(self) -> bool:
        """The thread that began the process."""
        return self.tid == self.process.pid or (self.tid is None and self.name == "MainThread")

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        """The last stack, innermost first; one read while paused if there is one. Empty if unseen."""
        for wanted in (True, False):
            for stack, trusted in zip(reversed(self.stacks), reversed(self.trusted), strict=True):
                if stack is not None and stack.frames and trusted is wanted:
                    return stack.frames
        return ()

    @cached_property
    def python_frames(self) -> tuple[Frame, ...]:
        """`frames` without native ones and our own hooks."""
        return tuple(frame for frame in self.frames if not frame.native and not code.is_hook(frame))

    @cached_property
    def native_frames(self) -> tuple[Frame, ...]:
        """The native frames of the last dump that has any, innermost first."""
        for stack in reversed(self.stacks):
            if stack is not None and (native := tuple(frame for frame in stack.frames if frame.native)):
                return native
        return ()

    @cached_property
    def user_frame(self) -> Frame | None:
        """The frame to blame: the deepest of the user's code, else of any package."""
        return code.blamed(self.python_frames)

    @property
    def last(self) -> ThreadSample | None:
        """The newest sample of the kernel's view."""
        return next((sample for sample in reversed(self.samples) if sample is not None), None)

    @property
    def state(self) -> str:
        """The kernel's letter in the newest sample, or an empty string."""
        return self.last.state if self.last else ""

    @cached_property
    def syscalls(self) -> tuple[Syscall | None, ...]:
        """The system call in each sample that shows one; None where the thread ran on a CPU."""
        return tuple(calls.standing(self.samples))

    @property
    def syscall(self) -> Syscall | None:
        """The system call that it stood in, in the newest sample that shows one."""
        return next((call for call in reversed(self.syscalls) if call is not None and call.number >= 0), None)

    @property
    def same_syscall(self) -> bool:
        """Whether every sample shows one and the same call with the same arguments."""
        return len(self.syscalls) > 1 and None not in self.syscalls and len(set(self.syscalls)) == 1

    @cached_property
    def wchans(self) -> tuple[str, ...]:
        """Where in the kernel it slept, per sample that tells."""
        return tuple(
            sample.wchan.value
            for sample in self.samples
            if sample is not None and isinstance(sample.wchan, Reading)
        )

    @cached_property
    def cpu_cores(self) -> float | None:
        """CPU used between its first and last sample, in cores; None with fewer than two."""
        seen = [
            (when, sample)
            for when, sample in zip(self.process.view.times, self.samples, strict=True)
            if sample is not None
        ]
        if len(seen) < 2:
            return None
        (begin, first), (end, last) = seen[0], seen[-1]
        if end <= begin:
            return None
        ticks = last.user_ticks + last.system_ticks - first.user_ticks - first.system_ticks
        return ticks / self.process.view.case.host.clock_ticks_per_second / (end - begin)

    @property
    def holds_gil(self) -> bool:
        """Whether every dump that tells says that this thread owns the GIL."""
        told = [
            stack.owns_gil.value
            for stack in self.stacks
            if stack is not None and isinstance(stack.owns_gil, Reading)
        ]
        return bool(told) and all(told)

    @cached_property
    def shapes(self) -> tuple[tuple[tuple[str, str, int], ...], ...]:
        """Per dump, its Python stack as (file, function, line), innermost first."""
        return tuple(
            tuple((frame.file, frame.function, frame.line) for frame in stack.frames if not frame.native)
            for stack in self.stacks
            if stack is not None
        )

    @property
    def stood_still(self) -> bool | None:
        """Whether every dump shows the same lines; None with fewer than two dumps."""
        return len(set(self.shapes)) == 1 if len(self.shapes) > 1 else None

    @cached_property
    def common(self) -> tuple[tuple[str, str], ...]:
        """The (file, function) that all dumps share, outermost first: what it did not leave."""
        stacks = [[(file, function) for file, function, _ in reversed(shape)] for shape in self.shapes]
        shared: list[tuple[str, str]] = []
        for level in zip(*stacks, strict=False):
            if len(set(level)) != 1:
                break
            shared.append(level[0])
        return tuple(shared)

    def local(self, name: str, frame: Frame | None = None) -> str | None:
        """The printed value of a local that may be trusted, of `frame` or of the innermost that has it."""
        if not self.process.has_trusted_locals:
            return None
        for each in (frame,) if frame else self.python_frames:
            for local in each.locals:
                if local.name == name:
                    return local.value
        return None

    def frame_in(self, *functions: str, module: str = "") -> Frame | None:
        """The innermost Python frame of one of these functions, in a file whose path ends with `module`."""
        for frame in self.python_frames:
            if frame.function in functions and frame.file.endswith(module):
                return frame
        return None


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
        """Whether it still ran in the last sample."""
        last = self.view.case.samples[-1] if self.view.case.samples else None
        seen = [each for each in last.processes if each.pid == self.pid] if last else []
        if not seen:
            return last is None and self.process.state not in {"Z", "X"}
        return isinstance(seen[0].activity, Reading) and seen[0].activity.value.state not in {"Z", "X"}

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
        return any(_begins_worker(frame) for stack in stacks for frame in stack.frames)

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
        return _threads(self)

    @property
    def main(self) -> ThreadView | None:
        """The main thread."""
        return next((thread for thread in self.threads if thread.is_main), None)

    @cached_property
    def role(self) -> Role:
        """What it does in the training, from its command, its stacks and its place in the tree."""
        return _role(self)

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
        for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
            if (text := self.environment.get(name, "")).isdigit():
                above = (each for each in self.ancestors if each.role == "trainer")
                inherited = any(each.environment.get(name) == text for each in above)
                return None if inherited else int(text)
        return None

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


def ended_words(exit_code: int) -> str:
    """An exit code as a user would say it."""
    if exit_code >= 0:
        return f"has ended with status {exit_code}"
    return f"has ended by {signal_name(-exit_code)}"


def _threads(process: ProcessView) -> tuple[ThreadView, ...]:
    samples: dict[int, list[ThreadSample | None]] = {}
    stacks: dict[int, list[ThreadStack | None]] = {}
    nameless: dict[str, list[ThreadStack | None]] = {}
    trusted: list[bool] = []
    count = len(process.view.case.samples)
    for index, sample in enumerate(process.view.case.samples):
        trusted.append(False)
        for each in sample.processes:
            if each.pid != process.pid:
                continue
            if isinstance(each.threads, Reading):
                for thread in each.threads.value:
                    samples.setdefault(thread.tid, [None] * count)[index] = thread
            if isinstance(each.stacks, Reading):
                trusted[-1] = each.stacks.value.method in {"blocking", "native"}
                for stack in map(_bare, each.stacks.value.threads):
                    # faulthandler tells no thread id: then the name has to tell threads apart.
                    if isinstance(stack.tid, Reading):
                        stacks.setdefault(stack.tid.value, [None] * count)[index] = stack
                    else:
                        nameless.setdefault(stack.name, [None] * count)[index] = stack
    nothing: Sequence[None] = [None] * count
    found = [
        ThreadView(
            process=process,
            tid=tid,
            name=_name(stacks.get(tid, nothing), samples.get(tid, nothing)),
            samples=tuple(samples.get(tid, nothing)),
            stacks=tuple(stacks.get(tid, nothing)),
            trusted=tuple(trusted),
        )
        for tid in sorted({*samples, *stacks}, key=lambda tid: (tid != process.pid, tid))
    ]
    for name, dumps in nameless.items():
        found.append(
            ThreadView(
                process=process,
                tid=None,
                name=name,
                samples=tuple(nothing),
                stacks=tuple(dumps),
                trusted=tuple(trusted),
            )
        )
    return tuple(found)


def _bare(stack: ThreadStack) -> ThreadStack:
    """Functions by their own name: before Python 3.11 a dump tells no class with it.

    A comprehension is part of the function that it stands in: before 3.12 it has a frame of its own. In a
    worker of multiprocessing what started it is left out: after a fork that is its parent's stack.
    """
    frames: tuple[Frame, ...] = ()
    for frame in reversed(stack.frames):
        name = frame.function if frame.native else _own_name(frame.function)
        if name in _COMPREHENSIONS and frames and frames[0].file == frame.file:
            name = frames[0].function
        frames = (frame if name == frame.function else replace(frame, function=name), *frames)
    begins = next((at for at, frame in enumerate(frames) if _begins_worker(frame)), 0)
    return replace(stack, frames=frames[:begins] if begins else frames)


def _begins_worker(frame: Frame) -> bool:
    return frame.function.endswith("_bootstrap") and frame.file.endswith("multiprocessing/process.py")


def _own_name(function: str) -> str:
    return function.rpartition(".")[2]


def _name(stacks: Sequence[ThreadStack | None], samples: Sequence[ThreadSample | None]) -> str:
    for each in (*reversed(stacks), *reversed(samples)):
        if each is not None and each.name:
            return each.name
    return ""


def _role(process: ProcessView) -> Role:
    command = process.command
    program = command[0].rsplit("/", 1)[-1] if command else process.process.name
    if any(_LAUNCHERS.search(part) for part in command[:4]) or _SHELL.match(program):
        return "launcher"
    if not process.python and not any(each.python for each in process.ancestors):
        below = (each for each in process.view.processes if each.python)
        if any(each is process for other in below for each in other.ancestors):
            return "launcher"  # make, xargs, uv: whatever it is, the training is below it
    if _HELPERS.search(process.command_text) or not process.python:
        return "helper" if process.parent is not None else "trainer"
    parent = process.parent
    if process.record is not None:
        return "trainer"
    if parent is not None and _is_worker(process, parent):
        return "trainer" if process.spawned_rank else "worker"
    return "trainer"


def _is_worker(process: ProcessView, parent: ProcessView) -> bool:
    """Whether its parent's program started it to work for it: a fork of it, or multiprocessing's spawn."""
    if process.process.executable != parent.process.executable or parent.role == "launcher":
        return False
    if "multiprocessing" in process.command_text and "spawn_main" in process.command_text:
        return True
    if process.forked is not None:
        return process.forked
    shows = any(
        frame.function in _WORKER_FRAMES and "multiprocessing" in frame.file
        for thread in process.threads
        for frame in thread.python_frames
    )
    return shows or process.command == parent.command
