"""A CPU burnt in one place: a loop that cannot end, one call into C, or work that takes its time.

Hung and slow are told apart by what the loop's end depends on. Where that is not seen (a list that shrinks,
an attribute), a loop is not called endless. Not covered: counters that move (`progress`).
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import re
from typing import TYPE_CHECKING

from harness import frames as code
from harness.evidence import Frame, Reading
from harness.rules import say
from harness.rules.loops import (
    does_nothing,
    ends_by_clock,
    exit_names,
    is_open_ended,
    never_leaves,
    touched,
)
from harness.rules.progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.findings import Finding
    from harness.rules.chain import Chain
    from harness.rules.loops import Loop
    from harness.rules.scene import Scene
    from harness.rules.threads import ThreadView
    from harness.rules.view import ProcessView
    from harness.rules.waits import Wait


# A thread that computes reads its modules and its data as well.
MOSTLY_IO_BYTES_PER_SECOND = 8 * 2**20
_PARALLEL_CORES = 1.6
_IDLE_CORES = 0.02
# A call that turns in one place touches hardly any page that it had not touched before.
_NEW_PAGES_PER_SECOND = 20
# What may well turn for ever in one call.
_MATCHES = re.compile(
    r"sre_|regex|\bre\.|\.(match|search|sub|subn|fullmatch|findall|finditer|split|replace)\("
)
_COMPUTES = re.compile(r"gemm|at::|aten|mkl|dnnl|cblas|gomp|torch_cpu|openblas|numpy/|eigen", re.IGNORECASE)
# A call that is known to be long now and then, and to end.
_LONG_CALLS = re.compile(
    r"gc\.collect\(|\.sort\(|sorted\(|torch\.(save|load|compile)\(|pickle\.|json\.|\.to\(|\.cuda\("
)


def busy(scene: Scene) -> Iterator[Finding]:
    """python-spin, native-spin, healthy: a CPU is burnt at the chain's end; what changed tells which."""
    for chain in scene.chains:
        if chain.end.kind != "busy" or progress(scene, chain) is not None:
            continue
        found = spinning(scene, chain)
        if found is not None:
            yield found


def turns(scene: Scene, chain: Chain) -> bool:
    """Whether its end is a loop without an end, seen to turn."""
    found = spinning(scene, chain)
    return found is not None and found.cause == "python-spin"


def spinning(scene: Scene, chain: Chain) -> Finding | None:
    """What a thread that uses a CPU does, or None where that cannot be told."""
    thread, motion = chain.end.thread, scene.motion(chain.end.thread)
    cores = thread.cpu_cores
    if not motion.seen_twice or cores is None or io_rate(scene, thread.process) >= MOSTLY_IO_BYTES_PER_SECOND:
        return None
    used = [f"{thread.name or 'it'} used {cores * 100:.0f} % of a CPU"]
    # A program may itself have been imported: what counts is what the user's innermost frame does.
    own = chain.end.user
    inner = itertools.takewhile(lambda each: each is not own, thread.python_frames)
    if any("importlib._bootstrap" in each.file for each in inner):
        return say.finding(
            scene, chain, "healthy", "healthy", 0.7, "It is still importing modules.", evidence=used
        )
    if thread.stood_still:
        return _one_line(scene, chain, used)
    frame = motion.pivot
    if frame is None:
        return None
    loops = scene.sources.loops(frame)
    owners = {_owner(file) for file, _ in motion.functions}
    works = "package" in owners
    loop = next((each for each in loops if is_open_ended(each)), None)
    moved = {each.name for each in motion.counters}
    if loop is not None and ends_by_clock(loop):
        return _until_a_moment(scene, chain, frame, used)
    for within, endless in _generators(scene, thread, frame):
        return _endless(scene, chain, within, endless, used, 0.8)
    if loop is not None and loop is loops[0] and not works and not (exit_names(loop) & moved):
        if never_leaves(loop) and not does_nothing(loop):
            return _rounds(scene, chain, frame, loop, used)
        sure = _never_ends(thread, frame, loop)
        if sure:
            return _endless(scene, chain, frame, loop, used, sure)
        return _unseen_end(scene, chain, frame, loop, used)
    if works or len(motion.functions) > 3:
        return say.finding(
            scene,
            chain,
            "healthy",
            "healthy",
            0.6,
            "It works: other functions stand on its stack in every sample.",
            evidence=[f"{len(motion.functions)} functions were seen below {say.place(frame)}", *used],
            next_steps=[]
            if thread.process.has_trusted_locals
            else ["without locals a slow loop looks the same: look again without --no-locals"],
        )
    if loops and not is_open_ended(loops[0]):
        return say.finding(
            scene,
            chain,
            "slow",
            "slow-progress",
            0.6,
            f"It works in the loop at {say.place(frame)}.",
            evidence=[*used, "its lines change from sample to sample"],
            wait=_at(chain, frame),
        )
    return None


