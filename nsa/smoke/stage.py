"""What all stages share: what they are told, how they print what they measure, and how they fail."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nsa.errors import NsaError
from nsa.report import say

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from nsa.config import Config
    from nsa.device import Device
    from nsa.tokenizer import Tokenizer


class SmokeError(NsaError):
    """A stage found something wrong; the message says what, the value seen, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One stage to run."""

    config: Path
    overrides: tuple[str, ...]
    device: str  # cpu, cuda or auto
    out: Path
    steps: int | None = None
    rate: float | None = None
    floor_ratios: Mapping[str, float] = field(default_factory=dict)  # by dtype

    def load(self) -> Config:
        """The configuration, with the stage's device in it."""
        from nsa import config

        return config.load(self.config, self.overrides)


def measured(**values: float | str | bool) -> None:
    """Tell values to whoever judges them: one line that starts with `measured`."""
    say(f"measured {json.dumps({name: _short(value) for name, value in values.items()})}")


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def chosen_device(config: Config) -> Device:
    """The run's device, with torch set up for it."""
    from nsa import device

    device.prepare_environment()
    found = device.choose(config.train, local_rank=0)
    device.make_deterministic(found, config.seed)
    return found


def tokenizer_of(config: Config) -> Tokenizer:
    """The run's tokenizer; the first time a BPE is trained, which is told."""
    from nsa.data import build_tokenizer

    return build_tokenizer(config, progress=say)


def vocabulary(config: Config, tokenizer: Tokenizer) -> int:
    """Rows of the embedding."""
    return config.model.vocab_size or tokenizer.vocab_size
