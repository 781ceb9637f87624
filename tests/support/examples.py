"""How many examples hypothesis draws: what a test names, times NSA_EXAMPLES (CI asks for more)."""

from __future__ import annotations

import os

FACTOR = float(os.environ.get("NSA_EXAMPLES", "1"))


def examples(count: int) -> int:
    return max(1, round(count * FACTOR))
