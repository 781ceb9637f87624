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
from harness.evidence import Frame
from harness.rules import say, tries
from harness.rules.loops import (
    does_nothing,
    ends_by_clock,
    exit_names,
    is_open_ended,
    never_leaves,
)
from harness.rules.progress import progress
from harness.rules.turning import (
    called_again,
    calls_of_its_own,
    never_ends,
    over_dumps,
    served,
    standing_generators,
    stands,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.findings import Finding
    from harness.rules.chain import Chain
    from harness.rules.loops import Loop
    from harness.rules.scene import Scene
    from harness.rules.view import ProcessView
    from harness.rules.waits import Wait


# A thread that computes reads its modules and its data as well.
MOSTLY_IO_BYTES_PER_SECOND = 8 * 2**20
_PARALLEL_CORES = 1.6
_SAME_LINE = "every sample stands on the same line"
# A call that turns in one place touches hardly any page that it had not touched before.
_NEW_PAGES_PER_SECOND = 5
# What may well turn for ever in one call.
_MATCHES = re.compile(
    r"sre_|regex|\bre\.|\.(match|search|sub|subn|fullmatch|findall|finditer|split|replace)\("
)
_COMPUTES = re.compile(r"gemm|at::|aten|mkl|dnnl|cblas|gomp|torch_cpu|openblas|numpy/|eigen", re.IGNORECASE)
# A call that is known to be long now and then, and to end.
_LONG_CALLS = re.compile(
    r"gc\.collect\(|\.sort\(|sorted\(|torch\.(save|load|compile)\(|pickle\.|json\.|\.to\(|\.cuda\("
    r"|\.execute(many|script)?\(|\.fetch(one|many|all)\(|\bcompress\("
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
    for within, endless in standing_generators(scene, thread, frame):
        return _endless(scene, chain, within, endless, used, 0.8)
    if loop is not None and loop is loops[0] and not works and not (exit_names(loop) & moved):
        if never_leaves(loop) and not does_nothing(loop):
            return _rounds(scene, chain, frame, loop, used)
        sure = never_ends(thread, frame, loop)
        if sure:
            return _endless(scene, chain, frame, loop, used, sure)
        return _unseen_end(scene, chain, frame, loop, used)
    if (trying := tries.spins(scene, chain, used)) is not None:
        return trying
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
    if setter := served(scene, thread, loop):
        return _unseen_end(scene, chain, frame, loop, used, f"it ends by {setter}")
    if not exit_names(loop) and not never_leaves(loop) and tries.others_run(thread):
        why = "it ends when what it tries succeeds, and others run beside it"
        return _unseen_end(scene, chain, frame, loop, used, why)
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


def _unseen_end(
    scene: Scene,
    chain: Chain,
    frame: Frame,
    loop: Loop | str,
    used: list[str],
    why: str = "its variables change from sample to sample",
) -> Finding:
    """What its end depends on is changed, in the loop or by another thread: how far it is cannot be read."""
    words = loop if isinstance(loop, str) else ast.unparse(loop).split("\n", 1)[0]
    return say.finding(
        scene,
        chain,
        "slow",
        "slow-progress",
        0.56,
        f"It works in the loop `{words}` at {say.place(frame)}; how far that is cannot be seen from outside.",
        evidence=[*used, why],
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
                return _unseen_end(scene, chain, frame, loop, used, _SAME_LINE)
            if ends_by_clock(loop):
                return _until_a_moment(scene, chain, frame, used)
            if setter := served(scene, thread, loop):
                return _unseen_end(scene, chain, frame, loop, used, f"it ends by {setter}")
            words = ast.unparse(loop).split("\n", 1)[0]
            return say.finding(
                scene,
                chain,
                "hung",
                "python-spin",
                0.85,
                f"It burns a CPU in the loop `{words}` at {say.place(frame)}.",
                evidence=[_SAME_LINE, *used],
                next_steps=["see what should change the condition, and who should do it"],
            )
    if bound_anew := called_again(thread):
        # It may be what a loop asks again and again that stands in every sample.
        outward = itertools.dropwhile(lambda each: each is not frame, thread.python_frames)
        for outer in outward:
            turning = next(iter(scene.sources.loops(outer)), None)
            if isinstance(turning, ast.While) and stands(outer, over_dumps(thread, outer), turning):
                return _endless(scene, chain, outer, turning, used, 0.8)
            if turning is not None:
                break
        return say.finding(
            scene,
            chain,
            "slow",
            "slow-progress",
            0.7,
            f"It works at {say.place(frame)}, call after call: {bound_anew} is another one each time.",
            evidence=[f"{bound_anew} changed between the samples", *used],
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
    if (calls := calls_of_its_own(thread)) > 0:
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
    matches = _MATCHES.search(f"{statement} {' '.join(each.function for each in native)}")
    if not matches and (within := scene.sources.loop_on_line(frame)) is not None:
        return _unseen_end(scene, chain, frame, within, used, _SAME_LINE)
    endless = next((each for each in scene.sources.loops(frame) if never_leaves(each)), None)
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
