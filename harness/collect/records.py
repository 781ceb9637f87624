"""What the run directory says: run.json and the heartbeats of its ranks; and a faulthandler dump, on request.

The dump is the last resort where ptrace is denied: SIGUSR1 to a trainer whose heartbeat says that it
registered faulthandler on it **and** whose signal mask shows a handler: a signal nobody handles would
kill it.

Not covered: other runs' directories; following records over time (`harness.watch`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness.collect.deadline import NotSeen
from harness.collect.logs import read_regular
from harness.collect.procparse import parse_signals
from harness.errors import HarnessError
from harness.evidence import Frame, Json, Missing, Reading, Stacks, ThreadStack

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from harness.collect.procfs import Proc

# More heartbeats than this are read only for ranks whose process is in the tree.
MAX_RECORDS = 64
MAX_STEPS = 512
_STEP_FIELDS = ("step", "wall_seconds", "step_seconds", "loss", "learning_rates", "tokens")
_MAX_RUN_JSON_BYTES = 2**20
_NO_RUN = Missing(reason="unavailable", detail="no run directory: the trainer does not use harness.emit")


def run_json(run_dir: Path | None, owners: Collection[int]) -> dict[str, Json]:
    """run.json, as it stands."""
    if run_dir is None:
        raise NotSeen(_NO_RUN)
    data, _ = read_regular(run_dir / "run.json", owners, last_bytes=_MAX_RUN_JSON_BYTES)
    found = json.loads(data)
    if not isinstance(found, dict):
        raise NotSeen(Missing(reason="unavailable", detail="run.json is not an object"))
    return found


def heartbeats(run_dir: Path | None, pids: Collection[int]) -> tuple[dict[str, Json], ...]:
    """The heartbeats of all ranks on this machine, by rank; other nodes may share the directory."""
    if run_dir is None:
        raise NotSeen(_NO_RUN)
    from harness.watch import heartbeat
    from harness.watch.procstat import boot_id

    found = []
    here = boot_id()
    paths = sorted((run_dir / "ranks").glob("*.beat"))
    for path in paths:
        try:
            beat = heartbeat.read(path)
        except (HarnessError, OSError):
            continue  # not a heartbeat, or of another version: the others still count
        if beat.boot_id and here and beat.boot_id != here:
            continue  # its pid and its monotonic times mean nothing here
        if len(paths) <= MAX_RECORDS or beat.pid in pids:
            found.append(plain(dataclasses.asdict(beat)))
    if not found:
        detail = f"no readable heartbeat among {len(paths)} in {run_dir / 'ranks'}"
        raise NotSeen(Missing(reason="unavailable", detail=detail))
    return tuple(found)


def steps(run_dir: Path | None, pids: Collection[int]) -> tuple[dict[str, Json], ...]:
    """The newest steps of the lowest rank of this tree, oldest first, from its heartbeat's ring."""
    from harness.watch import heartbeat

    if run_dir is None:
        raise NotSeen(_NO_RUN)
    for path in sorted((run_dir / "ranks").glob("*.beat")):
        with contextlib.suppress(HarnessError, OSError), heartbeat.Reader(path) as reader:
            if reader.read().pid in pids:
                rows = reader.drain().rows[-MAX_STEPS:]
                return tuple({name: plain(getattr(row, name)) for name in _STEP_FIELDS} for row in rows)
    raise NotSeen(Missing(reason="unavailable", detail="no rank of this tree keeps a heartbeat"))


