"""Taking a Case in a child process that can be killed: `python -m harness.collect`.

The supervisor's loop must never wait for evidence: a dump of a process in state D may not return. The child
has a deadline of its own; some seconds after it, it is killed with all that it started. Should it be killed
after the Case was written, the Case counts.

Not here: what the evidence is (`harness.collect`), and what becomes of it (`incidents`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from harness.bundle import CASE_FILE
from harness.collect.deadline import python_module
from harness.endings import signal_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.clock import Clock

# The collectors' own deadline. What they have by then is written.
DEADLINE_SECONDS = 8.0
# Writing and the interpreter's start come on top; then the child is killed.
GRACE_SECONDS = 4.0
# From SIGTERM to SIGKILL: to let go of a target that is paused for a dump.
_LET_GO_SECONDS = 0.5
# States of a verdict that open no incident.
PROGRESSING = ("healthy", "slow")
UNKNOWN_CAUSE = "unknown"
_MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What came of it. `problem` is None when the Case is on disk."""

    headline: str | None = None
    cause: str = UNKNOWN_CAUSE
    moved: bool = False  # the evidence itself shows progress: the verdict is healthy or slow
    errors: Mapping[str, int] = field(default_factory=dict)
    problem: str | None = None


class Gathering:
    """One child that takes a Case into `out`."""

    def __init__(
        self,
        *,
        pid: int,
        start_time_ticks: int | None,
        run_dir: Path,
        out: Path,
        clock: Clock,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self.out = out
        self._clock = clock
        self._gives_up_at = clock.monotonic() + deadline_seconds + GRACE_SECONDS
        self._late = False
        self._result: Gathered | None = None
        identity = [] if not start_time_ticks else ["--start-time-ticks", str(start_time_ticks)]
        self._child = subprocess.Popen(
            python_module(
                *("harness.collect", "--pid", str(pid), *identity),
                *("--run-dir", str(run_dir.absolute()), "--out", str(out.absolute())),
                *("--deadline", f"{deadline_seconds:g}"),
            ),
            cwd="/",  # the user's folder may go away
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def poll(self) -> Gathered | None:
        """What was gathered, once the child has ended or had to be killed; never waits for it."""
        if self._result is None:
            if self._child.poll() is None:
                if self._clock.monotonic() < self._gives_up_at:
                    return None
                self._late = True
                self.kill()
            self._result = self._read_result()
        return self._result

    def kill(self) -> None:
        """End the child and the programs that it started (py-spy); shortly waits for them to let go."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            self._child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=_LET_GO_SECONDS)
            os.killpg(self._child.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=_LET_GO_SECONDS)

    def _read_result(self) -> Gathered:
        answer, complaint = _read(self._child.stdout), _read(self._child.stderr)
        document: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            document = json.loads(answer)
        errors = Counter(str(name) for name in document.get("errors", ()))
        headline = document.get("headline")
        if (self.out / CASE_FILE).exists():
            return Gathered(
                headline=headline,
                cause=str(document.get("cause") or UNKNOWN_CAUSE),
                moved=_progresses(document),
                errors=errors,
            )
        errors["gather"] += 1
        problem = document.get("error") or self._problem(complaint)
        return Gathered(headline=headline, errors=errors, problem=problem)

    def _problem(self, complaint: str) -> str:
        status = self._child.returncode
        if self._late or status is None:
            return "taking evidence did not end in time"
        if status < 0:
            return f"taking evidence was killed by {signal_name(-status)}"
        last = complaint.strip().rpartition("\n")[2]
        return f"taking evidence failed: {last[:300] or f'exit status {status}'}"


def _progresses(document: Mapping[str, Any]) -> bool:
    """What the verdict says; plain movement where there is none."""
    state = document.get("state", UNKNOWN_CAUSE)
    return document.get("movement") == "moved" if state == UNKNOWN_CAUSE else state in PROGRESSING


def _read(stream: IO[bytes] | None) -> str:
    """What is in the pipe now: a program left behind may hold it open, so never up to its end."""
    assert stream is not None
    os.set_blocking(stream.fileno(), False)
    try:
        return os.read(stream.fileno(), _MAX_ANSWER_BYTES).decode(errors="replace")
    except OSError:
        return ""
    finally:
        stream.close()
