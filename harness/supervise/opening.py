"""Which run this is: a new one, one to continue, one to adopt alive, or this node's share of one.

Not here: the files themselves (`claim`, `rundir`), starting the command (`child`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import redaction
from harness.endings import signal_name
from harness.errors import UsageError
from harness.rundir import LATEST, Attempt, RunDirectory, RunRecord, host_name, utc
from harness.supervise import claim, execution, identity
from harness.supervise.child import ending, read_exit_record
from harness.supervise.tree import Identity, identify
from harness.watch.procstat import boot_id

if TYPE_CHECKING:
    from collections.abc import Mapping

_FIRST_NODE_DEADLINE_SECONDS = 10.0  # for the node that owns a shared directory to write its run.json


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for, as far as it says which run."""

    command: tuple[str, ...]  # empty: the one that the run directory remembers
    run_dir: Path | None
    runs: Path
    name: str | None
    run_id: str | None
    cwd: Path
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A run directory that is ours now."""

    run: RunDirectory
    file: claim.RunFile
    lock: claim.SupervisorLock
    command: tuple[str, ...]
    alive: Attempt | None  # its command runs on, without a supervisor: to be adopted
    leftover: Attempt | None  # its command ended, but not all that it started: to be cleared away first
    elsewhere: str | None = None  # the host that the last attempt began on, if it may still run there
    named: Path  # the directory as the user named it
    home: Path | None = None  # where the command that is remembered was given, if that is not here
    repeatable: bool = True  # not where the command held a secret, which was not kept

    def shown_path(self) -> str:
        """The directory as a user would type it: `runs/latest` for as long as that is this run."""
        latest = self.named.with_name(LATEST)
        with contextlib.suppress(OSError):
            if latest.is_symlink() and latest.samefile(self.run.path):
                return str(latest)
        return str(self.named)


def open_run(request: Request) -> Opened:
    """Make or take up the run directory; UsageError or AlreadySupervisedError where that cannot be."""
    if request.run_dir is None:
        if not request.command:
            raise UsageError(
                "no command was given", remedy="Put it behind two dashes: harness run -- nsa train CONFIG"
            )
        execution.check(request.command, request.environment)
        run = claim.create(
            request.runs, request.name or identity.name_of(request.command), now_seconds=time.time()
        )
        return _begin(run, claim.SupervisorLock(run), request, named=run.path)
    if request.command:
        execution.check(request.command, request.environment)
    _refuse_nothing(request.run_dir, request.command)
    named, real = fixed(request.run_dir)
    request = dataclasses.replace(request, run_dir=real)
    run = claim.prepare(real)
    try:
        lock = claim.SupervisorLock(run)
    except claim.AlreadySupervisedError as held:
        run = _share(request, held)
        lock = claim.SupervisorLock(run)
    except OSError as error:
        raise UsageError(
            f"{run.path}: cannot be written: {error.strerror}", remedy="Name another with --run-dir"
        ) from None
    if not run.record.exists():
        return _begin(run, lock, request, named=named)
    return _continue(run, lock, request, run.read(), named=named)


def fixed(path: Path) -> tuple[Path, Path]:
    """A directory that a link may name, by a name for its user and as the path that it has for good.

    `runs/latest` leads to another run as soon as that begins; ours may not have ended by then.
    """
    if os.path.islink(path):  # noqa: PTH114 -- pathlib's raises where a folder above is closed
        path = path.parent / path.readlink()
    real = Path(os.path.realpath(path))
    return path, path if real == path.absolute() else real


def _refuse_nothing(path: Path, command: tuple[str, ...]) -> None:
    """UsageError, before anything is made there, where there is neither a run nor a way to begin one."""
    if os.path.lexists(path / "run.json"):
        return
    with contextlib.suppress(PermissionError):  # which is said by whoever makes it
        if path.name == LATEST and not path.is_dir():
            raise UsageError(
                f"{path}: there is no run yet that it could point to",
                remedy="Leave --run-dir out to begin one: harness run -- COMMAND",
            )
    if not command:
        raise UsageError(
            f"{path}: no run to continue in it, and no command was given",
            remedy="Put the command behind two dashes: harness run --run-dir DIR -- COMMAND",
        )


def _share(request: Request, held: claim.AlreadySupervisedError) -> RunDirectory:
    """This node's share of a run that another node of the same job holds; else raises `held`."""
    assert request.run_dir is not None
    ours = request.run_id or identity.shared_run_id(request.environment, request.command)
    if held.host == host_name() or ours is None:
        raise held
    first = RunDirectory(request.run_dir)
    end = time.monotonic() + _FIRST_NODE_DEADLINE_SECONDS
    while not first.record.exists() and time.monotonic() < end:
        time.sleep(0.05)
    if first.read().run_id != ours:
        raise held
    return RunDirectory(request.run_dir, node=host_name())


