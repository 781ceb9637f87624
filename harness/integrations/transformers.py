"""`HarnessCallback` for Hugging Face's Trainer, and for trainers made of it (TRL).

    from harness.integrations.transformers import HarnessCallback
    trainer = Trainer(..., callbacks=[HarnessCallback()])

Told: step and target, learning rates as used, stages train and eval, phases. Loss and gradient norm are
those that the Trainer logs, at the steps at which it logs them: the loss is the mean since the log before.
Not told: tokens, checkpoints. Without `harness run` all of it is a no-op.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from harness import emit
from harness.wire import COMMAND_STAGE

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


class HarnessCallback(TrainerCallback):
    """Tells `harness.emit` what the Trainer does."""

    def __init__(self) -> None:
        self._rates: list[float] | None = None
        self._waiting: int | None = None  # a step that is about to be logged
        self._eval: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the record, or take it over from `harness.auto`."""
        emit.open(total_steps=state.max_steps if state.max_steps > 0 else None, phase_clock="none")
        emit.stage("train")

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Its batch is here."""
        self._write_step({})
        emit.phase("forward")

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The learning rates that this step is going to use."""
        optimizer = kwargs.get("optimizer")
        self._rates = None if optimizer is None else [group["lr"] for group in optimizer.param_groups]
        emit.phase("optimizer")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A step was done; where it is going to be logged, its loss follows."""
        self._waiting = state.global_step
        if not control.should_log:
            self._write_step({})
        emit.phase("data")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """What the Trainer logs of the step."""
        if logs and "loss" in logs:
            self._write_step(logs)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """An evaluation goes on."""
        if self._eval is None:
            self._write_step({})
            self._eval = emit.stage("eval")
            self._eval.__enter__()
        emit.progress()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """It is over."""
        self._leave_eval()

    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Any,
        **kwargs: Any,
    ) -> None:
        """It is over."""
        self._leave_eval()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Whatever comes now is the script's own."""
        self._write_step({})
        emit.stage(COMMAND_STAGE)

    def _write_step(self, logs: dict[str, Any]) -> None:
        step, self._waiting = self._waiting, None
        if step is not None:
            emit.step(step, loss=logs.get("loss"), lr=self._rates, grad_norm=logs.get("grad_norm"))

    def _leave_eval(self) -> None:
        stage, self._eval = self._eval, None
        if stage is not None:
            stage.__exit__(None, None, None)
