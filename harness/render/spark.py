"""A curve in one line of text. Pure.

Each column stands for as many values as it takes; the one it shows is chosen by what must not be missed: a
spike of the loss, a drop of the throughput.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-=+*#@"
NONFINITE = "!"

Pick = Literal["max", "min", "last"]


def spark(
    values: Sequence[float | None], width: int, *, pick: Pick = "last", plain_ascii: bool = False
) -> str:
    """At most `width` characters; a blank where nothing is known, `!` where a value was not finite."""
    if width <= 0 or not values:
        return ""
    columns = [_choose(part, pick) for part in _parts(values, width)]
    known = [value for value in columns if value is not None and math.isfinite(value)]
    if not known:
        return "".join(NONFINITE if value is not None else " " for value in columns)
    low, high = min(known), max(known)
    blocks = _ASCII if plain_ascii else _BLOCKS
    return "".join(_drawn(value, low, high, blocks) for value in columns)


def _parts(values: Sequence[float | None], width: int) -> list[Sequence[float | None]]:
    count = min(width, len(values))
    edges = [len(values) * at // count for at in range(count + 1)]
    return [values[start:end] for start, end in pairwise(edges)]


def _choose(part: Sequence[float | None], pick: Pick) -> float | None:
    known = [value for value in part if value is not None]
    odd = next((value for value in known if not math.isfinite(value)), None)
    if odd is not None or not known:
        return odd
    return max(known) if pick == "max" else min(known) if pick == "min" else known[-1]


def _drawn(value: float | None, low: float, high: float, blocks: str) -> str:
    if value is None:
        return " "
    if not math.isfinite(value):
        return NONFINITE
    if high - low <= 1e-12 * max(abs(high), abs(low)):
        return blocks[0 if high == 0 else len(blocks) // 2]
    return blocks[min(len(blocks) - 1, int((value - low) / (high - low) * len(blocks)))]
