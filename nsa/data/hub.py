"""The hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nsa.config import DataConfig
    from nsa.data.sources import Source


def resolve(data: DataConfig) -> Source:
    """Find the files of a subset on the hub."""
    raise NotImplementedError
