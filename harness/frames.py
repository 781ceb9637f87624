"""Whose code a frame is: the user's, a package's, the standard library's, or native.

Pure, and by path alone, so that it also holds for a Case from another machine. Not covered: what a stack
means.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.evidence import Frame

Owner: TypeAlias = Literal["user", "package", "stdlib", "native"]

# Console scripts (bin/torchrun) are a package's too: no one writes code without a suffix into bin.
_PACKAGES = re.compile(r"/(site|dist)-packages/|/bin/[^/.]+$")
# What libraries write and then run: inductor's wrappers (in any cache folder), FX graphs, generated methods.
_GENERATED = re.compile(
    r"(^|/)[a-z0-9]{2}/c[a-z2-7]{51}\.py$"
    r"|^<(eval_with_key|__array_function__|attrs generated|decorator-gen|lambdifygenerated)"
)
# CPython installs its library as lib/python3.N; conda, pyenv, uv, Debian and framework builds keep that part.
# Our own hooks and what they call stand between a user's line and the library that it called.
_HOOKS = re.compile(r"/harness/(auto/\w+|emit|record|place|values)\.py$")
# multiprocessing under another name, as datasets and pathos use it.
_COPIED = re.compile(r"/(site|dist)-packages/multiprocess/")
_STDLIB = re.compile(r"/lib(64)?/python3(\.\d+)?t?/|/python3\d*\.zip/")


def owner(frame: Frame) -> Owner:
    """Whose code this frame runs."""
    if frame.native:
        return "native"
    if frame.file.startswith("<frozen") or _COPIED.search(frame.file):
        return "stdlib"
    if _PACKAGES.search(frame.file) or is_hook(frame) or is_generated(frame):
        return "package"
    return "stdlib" if _STDLIB.search(frame.file) else "user"


def is_hook(frame: Frame) -> bool:
    """Whether it is a frame of `harness.auto` or `harness.emit`, which the trainer did not ask for."""
    return _HOOKS.search(frame.file) is not None


def is_generated(frame: Frame) -> bool:
    """Whether it is code that a library wrote while the program ran."""
    return _GENERATED.search(frame.file) is not None


def blamed(frames: Sequence[Frame]) -> Frame | None:
    """The deepest frame of the user's code; without one, the deepest outside the standard library.

    Frames come innermost first. None where there is nothing but library and native frames.
    """
    for wanted in ("user", "package"):
        found = [frame for frame in frames if owner(frame) == wanted]
        # What has no file (a dataclass's __init__, a proxy's method) is no line that anybody can look at.
        for frame in (*(each for each in found if not each.file.startswith("<")), *found):
            return frame
    return None


def function(frame: Frame) -> str:
    """`fetch of loader.py`: what stays the same while the line moves."""
    return f"{frame.function} of {frame.file.rsplit('/', 1)[-1]}"


def place(frame: Frame) -> str:
    """`loader.py:31 in fetch`, as a user would say it."""
    name = frame.file.rsplit("/", 1)[-1]
    return f"{name}:{frame.line} in {frame.function}" if frame.line else f"{frame.function} ({name})"
