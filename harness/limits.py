"""Limits as they stand before anything is learned, and as `--stall-timeout` sets them. Pure.

Not here: what is learned from a run, and when a limit is exceeded (`detect`).
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

# How many gaps or steps are enough to learn from, in a loop of steps ...
MIN_GAPS = 16
# ... in a stage that comes now and then; each visit may take far longer than the one before (a busy disk) ...
SLOW_STAGE_MIN_GAPS = 5
SLOW_STAGE_FLOOR_SECONDS = 120.0
# ... and in a log. With an idle tree it is suspicious once its silence is out of rhythm.
LOG_MIN_GAPS = 8
LOG_FLOOR_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How the limit of one place is made: fixed until `min_gaps` are known, then learned above a floor."""

    first_seconds: float
    floor_seconds: float = SLOW_STAGE_FLOOR_SECONDS
    min_gaps: int = SLOW_STAGE_MIN_GAPS


# Fixed limits are ten to a hundred times what these stages take on a healthy machine with cold caches:
# importing torch from a network disk takes minutes, compiling a large model a quarter of an hour.
RULES: Mapping[str, Rule] = {
    "boot": Rule(first_seconds=900.0),  # also the only stage of a trainer that never names one
    "import": Rule(first_seconds=600.0),
    "config": Rule(first_seconds=120.0),
    "distributed": Rule(first_seconds=600.0),
    "tokenizer": Rule(first_seconds=300.0),
    "dataset": Rule(first_seconds=600.0),
    "model": Rule(first_seconds=300.0),
    "optimizer": Rule(first_seconds=300.0),
    "resume": Rule(first_seconds=600.0),
    "first_batch": Rule(first_seconds=300.0),
    "compile": Rule(first_seconds=1800.0),
    "first_step": Rule(first_seconds=900.0),
    "train": Rule(first_seconds=900.0, floor_seconds=5.0, min_gaps=MIN_GAPS),
    "eval": Rule(first_seconds=600.0),
    "checkpoint": Rule(first_seconds=600.0),
    "download": Rule(first_seconds=300.0),
    "finish": Rule(first_seconds=300.0),
    "log": Rule(first_seconds=600.0, floor_seconds=LOG_FLOOR_SECONDS, min_gaps=LOG_MIN_GAPS),
    "activity": Rule(first_seconds=600.0, floor_seconds=600.0),
}
UNKNOWN_STAGE = Rule(first_seconds=300.0)
_MAX_STAGE_BYTES = 31  # wire.py stores no longer names
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How long a place may stay silent, and why just so long; infinite when switched off."""

    seconds: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What `--stall-timeout` set: seconds by stage, and for every stage not named; infinite means off."""

    every: float | None = None
    stages: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> Overrides:
        """Read `60`, `train=60,dataset=5m` or `off`; UsageError names what it cannot read."""
        if text is None:
            return cls()
        every: float | None = None
        stages: dict[str, float] = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals:
                if every is not None:
                    raise _unreadable(text, "two limits without a stage's name")
                every = _parse_seconds(name, text)
                continue
            name = name.replace("-", "_")
            if not name or len(name.encode()) > _MAX_STAGE_BYTES:
                raise _unreadable(text, f"{name!r} is no stage's name")
            if name in stages:
                raise _unreadable(text, f"{name} is named twice")
            stages[name] = _parse_seconds(value, text)
        return cls(every=every, stages=stages)

    def values(self) -> tuple[float, ...]:
        """Every limit that was set."""
        return (*self.stages.values(), *([] if self.every is None else [self.every]))

    def doubts(self) -> tuple[str, ...]:
        """A line for each name that is nearly one of ours: it is obeyed, and may never come to anything."""
        known = (*RULES, "busy")
        near = {
            name: difflib.get_close_matches(name, known, n=1, cutoff=0.7)
            for name in self.stages
            if name not in known
        }
        return tuple(
            f"--stall-timeout {name}: taken for a stage of the trainer's own. Did you mean {found[0]}?"
            for name, found in near.items()
            if found
        )

    def limit(self, place: str) -> Limit | None:
        """The limit set by hand for `place`, if one was."""
        # `train` covers its first step, unless that is named itself.
        names = (place, "train") if place == "first_step" else (place,)
        for name in names:
            if name in self.stages:
                return _set_by_hand(self.stages[name], f"--stall-timeout {name}={_plain(self.stages[name])}")
        if self.every is None or place == "busy":
            return None
        return _set_by_hand(self.every, f"--stall-timeout {_plain(self.every)}")


def _parse_seconds(value: str, text: str) -> float:
    if value in {"off", "0"}:
        return math.inf
    number, unit = (value[:-1], _UNITS[value[-1]]) if value[-1:] in _UNITS else (value, 1.0)
    try:
        seconds = float(number) * unit
    except ValueError:
        raise _unreadable(text, f"{value!r} is no number of seconds") from None
    if not (math.isfinite(seconds) and seconds >= 0):
        raise _unreadable(text, f"{value} seconds cannot be a limit")
    return seconds or math.inf


def _unreadable(text: str, what: str) -> UsageError:
    return UsageError(
        f"--stall-timeout {text}: {what}",
        remedy="Give seconds for every stage (60), by stage (train=60,dataset=5m), or off",
    )


def _set_by_hand(seconds: float, option: str) -> Limit:
    return Limit(
        seconds=seconds, why=f"set by {option}" if math.isfinite(seconds) else f"switched off by {option}"
    )


def _plain(seconds: float) -> str:
    return f"{seconds:g}" if math.isfinite(seconds) else "off"


def words(place: str) -> str:
    """A place as a reason names it."""
    return {
        "first_step": "a first step",
        "first_batch": "a first batch",
        "log": "a command whose log has no rhythm yet",
        "activity": "a command whose output cannot be followed",
    }.get(place, f"stage {place}")
