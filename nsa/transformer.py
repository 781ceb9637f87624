"""A decoder-only transformer: pre-norm RMSNorm, SwiGLU, tied embeddings, NSA or dense attention.

The loss never holds the logits of a whole batch: for a vocabulary of 50,257 and 1,024 tokens those are 206
MB, three times over in the backward pass. Not here: generation.

Shapes: B batch, S sequence, D model dim, T = B * S tokens, V vocabulary.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nsa.attention import DenseAttention, NSAAttention

if TYPE_CHECKING:
    from nsa.config import ModelConfig
    from nsa.layout import Documents, Layout

INIT_STD = 0.02
# Tokens whose logits exist at one time: 51 MB of float32 at V = 50,257.
LOSS_CHUNK = 256


class SwiGLU(nn.Module):
    """The gated feed-forward of arXiv 2002.05202."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(dim, 2 * ffn_dim, bias=False)
        self.down = nn.Linear(ffn_dim, dim, bias=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Position by position."""
        gate, up = self.gate_up(x_BSD).chunk(2, dim=-1)
        down: Tensor = self.down(F.silu(gate) * up)
        return down


class Block(nn.Module):
    """Attention and feed-forward, each on a normalised residual stream."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(model.dim, eps=model.norm_eps)
        self.attention = NSAAttention(model) if model.attention == "nsa" else DenseAttention(model)
        self.ffn_norm = nn.RMSNorm(model.dim, eps=model.norm_eps)
        self.ffn = SwiGLU(model.dim, model.ffn_dim)

    def forward(self, x_BSD: Tensor, layout: Any) -> Tensor:
        """One layer."""
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), layout)
        out_BSD: Tensor = x_BSD + self.ffn(self.ffn_norm(x_BSD))
        return out_BSD


