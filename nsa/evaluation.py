"""Loss on held-out documents, beside what knowing only the tokens' frequencies would reach.

The held-out sequences are gathered once and kept, so that every evaluation sees the same ones. Not here:
which documents are held out (nsa.data), and when to evaluate (nsa.loop).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nsa.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nsa.device import Device
    from nsa.distributed import World
    from nsa.transformer import Transformer


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """This rank's held-out micro-batches, and facts of all ranks' together."""

    batches: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    """Tokens and document ids, each (B, S + 1), on the host."""
    tokens: int
    unigram_entropy_nats: float
    """Of the held-out tokens' own frequencies: no model without context can do better on them."""


def gather(
    stream: Iterable[Any],
    *,
    world: World,
    batches: int,
    vocab_size: int,
    progress: Callable[[], None],
) -> HeldOut:
    """Take this rank's share of `batches` micro-batches from the held-out stream; collective."""
    share = batches // world.world_size + (world.rank < batches % world.world_size)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    counts = torch.zeros(vocab_size, dtype=torch.float64)
    if share:
        for batch in stream:
            kept.append((torch.from_numpy(batch.tokens), torch.from_numpy(batch.document_ids)))
            seen = np.bincount(batch.tokens[:, 1:].ravel(), minlength=vocab_size)
            counts += torch.from_numpy(seen.astype(np.float64))
            progress()
            if len(kept) == share:
                break
    world.sum(counts)
    total = float(counts.sum())
    if not total:
        raise ConfigError(
            "data.eval_fraction: the held-out documents do not fill one batch. Raise it,"
            " or lower data.sequence_length or train.micro_batch"
        )
    p = counts[counts > 0] / total
    entropy = float(-(p * p.log()).sum())
    return HeldOut(batches=tuple(kept), tokens=int(total), unigram_entropy_nats=entropy)


@torch.no_grad()
def evaluate(
    model: Transformer, held_out: HeldOut, *, device: Device, world: World, progress: Callable[[], None]
) -> float:
    """Mean loss over all ranks' held-out tokens; collective."""
    sums = torch.zeros(2, dtype=torch.float64)
    for tokens, document_ids in held_out.batches:
        with device.autocast():
            loss = model.loss(tokens.to(device.torch_device), document_ids.to(device.torch_device))
        predicted = tokens[:, 1:].numel()
        sums += torch.tensor([float(loss) * predicted, predicted], dtype=torch.float64)
        progress()
    total, count = world.sum(sums).tolist()
    return float(total / count)
