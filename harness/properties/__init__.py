"""Properties of a training's arithmetic, to check your own schedule, packer and tokenizer against.

    from harness.properties import check_lr_schedule, check_packing, check_truncation

Each check returns nothing, or raises PropertyFault with every broken property and its smallest failing
example. Drawing examples needs hypothesis (the extra `properties`); a schedule of which peak, warm-up and
total are given needs nothing. `pytest` finds the fixtures of `harness.properties.plugin` by itself.

Not covered: anything that needs a running trainer (`harness smoke`).
"""

from harness.properties.faults import Fault, PropertyFault
from harness.properties.packing import check_packing
from harness.properties.schedules import check_lr_schedule, stepped
from harness.properties.truncation import check_truncation

__all__ = ["Fault", "PropertyFault", "check_lr_schedule", "check_packing", "check_truncation", "stepped"]