class _ChunkedLoss(torch.autograd.Function):
    """Mean cross-entropy of `x @ weight.T`, its gradients taken chunk by chunk in the forward pass."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_VD: Tensor, target_T: Tensor, needs_grad: bool) -> Tensor:
        wide = torch.float64 if x_TD.dtype == torch.float64 else torch.float32
        total = x_TD.new_zeros((), dtype=wide)
        grad_x_TD = torch.empty_like(x_TD) if needs_grad else None
        grad_weight_VD = torch.zeros_like(weight_VD) if needs_grad else None
        # bfloat16 under autocast, as the product of any other linear layer.
        kind = x_TD.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_TD.dtype
        weight = weight_VD.to(dtype)
        with torch.autocast(kind, enabled=False):
            for start in range(0, x_TD.shape[0], LOSS_CHUNK):
                rows = slice(start, start + LOSS_CHUNK)
                x, target_C1 = x_TD[rows].to(dtype), target_T[rows, None]
                log_p = (x @ weight.T).to(wide).log_softmax(dim=-1)
                total -= log_p.gather(1, target_C1).sum()
                if grad_x_TD is None or grad_weight_VD is None:
                    continue
                p = log_p.exp_().scatter_add_(1, target_C1, log_p.new_full(target_C1.shape, -1.0)).to(dtype)
                grad_x_TD[rows] = p @ weight
                if dtype == grad_weight_VD.dtype:
                    grad_weight_VD.addmm_(p.T, x)
                else:
                    grad_weight_VD += p.T @ x
        ctx.save_for_backward(grad_x_TD, grad_weight_VD)
        return total / x_TD.shape[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_x_TD, grad_weight_VD = ctx.saved_tensors
        scale = grad / grad_x_TD.shape[0]
        return (
            (grad_x_TD * scale).to(grad_x_TD.dtype),
            (grad_weight_VD * scale).to(grad_weight_VD.dtype),
            None,
            None,
        )


class Transformer(nn.Module):
    """The language model."""

    def __init__(
        self,
        model: ModelConfig,
        vocab_size: int,
        sequence_length: int,
        *,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.vocab_size = vocab_size
        self.sequence_length = sequence_length
        self.activation_checkpointing = activation_checkpointing
        self.embedding = nn.Embedding(vocab_size, model.dim)
        self.blocks = nn.ModuleList(Block(model) for _ in range(model.layers))
        self.norm = nn.RMSNorm(model.dim, eps=model.norm_eps)
        self.head = nn.Linear(model.dim, vocab_size, bias=False)
        if model.tie_embeddings:
            self.head.weight = self.embedding.weight
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights from torch's global generator; residual outputs shrink with depth, as in GPT-2."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0 if "norm" in name else 0.0)
                continue
            last_of_residual = name.endswith(("attention.out.weight", "ffn.down.weight"))
            std = INIT_STD / math.sqrt(2 * self.model.layers) if last_of_residual else INIT_STD
            parameter.normal_(std=std)

    def hidden(self, tokens_BS: Tensor, document_ids_BS: Tensor) -> Tensor:
        """The last layer's normalised output (B, S, D)."""
        first = self.blocks[0]
        assert isinstance(first, Block)
        layout: Layout | Documents = first.attention.layout(document_ids_BS)
        x_BSD = self.embedding(tokens_BS)
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x_BSD = checkpoint(block, x_BSD, layout, use_reentrant=False)
            else:
                x_BSD = block(x_BSD, layout)
        normed_BSD: Tensor = self.norm(x_BSD)
        return normed_BSD

    def forward(self, tokens_BS: Tensor, document_ids_BS: Tensor) -> Tensor:
        """Logits (B, S, V)."""
        logits_BSV: Tensor = self.head(self.hidden(tokens_BS, document_ids_BS))
        return logits_BSV

    def loss(self, tokens: Tensor, document_ids: Tensor) -> Tensor:
        """Mean cross-entropy of the next token, for tokens (B, S + 1) and their documents' ids (B, S + 1).

        The first token of a document is predicted from the end-of-text token before it, which sees its own
        document alone: that is how generation begins.
        """
        hidden_TD = self.hidden(tokens[:, :-1], document_ids[:, : tokens.shape[1] - 1]).flatten(0, 1)
        target_T = tokens[:, 1:].flatten().long()
        loss: Tensor = _ChunkedLoss.apply(hidden_TD, self.head.weight, target_T, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
        return loss

    def parameter_count(self) -> int:
        """All parameters, tied ones once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self, sequence_length: int | None = None) -> float:
        """FLOPs of a training step (forward and backward) per token, with the attention that it has.

        Every multiply-add counts 2, the backward pass twice the forward pass: 6 for each weight that a token
        meets. The embedding is a look-up and counts nothing; the head is a product and counts. φ runs once
        per compressed block of `compress_block` tokens, so its first layer counts `compress_block /
        compress_stride` times per token over its weights per token. Attention counts 2 products of head_dim
        per query, key and head, over the keys a query of one whole-row document may see on average: selected
        tokens are at most `select_count * select_block`. What a dense kernel computes and masks away is not
        counted.
        """
        sequence = sequence_length or self.sequence_length
        model = self.model
        per_layer = self._matrix_weights_per_token(sequence)
        keys = self._keys_per_query(sequence)
        attention = 2 * model.heads * model.head_dim * keys
        return 6.0 * (model.layers * (per_layer + attention) + model.dim * self.vocab_size)

    def _matrix_weights_per_token(self, sequence: int) -> float:
        """Weights of one layer's matrices, each times how often a token meets it."""
        model = self.model
        width = model.heads * model.head_dim
        pairs = 3 if model.attention == "nsa" else 1
        weights: float = 2 * model.dim * width + pairs * 2 * model.dim * model.kv_groups * model.head_dim
        weights += 3 * model.dim * model.ffn_dim
        if model.attention == "nsa":
            nsa, head_dim = model.nsa, model.head_dim
            blocks = max(0, (sequence - nsa.compress_block) // nsa.compress_stride + 1)
            phi = (nsa.compress_block * head_dim + head_dim) * 2 * head_dim
            weights += 2 * model.kv_groups * phi * blocks / sequence
            weights += 2 * head_dim * (model.dim + 3 * model.heads)
        return weights

    def _keys_per_query(self, sequence: int) -> float:
        """Mean number of keys that a query attends to, over its branches."""
        model, nsa = self.model, self.model.nsa
        if model.attention == "dense":
            return (sequence + 1) / 2
        total = 0
        for position in range(sequence):
            compressed = max(0, (position - nsa.compress_block + 1) // nsa.compress_stride + 1)
            own = position % nsa.select_block + 1
            selected = min(position // nsa.select_block, nsa.select_count - 1) * nsa.select_block + own
            total += compressed + selected + min(position + 1, nsa.window)
        return total / sequence
