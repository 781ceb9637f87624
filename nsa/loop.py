"""The loop: steps, evaluations, checkpoints, and stopping in good order.

Every rank passes every collective: what one rank meets alone (a signal, a full disk) is agreed upon first.
Not here: what a step does (nsa.optimization), and how the parts are built (nsa.session).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from nsa import evaluation, resume, schedule
from nsa.checkpoint import CheckpointError, Saved
from nsa.device import mfu
from nsa.errors import StopRequestedError
from nsa.optimization import StepNotFiniteError
from nsa.report import StepFacts, duration
from nsa.session import tokens_per_step
from nsa.stopping import StopRequest, WaitInterrupted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nsa.optimization import StepResult
    from nsa.session import Session


class Loop:
    """Runs a session to its last step, or to a stop."""

    def __init__(self, session: Session) -> None:
        self._session = session
        place = session.place
        self._config, self._world, self._device = place.config, place.world, place.device
        self._telemetry = place.telemetry
        self._steps = place.config.train.steps
        self._tokens = tokens_per_step(place.config, place.world.world_size)
        self._stop = StopRequest()
        self._saved_step = session.saved_step
        self._waited_seconds = 0.0
        self._stage_after_batch: str | None = None
        flops = session.model.flops_per_token(place.config.data.sequence_length)
        self._mfu_of_one_token_a_second = mfu(
            tokens_per_second=1.0,
            flops_per_token=flops,
            peak=place.device.peak,
            devices=place.world.world_size,
        )

    def run(self) -> None:
        """Train; StopRequestedError once a signal's state is saved."""
        with self._stop:
            self._run()

    def _run(self) -> None:
        session, config = self._session, self._config
        session.report.begin(session.first_step)
        self._telemetry.stage("first_batch")
        # The first forward and backward pass of a compiled model compile it: minutes that are no hang.
        self._stage_after_batch = "compile" if config.train.compile else "train"
        for number in range(session.first_step + 1, self._steps + 1):
            cursor = session.stream.cursor()
            try:
                stop = self._step(number).stop
            except WaitInterrupted:
                self._leave(number - 1, cursor)
            except StepNotFiniteError as error:
                self._telemetry.step(number, loss=error.loss, lr=self._rates(), grad_norm=error.grad_norm)
                self._telemetry.event(
                    "nonfinite", step=number, loss=str(error.loss), grad_norm=str(error.grad_norm)
                )
                raise
            if number == session.first_step + 1:
                self._telemetry.stage("train")
            cursor = session.stream.cursor()
            self._note_epoch(cursor)
            if number == self._steps:
                break
            if _due(number, config.eval.every):
                self._evaluate(number, cursor)
            if stop or (self._stop and not self._world.launched):
                self._leave(number, cursor)
            if _due(number, config.checkpoint.every):
                self._save_and_go_on(number, cursor)
        else:
            session.report.line(f"nothing left to train: step {self._steps} of {self._steps} is done")
        self._evaluate(self._steps, session.stream.cursor())
        self._telemetry.stage("finish")
        if self._saved_step != self._steps:
            self._save(self._steps, session.stream.cursor())
        self._summarize()

    # -- a step ------------------------------------------------------------------------------------------

    def _step(self, number: int) -> StepResult:
        session, plan = self._session, self._config.schedule
        began = time.perf_counter()
        self._waited_seconds = 0.0
        rate = schedule.lr(
            number - 1, peak=plan.peak, warmup=plan.warmup_steps, total=self._steps, floor=plan.floor
        )
        result = session.optimization.step(number, self._batches(), rate, stop_asked=lambda: bool(self._stop))
        seconds = time.perf_counter() - began
        self._telemetry.step(
            number,
            loss=result.loss,
            lr=self._rates(),
            grad_norm=result.grad_norm,
            tokens=self._tokens,
            memory=self._device.memory_bytes(),
            phase_seconds=session.phases.seconds(data_wait_seconds=self._waited_seconds),
        )
        history = session.history
        history.train_seconds += seconds
        history.last_loss = result.loss
        if history.first_loss is None:
            history.first_loss = result.loss
        facts = StepFacts(
            step=number,
            loss=result.loss,
            learning_rate=rate,
            grad_norm=result.grad_norm,
            tokens=self._tokens,
            seconds=seconds,
            data_wait_seconds=self._waited_seconds,
        )
        session.report.step(facts, mfu_of_one_token_a_second=self._mfu_of_one_token_a_second)
        return result

    def _rates(self) -> list[float]:
        """The learning rates that the optimizer holds, by group."""
        return [float(group["lr"]) for group in self._session.optimization.optimizer.param_groups]

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One step's micro-batches, on the device."""
        for _ in range(self._config.train.accumulation):
            began = time.perf_counter()
            # Alone, a wait for data may be broken off; with others in the same step it may not.
            with self._stop.interrupting(allowed=not self._world.launched):
                batch = next(self._session.stream)
            self._waited_seconds += time.perf_counter() - began
            if self._stage_after_batch is not None:
                self._telemetry.stage(self._stage_after_batch)
                self._stage_after_batch = None
            yield self._on_device(batch.tokens), self._on_device(batch.document_ids)

    def _on_device(self, array: Any) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self._device.is_cuda:
            tensor = tensor.pin_memory()
        return tensor.to(self._device.torch_device, non_blocking=True)

    def _note_epoch(self, cursor: dict[str, Any]) -> None:
        epoch = int(cursor["place"]["epoch"])
        if epoch > self._session.history.epoch:
            self._session.history.epoch = epoch
            self._telemetry.event("epoch", epoch=epoch)
            self._session.report.line(f"data: pass {epoch + 1} over the source begins")

    # -- evaluation --------------------------------------------------------------------------------------

    def _evaluate(self, step: int, cursor: dict[str, Any]) -> None:
        session, history = self._session, self._session.history
        try:
            with self._telemetry.stage("eval"), self._stop.interrupting(allowed=not self._world.launched):
                self._telemetry.phase("eval")
                loss = evaluation.evaluate(
                    session.model,
                    session.held_out,
                    device=self._device,
                    world=self._world,
                    progress=self._telemetry.progress,
                )
        except WaitInterrupted:
            self._leave(step, cursor)
        entropy = session.held_out.unigram_entropy_nats
        best = history.best_eval is None or loss < history.best_eval[0]
        history.last_eval = loss
        if best:
            history.best_eval = (loss, step)
        session.report.evaluation(step, loss, entropy, best=best)
        self._telemetry.event("eval", step=step, loss=loss, unigram_entropy_nats=entropy, best=best)

    # -- saving, leaving -----------------------------------------------------------------------------------

    def _save(self, step: int, cursor: dict[str, Any]) -> Saved:
        """Save on rank 0; CheckpointError on every rank if that failed."""
        session, world = self._session, self._world
        with self._telemetry.stage("checkpoint"):
            self._telemetry.phase("checkpoint")
            own = {"generators": resume.generators(self._device), "cursor": cursor}
            ranks = world.gather(own)
            saved: Saved = world.from_main(
                lambda: session.store.save(
                    step,
                    {
                        "model": session.model.state_dict(),
                        "optimizer": session.optimization.optimizer.state_dict(),
                        "ranks": ranks,
                    },
                    {
                        "identity": session.identity,
                        "history": vars(session.history),
                        "rounding": resume.rounding(self._config, self._device),
                    },
                )
            )
        self._saved_step = step
        session.report.line(
            f"checkpoint  step {step}  {saved.path}  {saved.size_bytes / 1e6:.1f} MB in {saved.seconds:.2f} s"
        )
        self._telemetry.event(
            "checkpoint", step=step, path=str(saved.path), seconds=saved.seconds, bytes=saved.size_bytes
        )
        return saved

    def _save_and_go_on(self, step: int, cursor: dict[str, Any]) -> None:
        """A full disk now may have room later: say so, and train on."""
        try:
            self._save(step, cursor)
        except CheckpointError as error:
            self._session.report.line(f"warning: {error}. Training goes on")
            self._telemetry.event("checkpoint_failed", step=step, error=str(error))

    def _leave(self, step: int, cursor: dict[str, Any]) -> NoReturn:
        """Save what stands, and say how to go on."""
        name = self._stop.signal_name or "a signal to another rank"
        if step and self._saved_step != step:
            self._save(step, cursor)
        self._telemetry.event("stopped", step=step, signal=name)
        if not step:
            raise StopRequestedError(f"stopped by {name} before the first step: nothing to save. Start again")
        session = self._session
        raise StopRequestedError(
            f"stopped by {name} after step {step} of {self._steps}, state saved in {session.store.root}."
            f" Start again with --out {session.place.out} to go on"
        )

    def _summarize(self) -> None:
        session, history = self._session, self._session.history
        entropy = session.held_out.unigram_entropy_nats
        parts = [f"finished: {self._steps} steps in {duration(history.train_seconds)}"]
        if history.first_loss is not None and history.last_loss is not None:
            parts.append(f"loss {history.first_loss:.2f} → {history.last_loss:.2f}")
        if history.last_eval is not None and history.best_eval is not None:
            gap = entropy - history.last_eval
            side = "below" if gap >= 0 else "above"
            parts.append(
                f"eval {history.last_eval:.2f}, unigram entropy {entropy:.2f}: {abs(gap):.2f} nats {side}"
            )
            parts.append(f"best eval {history.best_eval[0]:.2f} at step {history.best_eval[1]}")
        parts.append(str(session.place.out))
        session.report.line(" · ".join(parts))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
