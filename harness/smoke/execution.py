"""One stage: its command under `harness run`, watched, ended when its time is over, and never left behind.

The supervisor is a process in a group of its own, so that Ctrl-C and Ctrl-Z come to us alone and are passed
on in order. Should we be killed, the kernel tells it to end. Not here: what was seen (`observe`), and what
follows from it (`runner`).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from harness.collect.deadline import python_module
from harness.errors import HarnessError, UsageError
from harness.render.text import duration, single_line
from harness.smoke.observe import Moment, StageWatch
from harness.watch.procstat import read_stat

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from harness.smoke.interrupts import Interrupts
    from harness.smoke.observed import EndedBy, Observed
    from harness.smoke.plan import Stage

GRACE_SECONDS = 5.0
_TICK_SECONDS = 0.1
_DIAGNOSIS_SECONDS = 15.0
_KILL_SECONDS = 15.0
_START_SECONDS = 60.0
_STOPPING_SECONDS = 5.0
_STOPPING_POLL_SECONDS = 0.02
# The supervisor failed; the command cannot be executed; it was not found.
_REFUSALS = (125, 126, 127)
# Nobody looked for so long: the machine slept, or we were stopped. That time is no stage's.
_GAP_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None)
_ANSWER_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One stage that was started, and how it ended."""

    observed: Observed
    verdict: Mapping[str, Any] | None = None  # of a diagnosis, where one was made
    diagnosis: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None  # the supervisor itself refused or failed


