"""The hooks of one process put together: claims its record, and says what is hooked when.

`begin` runs inside the first import of torch or a framework. A launcher gets nothing. A helper and a forked
child sleep until they join a process group: then they are ranks. A trainer claims its rank's record at once,
so that an import that hangs is seen; it is provisional until the process trains.
"""

import atexit
import os
import sys

from harness import emit
from harness.auto import frameworks, process, torch_hooks
from harness.auto.imports import Finder
from harness.auto.recorder import Recorder


def begin() -> Finder | None:
    """Claim and hook; the finder that now stands first in sys.meta_path."""
    role = process.role()
    if role == "launcher" or emit.enabled:  # the trainer speaks for itself already
        return None
    recorder = Recorder(emit)
    finder = Finder({**torch_hooks.hooks(recorder), **frameworks.hooks(recorder)}, recorder)
    sys.meta_path.insert(0, finder)
    os.register_at_fork(after_in_child=recorder.sleep)
    if role == "helper":
        recorder.sleep()
    else:
        recorder.claim()
    atexit.register(recorder.ended)  # before torch's own: called after them
    finder.catch_up()
    return finder
