"""A loop that makes the same try again and again, without a pause: each fails, and is passed over.

Told by its source (what it tries ends the loop if it succeeds, and what is caught changes nothing), and by
the dumps (it was begun anew). Not covered: loops that sleep between tries (`outside`).
"""

from __future__ import annotations

import ast
import dataclasses
import re
from itertools import pairwise
from typing import TYPE_CHECKING

from harness import frames as code
from harness.rules import say
from harness.rules.runs import runs_again
from harness.rules.threads import user_frames

if TYPE_CHECKING:
    from harness.evidence import Frame
    from harness.findings import Finding
    from harness.rules.chain import Chain
    from harness.rules.loops import Loop
    from harness.rules.scene import Scene
    from harness.rules.threads import ThreadView

# What an `except` block may call without changing anything for the next try.
_SAYS = re.compile(r"(^|\.)(print|log|debug|info|warning|warn|error|exception|write|flush)$")
_LEAVES = (ast.Return, ast.Break)


def spins(scene: Scene, chain: Chain, used: list[str]) -> Finding | None:
    """python-spin, where a chain's end does nothing but try; slow, where others may make a try succeed."""
    found = _tried_again(scene, chain.end.thread)
    if found is None:
        return None
    frame, loop = found
    alone = not others_run(chain.end.thread)
    return say.finding(
        scene,
        chain,
        "hung" if alone else "slow",
        "python-spin" if alone else "slow-progress",
        0.75 if alone else 0.56,
        f"It makes the same try again and again at {say.place(frame)}: each fails, and is passed over.",
        evidence=[f"the loop of line {loop.lineno} ends when the try succeeds, and it was begun anew", *used],
        next_steps=["log what is caught there, and bound the number of tries"],
        wait=dataclasses.replace(chain.end, user=frame),
    )


def others_run(thread: ThreadView) -> bool:
    """Whether a thread beside it was seen to run, or a child lives: the try may be for what they do."""
    process = thread.process
    beside = [each for each in process.threads if each is not thread and user_frames(each)]
    return any(runs_again(each) is not False for each in beside) or any(
        each.alive for each in process.children
    )


def _tried_again(scene: Scene, thread: ThreadView) -> tuple[Frame, Loop] | None:
    """The frame and the loop of such tries, of which one was seen to be begun anew; else None."""
    outermost_first = thread.python_frames[::-1]
    for depth, frame in enumerate(outermost_first):
        loop = next(iter(scene.sources.loops(frame)), None) if code.owner(frame) == "user" else None
        if not isinstance(loop, ast.While):
            continue
        attempt = next((each for each in _tries(loop) if _holds([each], frame.line)), None)
        if attempt is None or not _is_the_end(loop, attempt) or not _passes_over(loop, attempt):
            continue
        callee = outermost_first[depth + 1] if depth + 1 < len(outermost_first) else None
        if _failed(thread, depth, frame, attempt) or (
            callee is not None and _begun_anew(scene, thread, depth + 1, callee)
        ):
            return frame, loop
    return None


def _tries(loop: ast.While) -> list[ast.Try]:
    return [each for each in loop.body if isinstance(each, ast.Try)]


def _holds(body: list[ast.stmt], line: int) -> bool:
    return body[0].lineno <= line <= (body[-1].end_lineno or body[-1].lineno)


def _is_the_end(loop: ast.While, attempt: ast.Try) -> bool:
    """Whether the loop is left as soon as the try succeeds."""
    after = loop.body[loop.body.index(attempt) + 1 :]
    lasts = (attempt.body[-1:], attempt.orelse[-1:], after[:1])
    return any(isinstance(each[0], _LEAVES) for each in lasts if each)


def _passes_over(loop: ast.While, attempt: ast.Try) -> bool:
    """Whether what is caught is forgotten: the next try is given nothing else than this one was."""
    caught = [each for handler in attempt.handlers for part in handler.body for each in ast.walk(part)]
    if not attempt.handlers or any(isinstance(each, (ast.Raise, ast.Await, *_LEAVES)) for each in caught):
        return False
    calls = [ast.unparse(each.func) for each in caught if isinstance(each, ast.Call)]
    outside = [each for part in loop.body if part is not attempt for each in ast.walk(part)]
    stored = {
        ast.unparse(each)
        for each in (*caught, *outside)
        if isinstance(each, (ast.Name, ast.Attribute, ast.Subscript)) and not isinstance(each.ctx, ast.Load)
    }
    return not stored and all(map(_SAYS.search, calls))


def _failed(thread: ThreadView, depth: int, frame: Frame, attempt: ast.Try) -> bool:
    """Whether a dump stands in an `except` block of the try."""
    lines = _lines(thread, depth, frame)
    return any(line and _holds(each.body, line) for line in lines for each in attempt.handlers)


def _begun_anew(scene: Scene, thread: ThreadView, depth: int, callee: Frame) -> bool:
    """Whether what it calls, which has no loop, stands at an earlier line in a later dump."""
    function = scene.sources.function(callee)
    if function is None or any(
        isinstance(each, (ast.For, ast.AsyncFor, ast.While)) for each in ast.walk(function)
    ):
        return False
    return any(0 < after < before for before, after in pairwise(_lines(thread, depth, callee)))


def _lines(thread: ThreadView, depth: int, frame: Frame) -> list[int]:
    """Where each dump stands in this function, at this depth from the outermost; 0 where it does not."""
    found = []
    for shape in thread.shapes:
        at = shape[len(shape) - 1 - depth] if depth < len(shape) else ("", "", 0)
        found.append(at[2] if at[:2] == (frame.file, frame.function) else 0)
    return found
