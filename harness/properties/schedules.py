"""What a learning-rate schedule must do: warm-up, decay to a floor, and the floor for ever after.

Steps are optimizer steps from 0, `floor` is a ratio of the peak. Not covered: schedules that rise again by
design (restarts, cycles): they break `rises, then falls`, and that is the report.
"""

from __future__ import annotations

import inspect
import math
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from harness.properties.faults import EXAMPLES, Fault, PropertyFault, distinct, name_of, smallest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_ROUNDING = 4 * sys.float_info.epsilon
# Up to so many steps each one is looked at; beyond, those around each bend and an even sample.
_WALKED = 20_000
_AROUND = 100
_SAMPLED = 2_000
_DRAWN_TOTAL = 120
_SHAPE = frozenset({"peak", "warmup", "total", "floor"})


def check_lr_schedule(
    fn: Callable[..., float],
    *,
    peak: float | None = None,
    warmup: int | None = None,
    total: int | None = None,
    floor: float | None = None,
    examples: int = EXAMPLES,
    seed: int = 0,
) -> None:
    """Raise PropertyFault where a schedule breaks a property (arXiv 1608.03983 for the cosine's shape).

    Args:
        fn: `fn(step) -> rate`; it is also given `peak`, `warmup`, `total` and `floor` by name where it takes
            them. `stepped` makes one from a scheduler object.
        peak: the highest rate. What is not given is drawn, and the smallest failing shape is reported; `fn`
            has to take it then.
        warmup: optimizer steps of warm-up.
        total: optimizer steps of the run.
        floor: lowest rate as a ratio of the peak (0 where the other three are given).
        examples: shapes to draw.
        seed: of the draw.
    """
    __tracebackhide__ = True
    given = {"peak": peak, "warmup": warmup, "total": total, "floor": floor}
    if None not in (peak, warmup, total):
        given["floor"] = floor or 0.0
    takes = _takes(fn)
    if floor is None and "floor" not in takes:
        given["floor"] = 0.0
    fixed: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    _refuse_impossible(fixed)
    for key in given.keys() - fixed.keys() - takes:
        raise ValueError(
            f"{name_of(fn)} takes no {key}, so none can be drawn: say which one it uses, {key}=…"
        )
    if len(fixed) == len(given):
        found = distinct(rule(fn, fixed) for rule in PROPERTIES)
    else:
        found = distinct(_drawn(rule, fn, fixed, examples, seed) for rule in PROPERTIES)
    if found:
        raise PropertyFault(name_of(fn), found)


def stepped(make: Callable[..., tuple[Any, Any]]) -> Stepped:
    """A schedule from `make(**shape) -> (optimizer, scheduler)`, as torch and transformers have them.

    `make` is given those of `peak`, `warmup`, `total`, `floor` that it takes; it must make new ones
    each time.
    """
    return Stepped(make)


class Stepped:
    """Rates of a scheduler object, found by stepping it; resumed by its own `state_dict`."""

    def __init__(self, make: Callable[..., tuple[Any, Any]]) -> None:
        self._make = make
        self._shape: dict[str, Any] = {}
        self._rates: list[float] = []
        self._objects: tuple[Any, Any] | None = None
        self.__qualname__ = name_of(make)

    def __call__(self, step: int, **shape: Any) -> float:
        """The rate of a step; a new scheduler for each new shape."""
        if self._objects is None or shape != self._shape:
            self._shape, self._objects = shape, _call(self._make, shape)
            self._rates = [_rate(self._objects)]
        while len(self._rates) <= step:
            self._rates.append(_advance(self._objects))
        return self._rates[step]

    def resumed(self, at: int, shape: Mapping[str, Any]) -> Callable[[int], float]:
        """The rates from step `at` on of one that was saved and loaded there."""
        first = _call(self._make, shape)
        for _ in range(at):
            _advance(first)
        second = _call(self._make, shape)
        second[0].load_state_dict(first[0].state_dict())
        second[1].load_state_dict(first[1].state_dict())
        rates = [_rate(second)]

        def lr(step: int) -> float:
            while len(rates) <= step - at:
                rates.append(_advance(second))
            return rates[step - at]

        return lr


def _rate(objects: tuple[Any, Any]) -> float:
    return float(objects[0].param_groups[0]["lr"])


def _advance(objects: tuple[Any, Any]) -> float:
    optimizer, scheduler = objects
    optimizer.step()  # in the order that torch asks for
    scheduler.step()
    return _rate(objects)


def _takes(fn: Callable[..., Any]) -> frozenset[str]:
    """Which of a shape's parameters it takes by name."""
    parameters = inspect.signature(fn._make if isinstance(fn, Stepped) else fn).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return _SHAPE
    return _SHAPE & {each.name for each in parameters if each.kind is not each.POSITIONAL_ONLY}


