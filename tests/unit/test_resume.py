"""Random generators come back as they were, through a checkpoint that holds plain values only."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.support import needs

torch = needs.require("torch")
np = needs.require("numpy")

from nsa import resume
from nsa.checkpoint import Store
from nsa.device import Device

if TYPE_CHECKING:
    from pathlib import Path

CPU = Device(torch_device=torch.device("cpu"), name="cpu", dtype="fp32")


def drawn() -> list[float]:
    """Some of every generator, normal ones included: they keep a spare value between calls."""
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        *torch.rand(3).tolist(),
        *torch.randn(3).tolist(),
    ]


def test_generators_continue_where_they_were(tmp_path: Path) -> None:
    drawn()
    store = Store(tmp_path, keep=1)
    store.save(1, {"ranks": [{"generators": resume.generators(CPU)}]}, {})
    expected = [drawn(), drawn()]
    drawn()
    found = store.newest(print)
    assert found is not None
    resume.restore_generators(found.part("ranks")[0]["generators"], CPU)
    assert [drawn(), drawn()] == expected
