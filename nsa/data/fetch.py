"""Staging: N documents of a source as local parquet, for a machine without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nsa.config import DataConfig


def fetch(data: DataConfig, out: Path, documents: int, progress: Callable[[str], None] | None = None) -> Path:
    """Write `documents` documents of the configured source into the folder `out`."""
    raise NotImplementedError
