"""The receptive field of each branch by gradient: an output depends on a value exactly where it may.

Expected sets are computed here from the configuration, one position at a time, and never by `nsa.layout`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nsa.attention import NSAAttention
from nsa.config import ModelConfig
from nsa.smoke.stage import SmokeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from nsa.config import SparseConfig

BRANCHES = ("compressed", "selected", "window")


def forced(model: ModelConfig) -> ModelConfig:
    """Nothing left to choose: what is selected follows from the position alone; and a window that ends."""
    nsa = model.nsa
    changed = {
        "select_count": nsa.initial_blocks + nsa.local_blocks,
        "window": min(nsa.window, nsa.select_block + 5),
    }
    return model.model_copy(update={"nsa": nsa.model_copy(update=changed)})


def check(model: ModelConfig, device: torch.device) -> None:
    """SmokeError naming branch, query and key of the first difference."""
    nsa = forced(model).nsa
    small = ModelConfig(dim=8, layers=1, heads=2, kv_groups=1, head_dim=4, ffn_dim=8, nsa=nsa)
    lengths = ((nsa.initial_blocks + nsa.local_blocks + 1) * nsa.select_block + 5, 3, nsa.select_block)
    ids = [document for document, length in enumerate(lengths) for _ in range(length)]
    generator = torch.Generator().manual_seed(0)
    layer = NSAAttention(small).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5, generator=generator)
    x_BSD = torch.randn(1, len(ids), small.dim, dtype=torch.float64, generator=generator).to(device)
    layer = layer.to(device)
    with torch.no_grad():
        projected = layer.project(x_BSD)
    pairs = {}
    for name in BRANCHES:
        k_BSGK, v_BSGK = getattr(projected, f"{name}_BSGK")
        pairs[name] = (k_BSGK, v_BSGK[0].clone().requires_grad_())
    values: dict[str, Any] = {f"{name}_BSGK": (k, v[None]) for name, (k, v) in pairs.items()}
    projected = projected._replace(**values)
    branches = layer.branches(projected, layer.layout(torch.tensor(ids)[None]))
    sets = allowed(nsa, ids)
    for name in BRANCHES:
        seen_SS = reach(getattr(branches, name)[0].transpose(0, 1), pairs[name][1])
        wrong = np.argwhere(seen_SS != sets[name])
        if len(wrong):
            query, key = wrong[0]
            verb = "sees" if seen_SS[query, key] else "does not see"
            raise SmokeError(
                f"receptive field: in the {name} branch query {query} {verb} key {key}, one of {len(wrong)}"
                " such pairs. A mask is wrong: pytest tests/unit/test_attention.py tells more"
            )


def allowed(nsa: SparseConfig, ids: Sequence[int]) -> dict[str, NDArray[np.bool_]]:
    """The keys that each query may see in each branch, where all selected blocks are forced."""
    count = len(ids)
    sets = {name: np.zeros((count, count), dtype=bool) for name in BRANCHES}
    start = 0
    for t in range(count):
        start = start if t and ids[t] == ids[t - 1] else t
        for block in range(start, t + 1, nsa.compress_stride):
            if block + nsa.compress_block - 1 <= t:
                sets["compressed"][t, block : block + nsa.compress_block] = True
        own = (t - start) // nsa.select_block
        for s in range(start, t + 1):
            block = (s - start) // nsa.select_block
            sets["selected"][t, s] = block < nsa.initial_blocks or block > own - nsa.local_blocks
            sets["window"][t, s] = t - s < nsa.window
    return sets


def reach(out_SX: Tensor, source_SX: Tensor) -> NDArray[np.bool_]:
    """Whether out_t depends on source_s, by the gradient."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(out_SX.shape[1:], dtype=out_SX.dtype, generator=generator).to(out_SX.device)
    rows = []
    for t in range(out_SX.shape[0]):
        (grad_SX,) = torch.autograd.grad((out_SX[t] * weight).sum(), source_SX, retain_graph=True)
        rows.append(grad_SX.flatten(1).abs().sum(dim=1) != 0)
    seen: NDArray[np.bool_] = torch.stack(rows).cpu().numpy()
    return seen
