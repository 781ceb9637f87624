"""Stage `model`: its size, the memory of one whole step, and a first loss that is a uniform guess's."""

from __future__ import annotations

import math
import resource
from typing import TYPE_CHECKING

from nsa.report import say, short_count
from nsa.smoke.stage import chosen_device, measured, tokenizer_of, vocabulary

if TYPE_CHECKING:
    from nsa.smoke.stage import Task


def run(task: Task) -> None:
    """Build it on the run's device and take one step of the run's shape."""
    config = task.load()
    rows = vocabulary(config, tokenizer_of(config))
    device = chosen_device(config)
    import torch

    from nsa.distributed import World
    from nsa.optimization import Optimization
    from nsa.phases import Phases
    from nsa.transformer import Transformer

    model = Transformer(
        config.model,
        rows,
        config.data.sequence_length,
        activation_checkpointing=config.train.activation_checkpointing,
    ).to(device.torch_device)
    parameters = model.parameter_count()
    say(f"{short_count(parameters)} parameters on {device.describe()}")
    optimization = Optimization(model, config, device, World(), Phases(lambda _: None))
    shape = (config.train.micro_batch, config.data.sequence_length + 1)
    tokens = torch.randint(rows, shape)
    ids = torch.zeros_like(tokens)
    batch = (tokens.to(device.torch_device), ids.to(device.torch_device))
    batches = [batch] * config.train.accumulation
    result = optimization.step(1, batches, config.schedule.peak, stop_asked=lambda: False)
    memory = device.memory_bytes()
    # ru_maxrss is in KiB: getrusage(2).
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    measured(
        parameters=parameters,
        initial_loss=result.loss,
        initial_loss_over_uniform=result.loss / math.log(rows),
        step_memory_mb=(host if memory is None else max(memory)) / 1e6,
        gradient_norm=result.grad_norm,
    )
