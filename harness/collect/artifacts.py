"""Files that trainings leave behind, near this one, with their ages; and how full their disks are.

A bounded walk over the folders where the target works: its run directory, its current folder, and the folders
of the files that it writes. Names and ages alone: nothing is opened, no link is followed. Not covered:
what the files hold.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from harness.evidence import Artifact, ArtifactKind, Disk, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.collect.procfs import Proc
    from harness.evidence import Descriptor, Process

MAX_ENTRIES = 4000
MAX_DEPTH = 3
MAX_ARTIFACTS = 64
_KINDS: tuple[tuple[ArtifactKind, re.Pattern[str]], ...] = (
    ("tensorboard", re.compile(r"events\.out\.tfevents\.")),
    ("checkpoint", re.compile(r".*\.(pt|pth|ckpt|safetensors)$|checkpoint[-_]\d+")),
    ("lock", re.compile(r".*\.lock$|lock$")),
    ("log", re.compile(r".*\.(log|out|err)$")),
)
_SHARED = frozenset({"/", "/tmp", "/var/tmp", "/dev/shm", "/home", "/root"})  # noqa: S108 - names to compare with
_SKIPPED = frozenset({"node_modules", "__pycache__", "site-packages", "proc", "sys", "dev"})


def near(processes: Sequence[Process], run_dir: Path | None) -> tuple[Artifact, ...]:
    """The newest artifacts in the folders of these processes."""
    found: dict[str, Artifact] = {}
    left = MAX_ENTRIES
    for folder in _folders(processes, run_dir):
        for artifact in _walk(folder, left):
            if artifact is None:
                left -= 1
            else:
                found[artifact.path] = artifact
        if left <= 0:
            break
    newest = sorted(found.values(), key=lambda each: -each.modified_wall_seconds)
    return tuple(newest[:MAX_ARTIFACTS])


def _folders(processes: Sequence[Process], run_dir: Path | None) -> list[Path]:
    folders: dict[Path, None] = {}
    if run_dir is not None:
        folders[run_dir] = None
    for process in processes[:16]:
        for each in _written(process):
            folders[Path(each.target).parent] = None
        if isinstance(process.cwd, Reading) and process.cwd.value.startswith("/"):
            folders[Path(process.cwd.value)] = None
    # Places that everybody writes to hold other trainings' files.
    return [folder for folder in folders if str(folder) not in _SHARED][:16]


def _walk(folder: Path, budget: int) -> Iterator[Artifact | None]:
    """Artifacts below `folder`; None for every entry looked at."""
    queue = [(folder, 0)]
    for here, depth in queue:
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    yield None
                    budget -= 1
                    if budget <= 0:
                        return
                    if entry.is_dir(follow_symlinks=False):
                        if (
                            depth < MAX_DEPTH
                            and not entry.name.startswith(".")
                            and entry.name not in _SKIPPED
                        ):
                            queue.append((Path(entry.path), depth + 1))
                        continue
                    kind = next((kind for kind, name in _KINDS if name.match(entry.name)), None)
                    facts = entry.stat(follow_symlinks=False) if kind else None
                    if kind and facts and stat.S_ISREG(facts.st_mode):
                        yield Artifact(
                            kind=kind,
                            path=entry.path,
                            size_bytes=facts.st_size,
                            modified_wall_seconds=facts.st_mtime,
                            inode=Reading(value=facts.st_ino),
                        )
        except OSError:
            continue


def disks(proc: Proc, processes: Sequence[Process]) -> tuple[Disk, ...]:
    """The file systems of what is written, and of the current folders: by the target's own mounts."""
    found: dict[tuple[int, int], Disk] = {}
    for process in processes[:16]:
        paths = [(each.target, proc.path(process.pid, "fd", str(each.number))) for each in _written(process)]
        if isinstance(process.cwd, Reading):
            paths.insert(0, (process.cwd.value, proc.path(process.pid, "cwd")))
        for path, link in paths[:32]:
            try:
                facts = os.statvfs(link)
                key = (facts.f_fsid, facts.f_blocks)
            except OSError:
                continue
            found.setdefault(
                key,
                Disk(
                    path=path,
                    total_bytes=facts.f_blocks * facts.f_frsize,
                    free_bytes=facts.f_bavail * facts.f_frsize,
                    free_inodes=facts.f_favail if facts.f_files else 1,
                ),
            )
    return tuple(found.values())


def _written(process: Process) -> Iterator[Descriptor]:
    if isinstance(process.descriptors, Reading):
        for each in process.descriptors.value:
            if (
                each.kind == "file"
                and each.access != "read"
                and not each.target.startswith(("/dev", "/memfd"))
            ):
                yield each
