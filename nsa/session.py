"""Building a run: tokenizer, data, model, optimizer and what a checkpoint restores, stage by stage.

What one rank decides (which checkpoint) is agreed upon by all. Not here: the order of the start before torch
(nsa.train), and the loop (nsa.loop).
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nsa import evaluation, resume
from nsa.checkpoint import CheckpointError, Store
from nsa.data import build_tokenizer, open_stream
from nsa.device import make_deterministic
from nsa.errors import ConfigError
from nsa.optimization import Optimization
from nsa.phases import CudaPhases, Phases
from nsa.report import Report, short_count
from nsa.transformer import Transformer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nsa.checkpoint import Checkpoint
    from nsa.config import Config
    from nsa.data import Batches
    from nsa.device import Device
    from nsa.distributed import World
    from nsa.telemetry import Telemetry
    from nsa.tokenizer import Tokenizer
    from nsa.train import Options


class History:
    """What the summary tells, carried over from attempt to attempt."""

    def __init__(self, saved: dict[str, Any]) -> None:
        best = saved.get("best_eval")
        self.first_loss: float | None = saved.get("first_loss")
        self.last_loss: float | None = saved.get("last_loss")
        self.last_eval: float | None = saved.get("last_eval")
        self.best_eval: tuple[float, int] | None = (best[0], best[1]) if best else None
        self.train_seconds: float = saved.get("train_seconds", 0.0)
        self.epoch: int = saved.get("epoch", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and with whom this process trains."""

    config: Config
    options: Options
    world: World
    device: Device
    out: Path
    telemetry: Telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A run that is ready for its next step."""

    place: Place
    store: Store
    report: Report
    phases: Phases
    model: Transformer
    optimization: Optimization
    stream: Batches
    held_out: evaluation.HeldOut
    identity: dict[str, Any]
    history: History
    first_step: int
    """Steps finished already."""
    saved_step: int | None
    """The step whose checkpoint stands in this run's own folder already."""

    def close(self) -> None:
        """End the reading thread and close the files."""
        self.stream.close()
        self.report.close()


def build(place: Place) -> Session:
    """Everything up to the first step; ConfigError or DataSourceError where it cannot be."""
    config, world, device, telemetry = place.config, place.world, place.device, place.telemetry
    make_deterministic(device, config.seed)
    store = Store(place.out / "checkpoints", keep=config.checkpoint.keep)
    report = Report(
        out=place.out,
        schedule=config.schedule,
        log_every=config.train.log_every,
        tensorboard=config.train.tensorboard,
        metrics=not telemetry.enabled,  # the harness writes the same file, from the heartbeat
        quiet=not world.is_main,
    )

    telemetry.stage("tokenizer")
    tokenizer = build_tokenizer(config, progress=telemetry.progress)
    vocab_size = _vocabulary(config, tokenizer)

    telemetry.stage("dataset")
    checkpoint = _find_checkpoint(place, store, report)
    own = checkpoint.part("ranks")[world.rank] if checkpoint else None
    # At the commit that the run began with: a dataset that moved on has other documents to hold out.
    revision = own["cursor"].get("revision") if own else None
    held_out = _held_out(place, tokenizer, vocab_size, revision)
    with ExitStack() as undo:
        stream = open_stream(
            config,
            tokenizer,
            rank=world.rank,
            world_size=world.world_size,
            cursor=own["cursor"] if own else None,
            progress=lambda progress: telemetry.progress(progress.detail),
        )
        undo.callback(stream.close)
        identity = resume.identity(
            config, world_size=world.world_size, tokenizer=tokenizer.fingerprint, data=stream.fingerprint
        )
        notes = _check(checkpoint, place, identity) if checkpoint else []

        telemetry.stage("model")
        model = Transformer(
            config.model,
            vocab_size,
            config.data.sequence_length,
            activation_checkpointing=config.train.activation_checkpointing,
        ).to(device.torch_device)

        telemetry.stage("optimizer")
        phases = (CudaPhases if device.is_cuda else Phases)(telemetry.phase)
        optimization = Optimization(model, config, device, world, phases)

        telemetry.stage("resume")
        if checkpoint and own:
            _restore(checkpoint, own["generators"], model, optimization, device)
            notes += _leave_later_ones_behind(checkpoint, place, store)
        optimization.wrap()
        undo.pop_all()
    for line in _introduction(place, model, notes, checkpoint):
        report.line(line)
    if checkpoint:
        telemetry.event("resumed", step=checkpoint.step, path=str(checkpoint.path))
    return Session(
        place=place,
        store=store,
        report=report,
        phases=phases,
        model=model,
        optimization=optimization,
        stream=stream,
        held_out=held_out,
        identity=identity,
        history=History(checkpoint.manifest.get("history", {}) if checkpoint else {}),
        first_step=checkpoint.step if checkpoint else 0,
        saved_step=checkpoint.step if checkpoint and checkpoint.path.parent == store.root else None,
    )


