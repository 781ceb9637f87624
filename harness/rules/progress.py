"""Whether a trainer advances: by its heartbeat, by the variables of its loops, by where it stands.

`real` progress ends some day: a `for` over something bounded, a variable that its loop's end depends on, a
heartbeat. Whatever else changes is only told. Not covered: causes.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness import frames as code
from harness.evidence import Reading
from harness.rules import flow, runs, say
from harness.rules.loops import advances, exit_names, holds, is_open_ended, leaves_early, total

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from harness.rules.chain import Chain
    from harness.rules.motion import Counter
    from harness.rules.scene import Scene
    from harness.rules.threads import ThreadView
    from harness.rules.view import ProcessView
    from harness.rules.waits import Wait

# A step may take this many times as long as the last before it counts as late.
_PATIENCE_STEPS = 3.0
_FOR_ANOTHER = frozenset({"join", "process-join", "future", "pool", "queue-join", "event"})
# What trainers of libraries call their steps; other numbers of a library may be anything.
_LIBRARY_STEPS = re.compile(
    r"(global_|update_|train_|training_|optimizer_|current_)?(step|batch_idx|batch_index|iteration)s?$"
)
_RETRY = re.compile(r"retr|attempt|tries|try|wait|poll|fail|error|miss", re.IGNORECASE)
# What people count who train.
_STEPS = re.compile(r"step|epoch|batch|episode|update", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What advanced. `outermost`: it is the outermost loop of the user's code that moves."""

    words: str
    counter: Counter | None = None
    thread: ThreadView | None = None
    outermost: bool = False
    total: float | None = None
    by_record: bool = False
    # What it waits for are bytes, and they move.
    flows: bool = False


def progress(scene: Scene, chain: Chain) -> Progress | None:
    """Real progress of a chain's trainer, or of the thread at its end."""
    process = chain.begin.thread.process
    found = by_record(scene, process)
    if found is not None:
        return found
    for wait in {id(each): each for each in (chain.end, *chain.waits)}.values():
        counted = by_counter(scene, wait.thread)
        if counted is not None:
            return counted
    return _by_flow(scene, chain)


def ends(scene: Scene, *kinds: str) -> Iterator[tuple[Chain, Wait]]:
    """Chains that end in a wait of these kinds, and stand."""
    for chain in scene.chains:
        if chain.end.kind in kinds and not chain.cycle and progress(scene, chain) is None:
            yield chain, chain.end


def _by_flow(scene: Scene, chain: Chain) -> Progress | None:
    """What the main thread waits for comes again and again, or bytes move where its chain ends."""
    if chain.cycle:
        return None
    if words := flow.moves_bytes(scene, chain.end):
        return Progress(words=words, thread=chain.end.thread, flows=True)
    # A main thread that only waits for another to be done: that one's waits are the trainer's.
    at_work = next((each for each in chain.waits if each.kind not in _FOR_ANOTHER), chain.begin)
    words = flow.served(scene, at_work) or flow.turns(at_work)
    if not words and chain.end is not at_work and (words := flow.served(scene, chain.end)):
        return Progress(words=words, thread=chain.end.thread)
    return Progress(words=words, thread=at_work.thread) if words else None


def by_record(scene: Scene, process: ProcessView) -> Progress | None:
    """The heartbeat moved, or is not late yet."""
    seen: list[Mapping[str, Any]] = [
        record
        for sample in scene.view.case.samples
        if isinstance(sample.records, Reading)
        for record in sample.records.value
        if record.get("pid") == process.pid
    ]
    if not seen:
        return None
    first, last = seen[0], seen[-1]
    if _moment(last) > _moment(first):
        return Progress(
            words=f"the heartbeat moved while we looked (step {last.get('step')}, stage {last.get('stage')})",
            by_record=True,
        )
    row = last.get("last")
    usual = row.get("step_seconds") if isinstance(row, dict) else None
    wall = last.get("last_progress_wall_seconds")
    if isinstance(usual, (int, float)) and isinstance(wall, (int, float)) and usual > 0:
        now = scene.view.case.taken_at_seconds + (scene.view.times[-1] if scene.view.times else 0.0)
        if 0 <= now - wall < _PATIENCE_STEPS * usual:
            words = f"the last step ended {now - wall:.1f} s ago, and a step takes {usual:.1f} s"
            return Progress(words=words, by_record=True)
    return None


def _moment(record: Mapping[str, Any]) -> tuple[float, float]:
    moment, count = record.get("last_progress_monotonic_seconds"), record.get("progress_count")
    return (
        float(moment) if isinstance(moment, (int, float)) else 0.0,
        float(count) if isinstance(count, (int, float)) else 0.0,
    )


def by_counter(scene: Scene, thread: ThreadView) -> Progress | None:
    """A loop's own variable moved towards the loop's end."""
    counters = scene.motion(thread).counters
    for counter in counters:
        if not counter.monotonic:
            continue
        if scene.sources.of(counter.frame) is None and _counts_steps(counter):
            # A program of `python -c`, or of a file that is gone: the name has to say it.
            return Progress(words=counter.words)
        for loop in scene.sources.loops(counter.frame):
            if not advances(loop, counter):
                continue
            if _is_retry(scene, thread, counter):
                continue
            outer = outer_loops(scene, thread, counter)
            return Progress(
                words=counter.words,
                counter=counter,
                thread=thread,
                outermost=not outer,
                total=total(loop, counter.frame),
            )
    return (
        _by_object(scene, thread)
        or _by_argument(scene, thread)
        or _by_round(scene, thread)
        or _by_library(scene, thread)
        or _by_rests(scene, thread)
    )


