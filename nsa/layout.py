"""Where the documents of a packed batch lie, and who may see whom: once per batch, for every layer.

A document is a run of equal ids. In each one, positions, compressed blocks, selection blocks and the window
start anew. Document-relative numbers keep every shape static, whatever the documents: a row of S tokens never
has more complete compressed blocks than one document of S tokens would have, and no document more selection
blocks.

Not here: anything that depends on the content of the tokens (the choice of blocks is made in `attention`).

Shapes: B batch, S sequence, G KV groups, N compressed blocks of a row, L tokens of one, J selection blocks of
a document, C chunks of queries in the window branch, Q queries of a chunk, U keys that a chunk may need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from nsa.rope import Rotation

if TYPE_CHECKING:
    from nsa.config import ModelConfig, SparseConfig

# Queries of the window branch go through the kernel in chunks, so that keys outside of the window are
# skipped.
WINDOW_CHUNK = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """What every attention needs to know of a packed batch."""

    position_BS: Tensor
    """Position within the document."""
    run_BS: Tensor
    """Number of the document within its row."""
    causal_B1SS: Tensor | None
    """Query sees key: same document, not later. None: one document per row, the kernel's own causal path."""
    angles: Rotation

    @classmethod
    def of(
        cls, document_ids_BS: Tensor, model: ModelConfig, *, dtype: torch.dtype, device: torch.device
    ) -> Documents:
        """Read the documents off their ids.

        Ids on the CPU let a batch of whole-row documents take the kernels' causal path at no cost; ids on a
        GPU are not looked at from the host, which would wait for the device at each batch.
        """
        readable = document_ids_BS.device.type == "cpu" and not torch.compiler.is_compiling()
        whole = readable and bool((document_ids_BS == document_ids_BS[:, :1]).all())
        ids_BS = document_ids_BS.to(device, non_blocking=True)
        changes_BS = F.pad(ids_BS[:, 1:] != ids_BS[:, :-1], (1, 0))
        run_BS = changes_BS.cumsum(dim=1)
        index_S = torch.arange(ids_BS.shape[1], device=device)
        start_BS = torch.where(changes_BS, index_S, 0).cummax(dim=1).values
        position_BS = index_S - start_BS
        causal_B1SS = None
        if not whole:
            # index_S - key <= position: the key is not before the document; cheaper than comparing ids of all
            # pairs.
            behind_SS = index_S[:, None] - index_S
            causal_B1SS = ((behind_SS >= 0) & (behind_SS <= position_BS[:, :, None]))[:, None]
        angles = Rotation.of(position_BS, head_dim=model.head_dim, theta=model.rope_theta, dtype=dtype)
        return cls(position_BS=position_BS, run_BS=run_BS, causal_B1SS=causal_B1SS, angles=angles)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedBlocks:
    """The complete compressed blocks of all documents of a row, in order, padded at the end."""

    token_BNL: Tensor
    """The tokens of each block."""
    angles: Rotation
    """At each block's last token: so no key lies ahead of a query that sees it."""
    visible_BSN: Tensor
    """Query sees block: of its own document, and complete at or before the query."""
    seen_BS: Tensor
    """Query sees any block at all; the first L - 1 tokens of a document do not."""
    first_BS: Tensor
    """Number of the query's document's first block."""

    @classmethod
    def of(cls, documents: Documents, model: ModelConfig, *, dtype: torch.dtype) -> CompressedBlocks:
        """Enumerate blocks by their last tokens; at least one, unseen where there is none."""
        length, stride = model.nsa.compress_block, model.nsa.compress_stride
        position_BS = documents.position_BS
        sequence = position_BS.shape[1]
        device = position_BS.device
        count = max(1, (sequence - length) // stride + 1)
        over_BS = position_BS - (length - 1)
        is_last_BS = (over_BS >= 0) & (over_BS % stride == 0)
        index_S = torch.arange(sequence, device=device)
        last_BN = (
            torch.where(is_last_BS, index_S, sequence).sort(dim=1).values[:, :count].clamp(max=sequence - 1)
        )
        token_BNL = (last_BN[:, :, None] - torch.arange(length - 1, -1, -1, device=device)).clamp(min=0)
        # Blocks end in order, so a query sees those from its document's first to the last that has ended: a
        # range.
        ended_BS = is_last_BS.cumsum(dim=1)
        start_BS = index_S - position_BS
        first_BS = (ended_BS - is_last_BS.long()).gather(1, start_BS)
        number_N = torch.arange(count, device=device)
        visible_BSN = (number_N >= first_BS[:, :, None]) & (number_N < ended_BS[:, :, None])
        return cls(
            token_BNL=token_BNL,
            angles=Rotation.of(
                position_BS.gather(1, last_BN), head_dim=model.head_dim, theta=model.rope_theta, dtype=dtype
            ),
            visible_BSN=visible_BSN,
            seen_BS=over_BS >= 0,
            first_BS=first_BS,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionBlocks:
    """The selection blocks of each query's document, numbered from the document's start."""

    candidate_BSJ: Tensor
    """Query may choose block: it starts at or before the query."""
    forced_BSJ: Tensor
    """Query must choose block: the document's initial ones, its own, and those just before its own."""
    block_of_key_BS: Tensor
    relative_BSN: Tensor
    """Number in the row of the query's document's n-th compressed block."""
    ended_BSN: Tensor
    """Whether the query sees its document's n-th compressed block."""
    causal_B1SS: Tensor

    @classmethod
    def of(cls, documents: Documents, compressed: CompressedBlocks, nsa: SparseConfig) -> SelectionBlocks:
        """Lay out the choice."""
        position_BS = documents.position_BS
        sequence = position_BS.shape[1]
        device = position_BS.device
        own_BS = position_BS // nsa.select_block
        block_J = torch.arange(-(-sequence // nsa.select_block), device=device)
        candidate_BSJ = block_J <= own_BS[:, :, None]
        local_BSJ = block_J > own_BS[:, :, None] - nsa.local_blocks
        count = compressed.visible_BSN.shape[-1]
        number_N = torch.arange(count, device=device)
        causal_B1SS = documents.causal_B1SS
        if causal_B1SS is None:
            causal_B1SS = torch.ones(sequence, sequence, dtype=torch.bool, device=device).tril()[None, None]
        return cls(
            candidate_BSJ=candidate_BSJ,
            forced_BSJ=((block_J < nsa.initial_blocks) | local_BSJ) & candidate_BSJ,
            block_of_key_BS=own_BS,
            relative_BSN=(compressed.first_BS[:, :, None] + number_N).clamp(max=count - 1),
            ended_BSN=number_N < compressed.visible_BSN.sum(dim=-1, keepdim=True),
            causal_B1SS=causal_B1SS,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowChunks:
    """Chunks of queries; a chunk's keys are its own and those of the chunks before it that windows reach."""

    mask_BC1QU: Tensor

    @classmethod
    def of(cls, documents: Documents, window: int) -> WindowChunks:
        """Lay out the chunks; the last one is filled up with copies of the last query."""
        position_BS = documents.position_BS
        sequence = position_BS.shape[1]
        device = position_BS.device
        # Keys by the chunk: a window shorter than the usual chunk gets a chunk of its own size.
        chunk = min(WINDOW_CHUNK, -(-window // 16) * 16)
        before = -(-(window - 1) // chunk) * chunk
        start_C = torch.arange(0, sequence, chunk, device=device)
        query_CQ = (start_C[:, None] + torch.arange(chunk, device=device)).clamp(max=sequence - 1)
        key_CU = start_C[:, None] + torch.arange(-before, chunk, device=device)
        behind_CQU = query_CQ[:, :, None] - key_CU[:, None, :]
        # Keys before the row's start are before the document's too; those past its end are ahead of all.
        reach_BCQ = position_BS[:, query_CQ].clamp(max=window - 1)
        mask_BCQU = (behind_CQU >= 0) & (behind_CQU <= reach_BCQ[..., None])
        return cls(mask_BC1QU=mask_BCQU[:, :, None])


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All that the three branches share between layers."""

    documents: Documents
    compressed: CompressedBlocks
    selection: SelectionBlocks | None
    """None: there are no more blocks than may be selected, so that every query selects all."""
    window: WindowChunks | None
    """None: the window is as long as the sequence."""

    @classmethod
    def of(
        cls, document_ids_BS: Tensor, model: ModelConfig, *, dtype: torch.dtype, device: torch.device
    ) -> Layout:
        """Lay out a batch."""
        nsa = model.nsa
        documents = Documents.of(document_ids_BS, model, dtype=dtype, device=device)
        compressed = CompressedBlocks.of(documents, model, dtype=dtype)
        sequence = document_ids_BS.shape[1]
        choose = sequence > nsa.select_block * nsa.select_count
        return cls(
            documents=documents,
            compressed=compressed,
            selection=SelectionBlocks.of(documents, compressed, nsa) if choose else None,
            window=WindowChunks.of(documents, nsa.window) if sequence > nsa.window else None,
        )
