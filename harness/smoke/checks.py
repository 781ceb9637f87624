"""What every expectation shares: its verdict, its form, and numbers that the stage itself measures. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from harness.smoke.observed import Observed

# A number, or the name of one that the stage itself measures.
Bound: TypeAlias = "float | str"
MEASURED = "measured."


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One expectation's verdict."""

    what: str
    passed: bool
    seen: str
    expected: str
    remedy: str = ""

    @property
    def sentence(self) -> str:
        """`loss.falls_by: 0.02 (5.51 → 5.49), expected at least 1`."""
        return f"{self.what}: {self.seen}, expected {self.expected}"


class Expectation(Protocol):
    """Judges one thing."""

    def check(self, seen: Observed) -> Check:
        """Whether it is as expected."""
        ...


def resolve(bound: Bound, seen: Observed) -> tuple[float, str | None]:
    """The number that `bound` stands for, or why there is none."""
    if not isinstance(bound, str):
        return bound, None
    value = number(seen.measured.get(bound.removeprefix(MEASURED)))
    return (math.nan, f"{bound}, which was not measured") if value is None else (value, None)


def number(value: object) -> float | None:
    """A number that is no truth value; None for anything else."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def plain(value: object) -> str:
    """A measured value as a reader sees it."""
    found = number(value)
    if found is None:
        return ("no", "yes")[value] if isinstance(value, bool) else str(value)
    if found == int(found) and abs(found) < 1e15:
        return f"{int(found):,}"
    return f"{found:.4g}"
