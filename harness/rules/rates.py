"""Notes on a training's learning rate: in its warm-up, zero, or not what its schedule asks for.

Numbers come from the heartbeat and the ring of its last steps, else from locals of the trainer's own frames,
its options and its configuration files, by names that say what they are, and only where they fit together: a
rate is called a warm-up's only if peak * step / warm-up gives it. Without numbers there is no note.
"""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from harness import frames as code
from harness.evidence import Reading
from harness.findings import Note
from harness.rules import say
from harness.rules.loops import number
from harness.schedules import scheduled_rate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from harness.evidence import Frame
    from harness.rules.scene import Scene
    from harness.rules.view import ProcessView

# A rate is the scheduled one up to this; what trainers print is rounded.
_RATE_TOLERANCE = 0.01
_OFF_SCHEDULE = 0.05
_RATE_NAMES = re.compile(r"^((cur|current|last|new|this)_?)?(lr|learning_rate)(_now)?$", re.IGNORECASE)
_PEAK_NAMES = re.compile(
    r"^((peak|base|max|target|initial)_?)?(lr|learning_rate)(_?(max|peak|base))?$|^peak$", re.IGNORECASE
)
_STEP_NAMES = re.compile(
    r"^((global|optimizer|optim|train|training|cur|current)_)?(step|iter|iter_num|iteration|update|it)s?$",
    re.IGNORECASE,
)
_WARMUP_NAMES = re.compile(r"^((n|num|lr)_)?warm_?up(_(step|iter|iteration|update)s?)?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A learning rate, the step that it is for, and what its warm-up was said to be."""

    rate: float
    step: int
    warmup: float
    peak: float
    source: str


def learning_rate(scene: Scene) -> Iterator[Note]:
    """lr-warmup, lr-zero and lr-off-schedule."""
    record = scene.view.record
    schedule = record.get("schedule") if record is not None else None
    schedule = schedule if isinstance(schedule, dict) else {}
    row = scene.view.rows[-1] if scene.view.rows else None
    rates = [each for each in (row or {}).get("learning_rates") or () if isinstance(each, (int, float))]
    step = (row or {}).get("step")
    if rates and isinstance(step, int):
        yield from _from_row(rates, step, schedule)
        return
    found = _from_locals(scene) or _from_schedule(record, schedule)
    if found is not None:
        yield _warmup_note(found)


def _from_row(rates: Sequence[float], step: int, schedule: Mapping[str, Any]) -> Iterator[Note]:
    expected = scheduled_rate(schedule, step)
    warmup, peak = schedule.get("warmup"), schedule.get("peak")
    if all(each == 0 for each in rates):
        if expected is not None and expected <= 0:
            return  # the end of a decay to zero
        yield Note(
            cause="lr-zero",
            summary=f"The learning rate of step {step:,} is 0: nothing is learned in it.",
            evidence=(f"its schedule asks for {expected:.3g}",) if expected is not None else (),
        )
    elif expected is not None and not _on_schedule(rates, step, schedule):
        yield Note(
            cause="lr-off-schedule",
            summary=f"LR {_short(rates[0])} at step {step:,} is not what the declared schedule asks for: "
            f"{_short(expected)}.",
            evidence=(f"schedule: {', '.join(f'{name} {value}' for name, value in schedule.items())}",),
        )
    elif (
        isinstance(warmup, (int, float))
        and isinstance(peak, (int, float))
        and step <= warmup
        and rates[0] < peak
    ):
        yield _warmup_note(
            Rate(rate=rates[0], step=step, warmup=warmup, peak=peak, source="the heartbeat and its schedule")
        )


def _on_schedule(rates: Sequence[float], step: int, schedule: Mapping[str, Any]) -> bool:
    """Whether any group has the rate of this step, or of its neighbours: trainers count from 0 or from 1."""
    near = [scheduled_rate(schedule, each) for each in (step - 1, step, step + 1)]
    known = [each for each in near if each is not None]
    peak = float(schedule.get("peak", 0.0))
    slack = [_OFF_SCHEDULE * max(each, 1e-3 * peak) for each in known]
    return any(abs(rate - each) <= more for rate in rates for each, more in zip(known, slack, strict=True))


def _from_schedule(record: Mapping[str, Any] | None, schedule: Mapping[str, Any]) -> Rate | None:
    """Before the first step has ended, what the declared schedule makes of it."""
    warmup, peak = schedule.get("warmup"), schedule.get("peak")
    if record is None or record.get("step") is not None:
        return None
    rate = scheduled_rate(schedule, 1)
    if (
        rate is None
        or not isinstance(warmup, (int, float))
        or not isinstance(peak, (int, float))
        or warmup <= 1
    ):
        return None
    return Rate(
        rate=rate, step=1, warmup=warmup, peak=peak, source="its declared schedule; no step has ended yet"
    )


def _from_locals(scene: Scene) -> Rate | None:
    """A rate and a step of one thread's own frames that a peak and a warm-up fit, wherever those stand."""
    settings = _settings(scene)
    for process in scene.view.trainers:
        for thread in process.threads:
            if not process.has_trusted_locals:
                continue
            mine = [each for each in thread.python_frames if code.owner(each) == "user"]
            found = _fitting(_locals(mine), [*_options(process), *settings])
            if found is not None:
                return found
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A number, its name, and where it stands."""

    name: str
    value: float
    place: str


def _locals(frames: Sequence[Frame]) -> list[Named]:
    return [
        Named(name=local.name, value=value, place="the trainer's own variables")
        for frame in frames
        for local in frame.locals
        if (value := number(local.name, frame)) is not None
    ]


def _options(process: ProcessView) -> list[Named]:
    """`--lr 2e-4`, `--warmup-steps=2000`, `lr=2e-4`."""
    words = process.command[1:]
    pairs = [word.partition("=")[::2] for word in words if "=" in word]
    pairs += [(word, after) for word, after in pairwise(words) if word.startswith("--") and "=" not in word]
    found = []
    for name, text in pairs:
        with contextlib.suppress(ValueError):
            short = name.lstrip("-").rpartition(".")[2].replace("-", "_")
            found.append(Named(name=short, value=float(text), place="its options"))
    return found


def _settings(scene: Scene) -> list[Named]:
    found = scene.view.case.settings
    trainer = next(iter(scene.view.trainers), None)
    if not isinstance(found, Reading) or trainer is None:
        return []
    return [
        Named(name=each.name, value=each.value, place=say.short(trainer, each.path)) for each in found.value
    ]


def _fitting(own: Sequence[Named], configured: Sequence[Named]) -> Rate | None:
    """The first peak and warm-up that give a rate of its own at a step of its own."""
    everything = [*own, *configured]
    peaks = [each for each in everything if _PEAK_NAMES.match(each.name)]
    warmups = [each for each in everything if _WARMUP_NAMES.match(each.name)]
    for rate in (each for each in own if _RATE_NAMES.match(each.name)):
        for step in (each for each in own if _STEP_NAMES.match(each.name)):
            for peak in peaks:
                for warmup in warmups:
                    if (at := _step_of(rate.value, step.value, peak.value, warmup.value)) is not None:
                        return Rate(
                            rate=rate.value,
                            step=at,
                            warmup=warmup.value,
                            peak=peak.value,
                            source=_places(rate, step, peak, warmup),
                        )
    return None


def _step_of(rate: float, step: float, peak: float, warmup: float) -> int | None:
    """Which step of the warm-up, counted from 1, has this rate: the one named, or the next."""
    if not (
        0 < rate < peak < math.inf and 1 < warmup < math.inf and 0 <= step <= warmup and step == int(step)
    ):
        return None
    for ahead in (0, 1):
        expected = peak * (step + ahead) / warmup
        if expected and abs(rate - expected) <= _RATE_TOLERANCE * expected:
            return int(step) + ahead
    return None


def _places(*numbers: Named) -> str:
    """`lr and step of the trainer's own variables, warmup of configs/m7c.json`."""
    places: dict[str, list[str]] = {}
    for each in numbers:
        places.setdefault(each.place, []).append(each.name)
    return ", ".join(f"{' and '.join(dict.fromkeys(names))} of {place}" for place, names in places.items())


def _warmup_note(found: Rate) -> Note:
    expected = found.peak * max(1, found.step) / found.warmup
    return Note(
        cause="lr-warmup",
        summary=f"LR {_short(found.rate)} is step {found.step:,} of a {found.warmup:,.0f}-step warm-up to "
        f"{_short(found.peak)}, as configured: it gets there at step {found.warmup:,.0f}.",
        evidence=(
            f"{found.peak:.3g} * {found.step:,} / {found.warmup:,.0f} = {expected:.3g}",
            f"from {found.source}",
        ),
    )


def _short(rate: float) -> str:
    """2e-4, 1.25e-5: as configurations have it."""
    if rate == 0 or rate >= 0.01 or not math.isfinite(rate):
        return f"{rate:.3g}"
    mantissa, _, power = f"{rate:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(power)}"
