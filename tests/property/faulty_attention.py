"""NSA with one known fault each: a check that accepts the fault it is there for proves nothing."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F

from nsa.attention import NSAAttention, gather_tokens
from nsa.layout import WindowChunks


class TopLeftCausalInCompressed(NSAAttention):
    """Pitfall 1: is_causal with fewer keys than queries; query t sees blocks 0 to t."""

    def compressed(self, q_BHSK, k_BGNK, v_BGNK, blocks):
        k_BHNK, v_BHNK = (x.repeat_interleave(self.heads // self.groups, 1) for x in (k_BGNK, v_BGNK))
        out = F.scaled_dot_product_attention(q_BHSK, k_BHNK, v_BHNK, is_causal=True)
        return out.masked_fill(~blocks.seen_BS[:, None, :, None], 0.0)


class TopLeftCausalInWindow(NSAAttention):
    """Pitfall 1: is_causal over a chunk of queries and the longer row of their keys."""

    def chunked(self, q_BHSK, k_BGSK, v_BGSK, chunks):
        size, reach = chunks.mask_BC1QU.shape[3:]
        top_left = torch.ones(size, reach, dtype=torch.bool).tril().expand_as(chunks.mask_BC1QU)
        return super().chunked(q_BHSK, k_BGSK, v_BGSK, WindowChunks(mask_BC1QU=top_left))


class FutureInSoftmax(NSAAttention):
    """Pitfall 2: the softmax runs over blocks still to come, whose shares are then dropped."""

    def compressed(self, q_BHSK, k_BGNK, v_BGNK, blocks):
        k_BHNK, v_BHNK = (x.repeat_interleave(self.heads // self.groups, 1) for x in (k_BGNK, v_BGNK))
        p_BHSN = (q_BHSK @ k_BHNK.transpose(-1, -2) * self.head_dim**-0.5).softmax(dim=-1)
        return (p_BHSN * blocks.visible_BSN[:, None]) @ v_BHNK


class FutureInScores(NSAAttention):
    """Pitfall 2, where it only moves the choice of blocks."""

    def probabilities(self, q_BHSK, k_BGNK, compressed, selection):
        everything = dataclasses.replace(compressed, visible_BSN=torch.ones_like(compressed.visible_BSN))
        return super().probabilities(q_BHSK, k_BGNK, everything, selection)


class SelectsTheFuture(NSAAttention):
    """Pitfall 2 in `topk`: blocks that have not begun are candidates, and no mask is behind the choice."""

    def select(self, q_BHSK, k_BGNK, compressed, selection):
        everything = dataclasses.replace(
            selection,
            candidate_BSJ=torch.ones_like(selection.candidate_BSJ),
            causal_B1SS=torch.ones_like(selection.causal_B1SS),
        )
        return super().select(q_BHSK, k_BGNK, compressed, everything)


class NanToNum(NSAAttention):
    """Pitfall 3: rows of nothing but -inf, mended afterwards: outputs are fine, gradients NaN."""

    def compressed(self, q_BHSK, k_BGNK, v_BGNK, blocks):
        k_BHNK, v_BHNK = (x.repeat_interleave(self.heads // self.groups, 1) for x in (k_BGNK, v_BGNK))
        unseen = torch.zeros(()).where(blocks.visible_BSN[:, None], -torch.inf)
        logits_BHSN = q_BHSK @ k_BHNK.transpose(-1, -2) * self.head_dim**-0.5 + unseen
        return logits_BHSN.softmax(dim=-1).nan_to_num(0.0) @ v_BHNK


class MeanWhereNothingIsSeen(NSAAttention):
    """Pitfall 3, mended wrongly: such a row becomes a mean of blocks to come."""

    def compressed(self, q_BHSK, k_BGNK, v_BGNK, blocks):
        mask = blocks.visible_BSN[:, None] | ~blocks.seen_BS[:, None, :, None]
        mask = mask if mask.shape[0] == 1 else mask.repeat_interleave(self.groups, dim=0)
        return self.grouped(q_BHSK, k_BGNK, v_BGNK, mask)


class OwnBlockNotForced(NSAAttention):
    """Pitfall 4: the block that the query stands in has to win its place, and nothing has scored it yet."""

    def select(self, q_BHSK, k_BGNK, compressed, selection):
        block_J = torch.arange(selection.forced_BSJ.shape[-1])
        initial = (block_J < self.model.nsa.initial_blocks) & selection.candidate_BSJ
        # The token's own key stays, lest the row be empty.
        mask = super().select(q_BHSK, k_BGNK, compressed, dataclasses.replace(selection, forced_BSJ=initial))
        return mask | torch.eye(mask.shape[-1], dtype=torch.bool)


class InitialBlocksNotForced(NSAAttention):
    """The document's first block has to win its place too."""

    def select(self, q_BHSK, k_BGNK, compressed, selection):
        own_BS1 = selection.block_of_key_BS[..., None]
        block_J = torch.arange(selection.forced_BSJ.shape[-1])
        local = (block_J > own_BS1 - self.model.nsa.local_blocks) & selection.candidate_BSJ
        return super().select(q_BHSK, k_BGNK, compressed, dataclasses.replace(selection, forced_BSJ=local))


