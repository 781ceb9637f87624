"""The run directory: its paths and run.json, for all who read them.

One place knows where things lie. Not here: making a directory, locking it and writing run.json
(`supervise.claim`), and what else lies in it (heartbeats, logs, incidents belong to their own modules).

    runs/latest -> 2026-11-22T09-14-quickstart
    run.json  ranks/  events/  metrics.jsonl  log/  checkpoints/  incidents/  attempts/  nodes/
    configuration/

On several nodes that share one directory, the node that made it owns `run.json`; every other one keeps
`nodes/<host>.json`, a log and incidents of its own. Records of ranks never clash: ranks are numbered
globally.
"""

from __future__ import annotations

import calendar
import dataclasses
import json
import os
import re
import socket
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import RecordError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = "harness.run/1"
LATEST = "latest"
INCIDENTS = "incidents"
_ON = "on-"  # incidents/on-<host>/: no number, whatever the host is called


def utc(seconds: float | None = None) -> str:
    """A time as run.json writes it: `2026-11-22T09:14:03Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def seconds_of(text: str) -> float:
    """The Unix time of what `utc` wrote; now, where it did not."""
    try:
        return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return time.time()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One start of the command."""

    attempt: int
    started_at: str
    command: tuple[str, ...]
    pid: int | None = None
    start_time_ticks: int | None = None  # with the pid, the process's identity: pids are used again
    keeper_pid: int | None = None
    keeper_start_time_ticks: int | None = None
    ended_at: str | None = None
    exit_status: int | None = None  # 128 + N by signal N; None while it runs, or where nobody saw it
    ended_by: str | None = None  # "itself", "signal SIGSEGV", "stall", "interrupt"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What run.json says; keys of later versions are dropped on reading."""

    run_id: str
    name: str
    created_at: str
    host: str
    cwd: str
    command: tuple[str, ...]
    boot_id: str | None = None
    command_redacted: bool = (
        False  # a secret stood on the command line: it is not kept, so it cannot be repeated
    )
    attempt: int = 0
    attempts: tuple[Attempt, ...] = ()
    git: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    target_steps: int | None = None
    schedule: Mapping[str, Any] | None = None
    metrics_address: str | None = None
    supervisor_pid: int | None = None
    supervisor_start_time_ticks: int | None = None

    @property
    def last_attempt(self) -> Attempt | None:
        """The attempt that runs, or the last that ran."""
        return self.attempts[-1] if self.attempts else None

    def with_attempt(self, attempt: Attempt) -> RunRecord:
        """This record with `attempt` added, or put in the place of the one with its number."""
        others = tuple(each for each in self.attempts if each.attempt != attempt.attempt)
        return dataclasses.replace(self, attempt=attempt.attempt, attempts=(*others, attempt))

    def to_json(self) -> str:
        """The text of run.json."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=1, ensure_ascii=False) + "\n"


def parse_record(text: str, source: str) -> RunRecord:
    """Text of run.json to its record; RecordError names `source` and what is wrong."""
    try:
        document = json.loads(text)
        schema = document["schema"]
        if schema != SCHEMA:
            raise RecordError(
                f"{source}: written by another version (schema {schema!r}, this one reads {SCHEMA!r})",
                remedy="Use the harness that wrote it",
            )
        known = {each.name for each in dataclasses.fields(RunRecord)}
        values = {key: value for key, value in document.items() if key in known}
        values["command"] = _strings(values["command"])
        for name in ("run_id", "name", "created_at", "host", "cwd"):
            _expect(values[name], str, name)
        _expect(values.get("attempt", 0), int, "attempt")
        for name in ("git", "environment", "versions"):
            _expect(values.get(name, {}), dict, name)
        if values.get("schedule") is not None:
            _expect(values["schedule"], dict, "schedule")
        values["attempts"] = tuple(_parse_attempt(each) for each in values.get("attempts", ()))
        return RunRecord(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(
            f"{source}: damaged, or not a run.json at all ({type(error).__name__}: {error})",
            remedy="Name another run directory",
        ) from None


def _parse_attempt(document: Mapping[str, Any]) -> Attempt:
    known = {each.name for each in dataclasses.fields(Attempt)}
    values = {key: value for key, value in document.items() if key in known}
    _expect(values["attempt"], int, "attempt")
    _expect(values["started_at"], str, "started_at")
    for name in ("ended_at", "ended_by"):
        if values.get(name) is not None:
            _expect(values[name], str, name)
    return Attempt(**{**values, "command": _strings(values.get("command", []))})


def _strings(value: object) -> tuple[str, ...]:
    _expect(value, list, "command")
    assert isinstance(value, list)
    for each in value:
        _expect(each, str, "command")
    return tuple(value)


def _expect(value: object, kind: type, name: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {value!r:.40}")


class RunDirectory:
    """The paths of one run as one node sees them; asking for a path touches nothing."""

    __slots__ = ("node", "path")

    def __init__(self, path: Path | str, *, node: str | None = None) -> None:
        self.path = Path(path)
        self.node = node  # None for the node that owns run.json; else this host's name

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r}, node={self.node!r})"

    def _of_node(self, stem: str, ending: str) -> str:
        return f"{stem}{ending}" if self.node is None else f"{stem}-{self.node}{ending}"

    @property
    def record(self) -> Path:
        """This node's run.json."""
        return self.path / ("run.json" if self.node is None else f"nodes/{self.node}.json")

    @property
    def lock(self) -> Path:
        """Held (flock) by the supervisor of this node for as long as it lives."""
        return self.path / "nodes" / self._of_node("supervisor", ".lock")

    @property
    def ranks(self) -> Path:
        """One heartbeat per rank."""
        return self.path / "ranks"

    @property
    def events(self) -> Path:
        """One JSON-lines file per writer."""
        return self.path / "events"

    @property
    def supervisor_events(self) -> Path:
        """The supervisor's own rare events."""
        return self.events / self._of_node("supervisor", ".jsonl")

    @property
    def metrics(self) -> Path:
        """Rank 0's steps."""
        return self.path / "metrics.jsonl"

    @property
    def configuration(self) -> Path:
        """Copies of the configuration files that the command names, without secrets."""
        return self.path / "configuration"

    @property
    def output_log(self) -> Path:
        """What the command wrote, stdout and stderr together."""
        return self.path / "log" / self._of_node("output", ".log")

    @property
    def output_index(self) -> Path:
        """When each line of the output came."""
        return self.path / "log" / self._of_node("output", ".index")

    @property
    def harness_log(self) -> Path:
        """The harness's own troubles, with tracebacks: never on the user's terminal."""
        return self.path / "log" / self._of_node("harness", ".log")

    @property
    def checkpoints(self) -> Path:
        """The trainer's."""
        return self.path / "checkpoints"

    @property
    def incidents(self) -> Path:
        """One folder per incident of this node."""
        folder = self.path / INCIDENTS
        return folder if self.node is None else folder / f"{_ON}{self.node}"

    def incidents_of_all(self) -> tuple[Path, ...]:
        """The same for every node that shares the directory; this one's first."""
        try:
            others = sorted((self.path / INCIDENTS).glob(f"{_ON}*"))
        except OSError:
            others = []
        return tuple(dict.fromkeys((self.incidents, self.path / INCIDENTS, *others)))

    def exit_record(self, attempt: int) -> Path:
        """Where the keeper of an attempt writes how the command ended."""
        return self.path / "attempts" / self._of_node(f"{attempt:03d}", ".json")

    def make_folders(self) -> None:
        """Make what a run needs."""
        for folder in ("ranks", "events", "log", INCIDENTS, "attempts", "nodes"):
            (self.path / folder).mkdir(parents=True, exist_ok=True)

    def read(self) -> RunRecord:
        """This node's record; UsageError where there is none."""
        try:
            text = read_regular(self.record)
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(
                f"{self.path}: {_why_no_run(self.path)}",
                remedy="Name a run directory, such as runs/latest; `harness run` makes them",
            ) from None
        except OSError as error:
            raise UsageError(
                f"{self.record}: cannot be read: {error.strerror}", remedy="Check its rights"
            ) from None
        return parse_record(text, str(self.record))


def read_regular(path: Path) -> str:
    """The text of a file; a FIFO of that name must not hold us for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RecordError(f"{path}: not a regular file", remedy="Name another run directory")
        return file.read()


def _why_no_run(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return "points to a run directory that is gone"
    if path.is_dir():
        return "not a run directory (no run.json in it)"
    return "a file, not a run directory" if path.exists() else "no such run directory"


def host_name() -> str:
    """This machine's name, fit for a file name."""
    return clean_name(socket.gethostname()) or "localhost"


def clean_name(text: str) -> str:
    """`text` with only what is harmless in a file name and a label; may become empty."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:60]