def _endless(
    scene: Scene, chain: Chain, frame: Frame, loop: Loop, used: list[str], confidence: float
) -> Finding:
    thread = chain.end.thread
    words = ast.unparse(loop).split("\n", 1)[0]
    names = ", ".join(sorted(exit_names(loop))) or "nothing"
    return say.finding(
        scene,
        chain,
        "hung",
        "python-spin",
        confidence,
        f"It burns a CPU in the loop `{words}` at {say.place(frame)}, and nothing that could end it changes.",
        evidence=[
            f"{len(thread.shapes)} of {len(thread.shapes)} samples are in this loop",
            f"it ends by: {names}",
            *used,
        ],
        next_steps=["see what should change the condition, and who should do it"],
        wait=_at(chain, frame),
    )


def _unseen_end(scene: Scene, chain: Chain, frame: Frame, loop: Loop, used: list[str]) -> Finding:
    """What its end depends on is changed in the loop, and cannot be read from outside."""
    words = ast.unparse(loop).split("\n", 1)[0]
    return say.finding(
        scene,
        chain,
        "slow",
        "slow-progress",
        0.56,
        f"It works in the loop `{words}` at {say.place(frame)}; how far that is cannot be seen from outside.",
        evidence=[*used, "its variables change from sample to sample"],
        next_steps=["look again later: the loop should have been left", "let it log how much is left"],
        wait=_at(chain, frame),
    )


def _rounds(scene: Scene, chain: Chain, frame: Frame, loop: Loop, used: list[str]) -> Finding:
    """A loop that is to go on for ever, and does: what a round achieves cannot be seen from outside."""
    return say.finding(
        scene,
        chain,
        "slow",
        "slow-progress",
        0.57,
        f"It works in the loop of line {loop.lineno} at {say.place(frame)}, which is to go on for ever; "
        "what a round achieves cannot be seen from outside.",
        evidence=[*used, "nothing in the loop ends it, so it waits for nothing"],
        next_steps=["let it log its steps, or start it with harness run: then steps are counted"],
        wait=_at(chain, frame),
    )


def _never_ends(thread: ThreadView, frame: Frame, loop: Loop) -> float:
    """How sure it is that nothing changes on which a loop's end depends; 0 where that was not seen."""
    seen = _over_dumps(thread, frame)
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


def _generators(scene: Scene, thread: ThreadView, frame: Frame) -> Iterator[tuple[Frame, Loop]]:
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
            if loop is not None and _stands(inner, _over_dumps(thread, inner), loop):
                yield inner, loop


def _stands(frame: Frame, seen: list[Frame], loop: Loop) -> bool:
    """Whether a loop's end depends on names, all of them were read twice or more, and none of them moved."""
    names = exit_names(loop)
    written = names & touched(loop)
    readable = all(each.kind in ("number", "bool") for each in frame.locals if each.name in written)
    return bool(names) and len(seen) > 1 and readable and not names & _changed(seen)


def _over_dumps(thread: ThreadView, frame: Frame) -> list[Frame]:
    """The innermost frame of the same function in every dump whose variables may be trusted."""
    found = []
    for stack, trusted in zip(thread.stacks, thread.trusted, strict=True):
        same = [
            each
            for each in (stack.frames if stack is not None and trusted else ())
            if (each.file, each.function) == (frame.file, frame.function)
        ]
        found += same[:1]
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


