"""A piece of evidence: what was read and when, or why it was not. None, 0 and -1 never mean "not seen"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Reason: TypeAlias = Literal["unavailable", "denied", "timed_out", "disabled"]
# What comes from JSON and stays JSON (heartbeats, run.json).
Json: TypeAlias = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Evidence that could not be had, and why."""

    reason: Reason
    detail: str = ""


# The default of what a Case did not have from the beginning: older ones load.
NOT_RECORDED = Missing(reason="unavailable", detail="not recorded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(Generic[T_co]):
    """Evidence, and when it was taken."""

    value: T_co
    at_seconds: float = 0.0


Piece: TypeAlias = Reading[T] | Missing


def value(piece: Piece[T], default: T) -> T:
    """The value of a reading, or `default` where it is missing: for words to show, never for judging."""
    return piece.value if isinstance(piece, Reading) else default
