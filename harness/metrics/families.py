"""A run's snapshot as Prometheus families: names, types and labels of the harness's metrics.

What is not known has no series: never a zero for it. Not here: when they are made (`collector`).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from harness.schedules import scheduled_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prometheus_client.core import Metric

    from harness.snapshot import GpuReading, Histogram, RankState, RunView

_COMMAND_RANK = "command"
_ENDED_WELL = ("finished", "stopped")
_RANK = ("run_id", "rank")


def _gauge(name: str, text: str, labels: Sequence[str] = _RANK) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _of_ranks(
    view: RunView, name: str, text: str, value: Callable[[RankState], float | None]
) -> GaugeMetricFamily:
    family = _gauge(name, text)
    for state in view.ranks:
        found = value(state)
        if found is not None:
            family.add_metric((view.run_id, str(state.rank)), found)
    return family


def _run(view: RunView) -> tuple[Metric, ...]:
    info = GaugeMetricFamily(
        "trainer_run_info", "What this run is; always 1.", labels=("run_id", *_INFO_LABELS)
    )
    known = {"name": view.name, "host": view.host or "", **view.info}
    info.add_metric((view.run_id, *(known.get(label, "") for label in _INFO_LABELS)), 1)
    ranks = [str(state.rank) for state in view.ranks]
    start = _gauge("trainer_start_timestamp_seconds", "When this attempt began.")
    attempt = _gauge("trainer_attempt", "Which start of this run it is; restarts count it up.")
    for rank in ranks:
        start.add_metric((view.run_id, rank), view.started_wall_seconds)
        attempt.add_metric((view.run_id, rank), view.attempt)
    return info, start, attempt


_INFO_LABELS = ("name", "config_hash", "git", "host", "torch", "device")


def _life(view: RunView) -> tuple[Metric, ...]:
    stage = _gauge("trainer_stage", "1 for the stage that the rank is in.", (*_RANK, "stage"))
    for state in view.ranks:
        stage.add_metric((view.run_id, str(state.rank), state.heartbeat.stage), 1)
    return (
        _of_ranks(view, "trainer_up", "1 while the rank's process lives.", lambda state: state.alive),
        _of_ranks(
            view,
            "trainer_finished",
            "1 once the rank ended on its own.",
            lambda state: state.finished or (view.status in _ENDED_WELL and not state.alive),
        ),
        stage,
        _of_ranks(
            view,
            "trainer_last_progress_timestamp_seconds",
            "When anything of this rank last moved.",
            lambda state: state.heartbeat.last_progress_wall_seconds,
        ),
        _of_ranks(
            view,
            "trainer_stall_timeout_seconds",
            "How long this rank may be without progress, in the stage that it is in.",
            lambda state: view.limits_seconds.get(state.rank),
        ),
    )


def _steps(view: RunView) -> tuple[Metric, ...]:
    return (
        _of_ranks(
            view,
            "trainer_step",
            "The last optimizer step done; goes back on resume.",
            lambda state: state.heartbeat.step,
        ),
        _of_ranks(
            view,
            "trainer_target_steps",
            "How many optimizer steps the run is to have.",
            lambda state: (
                view.target_steps if state.heartbeat.total_steps is None else state.heartbeat.total_steps
            ),
        ),
        _of_ranks(
            view,
            "trainer_loss",
            "Loss of the last step.",
            lambda state: state.heartbeat.last.loss if state.heartbeat.last else None,
        ),
        _of_ranks(
            view,
            "trainer_grad_norm",
            "Norm of the gradients of the last step.",
            lambda state: state.heartbeat.last.grad_norm if state.heartbeat.last else None,
        ),
    )


def _rates(view: RunView) -> tuple[Metric, ...]:
    used = _gauge(
        "trainer_learning_rate", "Learning rate of the last step, by parameter group.", (*_RANK, "group")
    )
    asked = _gauge(
        "trainer_scheduled_learning_rate",
        "Learning rate that the declared schedule asks for at the last step.",
        (*_RANK, "group"),
    )
    for state in view.ranks:
        row = state.heartbeat.last
        if row is None:
            continue
        rank = str(state.rank)
        for group, rate in enumerate(row.learning_rates):
            used.add_metric((view.run_id, rank, str(group)), rate)
        wanted = scheduled_rate(state.heartbeat.schedule, row.step)
        if wanted is not None:
            # One peak is declared: it is that of the first group, and of the others where all are equal.
            groups = len(row.learning_rates) if len(set(row.learning_rates)) == 1 else 1
            for group in range(groups):
                asked.add_metric((view.run_id, rank, str(group)), wanted)
    return used, asked


def _totals(view: RunView) -> tuple[Metric, ...]:
    tokens = CounterMetricFamily("trainer_tokens", "Tokens trained on by this rank.", labels=_RANK)
    nonfinite = CounterMetricFamily(
        "trainer_nonfinite", "Steps whose loss or gradient norm was NaN or infinite.", labels=_RANK
    )
    phases = CounterMetricFamily(
        "trainer_phase_seconds", "Time spent in each phase of the steps.", labels=(*_RANK, "phase")
    )
    for state in view.ranks:
        if not state.heartbeat.steps_written and not state.totals.tokens:
            continue
        rank = str(state.rank)
        tokens.add_metric((view.run_id, rank), state.totals.tokens)
        nonfinite.add_metric((view.run_id, rank), state.totals.nonfinite)
        for phase, seconds in state.totals.phase_seconds.items():
            phases.add_metric((view.run_id, rank, phase), seconds)
    return tokens, nonfinite, phases


def _durations(view: RunView) -> tuple[Metric, ...]:
    family = HistogramMetricFamily(
        "trainer_step_duration_seconds", "Time per optimizer step, nested stages left out.", labels=_RANK
    )
    for state in view.ranks:
        durations = state.totals.durations
        if durations.count:
            family.add_metric((view.run_id, str(state.rank)), _buckets(durations), durations.total)
    return (family,)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    names = (*map(floatToGoString, histogram.bounds), "+Inf")
    return list(zip(names, itertools.accumulate(histogram.counts), strict=True))


def _incidents(view: RunView) -> tuple[Metric, ...]:
    """Of the run as a whole: under its lowest rank here, or the command itself."""
    rank = str(view.ranks[0].rank) if view.ranks else _COMMAND_RANK
    stalls = CounterMetricFamily(
        "trainer_stalls", "Stalls met, by stage and cause.", labels=(*_RANK, "stage", "cause")
    )
    for (stage, cause), count in sorted(view.stalls.items()):
        stalls.add_metric((view.run_id, rank, stage, cause), count)
    timed = (
        (
            "trainer_last_incident_timestamp_seconds",
            "When the last stall was met.",
            view.last_incident_wall_seconds,
        ),
        (
            "trainer_last_checkpoint_timestamp_seconds",
            "When the last checkpoint was written.",
            view.last_checkpoint_wall_seconds,
        ),
        (
            "trainer_checkpoint_interval_seconds",
            "Time between the last two checkpoints.",
            view.checkpoint_interval_seconds,
        ),
    )
    families: list[Metric] = [stalls]
    for name, text, value in timed:
        family = _gauge(name, text)
        if value is not None:
            family.add_metric((view.run_id, rank), value)
        families.append(family)
    return tuple(families)


def _process(view: RunView) -> tuple[Metric, ...]:
    cpu = CounterMetricFamily("trainer_cpu_seconds", "CPU time that the rank's process used.", labels=_RANK)
    for state in view.ranks:
        if state.cpu_seconds is not None:
            cpu.add_metric((view.run_id, str(state.rank)), state.cpu_seconds)
    resident = _of_ranks(
        view,
        "trainer_resident_memory_bytes",
        "Resident memory of the rank's process.",
        lambda state: state.resident_bytes,
    )
    return resident, cpu


_ALLOCATOR = (
    ("trainer_gpu_memory_allocated_bytes", "Memory that torch's allocator has given out."),
    ("trainer_gpu_memory_reserved_bytes", "Memory that torch's allocator holds."),
    ("trainer_gpu_memory_peak_bytes", "Most memory that torch's allocator had given out."),
)


def _allocator(view: RunView) -> tuple[Metric, ...]:
    families = [_gauge(name, text, (*_RANK, "gpu")) for name, text in _ALLOCATOR]
    by_pid = {pid: gpu.gpu for gpu in view.gpus for pid in gpu.pids}
    for state in view.ranks:
        memory = state.heartbeat.last.memory if state.heartbeat.last else None
        if memory is not None:
            # Its record does not number its device; NVML knows which one its process is on, if it is asked.
            gpu = by_pid.get(state.heartbeat.pid, "current")
            for family, value in zip(families, memory, strict=True):
                family.add_metric((view.run_id, str(state.rank), gpu), value)
    return tuple(families)


def _gpus(view: RunView) -> tuple[Metric, ...]:
    labels = (*_RANK, "gpu")
    used = _gauge("trainer_gpu_memory_used_bytes", "Memory in use on the GPU, by anybody.", labels)
    total = _gauge("trainer_gpu_memory_total_bytes", "Memory of the GPU.", labels)
    busy = _gauge("trainer_gpu_utilization_ratio", "Share of time in which a kernel ran.", labels)
    power = _gauge("trainer_gpu_power_watts", "Power that the GPU draws.", labels)
    for gpu in view.gpus:
        for family, value in (
            (used, gpu.used_bytes),
            (total, gpu.total_bytes),
            (busy, gpu.utilization_ratio),
            (power, gpu.power_watts),
        ):
            if value is not None:
                family.add_metric((view.run_id, _rank_on(view, gpu), gpu.gpu), value)
    return used, total, busy, power


def _rank_on(view: RunView, gpu: GpuReading) -> str:
    """The rank that uses a GPU; an empty label, which is none, where that is not known."""
    return next((str(state.rank) for state in view.ranks if state.heartbeat.pid in gpu.pids), "")


def of_command(view: RunView) -> tuple[Metric, ...]:
    """The series of a command that never emits."""
    command = view.command
    assert command is not None
    families: list[Metric] = []
    for name, text, value in (
        ("trainer_up", "1 while the command lives.", command.alive),
        ("trainer_finished", "1 once the command ended on its own.", command.finished),
        (
            "trainer_last_progress_timestamp_seconds",
            "When the log or the processes last moved.",
            command.last_progress_wall_seconds,
        ),
        (
            "trainer_stall_timeout_seconds",
            "How long it may be without progress.",
            view.limits_seconds.get(None),
        ),
        ("trainer_resident_memory_bytes", "Resident memory of all its processes.", command.resident_bytes),
        ("trainer_start_timestamp_seconds", "When this attempt began.", view.started_wall_seconds),
        ("trainer_attempt", "Which start of this run it is; restarts count it up.", view.attempt),
    ):
        if value is not None:
            family = _gauge(name, text)
            family.add_metric((view.run_id, _COMMAND_RANK), value)
            families.append(family)
    return tuple(families)


FAMILIES: tuple[Callable[[RunView], tuple[Metric, ...]], ...] = (
    _run,
    _life,
    _steps,
    _rates,
    _totals,
    _durations,
    _incidents,
    _process,
    _allocator,
    _gpus,
)
