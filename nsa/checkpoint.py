"""Checkpoints on disk: written whole or not at all, verified before they are believed.

    checkpoints/step-00000350/   one file a part (model.pt, optimizer.pt, …) and manifest.json, written last
    checkpoints/latest           a link to the newest

A folder is written under a hidden name, every file fsynced, the manifest with sizes and SHA-256 after them,
then renamed. A folder without a fitting manifest is passed over, and said so. Not here: what the parts mean
and whether they fit this run (nsa.resume).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nsa.errors import NsaError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO

SCHEMA = "nsa.checkpoint/1"
_MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8,})")
_CHUNK_BYTES = 1 << 20


class CheckpointError(NsaError):
    """A checkpoint could not be written, or is not what it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint that stands on disk."""

    path: Path
    step: int
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint; its parts are read when asked for."""

    path: Path
    step: int
    manifest: Mapping[str, Any]

    def part(self, name: str) -> Any:
        """Read a part onto the CPU, tensors and plain values only: a checkpoint cannot run code."""
        file = self.path / f"{name}.pt"
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"{file}: cannot be read: {first}. Resume from another checkpoint"
            ) from error


class _HashingFile:
    """A file for torch.save that hashes what passes, and keeps the first error instead of raising it.

    torch's archive writer calls back from C++, and writes again while an error unwinds: raised there, a full
    disk surfaces as an unrelated RuntimeError, if it surfaces at all.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size_bytes = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write and hash `data`; pretend to, once an error was met."""
        view = memoryview(data).cast("B")
        if self.error is None:
            try:
                self._file.write(view)
                self._hash.update(view)
                self.size_bytes += len(view)
            except OSError as error:
                self.error = error
        return len(view)

    def flush(self) -> None:
        """Nothing to do: closing flushes, and reports."""

    def close_durably(self) -> dict[str, Any]:
        """Flush to the disk; return the manifest's entry, or raise the first error met."""
        if self.error is not None:
            raise self.error
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"bytes": self.size_bytes, "sha256": self._hash.hexdigest()}


class Store:
    """The folder of a run's checkpoints."""

    def __init__(self, root: Path, *, keep: int) -> None:
        self.root = root
        self._keep = keep

    def save(self, step: int, parts: Mapping[str, Any], facts: Mapping[str, Any]) -> Saved:
        """Write a checkpoint of `step`; CheckpointError, leaving nothing that could be taken for one."""
        began = time.monotonic()
        final = self.root / f"step-{step:08d}"
        temporary = self.root / f".writing-{final.name}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._sweep()
            temporary.mkdir()
            size = self._fill(temporary, step, parts, facts)
            self._put(temporary, final)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            reason = error.strerror or str(error)
            raise CheckpointError(
                f"{final}: checkpoint of step {step} could not be written: {reason}."
                " Make room or mend the permissions there; the checkpoints before it are whole"
            ) from error
        self._retire()
        return Saved(path=final, step=step, size_bytes=size, seconds=time.monotonic() - began)

    def _fill(self, folder: Path, step: int, parts: Mapping[str, Any], facts: Mapping[str, Any]) -> int:
        files: dict[str, dict[str, Any]] = {}
        for name, value in parts.items():
            with (folder / f"{name}.pt").open("wb") as file:
                hashing = _HashingFile(file)
                torch.save(value, hashing)  # type: ignore[arg-type]  # writes and flushes, as asked
                files[f"{name}.pt"] = hashing.close_durably()
        manifest = {
            "schema": SCHEMA,
            "step": step,
            "saved_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **facts,
            "files": files,
        }
        with (folder / _MANIFEST).open("w", encoding="utf-8") as text:
            json.dump(manifest, text, indent=1)
            text.flush()
            os.fsync(text.fileno())
        _sync_folder(folder)
        return sum(int(entry["bytes"]) for entry in files.values())

    def _put(self, temporary: Path, final: Path) -> None:
        """Give the folder its name: from here on it counts."""
        if final.exists():
            # The same step again, after resuming from before it: hidden first, as a rename onto it fails.
            final.rename(self.root / f".retired-{final.name}")
        temporary.rename(final)
        link = self.root / ".latest"
        link.symlink_to(final.name)
        link.replace(self.root / "latest")
        _sync_folder(self.root)

    def _retire(self) -> None:
        """Keep the newest; a folder is hidden before it is emptied, so that half of one is never met."""
        for step, path in self.steps()[self._keep :]:
            with suppress(OSError):
                path.rename(self.root / f".retired-step-{step:08d}")
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a killed process left half-written or half-removed."""
        for left in [*self.root.glob(".writing-*"), *self.root.glob(".retired-*")]:
            shutil.rmtree(left, ignore_errors=True)
        (self.root / ".latest").unlink(missing_ok=True)

    def steps(self) -> list[tuple[int, Path]]:
        """The folders named like checkpoints, newest first; not yet verified."""
        try:
            paths = list(self.root.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(
                f"{self.root}: cannot be read: {error.strerror}. Mend its permissions, or choose another"
            ) from error
        named = ((_NAME.fullmatch(path.name), path) for path in paths)
        return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)

    def set_aside(self, *, after: int = -1) -> Path | None:
        """Move the checkpoints past step `after` away, so that a run may go on from there; where to.

        Left in place, they would count as the newest: kept when new ones are retired, and resumed from.
        """
        leaving = [path for step, path in self.steps() if step > after]
        if not leaving:
            return None
        aside = self.root.with_name(f"{self.root.name}.before-{datetime.now(timezone.utc):%Y-%m-%dT%H-%M-%S}")
        try:
            aside.mkdir()
            for path in leaving:
                path.rename(aside / path.name)
            (self.root / "latest").unlink(missing_ok=True)  # the next save makes it anew
        except OSError as error:
            raise CheckpointError(
                f"{self.root}: cannot be set aside: {error.strerror}. Choose another --out"
            ) from error
        return aside

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest whole checkpoint; what is passed over is told to `warn`."""
        for _, path in self.steps():
            try:
                return read(path)
            except CheckpointError as error:  # noqa: PERF203 — a handful of folders
                warn(f"passed over: {error}")
        return None


def read(path: Path) -> Checkpoint:
    """Verify the checkpoint in the folder `path`, every byte; CheckpointError if it is not whole."""
    file = path / _MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
            raise CheckpointError(
                f"{file}: is not a manifest of schema {SCHEMA}. Another version's checkpoint?"
            )
        step, files = int(manifest["step"]), dict(manifest["files"])
        for name, entry in files.items():
            _verify(path / name, int(entry["bytes"]), str(entry["sha256"]))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: incomplete, without {Path(error.filename).name}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}. Check its permissions") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: is damaged: {error!r:.100}") from error
    return Checkpoint(path=path, step=step, manifest=manifest)


def _verify(file: Path, size_bytes: int, sha256: str) -> None:
    seen = file.stat().st_size
    if seen != size_bytes:
        raise CheckpointError(f"{file}: is incomplete: {seen} bytes of {size_bytes}")
    found = hashlib.sha256()
    with file.open("rb") as data:
        while chunk := data.read(_CHUNK_BYTES):
            found.update(chunk)
    if found.hexdigest() != sha256:
        raise CheckpointError(f"{file}: is damaged: its SHA-256 is not the manifest's")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
