"""Native Sparse Attention (arXiv 2502.11089) and dense causal attention, over packed documents.

Vectorised: boolean masks on PyTorch's own attention kernels, no Python loop over positions or heads. Three
causal branches, each with keys and values of its own (compressed, selected, window), and a learned gate over
them. Selection is dense in memory (a mask over all pairs): below about 6k tokens sparsity does not pay. Not
here: a decoding cache, and kernels that skip unselected blocks. `nsa.reference` is what this must equal.

Shapes: B batch, S sequence, D model dim, H heads, G KV groups, R = H / G heads of a group, K head dim, N
compressed blocks, L tokens of one, J selection blocks, C window chunks, Q queries and U keys of a chunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsa.layout import Documents, Layout

if TYPE_CHECKING:
    from nsa.config import ModelConfig
    from nsa.layout import CompressedBlocks, SelectionBlocks, WindowChunks


def attend(q_BRTK: Tensor, k_B1UK: Tensor, v_B1UK: Tensor, mask: Tensor | None) -> Tensor:
    """One kernel call for the heads of a group over their shared keys; `mask` None means causal, T = U.

    Every row of a mask must allow at least one key. `is_causal` aligns top-left, so it is for squares alone.
    """
    heads = q_BRTK.shape[1]
    assert mask is not None or q_BRTK.shape[2] == k_B1UK.shape[2]
    k_BRUK, v_BRUK = (x.expand(-1, heads, -1, -1) for x in (k_B1UK, v_B1UK))
    return F.scaled_dot_product_attention(q_BRTK, k_BRUK, v_BRUK, attn_mask=mask, is_causal=mask is None)


def per_group(mask_B1SU: Tensor | None, groups: int) -> Tensor | None:
    """The mask for groups folded into the batch; one row needs no copies."""
    if mask_B1SU is None or mask_B1SU.shape[0] == 1:
        return mask_B1SU
    return mask_B1SU.repeat_interleave(groups, dim=0)


def overlap_scores(p_N: Tensor, *, blocks: int, length: int, stride: int, select_block: int) -> Tensor:
    """Importance of selection blocks from that of compressed ones (Eq. 9), weighed by the strides shared.

    Block j collects, for l' = 4d and l = 2d, compressed blocks 4j-1 … 4j+3 with weights 1, 2, 2, 2, 1. Plain
    sums in a fixed order, so that equal importances stay equal to the bit and ties stay ties.
    """
    cover, ratio = length // stride, select_block // stride
    padded = F.pad(p_N, (cover - 1, blocks * ratio - p_N.shape[-1]))
    strides = padded[..., cover - 1 :]
    for shift in range(1, cover):
        strides = strides + padded[..., cover - 1 - shift : padded.shape[-1] - shift]
    return torch.unflatten(strides, -1, (blocks, ratio)).sum(dim=-1)


class Compressor(nn.Module):
    """φ: a block's L keys (or values), with their places in the block encoded, to one (Eq. 7)."""

    def __init__(self, length: int, head_dim: int) -> None:
        super().__init__()
        self.place_LK = nn.Parameter(torch.zeros(length, head_dim))
        self.hidden = nn.Linear(length * head_dim, 2 * head_dim)
        self.out = nn.Linear(2 * head_dim, head_dim)

    def forward(self, x_BSGK: Tensor, token_BNL: Tensor) -> Tensor:
        """Compress the blocks at `token_BNL`; returns (B, G, N, K)."""
        block_BNLGK = gather_tokens(x_BSGK, token_BNL)
        flat_BGNX = (block_BNLGK + self.place_LK[:, None]).permute(0, 3, 1, 2, 4).flatten(-2)
        compressed: Tensor = self.out(F.gelu(self.hidden(flat_BGNX)))
        return compressed


def gather_tokens(x_BSGK: Tensor, token_BNL: Tensor) -> Tensor:
    """Tokens at `token_BNL`, as (B, N, L, G, K)."""
    batch, sequence = x_BSGK.shape[:2]
    row_B = torch.arange(batch, device=token_BNL.device) * sequence
    index = (token_BNL + row_B[:, None, None]).flatten()
    return torch.unflatten(x_BSGK.flatten(0, 1)[index], 0, token_BNL.shape)