def _call(fn: Callable[..., Any], shape: Mapping[str, Any], *arguments: Any) -> Any:
    """With those of the shape that it takes."""
    takes = _takes(fn)
    return fn(*arguments, **{key: value for key, value in shape.items() if key in takes})


def _refuse_impossible(shape: Mapping[str, Any]) -> None:
    """ValueError for a check that cannot be meant."""
    for key, least in (("warmup", 0), ("total", 1)):
        value = shape.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"{key} is {value!r}: it must be a whole number of steps, {least} or more")
    if {"warmup", "total"} <= shape.keys() and shape["warmup"] > shape["total"]:
        raise ValueError(f"warmup is {shape['warmup']} and total {shape['total']}: it is longer than the run")
    if "peak" in shape and not (math.isfinite(shape["peak"]) and shape["peak"] > 0):
        raise ValueError(f"peak is {shape['peak']!r}: it must be a finite number above 0")
    if "floor" in shape and not 0 <= shape["floor"] <= 1:
        raise ValueError(f"floor is {shape['floor']!r}: it is a ratio of the peak, from 0 to 1")


def _drawn(
    rule: Callable[[Callable[..., float], Mapping[str, Any]], Fault | None],
    fn: Callable[..., float],
    fixed: Mapping[str, Any],
    examples: int,
    seed: int,
) -> Fault | None:
    def shapes(st: Any) -> Any:
        def draw_shape(draw: Any) -> dict[str, Any]:
            least = max(1, fixed.get("warmup", 1))
            total = fixed.get("total") or draw(st.integers(least, max(_DRAWN_TOTAL, least + 1)))
            warmup = st.just(0) | st.just(total) | st.integers(0, total)
            shape = {
                "peak": st.sampled_from([1.0, 1e-3, 2e-4]),
                "warmup": warmup,
                "total": st.just(total),
                "floor": st.sampled_from([0.0, 0.1, 1.0]) | st.floats(1e-12, 1.0),
            }
            return {key: fixed[key] if key in fixed else draw(strategy) for key, strategy in shape.items()}

        return st.composite(draw_shape)()

    return smallest(
        shapes,
        lambda shape: rule(fn, shape),
        said=lambda shape: f"with {_with(shape)}",
        examples=examples,
        seed=seed,
    )


def _of(fn: Callable[..., float], shape: Mapping[str, Any]) -> Callable[[int], float]:
    return lambda step: float(_call(fn, shape, step))


def _with(shape: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value:g}" for key, value in shape.items())


