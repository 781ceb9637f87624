"""A training run from its first stage to its exit status; the only file that tells the harness.

Every stage of the start is marked before its work begins, the first before torch is imported, so that a start
that hangs names its place: what is heavy is imported inside the functions. Not here: the loop's parts
(nsa.optimization, nsa.evaluation, nsa.resume, nsa.checkpoint) and the command line (nsa.cli).
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import emit
from nsa.errors import ConfigError, NonFiniteError, NsaError, StopRequestedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nsa.config import Config
    from nsa.distributed import World

# Sections of nsa.resume.identity that may be changed on purpose; a change in the others makes the weights or
# the place in the data meaningless.
CHANGEABLE = ("schedule", "batch", "optimizer", "precision")
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says."""

    config: Path
    overrides: tuple[str, ...] = ()
    resume: str = "auto"
    allow_changed: tuple[str, ...] = ()
    out: Path | None = None
    begun_wall_seconds: float | None = None  # of the first attempt, where this is a restart of it


def run(options: Options) -> None:
    """Train; returns once done, raises an NsaError otherwise."""
    emit.open()
    emit.stage("boot")
    status = FAILED
    try:
        _run(options)
        status = FINISHED
    except StopRequestedError:
        status = STOPPED
        raise
    finally:
        emit.close(status)


def _run(options: Options) -> None:
    emit.stage("config")
    from nsa import config as configuration
    from nsa import distributed

    config = configuration.load(options.config, options.overrides)
    _check_environment(config, options.config)
    world = distributed.world_from_environment()
    out = output_folder(options, config, world)
    emit.open(
        total_steps=config.train.steps,
        schedule={
            "kind": config.schedule.kind,
            "peak": config.schedule.peak,
            "warmup": config.schedule.warmup_steps,
            "total": config.train.steps,
            "floor": config.schedule.floor,
        },
        rank=world.rank,
        world_size=world.world_size,
    )
    distributed.prepare_environment(out)

    emit.stage("import")
    # OpenMP reads it when torch loads it. A thread that waits for the others sleeps: spinning is ten times
    # slower where others use the cores too, and such a run looks hung (decision 0007).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from nsa import device as devices

    devices.prepare_environment()
    from nsa.loop import Loop
    from nsa.session import Place, build

    emit.stage("distributed")
    device = devices.choose(config.train, local_rank=world.local_rank)
    if device.is_cuda:
        emit.open(phase_clock="none")  # the host runs ahead of the device: its clock would tell nothing
    distributed.start(world, device, timeout_seconds=config.train.distributed_timeout_seconds, out=out)
    try:
        with _lost_ranks_named(world):
            session = build(
                Place(
                    config=config,
                    options=options,
                    world=world,
                    device=device,
                    out=out,
                    telemetry=EmitTelemetry(),
                )
            )
            try:
                Loop(session).run()
            finally:
                session.close()
    except (NonFiniteError, StopRequestedError):
        distributed.stop(world)  # every rank is here
        raise
    distributed.stop(world)


def _check_environment(config: Config, path: Path) -> None:
    """What is asked for and not installed."""
    if config.train.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            f"{path}: train.tensorboard: true, but tensorboard is not installed."
            " pip install 'training-harness[tensorboard]', or set it to false"
        )


def output_folder(options: Options, config: Config, world: World) -> Path:
    """Where the run's files go: --out, else the harness's run directory, else a new folder below runs/."""
    if options.out is not None:
        out = options.out
    elif os.environ.get("HARNESS_RUN_DIR"):
        out = Path(os.environ["HARNESS_RUN_DIR"])
    elif world.launched:
        # Each rank would choose a name of its own.
        raise ConfigError("--out: is not given, and several processes must share one folder. Add --out DIR")
    else:
        out = Path("runs") / f"{datetime.now(timezone.utc):%Y-%m-%dT%H-%M-%S}-{config.name}"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out: {out}: cannot be made: {error.strerror}. Choose another folder") from error
    if not os.access(out, os.R_OK | os.W_OK | os.X_OK):
        # Now, and not at the first checkpoint, hours later.
        raise ConfigError(f"--out: {out}: cannot be written to. Mend its permissions, or choose another")
    return out


@contextmanager
def _lost_ranks_named(world: World) -> Iterator[None]:
    """Turn what torch raises when a peer is gone, or memory is out, into one line."""
    from nsa import device, distributed

    try:
        yield
    except RuntimeError as error:  # torch's OutOfMemoryError is one
        said = device.out_of_memory(error)
        if said is not None:
            raise NsaError(said) from error
        lost = distributed.translate(error, world)
        if lost is None:
            raise
        raise lost from error


class EmitTelemetry:
    """The session's Telemetry, told to the harness."""

    @property
    def enabled(self) -> bool:
        """Whether a harness listens."""
        return emit.enabled

    def stage(self, name: str) -> Any:
        """Enter a stage; as a context manager, nest it."""
        return emit.stage(name)

    def phase(self, name: str) -> None:
        """Switch the phase within a step."""
        emit.phase(name)

    def progress(self, detail: str | None = None) -> None:
        """Something moved inside a stage."""
        emit.progress(detail=detail)

    def step(self, number: int, **values: Any) -> None:
        """A step is done."""
        emit.step(number, **values)

    def event(self, kind: str, **fields: Any) -> None:
        """Something rare."""
        emit.event(kind, **fields)