def tokens_per_step(config: Config, world_size: int) -> int:
    """Predicted tokens of one optimizer step, over all ranks."""
    return config.data.sequence_length * config.train.micro_batch * config.train.accumulation * world_size


def _vocabulary(config: Config, tokenizer: Tokenizer) -> int:
    """Rows of the embedding: the tokenizer's, or more where the configuration pads."""
    rows = config.model.vocab_size or tokenizer.vocab_size
    if rows < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size: {rows} is less than the tokenizer's ({tokenizer.vocab_size})."
            " Raise it, or remove it"
        )
    return rows


def _find_checkpoint(place: Place, store: Store, report: Report) -> Checkpoint | None:
    """What `--resume` means: verified by the first rank, and told to all."""

    def find() -> Checkpoint | None:
        found = resume.find(
            place.options.resume,
            store,
            report.line,
            begun_wall_seconds=place.options.begun_wall_seconds,
        )
        if found is not None:
            # Before the data is opened: a place in it means nothing to another number of ranks.
            resume.check_identity(found, {"world_size": place.world.world_size}, ())
        return found

    found: Checkpoint | None = place.world.from_main(find)
    return found


def _held_out(
    place: Place, tokenizer: Tokenizer, vocab_size: int, revision: str | None
) -> evaluation.HeldOut:
    stream = open_stream(
        place.config,
        tokenizer,
        rank=place.world.rank,
        world_size=place.world.world_size,
        split="eval",
        revision=revision,
        progress=lambda progress: place.telemetry.progress(progress.detail),
    )
    with stream:
        return evaluation.gather(
            stream,
            world=place.world,
            batches=place.config.eval.batches,
            vocab_size=vocab_size,
            progress=place.telemetry.progress,
        )


def _check(checkpoint: Checkpoint, place: Place, identity: dict[str, Any]) -> list[str]:
    """Refuse what makes this another run; return what the user should know."""
    notes = resume.check_identity(checkpoint, identity, place.options.allow_changed)
    notes += resume.compare_rounding(checkpoint, resume.rounding(place.config, place.device))
    if checkpoint.step > place.config.train.steps:
        raise ConfigError(
            f"{checkpoint.path}: is past train.steps ({place.config.train.steps})."
            " Raise it, or use another --out"
        )
    return notes


def _restore(
    checkpoint: Checkpoint, generators: Any, model: Transformer, optimization: Optimization, device: Device
) -> None:
    weights, moments = checkpoint.part("model"), checkpoint.part("optimizer")
    optimizer = optimization.optimizer
    # The groups' settings are this configuration's; of the checkpoint's, only the moments count.
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    try:
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)
    except (RuntimeError, ValueError, KeyError) as error:
        first = (str(error).splitlines() or ["no reason given"])[0]
        raise CheckpointError(
            f"{checkpoint.path}: does not fit this model: {first} Resume with the nsa that wrote it"
        ) from error
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    resume.restore_generators(generators, device)


def _leave_later_ones_behind(checkpoint: Checkpoint, place: Place, store: Store) -> list[str]:
    """This run's checkpoints past the one it continues from are another course of it, or are damaged."""
    own = checkpoint.path.parent.resolve() == store.root.resolve()
    aside = place.world.from_main(lambda: store.set_aside(after=checkpoint.step if own else -1))
    return [] if aside is None else [f"resume: this folder's other checkpoints are in {aside} now"]


def _introduction(
    place: Place, model: Transformer, notes: list[str], checkpoint: Checkpoint | None
) -> Iterator[str]:
    config, world = place.config, place.world
    ranks = f", {world.world_size} ranks" if world.world_size > 1 else ""
    yield (
        f"nsa train {place.options.config} · {short_count(model.parameter_count())} parameters"
        f" · {config.train.steps:,} steps of {tokens_per_step(config, world.world_size):,} tokens"
        f" · {place.device.describe()}, {config.train.dtype}{ranks} · {place.out}"
    )
    yield from notes
    if checkpoint is not None:
        yield f"resumed from {checkpoint.path} at step {checkpoint.step}"
