"""Telling Prometheus that a run can be scraped: one file of targets per run, for its file discovery.

`--announce DIR` writes `DIR/<run id>.<host>.json` once metrics are served, and removes it at the end, after
the last values were scraped. Prometheus forgets a target whose file is gone; one whose file stays, though
nobody answers, it shows as down: right for a harness that was killed (`TrainerDown`). Such a file goes away
when its run is taken up again (the file is replaced), or when another run is announced in the same folder
and neither that harness nor its command is there any more.

Of the labels those that begin with `__meta_` are for relabelling and for us; Prometheus keeps `run_id` alone.
Not here: serving (`serving`), what is served (`metrics`).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from harness.errors import HarnessError, UsageError
from harness.render.text import single_line
from harness.rundir import RunDirectory, clean_name, host_name
from harness.supervise.tree import Identity, identify
from harness.watch.procstat import boot_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Two intervals of 15 s, the usual one: a scrape that fails has a second chance.
LINGER_SECONDS = 30.0
_PREFIX = "__meta_harness_"
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 -- what is asked for elsewhere, not what we bind
_MAX_BYTES = 65536
_CONNECT_SECONDS = 0.5


class AnnounceError(UsageError):
    """The folder cannot be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What is announced of one run."""

    folder: Path
    run_id: str
    url: str
    run_dir: Path

    @property
    def file(self) -> Path:
        """Where it stands: one name per run and host, so that whoever takes the run up replaces it."""
        return self.folder / f"{clean_name(self.run_id) or 'run'}.{host_name()}.json"

    @property
    def target(self) -> str:
        """Where Prometheus is to knock."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        address = socket.gethostname() if host in _EVERYWHERE else f"[{host}]" if ":" in host else host
        return f"{address}:{parts.port}"

    def text(self) -> str:
        """Prometheus' own format, and nothing that it does not know: it refuses a file that has more."""
        ours = identify(os.getpid())
        labels = {
            "run_id": self.run_id,
            "__scheme__": urlsplit(self.url).scheme,
            f"{_PREFIX}host": host_name(),
            f"{_PREFIX}boot": boot_id(),
            f"{_PREFIX}pid": str(ours.pid),
            f"{_PREFIX}start_time_ticks": str(ours.start_time_ticks or ""),
            f"{_PREFIX}run_dir": os.fsencode(self.run_dir).decode("utf-8", "replace"),
        }
        return json.dumps([{"targets": [self.target], "labels": labels}], indent=1) + "\n"


def lingering(seconds: float) -> str:
    """What is said while we wait for the last scrape."""
    return f"metrics are served until they were read once more, {seconds:g} s at most; Ctrl-C ends that"


def check(folder: Path | None, *, served: bool) -> None:
    """Before anything is started: the folder is there and can be written; UsageError otherwise."""
    if folder is None:
        return
    if not served:
        raise UsageError(
            "--announce with --metrics-port off: there is nothing to scrape",
            remedy="Leave one of the two out",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _create(folder / f".{host_name()}.{os.getpid()}", "").unlink()
    except OSError as error:
        raise AnnounceError(
            f"{folder}: the run cannot be announced there ({error.strerror})",
            remedy="Name a folder that can be written, or leave --announce out",
        ) from None


@contextlib.contextmanager
def announced(
    folder: Path | None, *, run_id: str, url: str | None, run_dir: Path, say: Callable[[str], None]
) -> Iterator[None]:
    """Announce a run for as long as this lasts; what fails here is said, and costs the announcement alone."""
    if folder is None or url is None:
        yield
        return
    announcement = Announcement(folder=folder, run_id=run_id, url=url, run_dir=run_dir.absolute())
    try:
        for line in clear_stale(announcement):
            say(line)
        _write(announcement)
    except (OSError, HarnessError) as error:
        say(f"not announced in {folder}: {getattr(error, 'strerror', None) or error}")
    try:
        yield
    finally:
        _withdraw(announcement)


def _write(announcement: Announcement) -> None:
    # A dot and another ending: Prometheus must not find it before it is whole.
    partial = announcement.file.with_name(f".{announcement.file.name}.{os.getpid()}")
    try:
        _create(partial, announcement.text()).replace(announcement.file)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _create(path: Path, text: str) -> Path:
    """A new file that Prometheus may read, whoever it runs as; never through a link that was put there."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o644)
        file.write(text)
    return path


def _withdraw(announcement: Announcement) -> None:
    """Remove what is ours; who took the run up meanwhile has replaced it."""
    with contextlib.suppress(OSError):
        if announcement.file.read_text(encoding="utf-8") == announcement.text():
            announcement.file.unlink()


def clear_stale(announcement: Announcement) -> list[str]:
    """Remove announcements of runs of this machine that nobody supervises and that have ended; say which."""
    said = []
    for file in sorted(announcement.folder.glob(f"*.{host_name()}.json")):
        why = _why_stale(file, announcement.target) if file != announcement.file else None
        if why is not None:
            with contextlib.suppress(OSError):
                file.unlink()
                said.append(why)
    return said


def _why_stale(file: Path, our_target: str) -> str | None:
    """Why `file`, if it is one of ours, announces nothing any more; None where there is any doubt."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            (group,) = json.loads(opened.read(_MAX_BYTES))
        (target,) = map(str, group["targets"])
        labels: dict[str, Any] = group["labels"]
        removed = f"removed the announcement of {clean_name(str(labels['run_id']))}"
        here = labels[f"{_PREFIX}boot"] == boot_id()
        harness = Identity(
            pid=int(labels[f"{_PREFIX}pid"]), start_time_ticks=int(labels[f"{_PREFIX}start_time_ticks"])
        )
        run_dir = Path(labels[f"{_PREFIX}run_dir"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    runs = here and _command_runs(run_dir)
    if target == our_target:
        # Whoever had this address before: Prometheus would take us for that run.
        return f"{removed}: its address is ours now" + (
            f"; its command still runs, with no harness: harness run --run-dir {single_line(str(run_dir))}"
            if runs
            else ""
        )
    # A harness in another pid namespace (a container) seems gone, but answers.
    if runs or (here and harness.alive()) or _answers(target):
        return None
    return f"{removed}: its harness was killed, and it runs no more"


def _answers(target: str) -> bool:
    host, _, port = target.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def _command_runs(run_dir: Path) -> bool:
    """Whether the run's command is still there, though nobody looks after it; unreadable means no."""
    for node in (None, host_name()):
        with contextlib.suppress(HarnessError, OSError):
            record = RunDirectory(run_dir, node=node).read()
            attempt = record.last_attempt
            if record.host == host_name() and attempt is not None and attempt.pid is not None:
                command = Identity(pid=attempt.pid, start_time_ticks=attempt.start_time_ticks)
                if attempt.ended_at is None and command.alive():
                    return True
    return False
