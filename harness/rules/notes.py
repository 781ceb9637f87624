"""Notes: true things that mislead people, and are no cause by themselves.

Each stands on what was recorded; with a reading missing, a note is not made. Not covered: the verdict.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from harness.evidence import Reading
from harness.findings import Note

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from harness.evidence import Descriptor
    from harness.rules.chain import Scene
    from harness.rules.view import ProcessView

_BUFFER_BYTES = 8192
_SILENT_SECONDS = 120.0
_STALE_SECONDS = 60.0
_FULL_RATIO = 0.01


def log_buffered(scene: Scene) -> Iterator[Note]:
    """log-buffered: stdout is no terminal, and Python holds its output back."""
    for process in scene.view.trainers:
        out = _stdout(process)
        if out is None or not process.python or out.kind not in ("file", "pipe") or _unbuffered(process):
            continue
        size = out.file.value.size_bytes if isinstance(out.file, Reading) else None
        if size is not None and size > 0:
            continue
        what = f"{out.target} is empty" if size == 0 else "its output goes into a pipe"
        yield Note(
            cause="log-buffered",
            summary=f"{what}: stdout is no terminal, so Python holds up to 8 KB back. An empty log "
            f"says nothing: python -u",
            evidence=(f"stdout is a {out.kind}", "neither -u nor PYTHONUNBUFFERED is set"),
        )
        return


def log_silent(scene: Scene) -> Iterator[Note]:
    """log-silent: nothing was written for long."""
    log = scene.view.case.log
    if isinstance(log, Reading):
        silent = scene.view.case.taken_at_seconds - log.value.modified_wall_seconds
        if log.value.size_bytes > 0 and silent > _SILENT_SECONDS:
            yield Note(cause="log-silent", summary=f"{log.value.path} was last written {_ago(silent)} ago.")


def learning_rate(scene: Scene) -> Iterator[Note]:
    """lr-warmup, lr-zero and loss-nonfinite, from the heartbeat."""
    for process in scene.view.trainers:
        record = process.record
        row = record.get("last") if record is not None else None
        if record is None or not isinstance(row, dict):
            continue
        rates = [each for each in row.get("learning_rates") or () if isinstance(each, (int, float))]
        schedule, step = record.get("schedule"), row.get("step")
        yield from _rates(rates, schedule if isinstance(schedule, dict) else {}, step)
        loss = row.get("loss")
        if isinstance(loss, float) and not math.isfinite(loss):
            yield Note(
                cause="loss-nonfinite",
                summary=f"The loss of step {step} is {loss}: what follows is worth nothing.",
            )
        return


def _rates(rates: list[float], schedule: Mapping[str, Any], step: object) -> Iterator[Note]:
    if not rates or not isinstance(step, int):
        return
    warmup, peak = schedule.get("warmup"), schedule.get("peak")
    if (
        isinstance(warmup, (int, float))
        and isinstance(peak, (int, float))
        and step <= warmup
        and 0 < rates[0] < peak
    ):
        expected = peak * max(1, step) / warmup
        as_set = "as configured" if abs(rates[0] - expected) <= 0.02 * peak + 1e-12 else "by its schedule"
        yield Note(
            cause="lr-warmup",
            summary=f"LR {rates[0]:.2g} is step {step} of a {warmup:,.0f}-step warm-up to "
            f"{peak:.2g}, {as_set}.",
            evidence=(f"{peak:.2g} * {step}/{warmup:g} = {expected:.2g}",),
        )
    elif all(each == 0 for each in rates):
        yield Note(cause="lr-zero", summary=f"The learning rate of step {step} is 0: nothing is learned.")


def stale(scene: Scene) -> Iterator[Note]:
    """stale-artifacts and stale-checkpoint: what is on show is older than this process."""
    found = scene.view.case.artifacts
    trainer = next(iter(scene.view.trainers), None)
    if (
        not isinstance(found, Reading)
        or trainer is None
        or not isinstance(trainer.process.age_seconds, Reading)
    ):
        return
    began = scene.view.case.taken_at_seconds - trainer.process.age_seconds.value
    boards = [each for each in found.value if each.kind == "tensorboard"]
    if boards and all(each.modified_wall_seconds < began - _STALE_SECONDS for each in boards):
        newest = max(boards, key=lambda each: each.modified_wall_seconds)
        yield Note(
            cause="stale-artifacts",
            summary=f"{newest.path.rpartition('/')[0]} was last written "
            f"{_ago(began - newest.modified_wall_seconds)} before this "
            "process began: TensorBoard shows an older run.",
            evidence=(newest.path,),
        )
    saved = [each for each in found.value if each.kind == "checkpoint"]
    if saved and all(each.modified_wall_seconds < began - _STALE_SECONDS for each in saved):
        newest = max(saved, key=lambda each: each.modified_wall_seconds)
        yield Note(
            cause="stale-checkpoint",
            summary=f"{newest.path} is {_ago(began - newest.modified_wall_seconds)} older than "
            f"this process: not its own.",
        )


def disk_full(scene: Scene) -> Iterator[Note]:
    """disk-full: no room where it writes."""
    found = scene.view.case.disks
    for disk in found.value if isinstance(found, Reading) else ():
        if disk.total_bytes and (disk.free_bytes < _FULL_RATIO * disk.total_bytes or disk.free_inodes == 0):
            yield Note(
                cause="disk-full",
                summary=f"The disk of {disk.path} has {disk.free_bytes / 1e6:.0f} MB of "
                f"{disk.total_bytes / 1e9:.0f} GB left.",
            )


def _stdout(process: ProcessView) -> Descriptor | None:
    found = process.process.descriptors
    return (
        next((each for each in found.value if each.number == 1), None) if isinstance(found, Reading) else None
    )


def _unbuffered(process: ProcessView) -> bool:
    if process.environment.get("PYTHONUNBUFFERED") or not isinstance(process.process.environment, Reading):
        return True
    options = [each for each in process.command[1:6] if each.startswith("-") and not each.startswith("--")]
    return any("u" in each for each in options)


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172800 else f"{seconds / 86400:.0f} days"
