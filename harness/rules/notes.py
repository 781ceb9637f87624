"""Notes: true things that mislead people, and are no cause by themselves: logs, artifacts, disks.

Each stands on what was recorded; with a reading missing, a note is not made. Not covered: notes on learning
(`learning`), the verdict.
"""

from __future__ import annotations

import re
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from harness.evidence import Reading
from harness.findings import Note
from harness.render.text import spoken
from harness.rules import say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.evidence import Artifact, Descriptor
    from harness.rules.scene import Scene
    from harness.rules.view import ProcessView

_BUFFER_BYTES = 8192
_SILENT_SECONDS = 120.0
_STALE_SECONDS = 60.0
_FULL_RATIO = 0.01
_FULL_BYTES = 2 * 2**30  # a hundredth of a large disk is room enough
# Files of one checkpoint are written one after the other.
_ONE_CHECKPOINT_SECONDS = 5.0
_OVERDUE = 3.0


def log_buffered(scene: Scene) -> Iterator[Note]:
    """log-buffered: stdout is no terminal, and Python holds its output back."""
    for process in scene.view.trainers:
        out = _stdout(process)
        if out is None or not process.python or out.kind not in ("file", "pipe") or _unbuffered(process):
            continue
        size = out.file.value.size_bytes if isinstance(out.file, Reading) else None
        if size is not None and size > 0:
            continue
        name = say.short(process, out.target)
        what = f"{name} is empty because stdout is a file" if size == 0 else "stdout is a pipe"
        yield Note(
            cause="log-buffered",
            summary=f"{what} and Python holds up to 8 KB back: what was printed may not be there yet. "
            "python -u",
            evidence=(f"stdout is a {out.kind}", "neither -u nor PYTHONUNBUFFERED is set"),
        )
        return


def log_silent(scene: Scene) -> Iterator[Note]:
    """log-silent: nothing was written for long."""
    log = scene.view.case.log
    if isinstance(log, Reading):
        silent = scene.view.case.taken_at_seconds - log.value.modified_wall_seconds
        if log.value.size_bytes > 0 and silent > _SILENT_SECONDS:
            yield Note(cause="log-silent", summary=f"{log.value.path} was last written {spoken(silent)} ago.")


def tokenizer_warning(scene: Scene) -> Iterator[Note]:
    """tokenizer-warning: a line of transformers that sounds worse than it is."""
    found = scene.view.case.known_lines
    lines = (
        [each for each in found.value if each.kind == "tokenizer-length"]
        if isinstance(found, Reading)
        else []
    )
    if not lines:
        return
    line = lines[0]
    process = next(iter(scene.view.trainers), None)
    name = say.short(process, line.path) if process is not None else line.path
    sizes = re.search(r"\(\d+ > \d+\)", line.text)
    began = _began(scene)
    old = began is not None and line.modified_wall_seconds < began - _STALE_SECONDS
    whose = ", of an earlier run," if old else ""
    yield Note(
        cause="tokenizer-warning",
        summary=f"{name}{whose} warns of a sequence that is too long{f' {sizes[0]}' if sizes else ''}: "
        "harmless where documents are packed or cut before the model sees them. Truncating to silence it "
        "loses text.",
        evidence=(line.text,),
    )


def stale(scene: Scene) -> Iterator[Note]:
    """stale-artifacts and stale-checkpoint: what is on show is older than this process, or overdue."""
    found = scene.view.case.artifacts
    trainer, began = next(iter(scene.view.trainers), None), _began(scene)
    if not isinstance(found, Reading) or trainer is None or began is None:
        return
    boards = [each for each in found.value if each.kind == "tensorboard"]
    if boards and all(each.modified_wall_seconds < began - _STALE_SECONDS for each in boards):
        newest = max(boards, key=lambda each: each.modified_wall_seconds)
        yield Note(
            cause="stale-artifacts",
            summary=f"{say.short(trainer, newest.path.rpartition('/')[0])} was last written "
            f"{spoken(began - newest.modified_wall_seconds)} before this process began: TensorBoard shows "
            "an older run.",
            evidence=(newest.path,),
        )
    saved = [each for each in found.value if each.kind == "checkpoint"]
    if saved and all(each.modified_wall_seconds < began - _STALE_SECONDS for each in saved):
        newest = max(saved, key=lambda each: each.modified_wall_seconds)
        yield Note(
            cause="stale-checkpoint",
            summary=f"The newest checkpoint, {say.short(trainer, newest.path)}, is "
            f"{spoken(began - newest.modified_wall_seconds)} older than this process: not its own.",
        )
        return
    own = [each for each in saved if each.modified_wall_seconds >= began]
    yield from _overdue(scene, trainer, own)


def _overdue(scene: Scene, trainer: ProcessView, own: Sequence[Artifact]) -> Iterator[Note]:
    """Its own checkpoints came at a pace, and the next one is long due."""
    written: list[float] = []
    for moment in sorted(each.modified_wall_seconds for each in own):
        if written and moment - written[-1] <= _ONE_CHECKPOINT_SECONDS:
            written[-1] = moment
        else:
            written.append(moment)
    gaps = [later - earlier for earlier, later in pairwise(written)]
    if not gaps:
        return
    ago = scene.view.case.taken_at_seconds - written[-1]
    if ago > _OVERDUE * max(gaps) and ago > _STALE_SECONDS:
        newest = max(own, key=lambda each: each.modified_wall_seconds)
        yield Note(
            cause="stale-checkpoint",
            summary=f"The last checkpoint, {say.short(trainer, newest.path)}, was written {spoken(ago)} ago; "
            f"until then one came every {spoken(median(gaps))}.",
            evidence=(f"{len(written)} checkpoints of this process",),
        )


def disk_full(scene: Scene) -> Iterator[Note]:
    """disk-full: no room where it writes."""
    found = scene.view.case.disks
    for disk in found.value if isinstance(found, Reading) else ():
        little = disk.free_bytes < min(_FULL_RATIO * disk.total_bytes, _FULL_BYTES)
        if disk.total_bytes and (little or disk.free_bytes == 0 or disk.free_inodes == 0):
            what = "no free inode" if disk.free_inodes == 0 else f"{_size(disk.free_bytes)} free"
            yield Note(
                cause="disk-full",
                summary=f"The disk of {disk.path} has {what}, of {_size(disk.total_bytes)}: what it writes "
                "there fails, or soon will.",
            )


def _size(size_bytes: float) -> str:
    for unit in ("B", "KB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


def _began(scene: Scene) -> float | None:
    """When the trainer began, by the wall clock."""
    trainer = next(iter(scene.view.trainers), None)
    age = trainer.process.age_seconds if trainer is not None else None
    return scene.view.case.taken_at_seconds - age.value if isinstance(age, Reading) else None


def _stdout(process: ProcessView) -> Descriptor | None:
    found = process.process.descriptors
    return (
        next((each for each in found.value if each.number == 1), None) if isinstance(found, Reading) else None
    )


def _unbuffered(process: ProcessView) -> bool:
    if process.environment.get("PYTHONUNBUFFERED") or not isinstance(process.process.environment, Reading):
        return True
    words = iter(process.command[1:])
    for word in words:
        if not word.startswith("-") or word.startswith("--") or word[1:2] in ("c", "m"):
            return False  # the script, and what it is given
        if word[1:2] in ("W", "X"):
            next(words, None) if len(word) == 2 else None
        elif "u" in word:
            return True
    return False
