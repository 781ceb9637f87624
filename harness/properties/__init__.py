"""Properties of a training's arithmetic, to check your own schedule, packer and tokenizer against.

    from harness.properties import check_lr_schedule, check_packing, check_truncation

Each check returns nothing, or raises PropertyFault with every broken property and its smallest failing
example. Drawing examples needs hypothesis (the extra `properties`); a schedule of which peak, warm-up and
total are given needs nothing. `pytest` finds the fixtures of `harness.properties.plugin` by itself; for the
sake of all test runs that use none of them, what is here is imported when it is asked for.

Not covered: anything that needs a running trainer (`harness smoke`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.properties.faults import Fault, PropertyFault
    from harness.properties.packing import check_packing
    from harness.properties.schedules import check_lr_schedule, stepped
    from harness.properties.truncation import check_truncation

__all__ = ["Fault", "PropertyFault", "check_lr_schedule", "check_packing", "check_truncation", "stepped"]

_MODULES = {
    "Fault": "faults",
    "PropertyFault": "faults",
    "check_lr_schedule": "schedules",
    "check_packing": "packing",
    "check_truncation": "truncation",
    "stepped": "schedules",
}


def __getattr__(name: str) -> object:
    """PEP 562: a name of `__all__`."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
