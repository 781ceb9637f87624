"""The rate that reaches the optimizer: the schedule's, whatever is accumulated; groups keep their ratios."""

from __future__ import annotations

import pytest

from tests.support import needs
from tests.support.examples import examples

torch = needs.require("torch")
needs.require("pydantic")

from hypothesis import given, settings
from hypothesis import strategies as st

from nsa import schedule
from nsa.config import Config
from nsa.device import Device
from nsa.distributed import World
from nsa.optimization import Optimization, set_learning_rate
from nsa.phases import Phases
from nsa.transformer import Transformer

RATIOS = st.lists(st.floats(1e-3, 10.0), min_size=1, max_size=4)


@st.composite
def shapes(draw):
    total = draw(st.integers(1, 10_000))
    warmup = draw(st.sampled_from([0, total]) | st.integers(0, total))
    peak, floor = draw(st.floats(1e-6, 1.0)), draw(st.sampled_from([0.0, 0.1, 1.0]))
    return {"peak": peak, "warmup": warmup, "total": total, "floor": floor}


def check(apply, shape, ratios):
    """Every group has its share of the schedule's rate, at each bend of the schedule."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr_ratio": ratio} for ratio in ratios]
    optimizer = torch.optim.SGD(groups, lr=0.0)
    warmup, total = shape["warmup"], shape["total"]
    for step in sorted({0, max(0, warmup - 1), warmup, max(0, total - 1), total, 10 * total}):
        rate = schedule.lr(step, **shape)
        apply(optimizer, rate)
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            assert group["lr"] == rate * ratio, (step, rate, ratio)


@settings(max_examples=examples(60))
@given(shape=shapes(), ratios=RATIOS)
def test_groups_keep_their_ratios_at_every_step(shape, ratios):
    check(set_learning_rate, shape, ratios)


def one_floor_for_all(optimizer, rate):
    """An absolute floor that all groups share: the smaller ones end above their share."""
    for group in optimizer.param_groups:
        group["lr"] = max(rate * group["lr_ratio"], 2e-5)


def times_what_it_was(optimizer, rate):
    """The rate applied to the group's last one, and not from the global step."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_ratio"] * (group["lr"] or 1.0)


@pytest.mark.parametrize("faulty", [one_floor_for_all, times_what_it_was], ids=lambda each: each.__name__)
def test_a_known_fault_is_refused(faulty):
    shape = {"peak": 2e-4, "warmup": 10, "total": 100, "floor": 0.1}
    with pytest.raises(AssertionError):
        check(faulty, shape, [1.0, 0.1])


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_optimizer_uses_the_rate_of_the_optimizer_step_whatever_is_accumulated(accumulation):
    config = Config.model_validate(
        {
            "name": "t",
            "model": {"dim": 8, "layers": 1, "heads": 1, "kv_groups": 1},
            "tokenizer": {"kind": "byte"},
            "data": {"source": "files", "paths": ["x"], "sequence_length": 16},
            "train": {"steps": 4, "micro_batch": 1, "accumulation": accumulation},
            "schedule": {"peak": 0.1, "warmup_steps": 2},
        }
    )
    model = Transformer(config.model, 257, 16)
    device = Device(torch_device=torch.device("cpu"), name="cpu", dtype="fp32")
    optimization = Optimization(model, config, device, World(), Phases(lambda _: None))
    used = []

    def note(optimizer, _args, _kwargs):
        used.append([group["lr"] for group in optimizer.param_groups])

    optimization.optimizer.register_step_pre_hook(note)
    batch = (torch.zeros(1, 17, dtype=torch.long), torch.zeros(1, 17, dtype=torch.int32))
    rates = [schedule.lr(step, peak=0.1, warmup=2, total=4, floor=0.1) for step in range(4)]
    for number, rate in enumerate(rates, start=1):
        optimization.step(number, [batch] * accumulation, rate, stop_asked=lambda: False)
    assert used == [[rate, rate] for rate in rates]
