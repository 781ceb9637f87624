"""Stage `config`: the configuration, checked, and what follows from it that people misread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nsa import schedule
from nsa.report import say
from nsa.smoke.stage import measured

if TYPE_CHECKING:
    from nsa.smoke.stage import Task


def run(task: Task) -> None:
    """ConfigError, one line a mistake."""
    config = task.load()
    plan, steps = config.schedule, config.train.steps

    def rate(step: int) -> float:
        return schedule.lr(step, peak=plan.peak, warmup=plan.warmup_steps, total=steps, floor=plan.floor)

    tokens = config.data.sequence_length * config.train.micro_batch * config.train.accumulation
    say(f"{task.config}: {steps:,} steps of {tokens:,} tokens on each rank")
    say(
        f"learning rate {rate(0):.2e} at step 1, {plan.peak:.2e} after {plan.warmup_steps:,} steps of"
        f" warm-up, {rate(steps):.2e} at the end"
    )
    measured(
        steps=steps, tokens_per_step=tokens, first_rate=rate(0), peak_rate=plan.peak, last_rate=rate(steps)
    )
