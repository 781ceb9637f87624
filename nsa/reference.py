"""Native Sparse Attention written out slowly in float64: the oracle that `nsa.attention` must equal.

One query at a time, one head at a time, one document at a time, in numpy, straight from the paper (arXiv
2502.11089; its equation numbers in the comments, on 0-based blocks). It shares no code with `nsa.attention`,
only the names of the weights. Not here: gradients, speed, batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nsa.config import ModelConfig, SparseConfig

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The output, and how it came about."""

    out: Array
    """(S, D)"""
    compressed: Array
    """(S, H, K), as the other two branches, before the gate."""
    selected: Array
    window: Array
    blocks: list[list[list[int]]]
    """Of each position and group, the selected blocks, numbered from the start of the document."""


def nsa_attention(
    x: Array, document_ids: Sequence[int], weights: Mapping[str, Array], model: ModelConfig
) -> Trace:
    """Attention of one packed row `x` (S, D), with the weights of a `NSAAttention` by their names there."""
    x = np.asarray(x, dtype=np.float64)
    weights = {name: np.asarray(weight, dtype=np.float64) for name, weight in weights.items()}
    parts = [_document(x[first:end], weights, model) for first, end in _documents(document_ids)]
    return Trace(
        out=np.concatenate([part.out for part in parts]),
        compressed=np.concatenate([part.compressed for part in parts]),
        selected=np.concatenate([part.selected for part in parts]),
        window=np.concatenate([part.window for part in parts]),
        blocks=[blocks for part in parts for blocks in part.blocks],
    )