def _run(shape: Mapping[str, Any]) -> Sequence[int]:
    """Steps of the run to look at, the smallest first."""
    warmup, total = shape["warmup"], shape["total"]
    if total <= _WALKED:
        return range(total)
    bends = {
        step
        for bend in (0, warmup, total)
        for step in range(max(0, bend - _AROUND), min(total, bend + _AROUND))
    }
    return sorted(bends | set(range(0, total, max(1, total // _SAMPLED))))


def _after(shape: Mapping[str, Any]) -> list[int]:
    """Steps past the end: the first hundred, and as far as ten runs."""
    total = shape["total"]
    near = range(total, total + min(total + 3, _AROUND))
    return sorted({*near, 2 * total, 2 * total + 1, 3 * total, 5 * total + 1, 10 * total})


def above_zero_and_at_most_the_peak(fn: Callable[..., float], shape: Mapping[str, Any]) -> Fault | None:
    """0 < lr <= peak at every step of the run: no step is wasted at rate 0."""
    lr, peak = _of(fn, shape), shape["peak"]
    for step in _run(shape):
        rate = lr(step)
        if not (0 < rate <= peak * (1 + _ROUNDING)):
            return Fault(
                property="0 < lr <= peak while training",
                example=f"lr({step}) = {rate:g} with {_with(shape)}",
                remedy="A batch at rate 0 is wasted: warm up by (step + 1) / warmup"
                if rate == 0
                else "Clamp the progress to [0, 1], and check the peak",
            )
    return None


def rises_then_falls(fn: Callable[..., float], shape: Mapping[str, Any]) -> Fault | None:
    """Non-decreasing in warm-up, non-increasing after, past the end too."""
    lr, warmup = _of(fn, shape), shape["warmup"]
    slack = _ROUNDING * shape["peak"]
    steps = [*_run(shape), *_after(shape)]
    for before, after in pairwise((step, lr(step)) for step in steps):
        if after[0] < warmup and after[1] < before[1] - slack:
            what, remedy = "falls in warm-up", "Warm up by (step + 1) / warmup"
        elif before[0] >= warmup and after[1] > before[1] + slack:
            what, remedy = "rises again", "Clamp the progress to [0, 1]"
        else:
            continue
        return Fault(
            property="rises in warm-up, falls after",
            example=f"{what} from lr({before[0]}) = {before[1]:g} to lr({after[0]}) = {after[1]:g} "
            f"with {_with(shape)}",
            remedy=remedy,
        )
    return None


def reaches_the_peak(fn: Callable[..., float], shape: Mapping[str, Any]) -> Fault | None:
    """Exactly the peak, at the last step of warm-up or the one after it."""
    lr, warmup, total = _of(fn, shape), shape["warmup"], shape["total"]
    steps = sorted({max(0, warmup - 1), min(warmup, max(0, total - 1))})
    rates = [lr(step) for step in steps]
    if any(math.isclose(rate, shape["peak"], rel_tol=_ROUNDING) for rate in rates):
        return None
    seen = ", ".join(f"lr({step}) = {rate:g}" for step, rate in zip(steps, rates, strict=True))
    return Fault(
        property="the peak is reached at the end of warm-up",
        example=f"{seen} with {_with(shape)}",
        remedy="Warm up by (step + 1) / warmup, and begin the decay at the peak",
    )


def stays_at_the_floor(fn: Callable[..., float], shape: Mapping[str, Any]) -> Fault | None:
    """lr(k) = floor * peak for every k from the end on."""
    lr, low = _of(fn, shape), shape["peak"] * shape["floor"]
    for step in _after(shape):
        rate = lr(step)
        if not math.isclose(rate, low, rel_tol=1e-9, abs_tol=_ROUNDING * shape["peak"]):
            return Fault(
                property="the floor for ever after the end",
                example=f"lr({step}) = {rate:g}, not {low:g}, with {_with(shape)}",
                remedy="Clamp the progress to [0, 1]; the floor is a ratio of the peak",
            )
    return None


def jumps_nowhere(fn: Callable[..., float], shape: Mapping[str, Any]) -> Fault | None:
    """Neighbours differ by no more than a warm-up's step, or a cosine's steepest."""
    lr = _of(fn, shape)
    peak, warmup, total = shape["peak"], shape["warmup"], shape["total"]
    rise = peak / warmup if warmup else 0.0
    # A straight line falls by less a step than the cosine at its steepest.
    fall = math.pi / 2 * peak * (1 - shape["floor"]) / (total - warmup) if total > warmup else 0.0
    bound = max(rise, fall) + _ROUNDING * peak
    last = total - 1 if warmup == total else total  # no room to come down: one drop, at the end
    for step in _run(shape):
        if step >= last:
            break
        here, following = lr(step), lr(step + 1)
        if abs(following - here) > bound:
            return Fault(
                property="no jump between neighbouring steps",
                example=f"lr({step}) = {here:g}, lr({step + 1}) = {following:g} with {_with(shape)}",
                remedy=f"No neighbours of a smooth schedule of this length differ by more than {bound:g}",
            )
    return None


def same_when_resumed(fn: Callable[..., float], shape: Mapping[str, Any]) -> Fault | None:
    """A run that was resumed, twice, has the rates of one that was not."""
    total = shape["total"]
    steps = min(total, 1_000)
    once = [_of(fn, shape)(step) for step in range(steps)]
    for at in dict.fromkeys((0, steps // 3, steps // 2)):
        again = fn.resumed(at, shape) if isinstance(fn, Stepped) else _of(fn, shape)
        for step in range(at, steps):
            rate = again(step)
            if rate != once[step]:
                return Fault(
                    property="the same rates when resumed",
                    example=f"resumed at step {at}, lr({step}) = {rate:g}, {once[step]:g} uninterrupted, "
                    f"with {_with(shape)}",
                    remedy="Compute the rate from the global step alone, or save the scheduler's whole state",
                )
    return None


def linear_in_the_peak(fn: Callable[..., float], shape: Mapping[str, Any]) -> Fault | None:
    """Twice the peak, twice every rate: groups keep their ratios. Looked at where `fn` takes the peak."""
    if "peak" not in _takes(fn):
        return None
    double = {**shape, "peak": 2 * shape["peak"]}
    steps = [*_run(shape)][:: max(1, shape["total"] // 200)]
    # One after the other: a scheduler object is made anew for each shape.
    single = [_of(fn, shape)(step) for step in steps]
    for step, rate in zip(steps, single, strict=True):
        other = _of(fn, double)(step)
        if not math.isclose(other, 2 * rate, rel_tol=1e-9, abs_tol=_ROUNDING * shape["peak"]):
            return Fault(
                property="linear in the peak",
                example=f"lr({step}) = {rate:g}, and {other:g} with twice the peak; {_with(shape)}",
                remedy="Make the floor a ratio of the peak, so that groups keep their ratios",
            )
    return None


PROPERTIES = (
    above_zero_and_at_most_the_peak,
    rises_then_falls,
    reaches_the_peak,
    stays_at_the_floor,
    jumps_nowhere,
    same_when_resumed,
    linear_in_the_peak,
)
