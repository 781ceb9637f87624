"""What a broken property is told with, and the search for its smallest failing example.

Not here: any property.
"""

from __future__ import annotations

import random
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

EXAMPLES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One broken property, with the smallest example found."""

    property: str  # what must hold
    example: str  # where it does not, with the values seen
    remedy: str

    def __str__(self) -> str:
        return f"{self.property}: {self.example}. {self.remedy}"


class PropertyFault(AssertionError):  # noqa: N818 -- a test's assertion, named for what it reports
    """Properties that do not hold: `faults`, each with its smallest failing example."""

    def __init__(self, subject: str, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        count = "1 property does" if len(self.faults) == 1 else f"{len(self.faults)} properties do"
        super().__init__("\n".join([f"{subject}: {count} not hold", *(f"  {each}" for each in self.faults)]))


class HypothesisMissingError(HarnessError):
    """Examples cannot be drawn."""

    def __init__(self) -> None:
        super().__init__(
            "hypothesis is not installed, which draws the examples",
            remedy="pip install hypothesis, or name every parameter of the check",
        )


def smallest(
    draw: Callable[[Any], Any],
    judge: Callable[[Any], Fault | None],
    *,
    said: Callable[[Any], str],
    examples: int,
    seed: int,
) -> Fault | None:
    """The fault of the smallest example that `judge` finds one in, of `examples` tried.

    `draw` makes a hypothesis strategy from the module `hypothesis.strategies`, `said` names an example. What
    is judged may raise: that is a fault too. The same seed finds the same.
    """
    try:
        import hypothesis
        from hypothesis import errors, strategies
    except ModuleNotFoundError:
        raise HypothesisMissingError from None
    settings = hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    found: list[Fault] = []

    def judged(example: Any) -> Fault | None:
        try:
            return judge(example)
        except errors.HypothesisException:
            raise
        except Exception as error:  # noqa: BLE001 -- another's code
            return _raised(error, said(example))

    def broken(example: Any) -> bool:
        fault = judged(example)
        if fault is not None:
            found[:] = [fault]
        return fault is not None

    try:
        example = hypothesis.find(
            draw(strategies),
            broken,
            settings=settings,
            random=random.Random(seed),  # noqa: S311 -- examples, no secrets
        )
    except errors.NoSuchExample:
        return None
    except errors.Flaky:  # what is judged remembers earlier calls: the last fault seen is as good as any
        return found[0]
    return judged(example) or found[0]


def _raised(error: Exception, example: str) -> Fault:
    first = (str(error).splitlines() or [""])[0]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return Fault(
        property="no error",
        example=f"{type(error).__name__}: {first} at {Path(frame.filename).name}:{frame.lineno}; {example}",
        remedy="Mend it, or name the parameters that it is made for",
    )


def distinct(faults: Iterable[Fault | None]) -> list[Fault]:
    """Each property once: an error is met by all of them."""
    return list({fault.property: fault for fault in faults if fault is not None}.values())


def name_of(subject: object) -> str:
    """How a function, a class or an object is called in a report."""
    return str(getattr(subject, "__qualname__", None) or type(subject).__qualname__)