def _one_line(scene: Scene, chain: Chain, used: list[str]) -> Finding | None:
    """Every sample shows the same lines: one call into C, or a loop of one line."""
    thread, frame = chain.end.thread, chain.end.user
    process = thread.process
    if frame is None or not thread.python_frames:
        return None
    innermost = thread.python_frames[0]
    if innermost is frame:
        loop = next(iter(scene.sources.loops(frame)), None)
        alone = isinstance(loop, ast.While) and (
            frame.line == loop.lineno or (len(loop.body) == 1 and loop.body[0].lineno == frame.line)
        )
        # Parentheses of a class or a builtin are calls as well; what has no call at all can only be Python.
        if alone or (
            scene.sources.of(frame) is not None
            and not scene.sources.line_has_call(frame)
            and loop is not None
        ):
            assert loop is not None
            if never_leaves(loop) and not does_nothing(loop):
                return _rounds(scene, chain, frame, loop, used)
            if not is_open_ended(loop):
                return _unseen_end(scene, chain, frame, loop, used)
            if ends_by_clock(loop):
                return _until_a_moment(scene, chain, frame, used)
            words = ast.unparse(loop).split("\n", 1)[0]
            return say.finding(
                scene,
                chain,
                "hung",
                "python-spin",
                0.85,
                f"It burns a CPU in the loop `{words}` at {say.place(frame)}.",
                evidence=["every sample stands on the same line", *used],
                next_steps=["see what should change the condition, and who should do it"],
            )
    if called_again := _called_again(thread):
        turning = next((each for each in scene.sources.loops(frame) if isinstance(each, ast.While)), None)
        if turning is not None and _stands(frame, _over_dumps(thread, frame), turning):
            return _endless(scene, chain, frame, turning, used, 0.8)
        return say.finding(
            scene,
            chain,
            "slow",
            "slow-progress",
            0.7,
            f"It works at {say.place(frame)}, call after call: {called_again} is another one each time.",
            evidence=[f"{called_again} changed between the samples", *used],
        )
    native = thread.native_frames
    computing = next((each for each in native if _COMPUTES.search(f"{each.function} {each.file}")), None)
    statement = scene.sources.statement(frame)
    if cpu(process) >= _PARALLEL_CORES or computing is not None or _LONG_CALLS.search(statement):
        why = (
            f"native code computes ({computing.function})"
            if computing is not None
            else "one long native call"
        )
        return say.finding(
            scene,
            chain,
            "slow",
            "slow-progress",
            0.6,
            f"It computes in one long call at {say.place(frame)}.",
            evidence=[why, *used],
            next_steps=["look again: the next sample should stand elsewhere"],
        )
    if (calls := _calls_of_its_own(thread)) > 0:
        return say.finding(
            scene,
            chain,
            "slow",
            "slow-progress",
            0.6,
            f"It works at {say.place(frame)}, call after call.",
            evidence=[f"it read and wrote {calls:,} times meanwhile: it is in no call for long", *used],
            next_steps=["let it log its steps, or start it with harness run: then steps are counted"],
        )
    endless = next((each for each in scene.sources.loops(frame) if never_leaves(each)), None)
    matches = _MATCHES.search(f"{statement} {' '.join(each.function for each in native)}")
    if endless is not None and frame.function == "<module>" and not matches:
        # A module's variables cannot be read: whether the call is another one each time is not known.
        return _rounds(scene, chain, frame, endless, used)
    if (pages := process.faults_per_second or 0.0) >= _NEW_PAGES_PER_SECOND:
        return say.finding(
            scene,
            chain,
            "slow",
            "slow-progress",
            0.58,
            f"It works in one long native call at {say.place(frame)}, and goes through memory meanwhile.",
            evidence=[f"it touches {pages:,.0f} new pages a second", *used],
            next_steps=["look again: the next sample should stand elsewhere", "see whether its memory grows"],
        )
    gil = (
        "it holds the GIL: no other thread runs Python meanwhile"
        if thread.holds_gil
        else "it does not hold the GIL"
    )
    return say.finding(
        scene,
        chain,
        "hung",
        "native-spin",
        0.75 if not native else 0.85,
        f"It burns a CPU inside one C call, made at {say.place(frame)}.",
        evidence=[
            f"{len(thread.shapes)} of {len(thread.shapes)} samples stand on this very line",
            gil,
            *used,
        ],
        next_steps=["see what this call was given: a regular expression that backtracks, a size, a file"],
    )


def _calls_of_its_own(thread: ThreadView) -> int:
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


def _called_again(thread: ThreadView) -> str:
    """A variable of the user's that was bound anew between the dumps: the call into C is another one."""
    for frame in thread.python_frames:
        if code.owner(frame) == "user":
            seen = _over_dumps(thread, frame)
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


def _until_a_moment(scene: Scene, chain: Chain, frame: Frame, used: list[str]) -> Finding:
    return say.finding(
        scene,
        chain,
        "slow",
        "slow-progress",
        0.6,
        f"It burns a CPU in the loop at {say.place(frame)} until a clock tells it to stop.",
        evidence=[*used, "the loop's end asks a clock"],
        wait=_at(chain, frame),
    )


def _at(chain: Chain, frame: Frame) -> Wait:
    return dataclasses.replace(chain.end, user=frame)


def _owner(file: str) -> str:
    return code.owner(Frame(function="", file=file, line=0))


def io_rate(scene: Scene, process: ProcessView) -> float:
    """Bytes read and written a second."""
    return (process.io_bytes or 0) / scene.view.elapsed_seconds if scene.view.elapsed_seconds > 0 else 0.0


def cpu(process: ProcessView) -> float:
    """CPUs in use by it."""
    return process.cpu_cores or 0.0
