"""What a run says of itself: plain lines on standard output, metrics.jsonl, TensorBoard events.

A closed pipe or a full disk under any of them never ends the training. Not here: the heartbeat
(nsa.train emits it).
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TextIO

    from nsa.config import ScheduleConfig


_LONGEST_ROW_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """One optimizer step."""

    step: int
    """Steps finished, this one included."""
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    """Of all ranks."""
    seconds: float
    data_wait_seconds: float


def say(line: str) -> None:
    """Print a line at once; a reader that is gone, or a full disk, is no reason to stop training."""
    with suppress(OSError, ValueError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def settle_output() -> None:
    """Let the interpreter end with our status even where standard output takes nothing any more."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


def duration(seconds: float) -> str:
    """1:58, or 2:03:09."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def short_count(number: float) -> str:
    """1.2k, 124.5M."""
    for bound, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= bound:
            return f"{number / bound:.1f}{suffix}"
    return f"{number:.0f}"


def learning_rate(rate: float, step: int, schedule: ScheduleConfig) -> str:
    """The rate and, while it is meant to be small, why: `1.0e-07 (warm-up 1/2000 to 2.0e-04)`."""
    if step <= schedule.warmup_steps:
        return f"{rate:.2e} (warm-up {step}/{schedule.warmup_steps} to {schedule.peak:.1e})"
    return f"{rate:.2e}"


def _drop_half_a_line(path: Path) -> None:
    """Cut what a full disk left of a last line, so that the next one stands on its own."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _LONGEST_ROW_BYTES))
        tail = file.read()
        if tail and not tail.endswith(b"\n"):
            file.truncate(end - len(tail) + tail.rfind(b"\n") + 1)


class Report:
    """The lines and files of rank 0; on other ranks `quiet`, and then it does nothing."""

    def __init__(
        self,
        *,
        out: Path,
        schedule: ScheduleConfig,
        log_every: int,
        tensorboard: bool,
        metrics: bool,
        quiet: bool,
    ) -> None:
        self._schedule = schedule
        self._log_every = log_every
        self._quiet = quiet
        self._since: list[StepFacts] = []
        self._metrics_path = out / "metrics.jsonl" if metrics and not quiet else None
        self._metrics: TextIO | None = None
        self._tensorboard_dir = out / "tensorboard" if tensorboard and not quiet else None
        self._events: Any = None

    def begin(self, first_step: int) -> None:
        """Open the files; TensorBoard drops what an earlier attempt wrote after `first_step`."""
        if self._metrics_path is not None:
            with suppress(OSError):
                _drop_half_a_line(self._metrics_path)
                self._metrics = self._metrics_path.open("a", encoding="utf-8", buffering=1)
        if self._tensorboard_dir is not None:
            from torch.utils.tensorboard import SummaryWriter

            try:
                self._events = SummaryWriter(str(self._tensorboard_dir), purge_step=first_step + 1)
            except OSError as error:
                self.line(f"warning: no TensorBoard events: {self._tensorboard_dir}: {error.strerror}")

    def line(self, text: str) -> None:
        """A plain line."""
        if not self._quiet:
            say(text)

    def step(self, facts: StepFacts, *, mfu_of_one_token_a_second: float | None) -> None:
        """A finished step: its row at once; every `log_every` steps a line with the rates since the last."""
        if self._quiet:
            return
        self._row(facts)
        self._since.append(facts)
        if facts.step % self._log_every and facts.step != 1:
            return
        seconds = sum(each.seconds for each in self._since) or 1e-9
        tokens_per_second = sum(each.tokens for each in self._since) / seconds
        waited = sum(each.data_wait_seconds for each in self._since) / seconds
        self._since.clear()
        mfu = (
            ""
            if mfu_of_one_token_a_second is None
            else f"  MFU {100 * tokens_per_second * mfu_of_one_token_a_second:.1f} %"
        )
        wait = f"  waiting for data {100 * waited:.0f} %" if waited >= 0.01 else ""
        say(
            f"step {facts.step}  loss {facts.loss:.4f}"
            f"  lr {learning_rate(facts.learning_rate, facts.step, self._schedule)}"
            f"  grad norm {facts.grad_norm:.3f}  {short_count(tokens_per_second)} tok/s{mfu}{wait}"
        )
        self._scalars(facts.step, {"tokens_per_second": tokens_per_second, "data_wait_ratio": waited})

    def evaluation(self, step: int, loss: float, entropy: float, *, best: bool) -> None:
        """A finished evaluation."""
        below = entropy - loss
        side = f"{below:.2f} nats below" if below >= 0 else f"{-below:.2f} nats above"
        mark = " (best)" if best else ""
        self.line(f"eval  step {step}  loss {loss:.4f}{mark}, unigram entropy {entropy:.2f}: {side}")
        self._scalars(step, {"eval_loss": loss})

    def _row(self, facts: StepFacts) -> None:
        self._scalars(
            facts.step,
            {"loss": facts.loss, "learning_rate": facts.learning_rate, "grad_norm": facts.grad_norm},
        )
        if self._metrics is None:
            return
        row = {
            "time": time.time(),
            "step": facts.step,
            "loss": facts.loss,
            "lr": facts.learning_rate,
            "grad_norm": facts.grad_norm,
            "tokens": facts.tokens,
            "step_seconds": round(facts.seconds, 6),
        }
        with suppress(OSError, ValueError):
            self._metrics.write(json.dumps(row) + "\n")

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        if self._events is None:
            return
        with suppress(OSError):
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        with suppress(OSError, ValueError):
            if self._metrics is not None:
                self._metrics.close()
        if self._events is not None:
            with suppress(OSError):
                self._events.close()