def _documents(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Bounds of the runs of equal ids."""
    starts = [i for i in range(len(ids)) if i == 0 or ids[i] != ids[i - 1]]
    return list(zip(starts, [*starts[1:], len(ids)], strict=True))


def _document(x: Array, weights: Mapping[str, Array], model: ModelConfig) -> Trace:
    """Attention of one document, by itself: nothing of its neighbours is in reach."""
    nsa, length = model.nsa, x.shape[0]
    heads, groups, head_dim = model.heads, model.kv_groups, model.head_dim
    q = (x @ weights["q.weight"].T).reshape(length, heads, head_dim)
    pairs = (x @ weights["kv.weight"].T).reshape(length, 3, 2, groups, head_dim)
    q = np.array([[_rope(q[t, h], t, model) for h in range(heads)] for t in range(length)])

    # Eq. 7: block i covers the tokens from i·d to i·d + l - 1, and exists if they all do.
    block, stride = nsa.compress_block, nsa.compress_stride
    starts = range(0, length - block + 1, stride)
    compressed_k = np.zeros((len(starts), groups, head_dim))
    compressed_v = np.zeros((len(starts), groups, head_dim))
    for i, start in enumerate(starts):
        for g in range(groups):
            k = _phi(pairs[start : start + block, 0, 0, g], weights, "compress_k")
            compressed_k[i, g] = _rope(k, start + block - 1, model)
            compressed_v[i, g] = _phi(pairs[start : start + block, 0, 1, g], weights, "compress_v")

    def turned(branch: int) -> Array:
        k = pairs[:, branch, 0]
        return np.array([[_rope(k[s, g], s, model) for g in range(groups)] for s in range(length)])

    selected_k, selected_v = turned(1), pairs[:, 1, 1]
    window_k, window_v = turned(2), pairs[:, 2, 1]

    outputs = np.zeros((3, length, heads, head_dim))
    all_blocks: list[list[list[int]]] = []
    for t in range(length):
        visible = [i for i, start in enumerate(starts) if start + block - 1 <= t]
        window = list(range(max(0, t - nsa.window + 1), t + 1))
        all_blocks.append([])
        for g in range(groups):
            group_heads = range(g * heads // groups, (g + 1) * heads // groups)
            # Eq. 8 and 10: the probabilities of the compressed blocks, summed over the heads of the group.
            p = np.zeros(len(visible))
            for h in group_heads:
                p += _softmax(compressed_k[visible, g] @ q[t, h] / math.sqrt(head_dim))
            blocks = _select(p, t, nsa)
            all_blocks[t].append(blocks)
            selected = [s for s in range(t + 1) if s // nsa.select_block in blocks]
            for h in group_heads:
                outputs[0, t, h] = _attend(q[t, h], compressed_k[visible, g], compressed_v[visible, g])
                outputs[1, t, h] = _attend(q[t, h], selected_k[selected, g], selected_v[selected, g])
                outputs[2, t, h] = _attend(q[t, h], window_k[window, g], window_v[window, g])

    # Eq. 5: a gate in [0, 1] for each branch, head and position.
    hidden = x @ weights["gate.0.weight"].T + weights["gate.0.bias"]
    hidden = hidden / (1 + np.exp(-hidden))
    gate = 1 / (1 + np.exp(-(hidden @ weights["gate.2.weight"].T + weights["gate.2.bias"])))
    gate = gate.reshape(length, 3, heads)
    mixed = sum(gate[:, branch, :, None] * outputs[branch] for branch in range(3))
    out = np.asarray(mixed).reshape(length, heads * head_dim) @ weights["out.weight"].T
    return Trace(out=out, compressed=outputs[0], selected=outputs[1], window=outputs[2], blocks=all_blocks)


def _select(p: Array, t: int, nsa: SparseConfig) -> list[int]:
    """The blocks that position `t` selects, given the probabilities `p` of its visible compressed blocks."""
    own = t // nsa.select_block
    # Eq. 9: each compressed block gives to each selection block in proportion to the tokens they share.
    scores = []
    for j in range(own + 1):
        score = 0.0
        for i, probability in enumerate(p):
            first = max(i * nsa.compress_stride, j * nsa.select_block)
            end = min(i * nsa.compress_stride + nsa.compress_block, (j + 1) * nsa.select_block)
            score += max(0, end - first) / nsa.compress_stride * float(probability)
        scores.append(score)
    forced = {j for j in range(own + 1) if j < nsa.initial_blocks or j > own - nsa.local_blocks}
    # Forced blocks first, then the highest scores (Eq. 11); of equal ones the earlier.
    order = sorted(range(own + 1), key=lambda j: (j not in forced, -scores[j], j))
    return sorted(order[: nsa.select_count])


def _phi(tokens: Array, weights: Mapping[str, Array], name: str) -> Array:
    """φ: an MLP over a block's tokens, their places in the block added to them."""
    flat = (tokens + weights[f"{name}.place_LK"]).reshape(-1)
    hidden = weights[f"{name}.hidden.weight"] @ flat + weights[f"{name}.hidden.bias"]
    hidden = np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in hidden])
    return np.asarray(weights[f"{name}.out.weight"] @ hidden + weights[f"{name}.out.bias"])


def _rope(vector: Array, position: int, model: ModelConfig) -> Array:
    """Rotary embedding: component i turns with component i + K/2."""
    half = len(vector) // 2
    turned: Array = np.empty_like(vector)
    for i in range(half):
        angle = position * model.rope_theta ** (-2 * i / len(vector))
        cos, sin = math.cos(angle), math.sin(angle)
        turned[i] = vector[i] * cos - vector[i + half] * sin
        turned[i + half] = vector[i + half] * cos + vector[i] * sin
    return turned


def _attend(q: Array, k: Array, v: Array) -> Array:
    """Attention of one query; 0 where there is no key."""
    if len(k) == 0:
        return np.zeros_like(q)
    return np.asarray(_softmax(k @ q / math.sqrt(len(q))) @ v)


def _softmax(scores: Array) -> Array:
    if len(scores) == 0:
        return scores
    raised: Any = np.exp(scores - scores.max())
    return np.asarray(raised / raised.sum())
