"""Nothing of the command is left behind: its leftovers may leave by themselves, are asked to, are made to.

Not here: ending the command itself (`loop`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from harness.supervise.child import tree_of
from harness.supervise.tree import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.supervise.child import Child

LEAVING_SECONDS = (
    1.0  # workers and resource trackers end by themselves once they notice that their parent did
)
KILLED_DEADLINE_SECONDS = 5.0  # from SIGKILL to gone; longer is state D
_NAMED = 5


def clear_away(
    child: Child, *, grace_seconds: float, wait: Callable[[float], bool], say: Callable[[str], None]
) -> None:
    """End all that is left of the tree of an ended command.

    `wait` waits up to so many seconds, less if something happens; True says that the user wants it over with.
    """
    tree = tree_of(child)

    def left_after(seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not child.gone() and (left := end - time.monotonic()) > 0:
            if wait(left):
                tree.kill()
        return not child.gone() or bool(tree.members())

    if not left_after(LEAVING_SECONDS):
        return
    _say_names(say, "ending what the command left behind", tree.terminate())
    if not left_after(grace_seconds):
        return
    _say_names(say, "killing what the command left behind", tree.kill())
    if left_after(KILLED_DEADLINE_SECONDS):
        _say_names(
            say,
            "could not be ended (state D: they wait for a disk or a driver)",
            [describe(each) for each in tree.members()],
        )


def _say_names(say: Callable[[str], None], words: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        say(f"{words}: {', '.join(names[:_NAMED])}{more}")
