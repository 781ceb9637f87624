"""Puts a function in the place of another: same name, signature and documentation, and undone by nobody.

A wrapper asks the recorder before and after, and calls the original with just what it was given.
"""

import functools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from harness.auto.recorder import Recorder

    Make = Callable[[Callable[..., Any]], Callable[..., Any]]


def replace(owner: "Any", name: str, make: "Make") -> None:
    """Put `make(original)` in the place of the function or method `name` of `owner`, if it has one."""
    found = vars(owner).get(name)
    if isinstance(found, classmethod | staticmethod):
        original = found.__func__
        setattr(owner, name, type(found)(functools.wraps(original)(make(original))))
    elif callable(found):
        setattr(owner, name, functools.wraps(found)(make(found)))


def replace_everywhere(modules: "tuple[Any, ...]", name: str, make: "Make") -> None:
    """The same for a function that several modules hold under one name."""
    original = getattr(modules[0], name, None)
    if original is None:
        return
    replace(modules[0], name, make)
    for module in modules[1:]:
        if vars(module).get(name) is original:
            setattr(module, name, getattr(modules[0], name))


def stage(recorder: "Recorder", name: str) -> "Make":
    """A wrapper for a call that is the stage `name`."""

    def make(original: "Callable[..., Any]") -> "Callable[..., Any]":
        def call(*args: "Any", **kwargs: "Any") -> "Any":
            scope = recorder.enter(name)
            try:
                return original(*args, **kwargs)
            finally:
                recorder.leave(scope)

        return call

    return make