def plain(value: object) -> Json:
    """JSON types for whatever a record holds, so that it comes back equal from disk."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return math.nan
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


# ── faulthandler ────────────────────────────────────────────────────────────────────────────────────────────

_THREAD = re.compile(r"(?:Current thread|Thread) (0x[0-9a-f]+)(?: \[(?P<name>.*)\])?[^:]*:")
_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)')
_NOT_TOLD = Missing(reason="unavailable", detail="faulthandler does not tell")
# The record may be another's making: no signal that means something else is ever sent.
_TRACEBACK_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)


def parse_traceback(text: str) -> tuple[ThreadStack, ...]:
    """The threads of one faulthandler dump, with their frames innermost first."""
    threads: list[tuple[str, list[Frame]]] = []
    for line in text.split("\n"):
        begins = _THREAD.match(line)
        if begins:
            threads.append((begins["name"] or begins[1], []))
            continue
        frame = _FRAME.fullmatch(line)
        if frame and threads:
            number = int(frame["line"]) if frame["line"].isdigit() else 0
            threads[-1][1].append(Frame(function=frame["function"], file=frame["file"], line=number))
    return tuple(
        ThreadStack(tid=_NOT_TOLD, name=name, active=_NOT_TOLD, owns_gil=_NOT_TOLD, frames=tuple(frames))
        for name, frames in threads
    )


def faulthandler_stacks(
    proc: Proc, run_dir: Path, beat: Mapping[str, Json], owners: Collection[int], *, seconds: float
) -> Stacks:
    """Ask the trainer for its own dump, read the new part of its file; NotSeen where it must not be asked."""
    pid, number = int(beat["pid"]), beat.get("traceback_signal")
    if number not in _TRACEBACK_SIGNALS:
        raise NotSeen(Missing(reason="unavailable", detail="the trainer registered no faulthandler"))
    proc.same(pid, int(beat["start_time_ticks"]))
    if not parse_signals(proc.status(pid)).catches(int(number)):
        detail = f"the heartbeat names signal {number}, but the process does not handle it: not sent"
        raise NotSeen(Missing(reason="unavailable", detail=detail))
    path = run_dir / "ranks" / f"{int(beat['rank']):05d}.traceback"
    _, facts = read_regular(path, owners, last_bytes=0)
    started = time.monotonic()
    os.kill(pid, int(number))
    new = b""
    while time.monotonic() < started + seconds:
        time.sleep(0.03)
        _, now = read_regular(path, owners, last_bytes=0)
        grown = now.st_size - facts.st_size
        data = read_regular(path, owners, last_bytes=grown)[0] if grown > 0 else b""
        if data and data == new:
            break  # nothing more came in a while: the dump is whole
        new = data
    threads = _with_main(parse_traceback(new.decode("utf-8", "backslashreplace")), pid)
    if not threads:
        detail = "the trainer did not answer its traceback signal (stopped, or in uninterruptible sleep)"
        raise NotSeen(Missing(reason="timed_out", detail=detail))
    return Stacks(method="faulthandler", took_seconds=time.monotonic() - started, threads=threads)


def _with_main(threads: tuple[ThreadStack, ...], pid: int) -> tuple[ThreadStack, ...]:
    """The main thread by its name and id: the interpreter lists its threads from the newest to the oldest."""
    if not threads:
        return threads
    return (
        *threads[:-1],
        dataclasses.replace(threads[-1], name="MainThread", tid=Reading(value=pid)),
    )


def rank_of(
    beats: Collection[Mapping[str, Json]], pid: int, start_time_ticks: int
) -> Mapping[str, Json] | None:
    """The heartbeat of this very process."""
    matching = (beat for beat in beats if (beat["pid"], beat["start_time_ticks"]) == (pid, start_time_ticks))
    return next(matching, None)


def run_dir_of(environment: Reading[dict[str, str]] | Missing) -> Path | None:
    """The run directory that a process was given."""
    if isinstance(environment, Reading) and (named := environment.value.get("HARNESS_RUN_DIR")):
        path = Path(named)
        return path if path.is_absolute() and path.is_dir() else None
    return None


def run_dir_near(folders: Iterable[Path], starts: Mapping[int, int], owners: Collection[int]) -> Path | None:
    """The run directory below one of these folders whose heartbeat is of one of these processes.

    For where the environment, which names it, may not be read. `starts` gives the start time of each pid;
    a record of a third user counts for nothing.
    """
    from harness.watch import heartbeat

    for folder in folders:
        with contextlib.suppress(OSError):
            beats = sorted(folder.glob("*/ranks/*.beat"), key=lambda each: -each.lstat().st_mtime)
            for path in beats[:MAX_RECORDS]:
                with contextlib.suppress(HarnessError, OSError):
                    if path.is_symlink() or path.lstat().st_uid not in owners:
                        continue
                    beat = heartbeat.read(path)
                    if starts.get(beat.pid) == beat.start_time_ticks:
                        return path.parent.parent.resolve()
    return None