class WindowOfOneMore(NSAAttention):
    """Pitfall 5: keys from t - w to t."""

    more = 1

    def layout(self, document_ids_BS):
        layout = super().layout(document_ids_BS)
        window = self.model.nsa.window + self.more
        if document_ids_BS.shape[1] <= window:
            return dataclasses.replace(layout, window=None)
        return dataclasses.replace(layout, window=WindowChunks.of(layout.documents, window))


class WindowOfOneLess(WindowOfOneMore):
    """Pitfall 5, to the other side."""

    more = -1


class LaterOfEquals(NSAAttention):
    """Pitfall 6: an order among equals that is not the earlier first, as `topk` is free to give."""

    def choose(self, scores_BGSJ):
        # What is forced stays first: only the rest is tied.
        order = scores_BGSJ.flip(-1).sort(dim=-1, descending=True, stable=True).indices
        chosen = scores_BGSJ.shape[-1] - 1 - order[..., : self.model.nsa.select_count]
        return torch.zeros_like(scores_BGSJ, dtype=torch.bool).scatter(-1, chosen, True)


class HalfPrecisionScores(NSAAttention):
    """Pitfall 6: scores in bfloat16, where neighbours become equals."""

    def scores(self, p_BGSN, selection):
        return super().scores(p_BGSN, selection).bfloat16().to(p_BGSN.dtype)


class GridAcrossDocuments(NSAAttention):
    """Pitfall 7: blocks are laid out from the row's start."""

    def layout(self, document_ids_BS):
        layout = super().layout(document_ids_BS)
        whole = super().layout(torch.zeros_like(document_ids_BS)).compressed
        start_BS = torch.arange(document_ids_BS.shape[1]) - layout.documents.position_BS
        visible = whole.visible_BSN & (whole.token_BNL[:, None, :, -1] >= start_BS[..., None])
        blocks = dataclasses.replace(whole, visible_BSN=visible, seen_BS=visible.any(-1))
        return dataclasses.replace(layout, compressed=blocks)


class SelectionGridAcrossDocuments(NSAAttention):
    """Pitfall 7: selection blocks are cut from the row's start."""

    def layout(self, document_ids_BS):
        layout = super().layout(document_ids_BS)
        if layout.selection is None:
            return layout
        whole = super().layout(torch.zeros_like(document_ids_BS))
        own = whole.selection.block_of_key_BS
        return dataclasses.replace(
            layout,
            selection=dataclasses.replace(
                layout.selection,
                block_of_key_BS=own,
                candidate_BSJ=whole.selection.candidate_BSJ,
                forced_BSJ=whole.selection.forced_BSJ,
            ),
        )


class MasksAcrossDocuments(NSAAttention):
    """Pitfall 7: the selected and window branches see earlier documents."""

    def layout(self, document_ids_BS):
        layout, whole = super().layout(document_ids_BS), super().layout(torch.zeros_like(document_ids_BS))
        documents = dataclasses.replace(layout.documents, causal_B1SS=None)
        selection = layout.selection
        if selection is not None:
            selection = dataclasses.replace(selection, causal_B1SS=whole.selection.causal_B1SS)
        return dataclasses.replace(layout, documents=documents, selection=selection, window=whole.window)


