"""Taking a Case in a child process that can be killed, and its few words for the terminal.

The supervisor's loop must never wait for evidence: a dump of a process in state D may not return. So
`python -m harness.supervise.gather` runs the collectors (the same as `python -m harness.collect`), writes the
Case, and prints one JSON line: the headline, and which collectors failed. Should it be killed before that
line, the Case on disk still counts.

Not here: what the evidence is (`harness.collect`), and what becomes of it (`incidents`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.clock import Clock

# The collectors' own deadline. What they have by then is written.
DEADLINE_SECONDS = 8.0
# Writing and the interpreter's start come on top; then the child is killed.
GRACE_SECONDS = 4.0
_MAX_ANSWER_BYTES = 64 * 1024
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What came of it. `problem` is None when the Case is on disk."""

    headline: str | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    problem: str | None = None


class Gathering:
    """One child that takes a Case into `out`."""

    def __init__(
        self,
        *,
        pid: int,
        run_dir: Path,
        out: Path,
        clock: Clock,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self.out = out
        self._clock = clock
        self._gives_up_at = clock.monotonic() + deadline_seconds + GRACE_SECONDS
        self._killed = False
        command = [
            *(sys.executable, "-m", "harness.supervise.gather"),
            *("--pid", str(pid), "--run-dir", str(run_dir.absolute())),
            *("--out", str(out.absolute()), "--deadline", f"{deadline_seconds:g}"),
        ]
        # Started where the package lies: a `harness` folder in the user's directory is not ours.
        self._child = subprocess.Popen(
            command,
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def poll(self) -> Gathered | None:
        """What was gathered, once the child has ended or had to be killed; never waits."""
        if self._child.poll() is None:
            if self._clock.monotonic() < self._gives_up_at:
                return None
            self._killed = True
            self.kill()
            return self._result(status=None)
        return self._result(status=self._child.returncode)

    def kill(self) -> None:
        """End the child and the programs that it started (py-spy)."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=1)

    def _result(self, status: int | None) -> Gathered:
        answer, complaint = self._read(self._child.stdout), self._read(self._child.stderr)
        whole = (self.out / "case.json").exists()
        if whole:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                document = json.loads(answer)
                return Gathered(headline=document["headline"], errors=Counter(document["errors"]))
            return Gathered(errors={"gather": 1})
        return Gathered(errors={"gather": 1}, problem=self._problem(status, complaint))

    def _problem(self, status: int | None, complaint: str) -> str:
        if self._killed or status is None:
            return "taking evidence did not end in time"
        if status < 0:
            return f"taking evidence was killed by {_signal_name(-status)}"
        last = complaint.strip().rpartition("\n")[2]
        return last[:300] or f"taking evidence failed (exit status {status})"

    @staticmethod
    def _read(stream: object) -> str:
        """What is in the pipe now: a program left behind may hold it open, so never up to its end."""
        descriptor = stream.fileno()  # type: ignore[attr-defined]
        os.set_blocking(descriptor, False)
        try:
            return os.read(descriptor, _MAX_ANSWER_BYTES).decode(errors="replace")
        except OSError:
            return ""
        finally:
            stream.close()  # type: ignore[attr-defined]


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def main(arguments: list[str]) -> int:
    """Take the Case, and print what the terminal will say of it."""
    from harness import bundle
    from harness.collect import __main__ as collect
    from harness.errors import HarnessError
    from harness.headline import headline

    status = collect.main(arguments)
    try:
        case = bundle.load(Path(arguments[arguments.index("--out") + 1]))
        line = headline(case)
    except HarnessError as error:
        print(error, file=sys.stderr)  # noqa: T201 -- a program of its own
        return status or 1
    errors = Counter(error.collector for error in case.errors)
    print(json.dumps({"headline": line, "errors": errors}))  # noqa: T201
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
