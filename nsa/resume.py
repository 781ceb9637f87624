"""What a checkpoint of a run holds, and whether it may be continued by this one.

Covers the identity of a run (a change in it makes the continuation another run), random generators, and
finding the checkpoint that `--resume` means. Not here: bytes on disk (nsa.checkpoint).
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nsa.checkpoint import Checkpoint, CheckpointError, Store, read
from nsa.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from nsa.config import Config
    from nsa.device import Device

# Where the configuration keeps what is grouped here by what may be allowed together.
_KEYS = {
    "schedule.steps": "train.steps",
    "batch.micro_batch": "train.micro_batch",
    "batch.accumulation": "train.accumulation",
    "optimizer.clip_norm": "train.clip_norm",
    "precision.dtype": "train.dtype",
}

_REMEDIES = {
    "world_size": "Start as many processes as before: each rank's place in the data belongs to that number",
    "model": "Restore the model section, or start anew in another folder (--out)",
    "tokenizer": "Restore the tokenizer (its files, too), or start anew in another folder (--out)",
    "data": "Restore the data (the same files, in the same order), or start anew in another folder (--out)",
}


def identity(config: Config, *, world_size: int, tokenizer: str, data: str) -> dict[str, Any]:
    """What must be the same for a run to continue to the bit; JSON-able. See also nsa.train.CHANGEABLE."""
    train, schedule = config.train, config.schedule
    return {
        "world_size": world_size,
        "model": config.model.model_dump(mode="json"),
        "tokenizer": tokenizer,
        "data": {"fingerprint": data, "sequence_length": config.data.sequence_length},
        "schedule": {"steps": train.steps, **schedule.model_dump(mode="json")},
        "batch": {"micro_batch": train.micro_batch, "accumulation": train.accumulation},
        "optimizer": {"clip_norm": train.clip_norm, **config.optimizer.model_dump(mode="json")},
        "precision": {"dtype": train.dtype},
    }


def check_identity(checkpoint: Checkpoint, now: Mapping[str, Any], allowed: Collection[str]) -> list[str]:
    """ConfigError for the first change that is not allowed; returns a line for each that is."""
    then = checkpoint.manifest.get("identity", {})
    notes: list[str] = []
    for section, value in now.items():
        change = _first_change(then.get(section), value)
        if change is None:
            continue
        where, old, new = change
        key = _KEYS.get(section + where, section + where)
        if section in allowed:
            notes.append(f"resume: {key} is now {new}, was {old}: allowed with --allow-changed {section}")
            continue
        remedy = _REMEDIES.get(section, f"Set it back, or resume with --allow-changed {section}")
        raise ConfigError(f"{checkpoint.path}: {key}: {new} now, {old} in the checkpoint. {remedy}")
    return notes


def rounding(config: Config, device: Device) -> dict[str, Any]:
    """What a run may change and still be the same, but for the last digits."""
    return {
        "device": device.name,
        "torch": torch.__version__,
        "compile": config.train.compile,
        # Sums are split over threads: another number of them rounds differently.
        **({} if device.is_cuda else {"threads": torch.get_num_threads()}),
    }


def compare_rounding(checkpoint: Checkpoint, now: Mapping[str, Any]) -> list[str]:
    """A line for each change, since the user may count on exactness."""
    then = checkpoint.manifest.get("rounding", {})
    return [
        f"resume: {name} is now {value}, was {then.get(name)}: equal to rounding, not to the bit"
        for name, value in now.items()
        if value != then.get(name)
    ]


def _first_change(then: Any, now: Any, where: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in {**then, **now}:
            change = _first_change(then.get(key), now.get(key), f"{where}.{key}")
            if change is not None:
                return change
        return None
    # Compared as JSON: a tuple comes back as a list.
    same = json.dumps(then, sort_keys=True) == json.dumps(now, sort_keys=True)
    return None if same else (where, then, now)


def find(
    resume: str, store: Store, say: Callable[[str], None], *, begun_wall_seconds: float | None = None
) -> Checkpoint | None:
    """The checkpoint that `--resume auto|never|PATH` means; None to begin at step 0.

    `begun_wall_seconds` is given where a supervisor started the same command again: `never` and PATH told
    how to begin, and a checkpoint written since then continues what was begun.
    """
    if begun_wall_seconds is not None and resume != "auto":
        own = store.newest(say)
        if own is not None and (own.path / "manifest.json").stat().st_mtime >= begun_wall_seconds:
            say(f"restarted: continues its own checkpoint; --resume {resume} was for the first attempt")
            return own
    if resume == "never":
        aside = store.set_aside()
        if aside is not None:
            say(f"resume never: the checkpoints that were here are in {aside} now")
        return None
    if resume == "auto":
        found = store.newest(say)
        if found is None and store.steps():
            raise CheckpointError(
                f"{store.root}: none of its checkpoints is whole. Choose another --out, or remove them"
            )
        return found
    return _at(Path(resume), say)


def _at(path: Path, say: Callable[[str], None]) -> Checkpoint:
    """A checkpoint, or the newest of a run's folder or of its folder of checkpoints."""
    if not path.is_dir():
        raise ConfigError(
            f"--resume: {path}: no such folder. Name a checkpoint, a run's folder, auto or never"
        )
    if (path / "manifest.json").exists():
        return read(path.resolve())
    for root in (path, path / "checkpoints"):
        found = Store(root, keep=1).newest(say)
        if found is not None:
            return found
    raise ConfigError(f"--resume: {path}: holds no whole checkpoint. Name another, or auto, or never")


def generators(device: Device) -> dict[str, Any]:
    """The state of this rank's random generators, in types that weights_only loads."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 — the global generator's state
    return {
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],
        "numpy": [str(name), torch.tensor(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device.torch_device) if device.is_cuda else None,
    }


def restore_generators(state: Mapping[str, Any], device: Device) -> None:
    """Set this rank's random generators to a saved state."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002 — as above
    torch.set_rng_state(state["torch"])
    if device.is_cuda and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device.torch_device)