class Projected(NamedTuple):
    """A layer's queries, keys and values, before rotation."""

    q_BHSK: Tensor
    compressed_BSGK: tuple[Tensor, Tensor]
    selected_BSGK: tuple[Tensor, Tensor]
    window_BSGK: tuple[Tensor, Tensor]


class Branches(NamedTuple):
    """The three outputs (B, H, S, K) that the gate weighs."""

    compressed: Tensor
    selected: Tensor
    window: Tensor


class NSAAttention(nn.Module):
    """Gated sum of the compressed, the selected and the window branch."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.model = model
        self.heads, self.groups, self.head_dim = model.heads, model.kv_groups, model.head_dim
        self.q = nn.Linear(model.dim, self.heads * self.head_dim, bias=False)
        self.kv = nn.Linear(model.dim, 3 * 2 * self.groups * self.head_dim, bias=False)
        self.compress_k = Compressor(model.nsa.compress_block, self.head_dim)
        self.compress_v = Compressor(model.nsa.compress_block, self.head_dim)
        self.gate = nn.Sequential(
            nn.Linear(model.dim, 2 * self.head_dim), nn.SiLU(), nn.Linear(2 * self.head_dim, 3 * self.heads)
        )
        self.out = nn.Linear(self.heads * self.head_dim, model.dim, bias=False)

    def layout(self, document_ids_BS: Tensor) -> Layout:
        """What all layers of a model share for one batch; `forward` takes it in place of the ids."""
        weight = self.q.weight
        return Layout.of(document_ids_BS, self.model, dtype=weight.dtype, device=weight.device)

    def forward(self, x_BSD: Tensor, documents: Tensor | Layout) -> Tensor:
        """Attend within documents; `documents` are ids (B, S) or a layout made of them."""
        layout = self.layout(documents) if isinstance(documents, Tensor) else documents
        branches = self.branches(self.project(x_BSD), layout)
        gate_3BHS1 = self.gate(x_BSD).sigmoid().unflatten(-1, (3, self.heads)).permute(2, 0, 3, 1)[..., None]
        mixed_BHSK = sum(gate_BHS1 * o_BHSK for gate_BHS1, o_BHSK in zip(gate_3BHS1, branches, strict=True))
        out_BSD: Tensor = self.out(mixed_BHSK.transpose(1, 2).flatten(2))
        return out_BSD

    def project(self, x_BSD: Tensor) -> Projected:
        """Queries, and a pair of keys and values for each branch."""
        q_BHSK = self.q(x_BSD).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
        kv_BS6GK = self.kv(x_BSD).view(*x_BSD.shape[:2], 6, self.groups, self.head_dim)
        # One unbind: its gradient is written once, that of each index would be a tensor of zeros with one
        # part set.
        ck, cv, sk, sv, wk, wv = kv_BS6GK.unbind(2)
        return Projected(q_BHSK, (ck, cv), (sk, sv), (wk, wv))

    def branches(self, projected: Projected, layout: Layout) -> Branches:
        """The outputs of the three branches."""
        angles = layout.documents.angles
        q_BHSK = angles.turn(projected.q_BHSK)
        k_BGNK, v_BGNK = self.compress(projected.compressed_BSGK, layout.compressed)
        mask = per_group(layout.documents.causal_B1SS, self.groups)
        if layout.selection is not None:
            mask = self.select(q_BHSK, k_BGNK, layout.compressed, layout.selection)
        k_BGSK, v_BGSK = (x.transpose(1, 2) for x in projected.selected_BSGK)
        selected_BHSK = self.grouped(q_BHSK, angles.turn(k_BGSK), v_BGSK, mask)
        k_BGSK, v_BGSK = (x.transpose(1, 2) for x in projected.window_BSGK)
        return Branches(
            self.compressed(q_BHSK, k_BGNK, v_BGNK, layout.compressed),
            selected_BHSK,
            self.windowed(q_BHSK, angles.turn(k_BGSK), v_BGSK, layout),
        )

    def grouped(self, q_BHSK: Tensor, k_BGUK: Tensor, v_BGUK: Tensor, mask: Tensor | None) -> Tensor:
        """Attention with groups folded into the batch: keys are broadcast to their heads, not copied."""
        q_XRSK = torch.unflatten(q_BHSK, 1, (self.groups, -1)).flatten(0, 1)
        o_XRSK = attend(q_XRSK, k_BGUK.flatten(0, 1)[:, None], v_BGUK.flatten(0, 1)[:, None], mask)
        return torch.unflatten(o_XRSK, 0, (-1, self.groups)).flatten(1, 2)

    def compress(self, pair_BSGK: tuple[Tensor, Tensor], blocks: CompressedBlocks) -> tuple[Tensor, Tensor]:
        """Keys (rotated) and values of the compressed blocks, each (B, G, N, K)."""
        k_BSGK, v_BSGK = pair_BSGK
        k_BGNK = blocks.angles.turn(self.compress_k(k_BSGK, blocks.token_BNL))
        return k_BGNK, self.compress_v(v_BSGK, blocks.token_BNL)

    def compressed(self, q_BHSK: Tensor, k_BGNK: Tensor, v_BGNK: Tensor, blocks: CompressedBlocks) -> Tensor:
        """Compressed branch; exactly 0, with finite gradients, for a query that sees no block."""
        seen_B1S1 = blocks.seen_BS[:, None, :, None]
        # A row without any key is NaN or 0 or neither, by kernel and version: let it see all, then drop the
        # result.
        mask_B1SN = blocks.visible_BSN[:, None] | ~seen_B1S1
        o_BHSK = self.grouped(q_BHSK, k_BGNK, v_BGNK, per_group(mask_B1SN, self.groups))
        return o_BHSK.masked_fill(~seen_B1S1, 0.0)

    @torch.no_grad()
    def select(
        self, q_BHSK: Tensor, k_BGNK: Tensor, compressed: CompressedBlocks, selection: SelectionBlocks
    ) -> Tensor:
        """The keys each group's queries selected, as a mask (B * G, 1, S, S).

        A choice has no gradient: the scores learn through the compressed branch.
        """
        scores_BGSJ = self.scores(self.probabilities(q_BHSK, k_BGNK, compressed, selection), selection)
        scores_BGSJ = scores_BGSJ.masked_fill(~selection.candidate_BSJ[:, None], -torch.inf)
        scores_BGSJ = scores_BGSJ.masked_fill(selection.forced_BSJ[:, None], torch.inf)
        chosen_BGSJ = self.choose(scores_BGSJ)
        sequence = q_BHSK.shape[2]
        block_B11S = selection.block_of_key_BS[:, None, None, :]
        mask_BGSS = chosen_BGSJ.gather(-1, block_B11S.expand(-1, self.groups, sequence, -1))
        mask_X1SS: Tensor = (mask_BGSS & selection.causal_B1SS).flatten(0, 1)[:, None]
        return mask_X1SS

    def probabilities(
        self, q_BHSK: Tensor, k_BGNK: Tensor, compressed: CompressedBlocks, selection: SelectionBlocks
    ) -> Tensor:
        """Attention (B, G, S, N) to the n-th compressed block of the query's document, summed over its group.

        Eq. 8 and 10, in float32 at least: in bfloat16 near-equal blocks become ties.
        """
        with torch.autocast(q_BHSK.device.type, enabled=False):
            wide = torch.float64 if q_BHSK.dtype == torch.float64 else torch.float32
            q_BGRSK = torch.unflatten(q_BHSK.to(wide), 1, (self.groups, -1))
            logits_BGRSN = q_BGRSK @ k_BGNK.to(wide)[:, :, None].transpose(-1, -2) * self.head_dim**-0.5
            visible_B11SN = compressed.visible_BSN[:, None, None]
            # Masked before the softmax: blocks still to come take no share.
            logits_BGRSN = logits_BGRSN.masked_fill(~visible_B11SN, torch.finfo(wide).min)
            p_BGSN = (logits_BGRSN.softmax(dim=-1) * visible_B11SN).sum(dim=2)
            relative_BGSN = selection.relative_BSN[:, None].expand(-1, self.groups, -1, -1)
            gathered_BGSN: Tensor = p_BGSN.gather(-1, relative_BGSN) * selection.ended_BSN[:, None]
        return gathered_BGSN

    def scores(self, p_BGSN: Tensor, selection: SelectionBlocks) -> Tensor:
        """Importance (B, G, S, J) of each selection block (Eq. 9)."""
        nsa = self.model.nsa
        return overlap_scores(
            p_BGSN,
            blocks=selection.candidate_BSJ.shape[-1],
            length=nsa.compress_block,
            stride=nsa.compress_stride,
            select_block=nsa.select_block,
        )

    def choose(self, scores_BGSJ: Tensor) -> Tensor:
        """Mark the highest scores; of equal ones the earlier. `topk` promises no order among equals."""
        order_BGSJ = scores_BGSJ.sort(dim=-1, descending=True, stable=True).indices
        chosen_BGSn = order_BGSJ[..., : self.model.nsa.select_count]
        return torch.zeros_like(scores_BGSJ, dtype=torch.bool).scatter(-1, chosen_BGSn, True)

    def windowed(self, q_BHSK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, layout: Layout) -> Tensor:
        """Window branch."""
        chunks = layout.window
        if chunks is None:
            return self.grouped(q_BHSK, k_BGSK, v_BGSK, per_group(layout.documents.causal_B1SS, self.groups))
        return self.chunked(q_BHSK, k_BGSK, v_BGSK, chunks)

    def chunked(self, q_BHSK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, chunks: WindowChunks) -> Tensor:
        """Attention by chunks of queries, over the keys that their windows reach."""
        batch, _, sequence = q_BHSK.shape[:3]
        mask_BC1QU = chunks.mask_BC1QU
        count, size, reach = mask_BC1QU.shape[1], *mask_BC1QU.shape[3:]
        after = count * size - sequence

        def keys(x_BGSK: Tensor) -> Tensor:
            padded_BGTK = F.pad(x_BGSK, (0, 0, reach - size, after))
            tiles_BGTQK = torch.unflatten(padded_BGTK, 2, (-1, size))
            # Slices, not an index: each key is in several chunks, and adding slices is cheap and repeatable.
            shifted = [tiles_BGTQK[:, :, shift : shift + count] for shift in range(reach // size)]
            return torch.cat(shifted, dim=3).flatten(0, 2)[:, None]

        q_BGRTK = torch.unflatten(F.pad(q_BHSK, (0, 0, 0, after)), 1, (self.groups, -1))
        q_BGCRQK = torch.unflatten(q_BGRTK, 3, (count, size)).transpose(2, 3)
        mask_X1QU = mask_BC1QU[:, None].expand(-1, self.groups, -1, -1, -1, -1).flatten(0, 2)
        o_XRQK = attend(q_BGCRQK.flatten(0, 2), keys(k_BGSK), keys(v_BGSK), mask_X1QU)
        o_BGCRQK = torch.unflatten(o_XRQK, 0, (batch, self.groups, count))
        return o_BGCRQK.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :, :sequence]


class DenseAttention(nn.Module):
    """Causal attention within documents, one pair of keys and values per group: what NSA is compared with."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.model = model
        self.heads, self.groups, self.head_dim = model.heads, model.kv_groups, model.head_dim
        self.q = nn.Linear(model.dim, self.heads * self.head_dim, bias=False)
        self.kv = nn.Linear(model.dim, 2 * self.groups * self.head_dim, bias=False)
        self.out = nn.Linear(self.heads * self.head_dim, model.dim, bias=False)

    def layout(self, document_ids_BS: Tensor) -> Documents:
        """What all layers of a model share for one batch; `forward` takes it in place of the ids."""
        weight = self.q.weight
        return Documents.of(document_ids_BS, self.model, dtype=weight.dtype, device=weight.device)

    def forward(self, x_BSD: Tensor, documents: Tensor | Documents) -> Tensor:
        """Attend within documents; `documents` are ids (B, S) or a layout made of them."""
        layout = self.layout(documents) if isinstance(documents, Tensor) else documents
        q_BHSK = layout.angles.turn(self.q(x_BSD).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2))
        k_BSGK, v_BSGK = self.kv(x_BSD).unflatten(-1, (2, self.groups, self.head_dim)).unbind(2)
        k_X1SK = layout.angles.turn(k_BSGK.transpose(1, 2)).flatten(0, 1)[:, None]
        v_X1SK = v_BSGK.transpose(1, 2).flatten(0, 1)[:, None]
        q_XRSK = torch.unflatten(q_BHSK, 1, (self.groups, -1)).flatten(0, 1)
        o_XRSK = attend(q_XRSK, k_X1SK, v_X1SK, per_group(layout.causal_B1SS, self.groups))
        o_BSHK = torch.unflatten(o_XRSK, 0, (-1, self.groups)).flatten(1, 2).transpose(1, 2)
        out_BSD: Tensor = self.out(o_BSHK.flatten(2))
        return out_BSD
