"""Stage `attention`: equal to the reference, seeing exactly what it may, nearly as fast as a dense kernel.

On this device, in this precision. The bound on its time is what keeps a Python loop over positions from
coming back: such a loop is right, and a hundred times too slow. Not here: the expected values, which
`nsa.reference` and `nsa.smoke.receptive` compute by themselves.

Shapes as in nsa.attention.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from nsa import reference
from nsa.attention import DenseAttention, NSAAttention
from nsa.report import say
from nsa.smoke import receptive
from nsa.smoke.stage import SmokeError, chosen_device, measured

if TYPE_CHECKING:
    from collections.abc import Callable

    from nsa.config import Config, ModelConfig
    from nsa.device import Device
    from nsa.smoke.stage import Task

_ROUNDS = 5
# Of the output's own size. bfloat16 keeps 8 bits: each product is off by up to 0.4 %, and several follow.
_TOLERANCE = {"fp32": 1e-3, "bf16": 0.15}
# Positions whose choice of blocks may differ: near-equal scores order either way in another precision.
_OTHER_CHOICES = {"fp32": 0.02, "bf16": 0.35}


def run(task: Task) -> None:
    """The three checks."""
    config = task.load()
    device = chosen_device(config)
    if config.model.attention == "dense":
        say("model.attention is dense: PyTorch's own kernel, nothing to compare")
        measured(attention_over_dense=1.0)
        return
    tolerance = _TOLERANCE[config.train.dtype]
    forced, _ = _differences(receptive.forced(config.model), device, tolerance)
    say(f"parity with the reference, {config.train.dtype}: off by {forced:.2g} of the output's size at most")
    if not forced <= tolerance:
        raise SmokeError(
            f"attention differs from nsa.reference by {forced:.3g} of the output's size, more than"
            f" {tolerance:g} in {config.train.dtype} on {device.name}. A mask, a block or the rotation is"
            " wrong: pytest tests/unit/test_attention.py tells which"
        )
    _, share = _differences(_choosing(config.model), device, tolerance)
    say(f"where blocks are chosen, {share:.1%} of positions differ")
    if share > _OTHER_CHOICES[config.train.dtype]:
        raise SmokeError(
            f"attention chooses other blocks than nsa.reference at {share:.0%} of positions, at most"
            f" {_OTHER_CHOICES[config.train.dtype]:.0%} may be ties. Look at the scores and their order"
        )
    receptive.check(config.model, device.torch_device)
    say("receptive field: exactly what each branch may see")
    ratio, seconds = _over_dense(config, device)
    say(f"{ratio:.2f} times the dense layer's time at {config.data.sequence_length} tokens")
    measured(
        attention_parity=forced,
        other_choices=share,
        attention_over_dense=ratio,
        attention_us_per_token=1e6 * seconds / config.data.sequence_length,
    )


def _choosing(model: ModelConfig) -> ModelConfig:
    """One block more than the forced ones: there is a choice already in short documents."""
    nsa = model.nsa
    count = nsa.initial_blocks + nsa.local_blocks + 1
    return model.model_copy(update={"nsa": nsa.model_copy(update={"select_count": count})})


def _differences(model: ModelConfig, device: Device, tolerance: float) -> tuple[float, float]:
    """The largest difference to the reference, over the output's RMS; the share of positions above."""
    block = model.nsa.select_block
    lengths = ((model.nsa.select_count + 3) * block + 5, 3, 1, 2 * block + 7)
    ids_BS = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    generator = torch.Generator().manual_seed(0)
    layer = NSAAttention(model)
    with torch.no_grad():
        for parameter in layer.parameters():
            fan_in = parameter.shape[-1] if parameter.dim() > 1 else 1
            parameter.normal_(std=1 / math.sqrt(fan_in) if fan_in > 1 else 0.1, generator=generator)
    x_BSD = torch.randn(1, sum(lengths), model.dim, generator=generator)
    weights = {name: weight.double().numpy() for name, weight in layer.state_dict().items()}
    expected = reference.nsa_attention(x_BSD[0].double().numpy(), ids_BS[0].tolist(), weights, model).out
    layer = layer.to(device.torch_device)
    with torch.no_grad(), device.autocast():
        out_SD = layer(x_BSD.to(device.torch_device), ids_BS)[0].double().cpu().numpy()
    off_S = np.abs(out_SD - expected).max(axis=1) / math.sqrt(float(np.square(expected).mean()))
    worst = float(off_S.max())
    return (worst if math.isfinite(worst) else math.inf), float(np.mean(~(off_S <= tolerance)))


def _over_dense(config: Config, device: Device) -> tuple[float, float]:
    """Forward and backward of one layer over the dense one's, taking turns; and its seconds.

    The least of several, and on the CPU the process's own time: others on this machine are not its fault.
    """
    clock = time.perf_counter if device.is_cuda else time.process_time
    sequence = config.data.sequence_length
    x = torch.randn(1, sequence, config.model.dim, device=device.torch_device, requires_grad=True)
    ids = torch.zeros(1, sequence, dtype=torch.long)

    def step(layer: torch.nn.Module) -> Callable[[], None]:
        def taken() -> None:
            with device.autocast():
                out = layer(x, ids)
            out.float().sum().backward()
            if device.is_cuda:
                torch.cuda.synchronize()

        return taken

    layers = [step(kind(config.model).to(device.torch_device)) for kind in (NSAAttention, DenseAttention)]
    seconds: list[list[float]] = [[], []]
    for number in range(_ROUNDS + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            began = clock()
            layers[which]()
            if number:  # the first round warms up
                seconds[which].append(clock() - began)
    nsa_seconds, dense_seconds = map(min, seconds)
    return nsa_seconds / dense_seconds, nsa_seconds
