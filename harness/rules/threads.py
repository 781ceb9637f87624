"""The threads of a process, each with all its samples and Python stacks side by side.

Pure, and without judgement. Kernel samples and stacks are matched by thread id, and frames are made alike
over the Python versions. Not covered: what a thread waits for (`harness.rules.waits`), what moved in it
(`harness.rules.motion`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from harness import frames as code
from harness.evidence import Reading
from harness.rules import calls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.evidence import Frame, Syscall, ThreadSample, ThreadStack
    from harness.rules.view import ProcessView

_COMPREHENSIONS = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")


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


def threads_of(process: ProcessView) -> tuple[ThreadView, ...]:
    """Every thread of a process that was seen, the main thread first."""
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
                for stack in map(_bare, filter(_is_whole, each.stacks.value.threads)):
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
            stacks=_untorn(stacks.get(tid, nothing), trusted),
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


def _is_whole(stack: ThreadStack) -> bool:
    """Whether it goes back to where its thread began: in 3.12 a generator may be seen without its callers."""
    outermost = next((frame for frame in reversed(stack.frames) if not frame.native), None)
    return outermost is None or _own_name(outermost.function) != "<genexpr>"


def _untorn(stacks: Sequence[ThreadStack | None], trusted: Sequence[bool]) -> tuple[ThreadStack | None, ...]:
    """Without those that were torn: of a thread that ran meanwhile, parts of two stacks may be read as one.

    A whole one begins where those begin that were read while the process was paused.
    """
    begins = {
        _begin(stack)
        for stack, paused in zip(stacks, trusted, strict=True)
        if stack is not None and paused and stack.frames
    }
    return tuple(
        stack if paused or stack is None or not begins or _begin(stack) in begins else None
        for stack, paused in zip(stacks, trusted, strict=True)
    )


def _begin(stack: ThreadStack) -> tuple[str, str]:
    frame = next((frame for frame in reversed(stack.frames) if not frame.native), None)
    return (frame.file, frame.function) if frame is not None else ("", "")


def _bare(stack: ThreadStack) -> ThreadStack:
    """Functions by their own name: before Python 3.11 a dump tells no class with it.

    A comprehension is part of the function that it stands in: before 3.12 it has a frame of its own. In a
    worker of multiprocessing what started it is left out: after a fork that is its parent's stack.
    """
    frames: tuple[Frame, ...] = ()
    for frame in map(_of_the_library, reversed(stack.frames)):
        name = frame.function if frame.native else _own_name(frame.function)
        if name in _COMPREHENSIONS and frames and frames[0].file == frame.file:
            name = frames[0].function
        frames = (frame if name == frame.function else replace(frame, function=name), *frames)
    begins = next((at for at, frame in enumerate(frames) if begins_worker(frame)), 0)
    return replace(stack, frames=frames[:begins] if begins else frames)


def _of_the_library(frame: Frame) -> Frame:
    """The package `multiprocess`, which datasets and pathos use, is multiprocessing under another name."""
    _, found, module = frame.file.rpartition("/site-packages/multiprocess/")
    return replace(frame, file=f"/lib/python3/multiprocessing/{module}") if found else frame


def begins_worker(frame: Frame) -> bool:
    """Whether multiprocessing begins a process of its own with this frame."""
    return frame.function.endswith("_bootstrap") and frame.file.endswith("multiprocessing/process.py")


def _own_name(function: str) -> str:
    return function.rpartition(".")[2]


def _name(stacks: Sequence[ThreadStack | None], samples: Sequence[ThreadSample | None]) -> str:
    for each in (*reversed(stacks), *reversed(samples)):
        if each is not None and each.name:
            return each.name
    return ""


def user_frames(thread: ThreadView) -> tuple[Frame, ...]:
    """The frames of the user's own code, innermost first."""
    return tuple(frame for frame in thread.python_frames if code.owner(frame) == "user")


def code_frames(thread: ThreadView) -> tuple[Frame, ...]:
    """All but the standard library's and native ones, innermost first: a trainer may be a package."""
    return tuple(frame for frame in thread.python_frames if code.owner(frame) in ("user", "package"))


def package_frames(thread: ThreadView) -> tuple[Frame, ...]:
    """The frames of installed packages, innermost first."""
    return tuple(frame for frame in thread.python_frames if code.owner(frame) == "package")