def _begin(run: RunDirectory, lock: claim.SupervisorLock, request: Request, *, named: Path) -> Opened:
    kept, struck = redaction.strike_out(request.command)
    run_id = request.run_id or identity.shared_run_id(request.environment, request.command)
    record = RunRecord(
        run_id=run_id or identity.new_run_id(run.path.resolve().name),
        name=request.name or identity.name_of(request.command),
        created_at=utc(),
        host=host_name(),
        boot_id=boot_id(),
        cwd=str(request.cwd),
        command=kept,
        command_redacted=struck,
        environment=identity.environment_of(request.environment),
        **supervisor(),
    )
    file = claim.RunFile(run, record)
    try:
        file.update()
    except OSError as error:
        raise UsageError(
            f"{run.record}: cannot be written: {error.strerror}",
            remedy="Make room, or name another place with --run-dir or --runs",
        ) from None
    return Opened(
        run=run, file=file, lock=lock, command=request.command, alive=None, leftover=None, named=named
    )


def _continue(
    run: RunDirectory, lock: claim.SupervisorLock, request: Request, record: RunRecord, *, named: Path
) -> Opened:
    if request.run_id and request.run_id != record.run_id:
        raise UsageError(
            f"{run.path}: the run in it is {record.run_id}, not {request.run_id}",
            remedy="Leave --run-id out to continue it, or name a new directory",
        )
    record = with_unnoted(run, record)
    alive = alive_attempt(record)
    if not request.command and record.command_redacted and alive is None:
        raise UsageError(
            f"{run.path}: its command held a secret, which was not kept: {shlex.join(record.command)}",
            remedy="Give the command again, behind two dashes",
        )
    command = request.command or record.command
    if alive and request.command and redaction.strike_out(request.command)[0] != alive.command:
        raise UsageError(
            f"{run.path}: its command still runs, without a supervisor, and is another one: "
            f"pid {alive.pid}, {shlex.join(alive.command)}",
            remedy=f"`harness run --run-dir {run.path}` supervises it again; to end it: kill {alive.pid}",
        )
    # What is remembered was said in its own folder: its script may be named from there.
    home = None
    if not request.command and record.cwd != str(request.cwd) and os.path.isdir(record.cwd):  # noqa: PTH112 -- as in `fixed`
        home = Path(record.cwd)
    settled = settle(run, record)
    last = settled.last_attempt
    file = claim.RunFile(run, settled)
    with contextlib.suppress(OSError):  # a full disk must not keep a training from being looked after
        file.update(
            boot_id=boot_id(),
            host=host_name(),
            cwd=record.cwd if alive else str(home or request.cwd),
            command=record.command if alive else redaction.strike_out(command)[0],
            command_redacted=record.command_redacted if alive else redaction.strike_out(command)[1],
            environment=identity.environment_of(request.environment),
            **supervisor(),
        )
    return Opened(
        run=run,
        file=file,
        lock=lock,
        command=command,
        alive=alive,
        leftover=None if alive else _last_if(record, "keeper_pid", "keeper_start_time_ticks"),
        elsewhere=record.host
        if last is not None and last.ended_at is None and record.host != host_name() and not alive
        else None,
        named=named,
        home=home,
        repeatable=bool(request.command) or not record.command_redacted,
    )


def supervisor() -> dict[str, Any]:
    """What run.json says of whoever looks after a run: this process."""
    us = identify(os.getpid())
    return {"supervisor_pid": us.pid, "supervisor_start_time_ticks": us.start_time_ticks}


def with_unnoted(run: RunDirectory, record: RunRecord) -> RunRecord:
    """`record` with an attempt that only its keeper wrote down: the supervisor died at the start of it."""
    number = record.attempt + 1
    written = read_exit_record(run.exit_record(number)) or {}
    if not isinstance(written.get("pid"), int):
        return record
    return record.with_attempt(
        Attempt(
            attempt=number,
            started_at=utc(float(written.get("started_at") or time.time())),
            command=record.command,
            pid=written["pid"],
            start_time_ticks=written.get("start_time_ticks"),
            keeper_pid=written.get("keeper_pid"),
        )
    )


def settle(run: RunDirectory, record: RunRecord) -> RunRecord:
    """`record` with its last attempt's ending, where only the keeper was there to write it down."""
    record = with_unnoted(run, record)
    last = record.last_attempt
    if last is None or last.ended_at is not None:
        return record
    ended = ending(read_exit_record(run.exit_record(last.attempt)) or {})
    if ended is None:
        return record
    return record.with_attempt(
        dataclasses.replace(
            last,
            ended_at=utc(ended.ended_at_seconds),
            exit_status=ended.exit_status,
            ended_by=signal_name(ended.signal) if ended.signal else "itself",
        )
    )


def alive_attempt(record: RunRecord) -> Attempt | None:
    """The last attempt, if its command still runs on this machine."""
    return _last_if(record, "pid", "start_time_ticks")


def is_of_this_boot(record: RunRecord) -> bool:
    """Whether its pids can be of processes that live now; a machine may have been renamed meanwhile."""
    if record.boot_id != boot_id():
        return False
    return bool(record.boot_id) or record.host == host_name()


def _last_if(record: RunRecord, pid: str, start_time_ticks: str) -> Attempt | None:
    """The last attempt, if the process in its field `pid` is alive."""
    last = record.last_attempt
    if last is None or not getattr(last, pid) or not is_of_this_boot(record):
        return None
    process = Identity(pid=getattr(last, pid), start_time_ticks=getattr(last, start_time_ticks))
    return last if process.alive() else None