def _by_library(scene: Scene, thread: ThreadView) -> Progress | None:
    """A library's training loop counted its steps on: the user's code only called it."""
    for counter in scene.motion(thread).library_counters:
        if _LIBRARY_STEPS.match(counter.name) and counter.monotonic and counter.last > counter.first:
            place = counter.frame.file.rsplit("/", 1)[-1]
            return Progress(words=f"{counter.words} in {counter.frame.function} of {place}")
    return None


def _counts_steps(counter: Counter) -> bool:
    rises = counter.last > counter.first
    return rises and bool(_STEPS.search(counter.name)) and not _RETRY.search(counter.name)


def _by_object(scene: Scene, thread: ThreadView) -> Progress | None:
    """What a `for` loop goes over was another object each time: it went on."""
    for name, frame in scene.motion(thread).replaced:
        for loop in scene.sources.loops(frame):
            if isinstance(loop, ast.While) or is_open_ended(loop) or scene.sources.retries(frame):
                continue
            if name in {each.id for each in ast.walk(loop.target) if isinstance(each, ast.Name)}:
                return Progress(
                    words=f"{name} of the loop at {say.place(frame)} is another one in each sample"
                )
    return None


def _by_argument(scene: Scene, thread: ThreadView) -> Progress | None:
    """A function was called again, with another number: its caller goes on."""
    for counter in scene.motion(thread).counters:
        if counter.argument and not _RETRY.search(counter.name):
            changed = scene.sources.targets(counter.frame, counter.name) or _is_assigned(scene, counter)
            if changed or _is_a_pause(scene, thread, counter):
                continue
            return Progress(words=f"{counter.frame.function} was called again: {counter.words}")
    return None


def _is_a_pause(scene: Scene, thread: ThreadView, counter: Counter) -> bool:
    """Whether a function sleeps for a loop that asks again and again for something else than its argument."""
    if scene.wait(thread).kind not in ("sleep", "retry"):
        return False
    frames = iter(thread.python_frames)
    for frame in frames:
        if (frame.file, frame.function) == (counter.frame.file, counter.frame.function):
            break
    # The loop may be some calls further out: what only hands the call on has none.
    loop = next((loops[0] for frame in frames if (loops := scene.sources.loops(frame))), None)
    return isinstance(loop, ast.While) and _polls(loop)


def _polls(loop: ast.While) -> bool:
    return bool(exit_names(loop)) or leaves_early(loop)


def _by_round(scene: Scene, thread: ThreadView) -> Progress | None:
    """An endless loop counts its rounds, and each round calls what waits: so those waits do end.

    A loop that waits itself counts its tries as well, unless it counts steps by their name.
    """
    users = [each for each in thread.python_frames if code.owner(each) == "user"]
    for counter in scene.motion(thread).counters:
        loops = scene.sources.loops(counter.frame)
        endless = next((each for each in loops if isinstance(each, ast.While)), None)
        if endless is None or not counter.monotonic or counter.last < counter.first:
            continue
        if scene.sources.retries(counter.frame) or _RETRY.search(counter.name):
            continue
        itself = not users or users[0].function == counter.frame.function
        if _STEPS.search(counter.name) or not (itself or _polls(endless)):
            return Progress(words=counter.words)
    return None


def _by_rests(scene: Scene, thread: ThreadView) -> Progress | None:
    """It rests once in each round of a `for` loop that has an end, and woke up from several rests."""
    if scene.wait(thread).kind != "sleep" or not runs.runs_again(thread):
        return None
    for frame in thread.python_frames:
        if code.owner(frame) != "user":
            continue
        if not (loops := scene.sources.loops(frame)):
            continue
        loop = loops[0]
        if isinstance(loop, ast.While) or is_open_ended(loop) or leaves_early(loop):
            return None
        if scene.sources.retries(frame) or _RETRY.search(ast.unparse(loop.target)):
            return None
        often, _, seconds = runs.counted(thread)
        words = f"each round of the loop at {say.place(frame)} rests: {often} times in {seconds:.1f} s"
        return Progress(words=words, thread=thread)
    return None


def _is_assigned(scene: Scene, counter: Counter) -> bool:
    """Whether the function changes its own argument: then a change tells nothing of its caller."""
    text = scene.sources.text(counter.frame)
    return not text or bool(
        re.search(
            rf"\b{re.escape(counter.name)}\s*([-+*/%&|^@]|//|<<|>>|\*\*)?=[^=]", text.partition(":\n")[2]
        )
    )


def outer_loops(scene: Scene, thread: ThreadView, counter: Counter) -> int:
    """How many loops of the user's code stand around the one that moves."""
    count = 0
    for frame in thread.python_frames[::-1]:
        loops = scene.sources.loops(frame)
        if (frame.file, frame.function) == (counter.frame.file, counter.frame.function):
            return count + sum(not advances(loop, counter) for loop in loops if holds(loop, counter))
        if code.owner(frame) == code.owner(counter.frame):
            count += len(loops)
    return count


def _is_retry(scene: Scene, thread: ThreadView, counter: Counter) -> bool:
    return scene.wait(thread).kind in ("sleep", "retry", "socket-connect", "dns") and scene.sources.retries(
        counter.frame
    )
