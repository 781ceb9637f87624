"""Stage `train`: `nsa train` itself, and how fast it should at least be on this device.

The floor is a share of the device's sourced peak (nsa.device): what has no peak there has no floor here, and
the plan has to give one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nsa.report import say
from nsa.smoke.stage import measured, tokenizer_of, vocabulary

if TYPE_CHECKING:
    from nsa.config import Config
    from nsa.smoke.stage import Task


def run(task: Task) -> None:
    """Train; then tell the floor."""
    from nsa import train

    config = task.load()
    train.run(train.Options(config=task.config, overrides=task.overrides, resume="never"))
    ratio = task.floor_ratios.get(config.train.dtype)
    if ratio is not None:
        _tell_floor(config, ratio)


def _tell_floor(config: Config, ratio: float) -> None:
    import torch

    from nsa import device
    from nsa.transformer import Transformer

    chosen = device.choose(config.train, local_rank=0)
    with torch.device("meta"):
        model = Transformer(
            config.model, vocabulary(config, tokenizer_of(config)), config.data.sequence_length
        )
    flops = model.flops_per_token()
    if chosen.peak is None:
        say(f"no sourced peak for {chosen.name}: give a floor with --set tokens_per_second=N")
        return
    measured(
        tokens_per_second_floor=ratio * chosen.peak / flops,
        peak_tflops=chosen.peak / 1e12,
        flops_per_token=flops,
    )
