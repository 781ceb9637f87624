"""What moved between the dumps of a loop that turns, or of a call into C.

Not covered: which loop to look at, and what follows from it (`spins`).
"""

from __future__ import annotations

import ast
import itertools
from typing import TYPE_CHECKING

from harness import frames as code
from harness.evidence import Frame, Reading
from harness.rules import say
from harness.rules.loops import exit_names, exit_words, touched, written_words
from harness.rules.runs import runs_again

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.rules.loops import Loop
    from harness.rules.scene import Scene
    from harness.rules.threads import ThreadView

# Threads that use less of a CPU than this do not read or write beside it.
_IDLE_CORES = 0.02


def never_ends(thread: ThreadView, frame: Frame, loop: Loop) -> float:
    """How sure it is that nothing changes on which a loop's end depends; 0 where that was not seen."""
    seen = over_dumps(thread, frame)
    changed = _changed(seen)
    hidden = {
        name
        for name in exit_names(loop) & touched(loop)
        if any(each.name == name and each.kind in ("object", "container", "numbers") for each in frame.locals)
    }
    if exit_names(loop) & changed:
        return 0.0
    if not hidden or len(seen) < 2:
        return 0.85
    # What it changes cannot be read; that none of its variables moved says that it changes nothing.
    return 0.0 if changed else 0.8


def standing_generators(scene: Scene, thread: ThreadView, frame: Frame) -> Iterator[tuple[Frame, Loop]]:
    """The endless loop of a generator that a `for` of this frame goes over, where nothing in it moves."""
    if not any(isinstance(each, ast.For) for each in scene.sources.loops(frame)[:1]):
        return
    for stack, trusted in zip(thread.stacks, thread.trusted, strict=True):
        frames = [each for each in stack.frames if not each.native] if stack is not None and trusted else []
        for inner, outer in itertools.pairwise(frames):
            called = (outer.file, outer.function) == (frame.file, frame.function)
            if not called or code.owner(inner) != "user" or not scene.sources.yields(inner):
                continue
            loop = next((each for each in scene.sources.loops(inner) if isinstance(each, ast.While)), None)
            if loop is not None and stands(inner, over_dumps(thread, inner), loop):
                yield inner, loop


def stands(frame: Frame, seen: list[Frame], loop: Loop) -> bool:
    """Whether a loop's end depends on names, all of them were read twice or more, and none of them moved."""
    names = exit_names(loop)
    written = names & touched(loop)
    readable = all(each.kind in ("number", "bool") for each in frame.locals if each.name in written)
    return bool(names) and len(seen) > 1 and readable and not names & _changed(seen)


def over_dumps(thread: ThreadView, frame: Frame) -> list[Frame]:
    """The innermost frame of the same function in every dump whose variables may be trusted."""
    found = []
    names = {each.name for each in frame.locals}
    for stack, trusted in zip(thread.stacks, thread.trusted, strict=True):
        same = [
            each
            for each in (stack.frames if stack is not None and trusted else ())
            if (each.file, each.function) == (frame.file, frame.function)
        ]
        # A comprehension has a frame of its own before 3.12, by the name of the function that it stands in.
        alike = [each for each in same if names & {local.name for local in each.locals}]
        found += (alike or same)[:1]
    return found


def _changed(seen: list[Frame]) -> set[str]:
    """Names that stood for another object, or another value, in some dump."""
    values: dict[str, set[tuple[int, str, str]]] = {}
    for frame in seen:
        for each in frame.locals:
            # A number is told by its value: the same one may be made anew.
            address = 0 if each.kind == "number" else each.address
            values.setdefault(each.name, set()).add((address, each.value, each.mark))
    return {name for name, different in values.items() if len(different) > 1}


def served(scene: Scene, thread: ThreadView, loop: Loop) -> str:
    """What another thread, seen to run, sets of that on which a loop's end depends: it may end it yet."""
    words = exit_words(loop)
    for other in thread.process.threads:
        if other is thread or not runs_again(other):
            continue
        for frame in other.python_frames:
            function = scene.sources.function(frame) if code.owner(frame) == "user" else None
            if function is not None and (both := words & written_words(function)):
                return f"{min(both)}, which {say.who(other)} sets at {say.place(frame)}"
    return ""


def calls_of_its_own(thread: ThreadView) -> int:
    """How often it read or wrote in every time between two looks; 0 where another thread may have done so."""
    process = thread.process
    if any((each.cpu_cores or 0.0) > _IDLE_CORES for each in process.threads if each is not thread):
        return 0
    counts = [
        each.io.value.read_calls + each.io.value.write_calls
        for sample in process.view.case.samples
        for each in sample.processes
        if each.pid == process.pid and isinstance(each.io, Reading)
    ]
    return min((after - before for before, after in itertools.pairwise(counts)), default=0)


def called_again(thread: ThreadView) -> str:
    """A variable of the user's that was bound anew between the dumps: the call into C is another one."""
    for frame in thread.python_frames:
        if code.owner(frame) == "user":
            seen = over_dumps(thread, frame)
            for name in dict.fromkeys(each.name for each in frame.locals if each.name.isidentifier()):
                bound = {  # a number by its value: the next one is often made where the last one was
                    (each.value if each.kind == "number" else each.address, each.mark)
                    for one in seen
                    for each in one.locals
                    if each.name == name
                }
                if len(bound) > 1:
                    return name
    return ""
