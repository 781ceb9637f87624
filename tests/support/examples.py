"""How many examples hypothesis draws, and how: what a test names, times NSA_EXAMPLES (CI asks for more).

Where CI is set, hypothesis by itself draws the same examples each time and takes no seed: the profile here
draws others, from a seed that `tests/conftest.py` prints.
"""

from __future__ import annotations

import os

FACTOR = float(os.environ.get("NSA_EXAMPLES", "1"))
_HYPOTHESIS_DEFAULT = 100


def examples(count: int) -> int:
    return max(1, round(count * FACTOR))


def load_profile() -> None:
    """For tests that name no number of examples too."""
    try:
        from hypothesis import settings
    except ModuleNotFoundError:  # its tests skip
        return
    settings.register_profile(
        "harness",
        max_examples=examples(_HYPOTHESIS_DEFAULT),
        deadline=None,  # the machine is shared
        derandomize=False,
        print_blob=True,
    )
    settings.load_profile("harness")
