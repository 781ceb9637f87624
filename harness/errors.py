"""The harness's exceptions: one root, each with an exit status and a remedy.

    HarnessError            125  the harness itself failed
    ├── UsageError            2  the command line, a plan or a path is wrong
    └── RecordError           2  a file is not what it should be (another version, truncated, foreign)

Messages say what happened and the value seen; `remedy` says what to do about it. Not here: anything a
trainer may raise — the emitter never raises at all.
"""

from __future__ import annotations

from typing import ClassVar


class HarnessError(Exception):
    """Root of everything that the harness raises on purpose."""

    exit_status: ClassVar[int] = 125
    remedy: str = ""

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        if remedy is not None:
            self.remedy = remedy

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}. {self.remedy}" if self.remedy else message


class UsageError(HarnessError):
    """The command line, a plan or a path is wrong."""

    exit_status = 2


class RecordError(HarnessError):
    """A file is not what it should be: another version's, truncated, or not ours at all."""

    exit_status = 2
