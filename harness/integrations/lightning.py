"""`HarnessCallback` for Lightning's Trainer.

    from harness.integrations.lightning import HarnessCallback
    trainer = L.Trainer(..., callbacks=[HarnessCallback()])

Told: step and target, learning rates as used, stages train and eval, phases, and on the CPU the loss (of
another device it would have to be waited for): the mean over accumulated batches. Not told: gradient norm,
tokens, checkpoints. Without `harness run` all of it is a no-op.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback

from harness import emit
from harness.wire import COMMAND_STAGE


class HarnessCallback(Callback):
    """Tells `harness.emit` what the Trainer does."""

    def __init__(self) -> None:
        self._rates: list[float] | None = None
        self._losses: list[float] = []
        self._step = 0
        self._eval: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin the record, or take it over from `harness.auto`."""
        emit.open(total_steps=trainer.max_steps if trainer.max_steps > 0 else None, phase_clock="none")
        emit.stage("train")
        self._step = trainer.global_step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """A batch is here."""
        emit.phase("forward")

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        """Its loss, divided by the number of batches in a step."""
        if loss.device.type == "cpu":
            self._losses.append(loss.item())
        emit.phase("backward")

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """The learning rates that this step is going to use."""
        self._rates = [group["lr"] for group in optimizer.param_groups]
        emit.phase("optimizer")

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A batch was done, and with it perhaps a step."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            emit.step(self._step, loss=sum(self._losses) if self._losses else None, lr=self._rates)
            self._losses = []
        emit.phase("data")

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """An evaluation begins."""
        self._eval = emit.stage("eval")
        self._eval.__enter__()

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """It goes on."""
        emit.progress()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """It is over."""
        stage, self._eval = self._eval, None
        if stage is not None:
            stage.__exit__(None, None, None)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Whatever comes now is the script's own."""
        emit.stage(COMMAND_STAGE)
