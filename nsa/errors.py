"""The trainer's exceptions: one root, each with the exit status of `nsa` and a remedy.

    NsaError                  1
    ├── ConfigError           2  the configuration is wrong or impossible
    ├── CursorMismatchError   2  a saved place in the data belongs to other data (nsa.data.cursor)
    ├── NonFiniteError        3  the loss or the gradient became NaN or infinite
    │   └── StepNotFiniteError   … with the step's numbers (nsa.optimization)
    ├── DataSourceError       4  the source of the text is out of reach
    ├── StopRequestedError   75  stopped on request, state saved, resume later
    ├── CacheError            1  the user's cache cannot be written (nsa.cache)
    ├── CheckpointError       1  a checkpoint could not be written, or is not whole (nsa.checkpoint)
    └── RankLostError         1  another rank ended, or is stuck elsewhere (nsa.distributed)

Those that one module alone raises are defined there. Messages say what happened, the value seen, and what to
do.
"""

from __future__ import annotations

from typing import ClassVar


class NsaError(Exception):
    """Root of everything that the trainer raises on purpose."""

    exit_status: ClassVar[int] = 1


class ConfigError(NsaError):
    """The configuration is wrong or impossible; the message names file, key, value and remedy."""

    exit_status = 2


class NonFiniteError(NsaError):
    """The loss or the gradient became NaN or infinite; nothing was written after it."""

    exit_status = 3


class DataSourceError(NsaError):
    """The source of the text is out of reach; the message says which, after how long, and what to do."""

    exit_status = 4


class StopRequestedError(NsaError):
    """A signal asked the run to stop: its state is saved, `--resume auto` continues it."""

    exit_status = 75
