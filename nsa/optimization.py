"""One optimizer step: accumulation, the mean over ranks, clipping, the guard against non-finite numbers.

One host read a step, of the loss, the gradient norm and the ranks' wish to stop together: it belongs to the
guard, and whoever wants to show these numbers uses what it read. Not here: when to evaluate, save or print
(nsa.loop).
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nsa.errors import NonFiniteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from nsa.config import Config, OptimizerConfig
    from nsa.device import Device
    from nsa.distributed import World
    from nsa.phases import Phases
    from nsa.transformer import Transformer


class Objective(nn.Module):
    """The loss as a forward pass: DDP and torch.compile hook into `forward`, and nothing else."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, document_ids: Tensor) -> Tensor:
        """Mean cross-entropy of the next token."""
        return self.model.loss(tokens, document_ids)


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with two groups: matrices decay, gains and biases do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [p for p in parameters if p.dim() >= 2],
            "weight_decay": config.weight_decay,
            "lr_ratio": 1.0,
        },
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0, "lr_ratio": 1.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,  # set at every step, from the step alone
        betas=config.betas,
        eps=config.eps,
        fused=True,  # one pass over the weights, on the CPU too
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of this step, for all groups; each keeps its ratio to it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_ratio", 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What the guard read."""

    loss: float
    """Mean over all sequences of the step, on all ranks, before the update."""
    grad_norm: float
    """Before clipping."""
    stop: bool
    """Whether any rank was asked to stop."""


class Optimization:
    """Runs optimizer steps on a model."""

    def __init__(
        self, model: Transformer, config: Config, device: Device, world: World, phases: Phases
    ) -> None:
        self._config = config.train
        self._device, self._world, self._phases = device, world, phases
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(model, config.optimizer)
        self._objective: nn.Module = Objective(model)

    def wrap(self) -> None:
        """Put DDP and torch.compile around the objective, once weights are restored: DDP sends rank 0's."""
        if self._world.launched:
            self._objective = nn.parallel.DistributedDataParallel(
                self._objective,
                device_ids=[self._device.torch_device.index] if self._device.is_cuda else None,
                gradient_as_bucket_view=True,
            )
        if self._config.compile:
            self._objective.compile()

    def step(
        self,
        number: int,
        batches: Iterable[tuple[Tensor, Tensor]],
        rate: float,
        *,
        stop_asked: Callable[[], bool],
    ) -> StepResult:
        """Accumulate `batches`, check, update. NonFiniteError, on all ranks alike, before a bad update."""
        phases, last = self._phases, self._config.accumulation
        set_learning_rate(self.optimizer, rate)
        total = torch.zeros((), dtype=torch.float32, device=self._device.torch_device)
        phases.enter("data")
        for count, (tokens, document_ids) in enumerate(batches, start=1):
            with self._exchange(now=count == last):
                phases.enter("forward")
                with self._device.autocast():
                    loss = self._objective(tokens, document_ids)
                phases.enter("backward")
                (loss / last).backward()
            total += loss.detach()
            phases.enter("data" if count < last else "optimizer")
        result = self._guard(number, total / last, stop=stop_asked())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        phases.end_step()
        return result

    def _exchange(self, *, now: bool) -> AbstractContextManager[object]:
        """Under DDP, gradients travel with the last backward pass only."""
        if now or not isinstance(self._objective, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return self._objective.no_sync()

    def _guard(self, number: int, loss: Tensor, *, stop: bool) -> StepResult:
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.clip_norm)
        if self._world.launched:
            shared = torch.stack([loss, torch.full_like(loss, float(stop))])
            # A NaN of one rank is every rank's in the sum; the norm is of gradients already exchanged.
            loss_sum, stops = self._world.sum(shared).unbind()
            values = torch.stack([loss_sum / self._world.world_size, norm, stops])
        else:
            values = torch.stack([loss, norm, torch.full_like(loss, float(stop))])
        loss_value, norm_value, stops_value = values.tolist()  # the step's one host read
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            self.optimizer.zero_grad(set_to_none=True)
            raise StepNotFiniteError(number, loss_value, norm_value)
        return StepResult(loss=loss_value, grad_norm=norm_value, stop=stops_value > 0)


class StepNotFiniteError(NonFiniteError):
    """The guard's finding, with the numbers for the record."""

    def __init__(self, step: int, loss: float, grad_norm: float) -> None:
        super().__init__(
            f"step {step}: loss {loss:.6g}, gradient norm {grad_norm:.6g}: not finite, so the weights were"
            " left alone and nothing was saved after. Lower schedule.peak or lengthen schedule.warmup_steps"
        )
        self.step, self.loss, self.grad_norm = step, loss, grad_norm