class RopeAcrossDocuments(NSAAttention):
    """Pitfall 7: positions run on. Rotary embedding is relative, so that outputs differ by rounding only."""

    def layout(self, document_ids_BS):
        layout, whole = super().layout(document_ids_BS), super().layout(torch.zeros_like(document_ids_BS))
        documents = dataclasses.replace(layout.documents, angles=whole.documents.angles)
        return dataclasses.replace(layout, documents=documents)


class _MisalignedScores(NSAAttention):
    """Eq. 9 is printed 1-based; read 0-based it is off by one block, to either side."""

    side = 0

    def scores(self, p_BGSN, selection):
        nsa = self.model.nsa
        blocks, count = selection.candidate_BSJ.shape[-1], p_BGSN.shape[-1]
        ratio, cover = nsa.select_block // nsa.compress_stride, nsa.compress_block // nsa.compress_stride
        total = torch.zeros(*p_BGSN.shape[:-1], blocks, dtype=p_BGSN.dtype)
        for j in range(blocks):
            for m in range(ratio):
                for n in range(cover):
                    i = ratio * j + (m + n if self.side > 0 else -m - n)
                    if 0 <= i < count:
                        total[..., j] += p_BGSN[..., i]
        return total


class MisalignedForwards(_MisalignedScores):
    """Blocks 4j + m + n."""

    side = 1


class MisalignedBackwards(_MisalignedScores):
    """Blocks 4j - m - n, as printed."""

    side = -1


class NoSumOverTheGroup(NSAAttention):
    """Eq. 10 left out: the first head of a group chooses for all."""

    def probabilities(self, q_BHSK, k_BGNK, compressed, selection):
        first = torch.unflatten(q_BHSK, 1, (self.groups, -1))[:, :, :1]
        first = first.expand(-1, -1, self.heads // self.groups, -1, -1).flatten(1, 2)
        return super().probabilities(first, k_BGNK, compressed, selection)


class SharedKeysAndValues(NSAAttention):
    """One pair of keys and values for all three branches."""

    def project(self, x_BSD):
        projected = super().project(x_BSD)
        shared = projected.selected_BSGK
        return projected._replace(compressed_BSGK=shared, window_BSGK=shared)


class PlacesForgotten(NSAAttention):
    """Blocks compressed without the places of their tokens."""

    def compress(self, pair_BSGK, blocks):
        out = []
        for phi, x_BSGK in zip((self.compress_k, self.compress_v), pair_BSGK, strict=True):
            flat = gather_tokens(x_BSGK, blocks.token_BNL).permute(0, 3, 1, 2, 4).flatten(-2)
            out.append(phi.out(F.gelu(phi.hidden(flat))))
        return blocks.angles.turn(out[0]), out[1]


class SelectionSkipped(NSAAttention):
    """All causal blocks taken although there is a choice to make."""

    def layout(self, document_ids_BS):
        return dataclasses.replace(super().layout(document_ids_BS), selection=None)


class LoopOverPositions(NSAAttention):
    """Right, and a thousand times slower: the case that started this project."""

    def windowed(self, q_BHSK, k_BGSK, v_BGSK, layout):
        heads = self.heads // self.groups
        k_BHSK, v_BHSK = (x.repeat_interleave(heads, 1) for x in (k_BGSK, v_BGSK))
        out = []
        for t in range(q_BHSK.shape[2]):
            first = t - min(self.model.nsa.window - 1, int(layout.documents.position_BS[0, t]))
            near = slice(first, t + 1)
            out.append(
                F.scaled_dot_product_attention(
                    q_BHSK[:, :, t : t + 1], k_BHSK[:, :, near], v_BHSK[:, :, near]
                )
            )
        return torch.cat(out, dim=2)


class LoopOverHeads(NSAAttention):
    """Right, with one call for each group."""

    def compress(self, pair_BSGK, blocks):
        groups = [tuple(x[:, :, g : g + 1] for x in pair_BSGK) for g in range(self.groups)]
        parts = [super(LoopOverHeads, self).compress(group, blocks) for group in groups]
        return torch.cat([k for k, _ in parts], dim=1), torch.cat([v for _, v in parts], dim=1)
