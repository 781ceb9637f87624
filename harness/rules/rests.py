"""Rests that belong to the work: a pause in each round of a loop, or in each call of what makes an item.

A poll rests until something else has come; its loop has a way out, or a condition that asks. Pure. Not
covered: pauses between tries (`outside`), loops whose variables were seen to move (`progress`).
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from harness import frames as code
from harness.rules import flow
from harness.rules.loops import gives_each_round, is_open_ended, leaves_early, never_leaves, works_beside
from harness.rules.runs import runs_again
from harness.rules.threads import code_frames

if TYPE_CHECKING:
    from harness.evidence import Frame
    from harness.rules.loops import Loop
    from harness.rules.scene import Scene
    from harness.rules.waits import Wait

# A rest between two rounds; what sleeps longer is looked at for itself.
_SHORT_SECONDS = 5.0
_ASKS = re.compile(
    r"retr|attempt|try|tries|wait|poll|check|ready|alive|exist|back_?off|pause|sleep", re.IGNORECASE
)


def rests(scene: Scene, wait: Wait) -> Frame | None:
    """The frame whose loop, or whose call, rests as a part of its work; None where it may be a poll."""
    sleeper = next(iter(code_frames(wait.thread)), None)
    if sleeper is None or not _shortly(scene, wait, sleeper):
        return None
    loops = scene.sources.loops(sleeper)
    if loops:
        return sleeper if _turns(loops[0], sleeper, beside=True) else None
    if wait.kind != "sleep" or sleeper.function == "<module>" or _ASKS.search(sleeper.function):
        return None
    return _called_for_work(scene, wait, sleeper)


def _shortly(scene: Scene, wait: Wait, sleeper: Frame) -> bool:
    if wait.kind == "sleep":
        length = scene.sources.argument(sleeper, "sleep")
        return runs_again(wait.thread) is True if length is None else length <= _SHORT_SECONDS
    call = wait.thread.syscall
    return (
        wait.kind == "native" and call is not None and flow.has_limit(call) and bool(runs_again(wait.thread))
    )


def _turns(loop: Loop, frame: Frame, *, beside: bool) -> bool:
    """Whether a loop goes round whatever comes, and does more than rest."""
    if never_leaves(loop):
        return not beside or works_beside(loop)
    # The pause of a generator, at the loop's own level: what it gives next is not what it waits for.
    at_level = any(each.lineno <= frame.line <= (each.end_lineno or 0) for each in loop.body)
    return gives_each_round(loop) and at_level


def _makes_something(scene: Scene, frame: Frame) -> bool:
    """Whether a function that rests does, or gives, something besides."""
    function = scene.sources.function(frame)
    if function is None or scene.sources.handles_failure(frame):
        return False
    in_handler = any(
        isinstance(each, ast.ExceptHandler) and each.lineno <= frame.line <= (each.end_lineno or 0)
        for each in ast.walk(function)
    )
    makes = any(
        isinstance(each, (ast.Assign, ast.AugAssign, ast.Yield))
        or (
            isinstance(each, ast.Return)
            and each.value is not None
            and not isinstance(each.value, ast.Constant)
        )
        for each in ast.walk(function)
    )
    return makes and not in_handler


def _called_for_work(scene: Scene, wait: Wait, sleeper: Frame) -> Frame | None:
    """Who calls it: a loop that counts or goes over something, or a library that asks for item after item."""
    makes = _makes_something(scene, sleeper)
    below = iter(wait.thread.python_frames)
    for frame in below:
        if frame is sleeper:
            break
    for frame in below:
        if code.owner(frame) != "user":
            return sleeper if makes else None  # a loader, a pool, a map
        if loops := scene.sources.loops(frame):
            loop = loops[0]
            if scene.sources.retries(frame):
                return None
            if (
                not isinstance(loop, ast.While)
                and _counts(loop)
                and not _ASKS.search(ast.unparse(loop.target))
            ):
                return sleeper  # a `for` that nothing leaves early gets to its end, whatever it calls
            if never_leaves(loop) or (makes and (_turns(loop, frame, beside=False) or _counts(loop))):
                return sleeper
            return None
    return None


def _counts(loop: Loop) -> bool:
    """Whether a loop goes over something, or up to a number: not until something has come."""
    if not isinstance(loop, ast.While):
        return not is_open_ended(loop) and not leaves_early(loop)
    asks = any(isinstance(each, (ast.Call, ast.Not)) for each in ast.walk(loop.test))
    compares = isinstance(loop.test, ast.Compare) and isinstance(loop.test.ops[0], (ast.Lt, ast.LtE))
    return compares and not asks and not leaves_early(loop)
