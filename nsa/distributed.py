"""Ranks: who this process is, starting and ending the process group, and what ranks tell each other.

Started by torchrun (or anything that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT): gloo on
the CPU, NCCL with gloo beside it on GPUs, every wait with an explicit limit. Not here: wrapping the model
(nsa.optimization), and launching processes (torchrun does).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from nsa.errors import ConfigError, NsaError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from nsa.device import Device

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
# Entries of the flight recorder's ring: torch's own default, said explicitly so that 0 in a
# job script's older environment does not turn it off unseen.
_FLIGHT_RECORDER_ENTRIES = "2000"


class RankLostError(NsaError):
    """A collective ended without an answer: another rank ended, or is stuck elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process among its peers."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    launched: bool = False
    """Whether a launcher set the ranks; then even a single one forms a process group."""

    @property
    def is_main(self) -> bool:
        """Whether this rank prints and writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.launched:
            import torch

            # On the host, by gloo: torch's own barrier would ask the GPUs, where there are any.
            self.sum(torch.zeros(1))

    def gather(self, value: Any) -> list[Any] | None:
        """Every rank's small `value`, on rank 0 alone."""
        if not self.launched:
            return [value]
        import torch.distributed as dist

        gathered: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, gathered, dst=0)
        return gathered

    def broadcast(self, value: Any) -> Any:
        """Rank 0's small `value`, on every rank."""
        if not self.launched:
            return value
        import torch.distributed as dist

        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def from_main(self, act: Callable[[], Any]) -> Any:
        """Rank 0 acts, and every rank has the answer; where it raises, every rank does."""
        error: NsaError | None = None
        value: Any = None
        if self.is_main:
            try:
                value = act()
            except NsaError as raised:
                error = raised
            except Exception as raised:
                self.broadcast((None, NsaError(f"rank 0 failed: {raised!r:.300}. Its own output says more")))
                raise
        value, error = self.broadcast((value, error))
        if error is not None:
            # A rank that ended now would take the answer with it from those that are still reading it.
            self.barrier()
            raise error
        return value

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, in place."""
        if self.launched:
            import torch.distributed as dist

            dist.all_reduce(tensor)
        return tensor


def world_from_environment() -> World:
    """Who this process is; ConfigError where the launcher's variables do not make sense together."""
    given = {name: os.environ[name] for name in _NAMES if name in os.environ}
    if "RANK" not in given and "WORLD_SIZE" not in given:
        return World()
    said = ", ".join(f"{name}={value}" for name, value in given.items())
    remedy = "Start with torchrun, or unset them"
    try:
        rank, world_size = int(given["RANK"]), int(given["WORLD_SIZE"])
        local_rank = int(given.get("LOCAL_RANK", given["RANK"]))
    except (KeyError, ValueError):
        raise ConfigError(
            f"environment: {said}: RANK and WORLD_SIZE must both be whole numbers. {remedy}"
        ) from None
    if not 0 <= rank < world_size or local_rank < 0:
        raise ConfigError(f"environment: {said}: a rank must be below the world size. {remedy}")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(f"environment: {said}, but {' and '.join(missing)} not set. {remedy}")
    return World(rank=rank, world_size=world_size, local_rank=local_rank, launched=True)


def prepare_environment(out: Path) -> None:
    """Turn the flight recorder on, dumping into the run's folder; before the process group starts."""
    folder = out / "flight_recorder"
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", _FLIGHT_RECORDER_ENTRIES)
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")
    os.environ.setdefault("TORCH_FR_DUMP_TEMP_FILE", str(folder / "rank_"))


def start(world: World, device: Device, *, timeout_seconds: float, out: Path) -> None:
    """Form the process group; RankLostError once the limit passed without the others."""
    if not world.launched:
        return
    import torch.distributed as dist

    if device.is_cuda:
        # NCCL does not make the folder it dumps into.
        (out / "flight_recorder").mkdir(parents=True, exist_ok=True)
    try:
        # gloo beside NCCL carries the host's small objects, which then need no GPU memory.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.is_cuda else "gloo",
            rank=world.rank,
            world_size=world.world_size,
            timeout=timedelta(seconds=timeout_seconds),
            device_id=device.torch_device if device.is_cuda else None,
        )
    except (RuntimeError, ValueError) as error:
        first = (str(error).splitlines() or ["no reason given"])[0]
        at = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RankLostError(
            f"rank {world.rank} of {world.world_size} met no others at {at}: {first}."
            " Check that all ranks were started, and that the address is reachable"
        ) from error


def stop(world: World) -> None:
    """Leave the process group, where there is one."""
    if not world.launched:
        return
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


# How gloo, NCCL and the store word it when a peer is gone or late.
_LOST = (
    "gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe",
    "Timed out", "timed out", "ProcessGroup", "process group", "Socket Timeout", "TCPStore", "c10d",
)  # fmt: skip


def translate(error: RuntimeError, world: World) -> RankLostError | None:
    """A RankLostError for what torch raises when a peer is gone or late; None for any other error."""
    text = str(error)
    if not world.launched or not any(word in text for word in _LOST):
        return None
    first = (text.splitlines() or [""])[0]
    return RankLostError(
        f"rank {world.rank} of {world.world_size} waited in vain for another rank: {first[:300]}."
        " Look for the first rank that failed; the limit is train.distributed_timeout_seconds"
    )
