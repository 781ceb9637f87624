"""Stage `overfit`: one batch again and again, until it is known by heart.

What does not learn one batch learns nothing: no gradient, a wrong target, an optimizer that does nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nsa.report import say
from nsa.smoke.stage import chosen_device, measured, tokenizer_of, vocabulary

if TYPE_CHECKING:
    from nsa.smoke.stage import Task

_STEPS = 120
_TOLD_STEPS = 10
# Known by heart: no need to go on.
ENOUGH = 0.02


def run(task: Task) -> None:
    """The trainer's own steps, on one batch of the run's own data, at a constant rate."""
    config = task.load()
    tokenizer = tokenizer_of(config)
    device = chosen_device(config)
    import torch

    from nsa.data import open_stream
    from nsa.distributed import World
    from nsa.optimization import Optimization
    from nsa.phases import Phases
    from nsa.transformer import Transformer

    with open_stream(config, tokenizer, rank=0, world_size=1) as stream:
        batch = next(stream)
    tensors = tuple(
        torch.from_numpy(array).to(device.torch_device) for array in (batch.tokens, batch.document_ids)
    )
    model = Transformer(config.model, vocabulary(config, tokenizer), config.data.sequence_length).to(
        device.torch_device
    )
    optimization = Optimization(model, config, device, World(), Phases(lambda _: None))
    rate = task.rate or config.schedule.peak
    first = last = 0.0
    steps = task.steps or _STEPS
    for step in range(1, steps + 1):
        pair = [(tensors[0], tensors[1])] * config.train.accumulation
        last = optimization.step(step, pair, rate, stop_asked=lambda: False).loss
        first = first or last
        if step % _TOLD_STEPS == 0 or last < ENOUGH:
            say(f"step {step}  loss {last:.4f}")
        if last < ENOUGH:
            break
    measured(overfit_first_loss=first, overfit_loss=last, overfit_steps=step, overfit_rate=rate)