class Execution:
    """Runs one stage to its end."""

    def __init__(
        self,
        stage: Stage,
        folder: Path,
        environment: Mapping[str, str],
        *,
        tell: Callable[[Moment], None],
        interrupts: Interrupts,
        rest: Callable[[], None],
    ) -> None:
        self._stage, self._folder = stage, folder
        self._environment = {**environment, **stage.environment}
        self._tell, self._interrupts, self._rest = tell, interrupts, rest
        self._watch = StageWatch(folder)
        self._said = folder.with_name(f"{folder.name}.harness.log")
        self._moment = Moment()
        self._rested = False

    def run(self) -> Ran:
        """Start it, attend to it, and collect what was seen."""
        began = self._now()
        process = self._start()
        try:
            ended_by, diagnosis = self._attend(process, began)
        finally:
            self._end_for_good(process)
        seconds = self._now() - began
        status = process.returncode
        if ended_by == "itself" and self._watch.ended_by_stall():
            ended_by = "stall"
        observed = self._watch.collect(
            self._stage,
            exit_status=None if status is None or status < 0 else status,
            ended_by=ended_by,
            seconds=seconds,
        )
        self._watch.close()
        if observed.incidents and not diagnosis:
            diagnosis = explained(observed.incidents[0].path)
        return Ran(
            observed=observed,
            verdict=diagnosis.get("verdict"),
            diagnosis=diagnosis,
            problem=self._problem(status) if status in _REFUSALS and not observed.last_line else None,
        )

    def _start(self) -> subprocess.Popen[bytes]:
        stall = ["--stall-timeout", self._stage.stall] if self._stage.stall else []
        words = [
            *python_module("harness", "run", "--run-dir", str(self._folder)),
            *("--metrics-port", "0", "--no-live", "--on-stall", "terminate"),
            *("--grace", f"{GRACE_SECONDS:g}", "--log-keep", "256M", *stall, "--"),
            *self._stage.command,
        ]
        # A folder of ours, made before: what `harness run` finds there may only be its own.
        try:
            with self._said.open("wb") as said:
                return subprocess.Popen(
                    words,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    preexec_fn=_apart,  # noqa: PLW1509 -- we have no other threads
                )
        except OSError as error:
            raise UsageError(
                f"{error.filename or self._folder}: {error.strerror}",
                remedy="Name another with --runs",
            ) from None

    def _attend(self, process: subprocess.Popen[bytes], began: float) -> tuple[EndedBy, dict[str, Any]]:
        over_at = began + self._stage.budget_seconds
        looked_at = self._now()
        while process.poll() is None:
            if self._interrupts.count:
                self._stop(process, signal.SIGINT)
                return "interrupt", {}
            self._stand_still(process)
            self._look()
            now = self._now()
            if now - looked_at > _GAP_SECONDS:
                over_at += now - looked_at
            if self._watch.pid is None and now < began + _START_SECONDS:
                over_at = now + self._stage.budget_seconds  # until the command runs the time is ours
            looked_at = now
            if now >= over_at:
                diagnosis = self._diagnose()
                if process.poll() is None:
                    self._stop(process, signal.SIGTERM)
                    return "budget", diagnosis
                return "itself", diagnosis
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_TICK_SECONDS)
        return "itself", {}

    def _now(self) -> float:
        """Without the time in which we stood still by Ctrl-Z."""
        return time.monotonic() - self._interrupts.rested_seconds

    def _stand_still(self, process: subprocess.Popen[bytes]) -> None:
        """After Ctrl-Z: the supervisor stops the command's whole tree and itself, then we do, until `fg`."""
        if not self._interrupts.rest_asked:
            if self._rested and _is_stopped(process.pid):  # it came to it only after we had gone on
                process.send_signal(signal.SIGCONT)
            return
        process.send_signal(signal.SIGTSTP)
        end = time.monotonic() + _STOPPING_SECONDS
        while process.poll() is None and not _is_stopped(process.pid) and time.monotonic() < end:
            time.sleep(_STOPPING_POLL_SECONDS)
        self._rest()
        self._rested = True
        process.send_signal(signal.SIGCONT)

    def _look(self) -> None:
        self._moment = self._watch.poll()
        self._tell(self._moment)

    def _diagnose(self) -> dict[str, Any]:
        """What the command does, as `harness diagnose` tells; empty where there is nothing to look at."""
        pid = self._watch.pid
        if pid is None:
            return {}
        words = python_module("harness", "diagnose", str(pid), "--json")
        words += ["--deadline", f"{_DIAGNOSIS_SECONDS:g}", "--out", str(self._folder / "over-budget")]
        # Not in our group: Ctrl-C and Ctrl-Z are ours to act upon.
        child = subprocess.Popen(
            words,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + _DIAGNOSIS_SECONDS + GRACE_SECONDS
        out = None
        while out is None:
            self._tell(Moment(at="over its budget: diagnosing", resident_bytes=self._moment.resident_bytes))
            with contextlib.suppress(subprocess.TimeoutExpired):
                out, _ = child.communicate(timeout=_TICK_SECONDS)
            if self._interrupts.count or time.monotonic() >= end:
                child.kill()
        with contextlib.suppress(ValueError):
            found = json.loads(out[:_ANSWER_BYTES])
            if isinstance(found, dict):
                return found
        return {}

    def _stop(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Ask the command to end; then twice SIGINT, upon which the supervisor kills the whole tree."""
        process.send_signal(number)
        self._wait(process, GRACE_SECONDS)
        for _ in range(2):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                self._wait(process, 0.5)
        self._wait(process, _KILL_SECONDS)

    def _wait(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        """Until it has ended, the time is over, or the user has lost patience."""
        asked = self._interrupts.count
        end = self._now() + seconds
        while process.poll() is None and self._now() < end and self._interrupts.count == asked:
            self._stand_still(process)
            self._tell(Moment(at="ending", resident_bytes=self._moment.resident_bytes))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_TICK_SECONDS)

    def _end_for_good(self, process: subprocess.Popen[bytes]) -> None:
        """A supervisor that did not end by itself, with everything below it."""
        if process.poll() is not None:
            return
        below: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            below = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for each in below:
            with contextlib.suppress(psutil.Error):
                each.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_SECONDS)

    def _problem(self, status: int) -> str:
        """Why the supervisor refused or failed, in its own words."""
        last = ""
        with contextlib.suppress(OSError):
            lines = self._said.read_text(errors="replace").strip().splitlines()
            last = single_line(lines[-1]) if lines else ""
        return last or f"harness run ended with {status}"


def _apart() -> None:
    """In the child, before it becomes the supervisor: a group of its own, and SIGTERM should we be killed.

    In our session, or SIGTSTP could not stop it. It hears SIGINT also where we are deaf to it, as `&` wants.
    """
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _is_stopped(pid: int) -> bool:
    found = read_stat(pid)
    return found is not None and found.state == "T"


def explained(path: str) -> dict[str, Any]:
    """The diagnosis of an incident's evidence; empty where it cannot be read."""
    from pathlib import Path

    from harness import bundle
    from harness.render import as_json
    from harness.rules import diagnose

    with contextlib.suppress(HarnessError, OSError):
        case = bundle.load(Path(path))
        return as_json.document(case, diagnose(case))
    return {}


def diagnosed(verdict: Mapping[str, Any] | None) -> str:
    """`HUNG · socket-read: one sentence`; empty without a verdict."""
    if not verdict:
        return ""
    return single_line(
        f"{str(verdict.get('state', '')).upper()} · {verdict.get('cause')}: {verdict.get('summary')}"
    )


def unseen(diagnosis: Mapping[str, Any]) -> str:
    """What could not be looked at, where no cause was found; a GPU that is not there apart."""
    told = [each for each in diagnosis.get("not_checked", ()) if each.get("what") != "gpu"]
    return single_line("; ".join(f"{each.get('what')} not seen: {each.get('detail')}" for each in told[:2]))


def over_budget(stage: Stage, verdict: Mapping[str, Any] | None) -> str:
    """Why a stage was ended."""
    told = diagnosed(verdict) or "it could not be looked at"
    return f"over its budget of {duration(stage.budget_seconds)} · {told}"


def environment() -> dict[str, str]:
    """What stages start from: ours, without what names another run."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_RUN")}
